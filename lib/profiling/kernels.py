"""What a CUDA trace of torch.profiler tells: which kernels ran when and in whose name, and who waited for whom, the GPU or the host. Pure.

A kernel and the call that launched it share a number; the call lies inside an operator and a module, the kernel on a stream. Kernels of a
replayed CUDA graph all share one call. A pass is divided without rest: the GPU works, or it is idle, and then the next kernel's call tells
why. Refuses a trace without any work of a GPU; one that was cut off is refused by trace.py, which reads files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from lib.profiling.trace import BadTrace
from lib.profiling.words import PASS, SCOPE

DEVICE = {"kernel": "kernel", "gpu_memcpy": "copy", "gpu_memset": "fill"}
CALLS = ("cuda_runtime", "cuda_driver")
HOST = ("cpu_op", "user_annotation")
STEP = "ProfilerStep#"  # a pass in the traces of others
COLUMNS = ["pass", "name", "kind", "stream", "begin_us", "dur_us", "call", "call_us", "call_dur_us", "delay_us", "module", "operator",
           "occupancy", "blocks_per_sm", "grid", "block"]  # fmt: skip
WORKS, COPIES, BETWEEN = "computes", "copies or fills", "between kernels that wait in line"
WAITS, LAUNCHES, AFTER = "nothing is launched yet", "a launch is on its way", "after the last"
UNTOLD = "idle, and the launch is not in the trace"
PARTS = (WORKS, COPIES, BETWEEN, WAITS, LAUNCHES, UNTOLD, AFTER)
OF_THE_HOST = (WAITS, LAUNCHES, AFTER)
Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who holds a pass: whoever takes more of it. Shares of the time of all passes; `delay_us`: the median from call to kernel."""

    bound: Literal["host", "device"]
    device: float
    host: float
    delay_us: float
    reason: str


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    begin_us: float
    end_us: float
    module: str
    operator: str


def spans(told: Mapping[str, Any]) -> list[Span]:
    """Begin and end of each pass, µs: scopes named PASS, else profiler's steps, else all that was recorded, as one."""
    there = [e for e in told.get("traceEvents", ()) if e.get("ph") == "X" and e.get("cat") in (*HOST, *CALLS, *DEVICE)]
    scopes = [e for e in there if e["cat"] == "user_annotation"]
    found = [e for e in scopes if e["name"] == PASS] or [e for e in scopes if e["name"].startswith(STEP)]
    if found or not there:
        return sorted(map(_span, found))
    return [(min(begin for begin, _ in map(_span, there)), max(end for _, end in map(_span, there)))]


def _span(event: Mapping[str, Any]) -> Span:
    return float(event["ts"]), float(event["ts"]) + float(event["dur"])


def tidy(told: Mapping[str, Any]) -> pd.DataFrame:
    """COLUMNS, a row a kernel, copy or fill, in order of time; of what was launched in a pass. Raises BadTrace where nothing was.

    `delay_us`: from the begin of its call to its own; None where the call is not in the trace. `module`: the innermost scope around the
    call, `operator`: the outermost in it. `occupancy` as the profiler estimates it, in %; `blocks_per_sm` below 1 fills no GPU.
    """
    events = [e for e in told.get("traceEvents", ()) if e.get("ph") == "X"]
    work = sorted((e for e in events if e.get("cat") in DEVICE), key=lambda e: (e["ts"], e["dur"]))
    if not work:
        raise BadTrace("the trace has no kernel: nothing ran on a GPU, or its activities were not recorded")
    calls, passes = _calls(events), spans(told)
    rows = []
    for e in work:
        begin, args = float(e["ts"]), e.get("args", {})
        call = calls.get(args.get("correlation"))
        asked = begin if call is None else call.begin_us
        number = next((n for n, (first, last) in enumerate(passes) if first <= asked < last), None)
        if number is None:
            continue  # a warm-up's, or what came after
        rows.append([number, e["name"], DEVICE[e["cat"]], args.get("stream", e["tid"]), begin, float(e["dur"]),
                     *((call.name, call.begin_us, call.end_us - call.begin_us, begin - call.begin_us, call.module, call.operator)
                       if call else (None, np.nan, np.nan, np.nan, "", "")),
                     args.get("est. achieved occupancy %", np.nan), args.get("blocks per SM", np.nan), _size(args, "grid"),
                     _size(args, "block")])  # fmt: skip
    if not rows:
        raise BadTrace("no kernel of the trace was launched in one of its passes")
    return pd.DataFrame(rows, columns=COLUMNS)


def _size(args: Mapping[str, Any], what: str) -> str | None:
    return "×".join(str(n) for n in args[what]) if what in args else None


def _calls(events: Iterable[Mapping[str, Any]]) -> dict[int, _Call]:
    """Correlation → the call into CUDA, with what was open around it on its thread."""
    told: dict[int, _Call] = {}
    open_: list[Mapping[str, Any]] = []
    hosts = [e for e in events if e.get("cat") in (*HOST, *CALLS)]
    for e in sorted(hosts, key=lambda e: (str(e["tid"]), e["ts"], -e["dur"])):
        while open_ and (open_[-1]["tid"] != e["tid"] or _span(open_[-1])[1] <= e["ts"]):
            open_.pop()
        if e["cat"] in HOST:
            open_.append(e)
        elif (number := e.get("args", {}).get("correlation")) is not None:
            scope = max((n for n, one in enumerate(open_) if one["name"].startswith(SCOPE)), default=-1)
            operator = next((one["name"] for one in open_[scope + 1 :] if one["cat"] == "cpu_op"), "")
            told[number] = _Call(e["name"], *_span(e), open_[scope]["name"].removeprefix(SCOPE) if scope >= 0 else "", operator)
    return told


def parts(frame: pd.DataFrame, passes: Sequence[Span]) -> pd.DataFrame:
    """pass, part, us: each pass divided into PARTS. Streams that overlap count once; idle is when all of them are.

    Idle time before the next kernel's call began is the host's; while the call or its kernel is on its way, a launch; of a call that had
    ended before the GPU fell idle, the GPU's own. A pass ends with its scope, or with its last kernel where nobody waited for it.
    """
    rows = []
    for number, (begin, end) in enumerate(passes):
        us, free = dict.fromkeys(PARTS, 0.0), begin
        work = frame[frame["pass"] == number].sort_values("begin_us")
        for kind, begins, dur, called, calling in zip(
            work["kind"], *(work[name].to_numpy(float) for name in ("begin_us", "dur_us", "call_us", "call_dur_us")), strict=True
        ):
            starts, stops = max(begins, free), begins + dur
            if starts > free and np.isnan(called):
                us[UNTOLD] += starts - free
            elif starts > free:
                told = min(max(called, free), starts)
                us[WAITS] += told - free
                us[LAUNCHES if called + calling > free else BETWEEN] += starts - told
            us[WORKS if kind == "kernel" else COPIES] += max(0.0, stops - starts)
            free = max(free, starts, stops)
        us[AFTER] += max(0.0, end - free)
        rows += [{"pass": number, "part": part, "us": each} for part, each in us.items()]
    return pd.DataFrame(rows, columns=["pass", "part", "us"])


def verdict(frame: pd.DataFrame, passes: Sequence[Span]) -> Verdict:
    """Whether the host or the device holds these passes, and why."""
    us = parts(frame, passes).groupby("part")["us"].sum()
    share = us / us.sum()
    host = float(share[list(OF_THE_HOST)].sum())
    device, delay = 1 - host, float(frame["delay_us"].median())
    if host > device:
        why = (f"the GPU works {device:.0%} of a pass; for {share[WAITS]:.0%} nothing is launched yet, for {share[LAUNCHES]:.0%} a launch "
               f"is on its way, {delay:.0f} µs from call to kernel")  # fmt: skip
        return Verdict("host", device, host, delay, why)
    return Verdict("device", device, host, delay, f"the GPU works {device:.0%} of a pass; a kernel waits {delay:.0f} µs from its call")


def streams(frame: pd.DataFrame) -> pd.DataFrame:
    """stream, n, busy_us, idle_us, idle (a share), gaps, longest_us: of each stream from its first to its last, pass by pass."""
    rows = []
    for stream, work in frame.groupby("stream"):
        gaps, busy = list[float](), 0.0
        for _, one in work.sort_values("begin_us").groupby("pass"):
            begin = one["begin_us"].to_numpy(float)
            reached = np.maximum.accumulate(begin + one["dur_us"].to_numpy(float))
            idle = np.maximum(begin[1:] - reached[:-1], 0.0)
            busy += reached[-1] - begin[0] - idle.sum()
            gaps += idle[idle > 0].tolist()
        rows.append({"stream": stream, "n": len(work), "busy_us": busy, "idle_us": sum(gaps), "idle": sum(gaps) / (busy + sum(gaps)),
                     "gaps": len(gaps), "longest_us": max(gaps, default=0.0)})  # fmt: skip
    return pd.DataFrame(rows)


def totals(frame: pd.DataFrame, by: Literal["kernel", "module", "operator", "kind"]) -> pd.DataFrame:
    """`by`, n and us a pass, share, occupancy (% by time) and fills (the share of time in kernels with a block for every multiprocessor).

    Largest first. "kernel": by `short` names. Of streams that overlap each has its own time, so that a sum may exceed a pass.
    """
    told, passes = frame.assign(kernel=frame["name"].map(short)), frame["pass"].nunique()
    known, filled = told["occupancy"].notna(), told["blocks_per_sm"].ge(1)
    told = told.assign(known_us=told["dur_us"] * known, weighed=told["dur_us"] * told["occupancy"].fillna(0.0),
                       filled_us=told["dur_us"] * filled)  # fmt: skip
    sums = told.groupby(by)[["dur_us", "known_us", "weighed", "filled_us"]].sum().assign(n=told.groupby(by).size())
    sums = sums.sort_values("dur_us", ascending=False).reset_index()
    some = sums["known_us"].where(sums["known_us"] > 0)
    return pd.DataFrame({by: sums[by], "n": sums["n"] / passes, "us": sums["dur_us"] / passes,
                         "share": sums["dur_us"] / sums["dur_us"].sum(), "occupancy": sums["weighed"] / some,
                         "fills": sums["filled_us"] / some})  # fmt: skip


def short(name: str) -> str:
    """A kernel's name without its templates and parameters, with what tells it from others of that name."""
    plain = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    head = re.split(r"[<(]", plain)[0]
    inner = re.search(r"cutlass\w*_\d\w+|sm\d+_\w+|\w+Functor|\w+_kernel_(?:cuda|impl)|(?<=\W)\w+_functor", plain[len(head) :])
    return head.split("::")[-1].strip() + (f": {inner[0]}" if inner else "")
