"""Two other engines' own account of one inference: ONNX Runtime's profile and OpenVINO's counters by node, beside their unwatched time.

Both run the same ONNX file. Refuses an engine that takes another precision than was asked for (detector.py).
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.clock import Timing, measure
from lib.vision import detector

COLUMNS = ["pass", "order", "node", "kind", "us"]


def onnxruntime(path: Path, x: NDArray[np.float32], *, threads: int, passes: int,
                budget_s: float) -> tuple[pd.DataFrame, list[float], Timing]:  # fmt: skip
    """Nodes by pass (COLUMNS), µs of each watched pass, and the timing of passes that nobody watches."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    def session(options: Any) -> Any:
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    plain = session(onnxruntime.SessionOptions())
    timing = measure(lambda: plain.run(None, {"images": x}), budget_s=budget_s)
    with tempfile.TemporaryDirectory(prefix="profile-") as scratch:
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, f"{scratch}/told"
        watched = session(options)
        for _ in range(passes + 2):
            watched.run(None, {"images": x})
        told = json.loads(Path(watched.end_profiling()).read_text())
    return nodes(told, last=passes), model_runs(told)[-passes:], timing


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


def openvino(path: Path, x: NDArray[np.float32], *, threads: int, passes: int, budget_s: float,
             precision: str = "f32") -> tuple[pd.DataFrame, list[float], Timing]:  # fmt: skip
    """As `onnxruntime`, from OpenVINO's counters: nodes that were executed, by the name of what they do. Raises WrongDevice."""
    ov = detector.quiet_openvino()
    from time import perf_counter_ns

    def request(count: bool) -> Any:
        core = ov.Core()
        model = core.read_model(path)
        model.reshape(list(x.shape))
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads,
                                                     "NUM_STREAMS": 1, "PERF_COUNT": count})  # fmt: skip
        detector.in_precision(compiled, precision, path.name)
        return compiled.create_infer_request()

    plain = request(False)
    timing = measure(lambda: plain.infer(x, share_inputs=True, share_outputs=True), budget_s=budget_s)
    watched, rows, walls_us = request(True), [], []
    for number in range(-2, passes):
        began_ns = perf_counter_ns()
        watched.infer(x, share_inputs=True, share_outputs=True)
        wall_us = (perf_counter_ns() - began_ns) / 1e3
        if number >= 0:
            walls_us.append(wall_us)
            done = [node for node in watched.profiling_info if node.status.name == "EXECUTED"]
            rows += [[number, order, node.node_name, f"{node.node_type} ({node.exec_type})", node.real_time.total_seconds() * 1e6]
                     for order, node in enumerate(done)]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS), walls_us, timing
