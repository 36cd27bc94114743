"""Accounts add up to what a pass takes unwatched, or say that they do not; what watching costs is taken off where it lies."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from lib.profiling import accounts, hooks, ledger, onednn, trace
from tests.profiling.events import event

REST = ledger.RESIDUAL

CONV = "src:f32:a:blocked:aBcd16b::f0 wei:f32:a:blocked:ABcd16b16a::f0 dst:f32:a:blocked:aBcd16b::f0"
TO_BLOCKS = "src:f32::blocked:abcd::f0 dst:f32::blocked:aBcd16b::f0"
OF_WEIGHTS = "src:f32::blocked:abcd::f0 dst:f32::blocked:ABcd16b16a::f0"
FROM_BLOCKS = "src:f32::blocked:aBcd16b::f0 dst:f32::blocked:abcd::f0"
PROBLEM = "mb1_ic64oc64_ih56oh56kh3sh1dh0ph1_iw56ow56kw3sw1dw0pw1"


def seen(passes: int = 3) -> pd.DataFrame:
    """Each pass of 100 µs: a convolution (50) with another operator in it, a batch norm (20), a ReLU (10), and 20 between them."""
    scope, events = "user_annotation", []
    for n in range(passes):
        at = 200.0 * n
        events += [event("pass", at, 100, cat=scope), event("aten::conv2d", at + 5, 50), event("aten::convolution", at + 8, 45),
                   event("aten::batch_norm", at + 60, 20), event("aten::relu", at + 85, 10)]  # fmt: skip
    return trace.tidy({"traceEvents": events})


def spoken(passes: int = 3) -> pd.DataFrame:
    """Each pass of 100 µs: from 10 on a convolution of 50, of which 10 between its primitives; from 70 on one that is 20 alone."""
    rows = []
    for n in range(passes):
        rows += [[n, "reorder", "jit:blk", TO_BLOCKS, "1x64x56x56", 6.0, 10.0],
                 [n, "reorder", "jit:uni", OF_WEIGHTS, "64x64x3x3", 4.0, 18.0],
                 [n, "convolution", "jit:avx512", CONV, PROBLEM, 28.0, 24.0],
                 [n, "reorder", "jit:blk", FROM_BLOCKS, "1x64x56x56", 2.0, 58.0],
                 [n, "convolution", "jit:avx512", "src:f32::blocked:acdb::f0 dst:f32::blocked:acdb::f0", PROBLEM, 20.0, 70.0]]  # fmt: skip
    return pd.DataFrame(rows, columns=onednn.COLUMNS)


def parts(told: pd.DataFrame) -> dict[str, float]:
    return dict(zip(told["part"], told["us"], strict=True))


def at(us: float, passes: int = 3) -> ledger.Pace:
    return ledger.pace([[us / 1e6]] * passes, passes)


def test_the_profiler_s_parts_are_operators_as_they_were_called() -> None:
    told = ledger.profiler(seen(), at(98), event_us=0, nested_us=0)
    assert parts(told) == approx({"convolution": 50, "batch norm": 20, "activation": 10, "between operators": 20, REST: -2})
    assert told["n"].tolist()[:3] == [1, 1, 1] and ledger.unexplained(told) == approx(-2 / 98)
    assert parts(ledger.profiler(seen()[list(ledger.TOLD)], at(98), event_us=0, nested_us=0)) == parts(told), "it needs no more of a trace"


def test_an_event_costs_where_it_lies() -> None:
    """One event lies inside the convolution, in warm caches; those of the three operators themselves lie between."""
    told = parts(ledger.profiler(seen(), at(96), event_us=1, nested_us=0.5))
    assert told == approx({"convolution": 49.5, "batch norm": 20, "activation": 10, "between operators": 17, REST: -0.5})


def test_onednn_s_clock_tells_what_lies_inside_an_operator_and_what_between() -> None:
    told = ledger.onednn(spoken(), [100.0] * 3, at(100), line_us=0)
    assert parts(told) == approx({
        "oneDNN: convolution": 48, "oneDNN: reorder of activations": 8, "oneDNN: reorder of weights": 4, "before the first primitive": 10,
        ledger.INSIDE: 2 + 2 + 6, "between operators that call oneDNN": 10, "after the last primitive": 10, REST: 0,
    })  # fmt: skip
    assert told["share"].sum() == approx(1)
    cheaper = parts(ledger.onednn(spoken(), [100.0] * 3, at(95), line_us=1))
    assert cheaper[ledger.INSIDE] == approx(10 - 3) and cheaper[REST] == approx(0), "five lines, each in a gap"


def test_hooks_tell_modules_and_the_own_work_of_those_around_them() -> None:
    """A network of 90 µs with a convolution of 60 and a ReLU of 20 in it, in a pass of 100."""
    stamps = [(0, 5_000), (1, 7_000), (-1, 67_000), (2, 70_000), (-1, 90_000), (-1, 95_000)]
    told = hooks.rows(stamps)
    assert told == [[1, 60_000, 60_000, 0], [2, 20_000, 20_000, 0], [0, 90_000, 10_000, 2]]
    calls = accounts.calls([told] * 3, [("", "Net", False), ("conv", "Conv2d", True), ("act", "ReLU", True)])
    account = parts(ledger.hooked(calls, [100.0] * 3, at(97), module_us=1))
    assert account == approx({"Conv2d": 60, "ReLU": 20, "Net, outside of the modules in it": 8, hooks.OUTSIDE: 9, REST: 0})


def test_an_engine_s_nodes_and_what_lies_between() -> None:
    nodes = pd.DataFrame([[n, 0, "/a/Conv", "Conv", 30.0] for n in range(2)] + [[n, 1, "/a/Relu", "Relu", 5.0] for n in range(2)],
                         columns=["pass", "order", "node", "kind", "us"])  # fmt: skip
    told = ledger.engine(nodes, [42.0, 42.0], at(40, 2), node_us=0.5)
    assert parts(told) == approx({"Conv": 30, "Relu": 5, "between nodes": 6, REST: -1})


def test_a_pace_that_changes_is_everybody_s() -> None:
    """In the second turn the machine takes twice as long, watched or not: the account closes all the same."""
    nodes = pd.DataFrame([[n, 0, "a", "Conv", 30.0 * pace] for n, pace in enumerate((1, 1, 2, 2))],
                         columns=["pass", "order", "node", "kind", "us"])  # fmt: skip
    at_pace = ledger.pace([[40e-6], [80e-6]], 4)
    told = ledger.engine(nodes, [40.0, 40, 80, 80], at_pace, node_us=0)
    assert at_pace.bare_us == approx(60) and parts(told) == approx({"Conv": 45, "between nodes": 15, REST: 0})
    assert ledger.pace([[40e-6], [80e-6]], 2, [50e-6] * 3).bare_us == approx(50), "of all that nobody watched"
    with pytest.raises(ValueError, match="5 passes are not as many in each of 2 turns"):
        ledger.pace([[1.0], [1.0]], 5)


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=40))
def test_the_middle_half_holds_no_stall(took: list[float]) -> None:
    kept = ledger.middle(took)
    assert len(kept) >= (len(took) + 1) // 2 and len(set(kept.tolist())) == len(kept)
    if len(took) >= 4:
        assert max(took[place] for place in kept) <= sorted(took)[len(took) - len(took) // 4 - 1]


def test_the_median_pass_is_a_real_one() -> None:
    frame = seen(3)
    frame.loc[frame["kind"] == "pass", "dur_us"] = [100.0, 300.0, 200.0]
    assert ledger.median_pass(frame) == 2


@pytest.mark.parametrize("watching", [0.0, 500.0])
def test_watching_never_makes_a_part_negative(watching: float) -> None:
    told = parts(ledger.profiler(seen(), at(100), event_us=watching, nested_us=watching))
    assert min(us for part, us in told.items() if part != "not explained") >= 0
