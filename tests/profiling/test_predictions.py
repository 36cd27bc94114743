"""Predictions are arithmetic on the account, said before; how far they were off is told with its sign."""

from __future__ import annotations

from pytest import approx

from lib.profiling import predictions
from lib.profiling.predictions import Account, Prediction

ACCOUNT = Account(
    whole_us=30_000, parts={"batch norm": 5_000, "between operators": 900},
    primitives={"convolution": 15_000, "reorder of activations": 3_000, "reorder of weights": 2_000, "inner_product": 300,
                "around primitives, inside an operator": 600},
    layers_us={"block": 1_700}, roofs={"float32": 200e9, "bfloat16": 800e9},
)  # fmt: skip


def test_each_is_worked_out_from_the_account() -> None:
    told = {one.name: one.expects_us for one in predictions.from_profile(ACCOUNT, without=["block"], batch=8, bf16=4.0)}
    assert told["folded"] == 25_000 and told["channels_last"] == 25_000 and told["folded, channels_last"] == 20_000
    assert told["inference_mode"] == 30_000 and told["without block"] == 28_300
    assert told["one thread"] == 1_500 + 2 * 28_500 and told["batch 8"] == 1_500 + 8 * 28_500
    assert told["folded, channels_last, bf16"] == approx(1_500 + 15_000 / 4 + (20_000 - 15_000 - 1_500) / 2)
    assert told["folded, channels_last, compile"] == 15_300
    assert len(told) >= 5


def test_a_miss_keeps_its_sign_and_what_was_not_measured_is_no_hit() -> None:
    made = [Prediction("a", 1_000, "x"), Prediction("b", 3_000, "y"), Prediction("c", 1, "z")]
    found = predictions.judged(made, {"a": 1_250, "b": 2_000}, 4_000, {})
    assert found["off"].iloc[0] == approx(-0.2) and found["off"].iloc[1] == approx(0.5) and found["off"].isna().iloc[2]
    assert found["speed-up measured"].iloc[1] == approx(2) and found["speed-up expected"].iloc[0] == approx(4)
    told = predictions.errors(found)
    assert told["n"] == 2 and told["median"] == approx(0.35) and told["worst"] == approx(0.5) and told["whose"] == "b"
    assert set(predictions.errors(found.iloc[2:]).values()) == {None}


def test_a_slower_minute_is_no_miss() -> None:
    """A quarter less was promised; all took twice as long that minute, the change a quarter less of it."""
    found = predictions.judged([Prediction("a", 3_000, "x")], {"a": 6_000}, 4_000, {"a": 8_000})
    assert found["off"].iloc[0] == approx(0) and found["speed-up measured"].iloc[0] == approx(8 / 6)
    assert found["eager beside, ms"].iloc[0] == 8
