"""The cheapest verdict, by hand and against its own definition; the scalar and the vector; what turns where; single-feature reasons."""

from __future__ import annotations

from math import inf, isnan, nan

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib.pipelines.fraud.features import NAMES
from lib.pipelines.fraud.verdict import (
    APPROVE,
    DECLINE,
    REVIEW,
    Costs,
    Verdict,
    calibrated,
    decide,
    decide_all,
    probability,
    reasons,
    turns,
)

MONEY = st.one_of(st.sampled_from([0.0, 1.0, 3.0, 30.0]), st.integers(0, 10**8).map(lambda cents: cents / 100))
SOME = MONEY.filter(bool)
COSTS = st.builds(Costs, chargeback_fee=MONEY, review=SOME, friction=SOME)
CHANCE = st.one_of(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.floats(0, 1))


@pytest.mark.parametrize(("p", "amount", "verdict"), [
    (0.0, 1000, APPROVE), (0.02, 130, APPROVE),  # 0.02 × 150 = 3, as dear as a review: the milder
    (0.03, 130, REVIEW), (0.89, 130, REVIEW), (0.91, 130, DECLINE), (1.0, 0, DECLINE), (0.1, 0, APPROVE), (0.2, 0, REVIEW)])
def test_by_hand(p: float, amount: float, verdict: Verdict) -> None:
    assert decide(p, amount, Costs()) is verdict


@given(p=CHANCE, amount=MONEY, costs=COSTS)
@example(p=0.5, amount=10.0, costs=Costs(chargeback_fee=20, review=15, friction=30))  # all three cost 15
@example(p=0.5, amount=10.0, costs=Costs(chargeback_fee=20, review=99, friction=30))  # approve and decline cost 15
def test_nothing_is_cheaper_and_nothing_as_cheap_is_milder(p: float, amount: float, costs: Costs) -> None:
    expected = {APPROVE: p * (amount + costs.chargeback_fee), REVIEW: costs.review, DECLINE: (1 - p) * costs.friction}
    assert decide(p, amount, costs) is min(Verdict, key=lambda verdict: (expected[verdict], verdict))


@given(rows=st.lists(st.tuples(CHANCE, MONEY), max_size=30), costs=COSTS)
def test_all_at_once_is_each_alone(rows: list[tuple[float, float]], costs: Costs) -> None:
    p, amount = (np.array([row[column] for row in rows]) for column in (0, 1))
    assert decide_all(p, amount, costs).tolist() == [decide(*row, costs) for row in rows]


def test_single_precision_is_widened_before_it_decides() -> None:
    p = np.float32([0.02, 0.1, 0.9])
    assert decide_all(p, np.float32([130.1, 10, 0.1]), Costs()).tolist() == [  # type: ignore[arg-type]
        decide(float(chance), float(amount), Costs()) for chance, amount in zip(p, np.float32([130.1, 10, 0.1]), strict=True)]


@pytest.mark.parametrize(("p", "amount"), [(nan, 1), (-0.1, 1), (1.1, 1), (0.5, nan), (0.5, -1), (0.5, inf)])
def test_what_is_no_number_gets_no_verdict(p: float, amount: float) -> None:
    with pytest.raises(ValueError, match="no verdict on a probability of"):
        decide(p, amount, Costs())
    with pytest.raises(ValueError, match="no verdict on 1 of 2 rows"):
        decide_all(np.array([0.5, p]), np.array([1.0, amount]), Costs())


@pytest.mark.parametrize(("which", "cost"), [
    *((which, cost) for which in ("chargeback_fee", "review", "friction") for cost in (-1, nan, inf)), ("review", 0), ("friction", 0)])
def test_a_cost_is_an_amount_and_nothing_but_the_fee_is_free(which: str, cost: float) -> None:
    with pytest.raises(ValueError, match="costs are finite"):
        Costs(**{which: cost})
    assert Costs(chargeback_fee=0).chargeback_fee == 0


@given(p=CHANCE, amount=MONEY, costs=COSTS)
@example(p=0.0, amount=0.0, costs=Costs(chargeback_fee=0))
def test_the_turns_are_where_the_verdict_turns(p: float, amount: float, costs: Costs) -> None:
    review_at, decline_at = turns(amount, costs)
    assert 0 <= review_at <= decline_at <= 1
    if min(abs(p - review_at), abs(p - decline_at)) > 1e-9:
        assert decide(p, amount, costs) is (APPROVE if p < review_at else REVIEW if p < decline_at else DECLINE)


def test_turns_by_hand() -> None:
    assert turns(130, Costs()) == (0.02, 0.9)
    assert turns(0, Costs(chargeback_fee=20, review=15, friction=30)) == (0.6, 0.6)  # a review would pay from 0.75 on, and up to 0.5
    assert turns(0, Costs(chargeback_fee=0)) == (1, 1)  # nothing to lose: always approved


def test_calibration_is_platts() -> None:
    assert probability(np.array([0.0, 1.0, -1.0]), (2.0, 0.5)) == pytest.approx([0.6224593, 0.9241418, 0.1824255])


@given(margin=st.floats(-800, 800), a=st.floats(0.5, 2), b=st.floats(-3, 3))
def test_one_is_calibrated_as_all_are(margin: float, a: float, b: float) -> None:
    assert calibrated(margin, a, b) == pytest.approx(float(probability(np.array([margin]), (a, b))[0]), rel=1e-12, abs=1e-300)


@pytest.mark.filterwarnings("error")
def test_extreme_margins_are_certain_and_nan_is_refused() -> None:
    for margin, certain in ((1e4, 1.0), (-1e4, 0.0), (1e308, 1.0), (-1e308, 0.0), (inf, 1.0), (-inf, 0.0)):
        assert calibrated(margin, 2.0, 0.5) == certain
        assert probability(np.array([margin]), (2.0, 0.5)).tolist() == [certain]
    assert isnan(calibrated(nan, 1.0, 0.0))
    with pytest.raises(ValueError, match="no verdict"):
        decide(calibrated(nan, 1.0, 0.0), 1.0, Costs())


TYPICAL = np.zeros(35, np.float32)
V14, AMOUNT, V4 = NAMES.index("v14"), NAMES.index("amount"), NAMES.index("v4")


def told(row: np.ndarray, weights: dict[int, float], **options: int) -> list[str]:  # type: ignore[type-arg]
    line = np.zeros(35)
    for feature, weight in weights.items():
        line[feature] = weight
    calls: list[tuple[int, ...]] = []

    def margins(rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        assert rows.dtype == np.float32 and rows.flags.c_contiguous
        calls.append(rows.shape)
        return rows.astype(np.float64) @ line

    codes = reasons(row, TYPICAL, margins, **options)
    assert calls == [(36, 35)]
    return codes


def test_the_strongest_reasons_come_first_and_say_which_way() -> None:
    row = np.zeros(35, np.float32)
    row[[V14, AMOUNT, V4, 0, 1]] = -5, 100, 3, 9, 2
    weights = {V14: -1.0, AMOUNT: 0.03, V4: 1.5, 0: -2.0, 1: 0.5}  # gains 5, 3, 4.5, −18, 1
    assert told(row, weights) == ["V14_LOW", "V4_HIGH", "AMOUNT_HIGH"]
    assert told(row, weights, top=9) == ["V14_LOW", "V4_HIGH", "AMOUNT_HIGH", "V2_HIGH"]  # V1 speaks for the card: no reason
    assert told(row, weights, top=1) == ["V14_LOW"]
    assert row[V14] == -5  # left as it was


def test_a_typical_row_has_no_reasons() -> None:
    assert told(TYPICAL, {V14: -1.0}) == []


def test_equal_reasons_come_in_the_order_of_the_features() -> None:
    assert told(np.ones(35, np.float32), dict.fromkeys(range(35), 1.0)) == ["V1_HIGH", "V2_HIGH", "V3_HIGH"]


def test_what_only_two_features_do_together_is_not_seen() -> None:
    def both(rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.float64((rows[:, 0] > 0) | (rows[:, 1] > 0))

    assert reasons(np.ones(35, np.float32), TYPICAL, both) == []  # as the docstring says


def test_a_scorer_may_write_over_the_row_it_was_asked_about() -> None:
    row = np.zeros(35, np.float32)
    row[V14] = -5

    def margins(rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        found = -rows[:, V14].astype(np.float64)
        row[:] = 99
        return found

    assert reasons(row, TYPICAL, margins) == ["V14_LOW"]
