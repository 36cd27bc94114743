"""What HolisticTraceAnalysis says of our sample traces, to hold our reader against: writes tests/samples/hta.json.

It wants an older pandas than this project's, and psutil, which it does not name, so it runs in an environment that is thrown away:

    python -m venv V && V/bin/pip install HolisticTraceAnalysis==0.5.0 'pandas<3' psutil && V/bin/python -m tests.profiling.hta
"""

from __future__ import annotations

import json
import logging
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.profiling.events import two_streams

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
V100 = SAMPLES / "v100_forward.pt.trace.json.gz"


def told(path: Path) -> dict[str, Any]:
    from hta.trace_analysis import TraceAnalysis

    seen = TraceAnalysis(trace_files={0: str(path)}, trace_dir="")
    whole = seen.get_temporal_breakdown(visualize=False).iloc[0]
    idle, _ = seen.get_idle_time_breakdown(ranks=[0], visualize=False)
    _, kernels = seen.get_gpu_kernel_breakdown(visualize=False, include_memory_kernels=True)
    launches = seen.get_cuda_kernel_launch_stats(ranks=[0], visualize=False, include_memory_events=True)[0]
    return {"idle_us": int(whole["idle_time(us)"]), "compute_us": int(whole["compute_time(us)"]),
            "other_us": int(whole["non_compute_time(us)"]), "whole_us": int(whole["kernel_time(us)"]),
            "idle": [[int(row.stream), row.idle_category, float(row.idle_time)] for row in idle.itertuples()],
            "kernels": dict(zip(kernels["name"], map(int, kernels["sum (us)"]), strict=True)),
            "delays": {str(row.correlation): int(row.launch_delay) for row in launches.itertuples()}}  # fmt: skip


def main() -> None:
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as scratch:
        (made := Path(scratch) / "two_streams.json").write_text(json.dumps(two_streams()))
        answers = {"version": version("HolisticTraceAnalysis"), V100.name.partition(".")[0]: told(V100), made.stem: told(made)}
    (SAMPLES / "hta.json").write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main()
