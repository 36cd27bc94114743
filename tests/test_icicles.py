"""An icicle's parts fit into their wholes, whatever medians say; a roofline draws every memory and every layer."""

from __future__ import annotations

import pandas as pd
from pytest import approx

from lib import icicles


def test_parts_fit_into_their_wholes() -> None:
    told = pd.DataFrame({"module": ["a", "a.b", "a.c", "d", "tiny"], "whole_us": [50_000.0, 30_000, 25_000, 60_000, 10]})
    (trace,) = icicles.icicle(told, 100_000, root="all").data
    values = dict(zip(trace.ids, trace.values, strict=True))
    parents = dict(zip(trace.ids, trace.parents, strict=True))
    assert values == {"all": approx(115), "a": approx(55), "a.b": approx(30), "a.c": approx(25), "d": approx(60)}
    assert parents == {"all": "", "a": "all", "a.b": "a", "a.c": "a", "d": "all"}
    assert dict(zip(trace.ids, trace.labels, strict=True))["a.b"] == "b" and list(trace.ids) == ["all", "a", "a.b", "a.c", "d"]


def test_every_memory_s_ridge_is_seen() -> None:
    points = pd.DataFrame({"layer": ["x", "y"], "shape": "3×3", "us": [10.0, 40.0], "intensity": [50.0, 100.0], "rate": [2e11, 1e11],
                           "stage": ["stem", "head"]})  # fmt: skip
    fig = icicles.roofline(points, {"L2": 1e11, "DRAM": 1e10}, 4e11)
    lines = {trace.name: trace for trace in fig.data if trace.mode == "lines"}
    assert max(lines["DRAM, 10 GB/s"].x) == approx(40) and max(lines["L2, 100 GB/s"].y) == approx(400)
    assert lines["best kernel, 400 GFLOP/s"].x[0] <= 2
    marks = {trace.name: trace for trace in fig.data if trace.mode == "markers"}
    assert marks["stem"].y == (200.0,) and marks["head"].marker.size[0] > marks["stem"].marker.size[0]
    assert not icicles.roofline(points.iloc[:0], {"L2": 1e11}, 4e11).data
