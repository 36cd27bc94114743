"""Two other engines' own account of one inference: ONNX Runtime's profile and OpenVINO's counters by node, beside their unwatched time.

Both run the same ONNX file, watched and not, in turns of a few passes. Where a loaded network's weights lie in memory is luck that two
equal ones do not share (2 % of a pass was seen): all are loaded anew for every turn, and ONNX Runtime's is watched first and, with its
profile at an end, timed as it is. What telling of a node costs is learned apart, on pictures half as high and wide: the same nodes with
little to compute. Refuses an engine that takes another precision than was asked for (detector.py).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.profiling.watcher import LITTLE
from lib.vision import detector

WARM = 2  # passes of what was just loaded; one more right before those that are timed
REST_S = 0.05  # before a turn: ONNX Runtime's threads wait for more work for tens of milliseconds, and the other's passes would pay for it
LITTLE_TURNS = 5  # in which the cost of telling is learned
Run = Callable[[], object]
COLUMNS = ["pass", "order", "node", "kind", "us"]


@dataclass(frozen=True, slots=True)
class Counted:
    """`nodes` by pass (COLUMNS); `watched_s` and `bare_s`: passes by turn; `node_us`: what telling of a node costs."""

    nodes: pd.DataFrame
    watched_s: list[list[float]]
    bare_s: list[list[float]]
    node_us: float


def onnxruntime(path: Path, x: NDArray[np.float32], *, threads: int, turns: int, passes: int) -> Counted:
    """ONNX Runtime's profile of `turns` × `passes`, in turns with as many that nobody watched."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    told: list[pd.DataFrame] = []
    seen: Any = None

    def opened(model: Path | bytes, given: NDArray[np.float32], scratch: str) -> tuple[Run, Run]:
        nonlocal seen
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_profiling, options.profile_file_prefix = True, f"{scratch}/told"
        seen = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return (partial(seen.run, None, {"images": given}),) * 2

    def ends(passes: int) -> None:
        told.append(nodes(json.loads(Path(seen.end_profiling()).read_text()), last=passes))

    few = x[..., ::LITTLE, ::LITTLE].copy()
    with tempfile.TemporaryDirectory(prefix="profile-") as scratch:
        little = _in_turns(partial(opened, of_any_size(path), few, scratch), LITTLE_TURNS, passes, ends=partial(ends, passes))
        node_us = _node_us(little, _joined(told))
        told.clear()
        bare_s, watched_s = _in_turns(partial(opened, path, x, scratch), turns, passes, ends=partial(ends, passes))
    return Counted(_joined(told), watched_s, bare_s, node_us)


def _in_turns(opened: Callable[[], tuple[Run, Run]], turns: int, passes: int, *, after: Run = lambda: None,
              ends: Run | None = None) -> tuple[list[list[float]], list[list[float]]]:  # fmt: skip
    """Seconds of `passes` of each of two, unwatched and watched, by turn: a pace that changes is both's. Every block has a pass before it.

    `after` each pass of the watched, untimed. Who is first changes, unless both are one network and watching `ends` for good.
    """
    told: tuple[list[list[float]], list[list[float]]] = ([], [])
    for turn in range(turns):
        runs = opened()
        for run in runs * WARM:
            run()
        for who in (1, 0) if ends or turn % 2 else (0, 1):
            sleep(REST_S)
            told[who].append(_taken(runs[who], passes, after if who else lambda: None))
            if who and ends:
                ends()
    return told


def _taken(run: Run, passes: int, after: Run) -> list[float]:
    taken = []
    for _ in range(passes + 1):
        began_ns = perf_counter_ns()
        run()
        taken.append((perf_counter_ns() - began_ns) / 1e9)
        after()
    return taken[1:]


def _node_us(little: tuple[list[list[float]], list[list[float]]], nodes: pd.DataFrame) -> float:
    """µs that each of `nodes` adds to a pass when it is told of: the median over turns of unwatched and watched seconds."""
    adds = [np.median(watched) - np.median(bare) for bare, watched in zip(*little, strict=True)]
    return max(0.0, 1e6 * float(np.median(adds)) * nodes["pass"].nunique() / len(nodes))


def of_any_size(path: Path) -> bytes:
    """The network, as ONNX, for pictures of any height and width."""
    import onnx

    model = onnx.load(path)
    for side, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], ("height", "width"), strict=True):
        side.dim_param = name
    for told in model.graph.output:
        told.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    made: bytes = model.SerializeToString()
    return made


def nodes(told: list[dict[str, Any]], *, last: int) -> pd.DataFrame:
    """ONNX Runtime's profile: COLUMNS of its last passes. The first ones find their memory, and are longer."""
    runs = [(e["ts"], e["ts"] + e["dur"]) for e in told if e["name"] == "model_run"][-last:]
    kernels = sorted((e for e in told if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")), key=lambda e: e["ts"])
    rows = []
    for number, (begin, end) in enumerate(runs):
        inside = [e for e in kernels if begin <= e["ts"] < end]
        rows += [[number, order, e["name"].removesuffix("_kernel_time"), e["args"]["op_name"], float(e["dur"])]
                 for order, e in enumerate(inside)]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Passes of several sessions, as many of each, counted on."""
    return pd.concat([frame.assign(**{"pass": frame["pass"] + n * frame["pass"].nunique()}) for n, frame in enumerate(frames)],
                     ignore_index=True)  # fmt: skip


def openvino(path: Path, x: NDArray[np.float32], *, threads: int, turns: int, passes: int, precision: str = "f32") -> Counted:
    """As `onnxruntime`, from OpenVINO's counters: nodes that were executed, by the name of what they do. Raises WrongDevice."""
    ov = detector.quiet_openvino()

    def request(given: NDArray[np.float32], count: bool) -> Any:
        core = ov.Core()
        read = core.read_model(path)
        read.reshape(list(given.shape))
        compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads,
                                                    "NUM_STREAMS": 1, "PERF_COUNT": count})  # fmt: skip
        detector.in_precision(compiled, precision, path.name)
        return compiled.create_infer_request()

    def run(of: Any, given: NDArray[np.float32]) -> None:
        of.infer(given, share_inputs=True, share_outputs=True)

    counting: Any = None
    means: list[list[tuple[str, str, float]]] = []

    def opened(given: NDArray[np.float32]) -> tuple[Run, Run]:
        nonlocal counting
        plain, counting = request(given, False), request(given, True)
        return partial(run, plain, given), partial(run, counting, given)

    def after() -> None:
        means.append([(node.node_name, f"{node.node_type} ({node.exec_type})", node.real_time.total_seconds() * 1e6)
                      for node in counting.profiling_info if node.status.name == "EXECUTED"])  # fmt: skip

    def in_turns(given: NDArray[np.float32], turns: int) -> tuple[pd.DataFrame, tuple[list[list[float]], list[list[float]]]]:
        means.clear()
        taken = _in_turns(partial(opened, given), turns, passes, after=after)
        return _joined([each(means[at : at + passes + 1], before=WARM) for at in range(0, len(means), passes + 1)]), taken

    few, little = in_turns(x[..., ::LITTLE, ::LITTLE].copy(), LITTLE_TURNS)
    told, (bare_s, watched_s) = in_turns(x, turns)
    return Counted(told, watched_s, bare_s, _node_us(little, few))


def each(means: list[list[tuple[str, str, float]]], *, before: int) -> pd.DataFrame:
    """COLUMNS of all passes but the first, of what OpenVINO tells after each: node, kind, µs, **the mean of all passes since it was
    loaded**, `before` of which nobody asked after. Cold passes are in it, and would be in every pass' account.

    It tells whole µs, so a node of pass n is right to n µs; errors of one pass are made good in the next.
    """
    rows = []
    for number, (last, now) in enumerate(pairwise(means)):
        n = before + number + 1
        rows += [[number, order, node, kind, (n + 1) * mean - n * was]
                 for order, ((node, kind, mean), (_, _, was)) in enumerate(zip(now, last, strict=True))]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)
