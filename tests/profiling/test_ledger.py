"""Accounts add up to what a pass takes unwatched, or say that they do not."""

from __future__ import annotations

import pandas as pd
import pytest
from pytest import approx

from lib.profiling import ledger, onednn, trace
from tests.profiling.events import event


def seen(passes: int = 3) -> pd.DataFrame:
    """Each pass of 100 µs: a convolution (50), a batch norm (20), a ReLU (10), and 20 between them."""
    scope, events = "user_annotation", []
    for n in range(passes):
        at = 200.0 * n
        events += [event("pass", at, 100, cat=scope), event("aten::conv2d", at + 5, 50), event("aten::convolution", at + 8, 45),
                   event("aten::batch_norm", at + 60, 20), event("aten::relu", at + 85, 10)]  # fmt: skip
    return trace.tidy({"traceEvents": events})


def spoken(passes: int = 3) -> pd.DataFrame:
    rows = []
    for n in range(passes):
        rows += [[n, "reorder", "jit:blk", "src:f32::blocked:abcd::f0 dst:f32::blocked:aBcd16b::f0", "1x64x56x56", 6.0],
                 [n, "reorder", "jit:uni", "src:f32::blocked:abcd::f0 dst:f32::blocked:ABcd16b16a::f0", "64x64x3x3", 4.0],
                 [n, "convolution", "jit:avx512", "src:…", "mb1_ic64oc64_oh56ow56kh3kw3", 30.0]]  # fmt: skip
    return pd.DataFrame(rows, columns=onednn.COLUMNS)


def parts(told: pd.DataFrame) -> dict[str, float]:
    return dict(zip(told["part"], told["us"], strict=True))


def test_the_profiler_s_parts_are_operators_as_they_were_called() -> None:
    told = ledger.profiler(seen(), bare_us=90, watching=8)
    assert parts(told) == {"convolution": 50, "batch norm": 20, "activation": 10, "between operators": 12, "not explained": approx(-2)}
    assert told["n"].tolist()[:3] == [1, 1, 1] and ledger.unexplained(told) == approx(-2 / 90)


def test_onednn_s_clock_takes_the_place_of_what_calls_it() -> None:
    told = ledger.onednn(seen(), spoken(), bare_us=92, watching=8)
    assert parts(told) == {
        "oneDNN: convolution": 30, "oneDNN: reorder of activations": 6, "oneDNN: reorder of weights": 4,
        "around oneDNN, in the operators that call it": 10, "batch norm": 20, "activation": 10, "between operators": 12, "not explained": 0,
    }  # fmt: skip
    assert told["share"].sum() == approx(1)


def test_an_engine_s_nodes_and_what_lies_between() -> None:
    nodes = pd.DataFrame([[n, 0, "/a/Conv", "Conv", 30.0] for n in range(2)] + [[n, 1, "/a/Relu", "Relu", 5.0] for n in range(2)],
                         columns=["pass", "order", "node", "kind", "us"])  # fmt: skip
    told = ledger.engine(nodes, [40.0, 42.0], bare_us=40)
    assert parts(told) == {"Conv": 30, "Relu": 5, "between nodes": 6, "not explained": -1}


def test_what_watching_costs_is_its_events() -> None:
    assert ledger.watching_us(400, {"bare": 700.0, "seen": 1_900.0}, 20.0) == approx(500)


def test_the_median_pass_is_a_real_one() -> None:
    frame = seen(3)
    frame.loc[frame["kind"] == "pass", "dur_us"] = [100.0, 300.0, 200.0]
    assert ledger.median_pass(frame) == 2


@pytest.mark.parametrize("watching", [0.0, 500.0])
def test_watching_never_makes_a_part_negative(watching: float) -> None:
    assert min(parts(ledger.profiler(seen(), bare_us=100, watching=watching)).values()) >= (0 if watching == 0 else -400)
    assert parts(ledger.profiler(seen(), bare_us=100, watching=watching))["between operators"] >= 0
