"""Events of a trace, made by hand."""

from __future__ import annotations

from typing import Any


def event(name: str, ts: float, dur: float, *, cat: str = "cpu_op", tid: int = 7) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": tid, "pid": 1, "args": {"Input Dims": [[1, 3]]}}
