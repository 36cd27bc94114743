"""A CUDA trace says who waited for whom: on a real one, on timelines made by hand, and as another reader of such traces has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from lib.profiling import kernels, trace
from lib.profiling.kernels import AFTER, BETWEEN, COPIES, LAUNCHES, UNTOLD, WAITS, WORKS
from lib.profiling.trace import BadTrace
from tests.profiling.events import event, launched, two_streams
from tests.profiling.hta import SAMPLES, V100

HTA = json.loads((SAMPLES / "hta.json").read_text())
SCOPE = "user_annotation"


def passes(*made: list[dict[str, Any]], dur: float = 100, count: int = 1) -> dict[str, Any]:
    return {"traceEvents": [*(event("pass", 1000 * n, dur, cat=SCOPE) for n in range(count)), *(one for each in made for one in each)]}


def us(told: Mapping[str, Any]) -> dict[str, float]:
    """The parts of a trace's passes that are not nothing."""
    sums = kernels.parts(kernels.tidy(told), kernels.spans(told)).groupby("part")["us"].sum()
    return {str(part): float(each) for part, each in sums.items() if each}


def test_a_real_trace_of_a_v100() -> None:
    told = trace.parsed(V100)
    frame = kernels.tidy(told)
    assert frame["kind"].value_counts().to_dict() == {"kernel": 7, "copy": 2} and set(frame["stream"]) == {7}
    linear, loss = ["aten::linear"] * 2, ["aten::mse_loss"] * 2
    assert frame["operator"].tolist() == ["aten::to", "aten::to", *linear, "aten::clamp", *linear, *loss]
    assert frame["delay_us"].tolist() == [23, 15, 17, 18, 17, 16, 17, 17, 17] and frame["grid"].iloc[2] == "1×2×1"
    assert us(told) == {WORKS: 13, COPIES: 2, WAITS: 2524, LAUNCHES: 157, AFTER: 104}
    verdict = kernels.verdict(frame, kernels.spans(told))
    assert (verdict.bound, verdict.delay_us) == ("host", 17) and verdict.device == approx(15 / 2800)
    assert verdict.reason == ("the GPU works 1% of a pass; for 90% nothing is launched yet, for 6% a launch is on its way, "
                              "17 µs from call to kernel")  # fmt: skip
    by = kernels.totals(frame, "kernel").set_index("kernel")
    assert by.loc["gemmSN_TN_kernel_64addr", ["n", "us"]].tolist() == [2, 5] and by["us"].is_monotonic_decreasing
    assert (by["fills"].dropna() == 0).all(), "no kernel of so small a network has a block for each multiprocessor"


@pytest.mark.parametrize(("name", "told"), [("v100_forward", trace.parsed(V100)), ("two_streams", two_streams())])
def test_another_reader_says_the_same(name: str, told: dict[str, Any]) -> None:
    frame, theirs = kernels.tidy(told), HTA[name]
    parts, first = us(told), frame["begin_us"].min() - kernels.spans(told)[0][0]
    assert parts[WORKS] == theirs["compute_us"] and parts[COPIES] == theirs["other_us"]
    idle = sum(parts.get(part, 0.0) for part in (WAITS, LAUNCHES, BETWEEN))
    assert idle - first == theirs["idle_us"], "theirs begins with the first kernel, ours with the pass"
    for row in kernels.streams(frame).itertuples():
        assert row.idle_us == sum(each for stream, _, each in theirs["idle"] if stream == row.stream)
    sums = frame.groupby("name")["dur_us"].sum()
    assert sums.to_dict() == theirs["kernels"]
    ours = (frame["delay_us"] - frame["call_dur_us"]).clip(lower=0)
    assert sorted(ours) == sorted(theirs["delays"].values()), "theirs counts from the end of the call"


def test_streams_that_overlap_count_once_and_each_has_its_own_gaps() -> None:
    told = two_streams()
    frame = kernels.tidy(told)
    assert us(told) == {WORKS: 82, COPIES: 5, WAITS: 25, LAUNCHES: 17, AFTER: 71}
    table = kernels.streams(frame).set_index("stream")
    assert table.loc[7, ["busy_us", "idle_us", "gaps", "longest_us"]].tolist() == [85, 34, 3, 27]
    assert table.loc[9, ["busy_us", "idle_us", "idle", "gaps"]].tolist() == [20, 0, 0, 0]
    modules = kernels.totals(frame, "module").set_index("module")
    assert modules["us"].to_dict() == {"stem": 70, "head": 30, "": 5}
    assert modules.loc["stem", ["occupancy", "fills"]].tolist() == approx([(50 * 50 + 20 * 10) / 70, 50 / 70]), "weighed by time"
    assert np.isnan(modules.loc["", "occupancy"]), "a copy has none"


def test_kernels_that_wait_in_line_are_the_gpu_s_own() -> None:
    told = passes(*(launched("conv", 1 + n, 10 + 22 * n, 20, number=n, calling=1) for n in range(4)))
    assert us(told) == {WAITS: 1, LAUNCHES: 9, WORKS: 80, BETWEEN: 6, AFTER: 4}
    verdict = kernels.verdict(kernels.tidy(told), kernels.spans(told))
    assert (verdict.bound, verdict.host) == ("device", approx(0.14))
    assert verdict.reason == "the GPU works 86% of a pass; a kernel waits 40 µs from its call"


def test_kernels_of_a_graph_share_one_call() -> None:
    first = launched("conv", 2, 10, 20, number=5, call="cudaGraphLaunch", calling=6)
    told = passes(first, *([launched("conv", 0, 10 + 21 * n, 20, number=5)[1]] for n in (1, 2)))
    frame = kernels.tidy(told)
    assert frame["call"].tolist() == ["cudaGraphLaunch"] * 3 and frame["delay_us"].tolist() == [8, 29, 50]
    assert us(told) == {WAITS: 2, LAUNCHES: 8, WORKS: 60, BETWEEN: 2, AFTER: 28}


def test_a_launch_that_was_not_recorded_is_told_as_such() -> None:
    told = passes([launched("conv", 0, 30, 20, number=1)[1]], launched("gemm", 55, 60, 20, number=2))
    frame = kernels.tidy(told)
    assert frame["delay_us"].isna().tolist() == [True, False] and frame["call"].isna().tolist() == [True, False]
    assert us(told) == {UNTOLD: 30, WORKS: 40, WAITS: 5, LAUNCHES: 5, AFTER: 20}


def test_passes_are_apart_and_what_was_launched_in_none_is_left_out() -> None:
    each = [launched("conv", 1000 * n + 5, 1000 * n + 10, 50, number=n) for n in range(3)]
    told = passes(*each, launched("warm-up", -50, -40, 20, number=9), count=2)
    frame = kernels.tidy(told)
    assert frame["pass"].tolist() == [0, 1] and set(frame["name"]) == {"conv"}
    assert us(told) == {WAITS: 10, LAUNCHES: 10, WORKS: 100, AFTER: 80}
    assert kernels.totals(frame, "kernel")["n"].tolist() == [1] and kernels.totals(frame, "kernel")["us"].tolist() == [50]


def test_a_pass_that_nobody_waited_for_ends_with_its_last_kernel() -> None:
    assert us(passes(launched("conv", 5, 10, 300, number=1))) == {WAITS: 5, LAUNCHES: 5, WORKS: 300}


def test_a_trace_without_passes_is_one() -> None:
    told = {"traceEvents": [*launched("conv", 5, 10, 50, number=1), *launched("gemm", 20, 60, 40, number=2)]}
    assert kernels.spans(told) == [(5, 100)] and us(told) == {LAUNCHES: 5, WORKS: 90}


@pytest.mark.parametrize(("told", "why"), [
    ({"traceEvents": []}, "no kernel"),
    (passes([event("aten::conv2d", 5, 10)]), "no kernel: nothing ran on a GPU, or its activities were not recorded"),
    (passes(launched("conv", 500, 510, 20, number=1)), "no kernel of the trace was launched in one of its passes"),
])  # fmt: skip
def test_what_has_no_kernel_is_refused(told: dict[str, Any], why: str) -> None:
    with pytest.raises(BadTrace, match=why):
        kernels.tidy(told)


def test_a_trace_that_was_cut_off_is_refused(tmp_path: Any) -> None:
    (tmp_path / "cut.json.gz").write_bytes(V100.read_bytes()[:-200])
    with pytest.raises(BadTrace, match="cut off"):
        trace.parsed(tmp_path / "cut.json.gz")


@pytest.mark.parametrize(("name", "short"), [
    ("volta_sgemm_128x32_nt", "volta_sgemm_128x32_nt"),
    ("void at::native::vectorized_elementwise_kernel<4, at::native::AddFunctor<float>, at::detail::Array<char*, 3> >(int, float)",
     "vectorized_elementwise_kernel: AddFunctor"),
    ("void cutlass::Kernel2<cutlass_80_tensorop_s16816gemm_f16_64x64_32x6_nn_align8>(Params)",
     "Kernel2: cutlass_80_tensorop_s16816gemm_f16_64x64_32x6_nn_align8"),
    ("void at::native::(anonymous namespace)::max_pool_forward_nchw<float>(int)", "max_pool_forward_nchw"),
    ("Memcpy HtoD (Pageable -> Device)", "Memcpy HtoD "),
])  # fmt: skip
def test_kernels_have_short_names(name: str, short: str) -> None:
    assert kernels.short(name) == short.strip()


@given(st.lists(st.tuples(st.floats(0, 80), st.floats(0, 10), st.floats(0, 30), st.floats(0.1, 40), st.sampled_from((7, 9))), min_size=1,
                max_size=12))  # fmt: skip
def test_a_pass_is_divided_without_rest(made: list[tuple[float, float, float, float, int]]) -> None:
    told = passes(*(launched("k", called, called + late, dur, number=n, stream=stream, calling=calling)
                    for n, (called, calling, late, dur, stream) in enumerate(made)))  # fmt: skip
    frame = kernels.tidy(told)
    found = kernels.parts(frame, kernels.spans(told))
    assert (found["us"] >= 0).all()
    end = max(100.0, float((frame["begin_us"] + frame["dur_us"]).max()))
    assert found["us"].sum() == approx(end)
    verdict = kernels.verdict(frame, kernels.spans(told))
    assert verdict.host + verdict.device == approx(1) and (verdict.bound == "host") == (verdict.host > verdict.device)
