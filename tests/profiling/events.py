"""Events of a trace, made by hand."""

from __future__ import annotations

from typing import Any


def event(name: str, ts: float, dur: float, *, cat: str = "cpu_op", tid: int = 7) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": tid, "pid": 1, "args": {"Input Dims": [[1, 3]]}}


def launched(name: str, called: float, begins: float, dur: float, *, stream: int = 7, number: int, kind: str = "kernel",
             call: str = "cudaLaunchKernel", calling: float = 5, **told: Any) -> list[dict[str, Any]]:  # fmt: skip
    """A call of the host's thread and the work on a stream that it brought, joined by `number`."""
    work = {"ph": "X", "cat": kind, "name": name, "ts": begins, "dur": dur, "pid": 0, "tid": stream,
            "args": {"stream": stream, "device": 0, "correlation": number, **told}}  # fmt: skip
    asks = {**event(call, called, calling, cat="cuda_runtime"), "args": {"cbid": 211, "correlation": number}}
    return [asks, work]


def two_streams() -> dict[str, Any]:
    """A pass of 200 µs: a copy, then kernels of which two overlap on two streams, one waits in line, and one is launched late."""
    occupied = {"est. achieved occupancy %": 50, "blocks per SM": 2.0, "grid": [264, 1, 1], "block": [128, 1, 1]}
    sparse = {"est. achieved occupancy %": 10, "blocks per SM": 0.25, "grid": [33, 1, 1], "block": [64, 1, 1]}
    scope = "user_annotation"
    return {"schemaVersion": 1, "distributedInfo": {"rank": 0}, "traceEvents": [
        event("ProfilerStep#1", 0, 200, cat=scope), event("module stem", 8, 60, cat=scope), event("aten::conv2d", 9, 50),
        event("aten::cudnn_convolution", 12, 40), event("module head", 90, 30, cat=scope), event("aten::linear", 91, 20),
        *launched("Memcpy HtoD", 2, 10, 5, number=1, kind="gpu_memcpy", call="cudaMemcpyAsync"),
        *launched("conv", 15, 20, 40, number=2, **occupied),
        *launched("conv", 22, 62, 10, number=3, **occupied),  # launched while the one before ran: it waited in line
        *launched("side", 30, 50, 20, number=4, stream=9, **sparse),  # overlaps both
        *launched("gemm", 95, 99, 30, number=5, **occupied),  # nothing was launched until 95
    ]}  # fmt: skip
