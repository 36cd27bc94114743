"""Tables and claims of notebooks 30 and 31 on what ran on a GPU: this run's, else the newest recorded one's of a machine with a GPU.

Where nobody measured on one, each table is one row that says so. Ratios are formed within one point. Pure, but for reading series.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lib import record, stats
from lib.measured import points, series
from lib.profiling import gpu, kernels
from lib.profiling.kernels import AFTER, BETWEEN, COPIES, LAUNCHES, UNTOLD, WAITS, WORKS
from lib.profiling.session import Session

NEEDS = "needs an NVIDIA GPU"
EAGER = "eager"


def speaks(s: Session) -> record.Run | None:
    """The run that was measured on a GPU; None where there is none."""
    there = (s.run, *reversed(s.opened.beside))
    return next((run for run in there if any(p.status == "ok" and p.setting.get("device") == "cuda" for p in run.points())), None)


def nothing(s: Session, what: str) -> pd.DataFrame:
    """The row in place of a table."""
    told = next((p.reason for p in s.run.points() if p.setting == gpu.ROW and p.reason), NEEDS)
    return pd.DataFrame([{"what": what, "status": f"not measured: {told}"}])


def _traced(run: record.Run | None) -> list[dict[str, Any]]:
    return [] if run is None else list(points(run, "kernels"))


def passes(s: Session) -> pd.DataFrame:
    """A row a network and variant: ms of a pass that nobody watched, kernels in it, how a watched one is divided, who holds it."""
    run, rows = speaks(s), []
    for point in _traced(run):
        assert run is not None
        frame, spans = series(run, point, "kernels"), [(begin, end) for begin, end in point["facts"]["spans"]]
        us = kernels.parts(frame, spans).groupby("part")["us"].sum()
        verdict, whole = kernels.verdict(frame, spans), us.sum()
        stream = kernels.streams(frame).nlargest(1, "busy_us").iloc[0]
        rows.append({"network": point["network"], "variant": point["variant"], "ms": 1e3 * float(np.median(point["samples"]["bare_s"])),
                     "watched, ms": 1e3 * float(np.median(point["samples"]["traced_s"])), "kernels": len(frame) / len(spans),
                     **{name: f"{us[list(parts)].sum() / whole:.0%}" for name, parts in COLUMNS.items()},
                     "gaps of the busiest stream": f"{stream['idle']:.0%}", "longest, µs": stream["longest_us"],
                     "call to kernel, µs": verdict.delay_us, "held by": verdict.bound,
                     "clock": CLOCK[point["facts"]["clock"]["settled"]]})  # fmt: skip
    return pd.DataFrame(rows) if rows else nothing(s, "who waits for whom in a pass")


CLOCK = {True: "settled", False: "never settled", None: "not told"}
COLUMNS = {"computes": (WORKS,), "copies": (COPIES,), "between kernels": (BETWEEN,), "nothing launched": (WAITS, UNTOLD),
           "launch on its way": (LAUNCHES,), "after the last": (AFTER,)}  # fmt: skip


def top(s: Session, network: str, *, by: str = "kernel", n: int = 12) -> pd.DataFrame:
    """Kernels or modules of an eager pass by their time, µs a pass, with occupancy as the profiler estimates it."""
    run = speaks(s)
    point = next((p for p in _traced(run) if (p["network"], p["variant"]) == (network, EAGER)), None)
    if run is None or point is None:
        return nothing(s, f"{by}s of {network}")
    told = kernels.totals(series(run, point, "kernels"), "module" if by == "module" else "kernel").head(n)
    return pd.DataFrame({by: told.iloc[:, 0], "times": told["n"], "µs": told["us"], "of all": told["share"].map("{:.1%}".format),
                         "occupancy, %": told["occupancy"], "fills the GPU": told["fills"]})  # fmt: skip


def changes(s: Session) -> pd.DataFrame:
    """A row a network and variant: ms with a warm and a cold L2 cache and as a caller waits, and × eager, warm, by rounds."""
    run, rows = speaks(s), []
    for point in [] if run is None else points(run, "changed on a GPU"):
        assert run is not None
        beside = series(run, point, "beside")
        medians = {name: [float(np.median(taken)) for taken in each] for name, each in point["samples"].items()}
        for name, each in medians.items():
            mine = beside[beside["name"] == name].groupby("way")["ns"].median() / 1e6
            times, off = stats.ratio(medians[EAGER], each), point["facts"]["answers"].get(name, {}).get("off")
            rows.append({"network": point["network"], "variant": name, "ms, warm L2": 1e3 * float(np.median(each)),
                         "ms, cold L2": float(mine["cold_ns"]), "ms, for a caller": float(mine["wall_ns"]),
                         "× eager": times and times.value, "answers differ by": off, "why not": None})  # fmt: skip
        rows += [{"network": point["network"], "variant": name, "why not": why} for name, why in point["facts"]["failed"].items()]
    return pd.DataFrame(rows) if rows else nothing(s, "changes to a network")


def swept(s: Session) -> pd.DataFrame:
    """Notebook 31's: a row a network, variant and batch: ms, pictures/s with its interval, memory, or why there is none."""
    run, rows = speaks(s), []
    for point in [] if run is None else points(run, "sweep"):
        if point.get("device") != "cuda":
            continue
        common = {"network": point["network"], "variant": point["form"].partition(": ")[2]}
        for batch, rounds in point["samples"].items():
            if (middle := stats.median([one for taken in rounds for one in taken])) is not None:
                rows.append({**common, "batch": int(batch), "ms": 1e3 * middle.value, "per_s": int(batch) / middle.value,
                             "lo": int(batch) / middle.hi if middle.hi else None, "hi": int(batch) / middle.lo if middle.lo else None,
                             "MB": point["facts"]["peak_bytes"][batch] / 1e6, "why not": None})  # fmt: skip
        rows += [{**common, "batch": int(batch), "why not": why} for batch, why in point["facts"]["lacks"].items()]
    return pd.DataFrame(rows) if rows else nothing(s, "batches")


def finding(s: Session, network: str) -> dict[str, Any]:
    """Who holds an eager pass and why, on which GPU; what the best variant and a graph bring. None where nobody measured."""
    run = speaks(s)
    point = next((p for p in _traced(run) if (p["network"], p["variant"]) == (network, EAGER)), None)
    if run is None or point is None:
        return dict.fromkeys(("gpu", "bound", "reason", "variant", "times"))
    verdict = kernels.verdict(series(run, point, "kernels"), [(begin, end) for begin, end in point["facts"]["spans"]])
    table = changes(s)
    mine = table[table["network"] == network].dropna(subset=["× eager"]) if "network" in table else table.iloc[:0]
    best = mine.sort_values("× eager").iloc[-1] if len(mine) else {"variant": None, "× eager": None}
    return {"gpu": point["facts"]["device"]["gpu"], "bound": verdict.bound, "reason": verdict.reason, "variant": best["variant"],
            "times": best["× eager"]}  # fmt: skip
