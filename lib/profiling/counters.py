"""Two other engines' own account of one inference: ONNX Runtime's profile and OpenVINO's counters by node, beside their unwatched time.

Both run the same ONNX file. Refuses an engine that takes another precision than was asked for (detector.py).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.vision import detector

WARM, REST_S = 3, 0.01  # passes before, and a pause in which the other's threads fall asleep
COLUMNS = ["pass", "order", "node", "kind", "us"]


def onnxruntime(path: Path, x: NDArray[np.float32], *, threads: int, passes: int) -> tuple[pd.DataFrame, list[float], list[float]]:
    """Nodes by pass (COLUMNS), µs of each watched pass, seconds of passes that nobody watched, in turns with those."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    def session(options: Any) -> Any:
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    plain = session(onnxruntime.SessionOptions())
    with tempfile.TemporaryDirectory(prefix="profile-") as scratch:
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, f"{scratch}/told"
        watched = session(options)
        for _ in range(WARM):
            watched.run(None, {"images": x})
        bare_s = _in_turns(lambda: plain.run(None, {"images": x}), lambda: watched.run(None, {"images": x}), passes)
        told = json.loads(Path(watched.end_profiling()).read_text())
    return nodes(told, last=passes), model_runs(told)[-passes:], bare_s


def _in_turns(plain: Callable[[], object], watched: Callable[[], object], passes: int) -> list[float]:
    """`passes` of each in turn, after the same rest; seconds of the plain ones. A pace that changes is both's."""
    bare_s: list[float] = []
    for _ in range(passes):
        sleep(REST_S)
        began_ns = perf_counter_ns()
        plain()
        bare_s.append((perf_counter_ns() - began_ns) / 1e9)
        sleep(REST_S)
        watched()
    return bare_s


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


def model_runs(told: list[dict[str, Any]]) -> list[float]:
    """µs of each run, as ONNX Runtime stamps it."""
    return [float(e["dur"]) for e in told if e["name"] == "model_run"]


def openvino(path: Path, x: NDArray[np.float32], *, threads: int, passes: int,
             precision: str = "f32") -> tuple[pd.DataFrame, list[float], list[float]]:  # fmt: skip
    """As `onnxruntime`, from OpenVINO's counters: nodes that were executed, by the name of what they do. Raises WrongDevice."""
    ov = detector.quiet_openvino()

    def request(count: bool) -> Any:
        core = ov.Core()
        model = core.read_model(path)
        model.reshape(list(x.shape))
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads,
                                                     "NUM_STREAMS": 1, "PERF_COUNT": count})  # fmt: skip
        detector.in_precision(compiled, precision, path.name)
        return compiled.create_infer_request()

    plain, counting = request(False), request(True)
    rows: list[list[Any]] = []
    walls_us: list[float] = []

    def watched() -> None:
        began_ns = perf_counter_ns()
        counting.infer(x, share_inputs=True, share_outputs=True)
        walls_us.append((perf_counter_ns() - began_ns) / 1e3)
        done = [node for node in counting.profiling_info if node.status.name == "EXECUTED"]
        rows.extend([len(walls_us) - 1 - WARM, order, node.node_name, f"{node.node_type} ({node.exec_type})",
                     node.real_time.total_seconds() * 1e6] for order, node in enumerate(done))  # fmt: skip

    for _ in range(WARM):
        watched()
    bare_s = _in_turns(lambda: plain.infer(x, share_inputs=True, share_outputs=True), watched, passes)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame[frame["pass"] >= 0].reset_index(drop=True), walls_us[WARM:], bare_s
