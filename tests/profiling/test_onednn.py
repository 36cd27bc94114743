"""oneDNN's words are read as it says them, pass by pass; what it does not say, or says otherwise, is refused."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.profiling import onednn
from lib.profiling.onednn import BadVerbose

TEMPLATE = ("onednn_verbose,v1,primitive,info,template:timestamp,operation,engine,primitive,implementation,prop_kind,memory_descriptors,"
            "attributes,auxiliary,problem_desc,exec_time")  # fmt: skip
CONV = ("onednn_verbose,v1,1700000000000.25,primitive,exec,cpu,convolution,jit:avx512_core,forward_training,src:f32:a:blocked:abcd::f0 "
        "wei:f32:a:blocked:Acdb16a::f0 bia:undef::undef::: dst:f32:a:blocked:aBcd16b::f0,attr-scratchpad:user,alg:convolution_direct,"
        "mb1_ic3oc64_ih224oh112kh7sh2dh0ph3_iw224ow112kw7sw2dw0pw3,1.5")  # fmt: skip
REORDER = ("onednn_verbose,v1,1700000000002.5,primitive,exec,cpu,reorder,jit:blk,undef,src:f32::blocked:aBcd16b::f0 "
           "dst:f32::blocked:abcd::f0,attr-scratchpad:user,,1x64x112x112,0.25")  # fmt: skip
BEGIN, END = "pass 1700000000000000000", "end 1700000000009000000"


def test_passes_are_counted_from_their_marks_and_what_comes_before_is_left_out() -> None:
    frame = onednn.read([TEMPLATE, CONV, BEGIN, CONV, REORDER, "something else", END, CONV, BEGIN, REORDER, END, CONV])
    told = frame[["pass", "primitive", "us", "begin_us"]].values.tolist()
    assert told == [[0, "convolution", 1500, 250], [0, "reorder", 250, 2500], [1, "reorder", 250, 2500]]
    assert frame["implementation"].iloc[0] == "jit:avx512_core" and "dst:f32" in frame["memory"].iloc[1]


def test_a_convolution_s_sizes() -> None:
    at = onednn.convolution(CONV.split(",")[-2])
    assert (at["mb"], at["ic"], at["oc"], at["oh"], at["kh"], at["sh"], at["g"]) == (1, 3, 64, 112, 7, 2, 1)
    assert onednn.convolution("g32mb1_ic32oc32_ih112oh112kh3sh1dh0ph1_iw112ow112kw3sw1dw0pw1")["g"] == 32
    with pytest.raises(BadVerbose, match="no convolution: 64x64"):
        onednn.convolution("64x64")


BLOCKS, PLAIN, WEIGHTS = "blocked:aBcd16b::f0", "blocked:abcd::f0", "blocked:ABcd16b16a::f0"


def primitive(number: int, what: str, src: str, dst: str) -> list[object]:
    return [number, what, "jit", f"src:f32::{src} dst:f32::{dst}", "", 1.0, 0.0]


def test_reorders_belong_to_the_convolution_that_wants_them() -> None:
    rows = [(0, "convolution", PLAIN, BLOCKS), (0, "reorder", BLOCKS, PLAIN), (0, "reorder", PLAIN, BLOCKS), (0, "reorder", PLAIN, WEIGHTS),
            (0, "convolution", BLOCKS, BLOCKS), (0, "reorder", BLOCKS, PLAIN), (0, "matmul", PLAIN, PLAIN),
            (1, "reorder", PLAIN, WEIGHTS), (1, "convolution", PLAIN, PLAIN), (1, "convolution", PLAIN, PLAIN)]  # fmt: skip
    frame = pd.DataFrame([primitive(*row) for row in rows], columns=onednn.COLUMNS)
    assert onednn.calls(frame) == [0, 0, 1, 1, 1, 1, 2, 0, 0, 1]
    assert frame["memory"].map(onednn.of_weights).tolist() == [False] * 3 + [True] + [False] * 3 + [True, False, False]


@given(st.lists(st.tuples(st.sampled_from(["convolution", "reorder"]), st.floats(0.001, 9)), min_size=1, max_size=20))
def test_sums_are_what_was_said(told: list[tuple[str, float]]) -> None:
    lines = [(CONV if what == "convolution" else REORDER).rpartition(",")[0] + f",{ms!r}" for what, ms in told]
    sums = onednn.sums(onednn.read([TEMPLATE, BEGIN, *lines, END, BEGIN, *lines, END])).set_index("primitive")
    for what in {what for what, _ in told}:
        mine = [ms for one, ms in told if one == what]
        assert sums.loc[what, "n"] == len(mine) and sums.loc[what, "us"] == pytest.approx(1e3 * sum(mine))


@pytest.mark.parametrize(("lines", "says"), [
    ([TEMPLATE, CONV], "there is no pass"), ([BEGIN, END], "oneDNN said nothing"),
    ([TEMPLATE.replace("attributes", "attrs"), BEGIN], "other fields than"), ([TEMPLATE.replace("timestamp,", ""), BEGIN], "other fields"),
    ([TEMPLATE, BEGIN, CONV + ",7"], "a line has 11 fields, not 10"),
])  # fmt: skip
def test_what_is_not_known_is_refused(lines: list[str], says: str) -> None:
    with pytest.raises(BadVerbose, match=says):
        onednn.read(lines)
