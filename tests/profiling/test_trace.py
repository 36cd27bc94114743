"""A trace becomes a tree whose parts add up; one that is cut off, or holds no whole pass, is refused by name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from pytest import approx

from lib.profiling import trace
from lib.profiling.trace import BadTrace
from tests.profiling.events import event


def made(*, shift: float = 0.0) -> list[dict[str, Any]]:
    """A pass of 100 µs: stem (60) with a convolution (40) inside which oneDNN's takes 30, then an addition (20) outside of modules."""
    scope = "user_annotation"
    return [event("pass", shift, 100, cat=scope), event("module stem", shift + 5, 60, cat=scope), event("aten::conv2d", shift + 10, 40),
            event("aten::mkldnn_convolution", shift + 15, 30), event("aten::add", shift + 70, 20)]  # fmt: skip


def whole(*passes: float) -> dict[str, Any]:
    events = [one for shift in passes for one in made(shift=shift)]
    return {"traceEvents": [*events, event("other", 3, 50, tid=8), event("aten::late", 900, 5), {"ph": "M", "name": "process_name"}]}


def test_every_event_has_its_parent_its_module_and_its_own_time() -> None:
    frame = trace.tidy(whole(0))
    assert frame["name"].tolist() == ["pass", "module stem", "aten::conv2d", "aten::mkldnn_convolution", "aten::add"]
    assert frame["parent"].tolist() == [-1, 0, 1, 2, 0] and frame["depth"].tolist() == [0, 1, 2, 3, 1]
    assert frame["module"].tolist() == ["", "stem", "stem", "stem", ""]
    assert frame["self_us"].tolist() == [20, 20, 10, 30, 20]
    assert frame["self_us"].sum() == approx(100), "what is everybody's own is the whole"


def test_modules_and_operators_as_they_were_called() -> None:
    frame = trace.tidy(whole(0, 200))
    modules = trace.modules(frame)
    told = modules[["pass", "module", "whole_us", "own_us", "operators"]].values.tolist()
    assert told == [[0, "stem", 60, 60, 2], [1, "stem", 60, 60, 2]]
    assert trace.leaves(frame).query("`pass` == 1")["name"].tolist() == ["aten::conv2d", "aten::add"]


def test_events_that_touch_are_not_inside_each_other() -> None:
    scope = "user_annotation"
    told = {"traceEvents": [event("pass", 0, 30, cat=scope), event("aten::relu", 10, 10), event("aten::add", 20, 10)]}
    assert trace.tidy(told)["parent"].tolist() == [-1, 0, 0]


def test_a_single_pass_is_a_trace_of_its_own(tmp_path: Path) -> None:
    one = trace.one_pass(whole(0, 200), 1)
    assert [e["name"] for e in one["traceEvents"]] == ["pass", "module stem", "aten::conv2d", "aten::mkldnn_convolution", "aten::add"]
    assert one["traceEvents"][0]["ts"] == 0 and len({e["tid"] for e in one["traceEvents"]}) == 1
    trace.write(one, tmp_path / "one.json.gz")
    first = (tmp_path / "one.json.gz").read_bytes()
    trace.write(one, tmp_path / "one.json.gz")
    assert (tmp_path / "one.json.gz").read_bytes() == first
    assert trace.read(tmp_path / "one.json.gz")["self_us"].tolist() == trace.tidy(whole(0))["self_us"].tolist()
    with pytest.raises(BadTrace, match="there is no pass 2; the trace has 2"):
        trace.one_pass(whole(0, 200), 2)


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    text = json.dumps(whole(0)).encode()
    (tmp_path / "plain.json").write_bytes(text[: len(text) // 2])
    with pytest.raises(BadTrace, match=r"plain\.json is cut off or no trace"):
        trace.read(tmp_path / "plain.json")
    packed = gzip.compress(text)
    (tmp_path / "packed.json.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(BadTrace, match=r"packed\.json\.gz is cut off after [\d,]+ bytes"):
        trace.read(tmp_path / "packed.json.gz")


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(BadTrace, match="no list traceEvents"):
        trace.read(tmp_path / "list.json")
    with pytest.raises(BadTrace, match="no whole pass"):
        trace.tidy({"traceEvents": [event("aten::add", 0, 1)]})
