"""Indicators, budgets and burn rates from hand-made requests; alerts on scaled windows; PSI's noise against simulation."""

from __future__ import annotations

from math import inf, isnan, log, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.monitoring.slo import PAIRS, Alert, Objective, Outcomes, Reference, alerts, available, budget, burn, within

DAYS30_S = 30 * 86_400


def outcomes(*good: bool) -> Outcomes:
    """One request a second, from 1 s on."""
    return Outcomes(np.arange(1.0, len(good) + 1), np.array(good))


def test_a_clients_fault_is_neither_good_nor_bad() -> None:
    told = available(range(8), [200, 201, 400, 422, 429, 503, 0, -1])
    assert told.at_s.tolist() == [0, 1, 4, 5, 6, 7]
    assert told.good.tolist() == [True, True, False, False, False, False]
    assert told.share == pytest.approx(2 / 6)


def test_a_late_answer_is_not_within_and_a_fast_refusal_neither() -> None:
    told = within(0.010, [3, 2, 1, 0, 4], [200, 200, 503, 404, 0], [0.010, 0.011, 0.001, 0.001, inf])
    assert told.at_s.tolist() == [1, 2, 3, 4]  # in the order of time
    assert told.good.tolist() == [False, False, True, False]
    assert within(1, [0], [200], [nan]).good.tolist() == [False]


def test_nothing_is_known_of_nothing() -> None:
    nothing = available([], [])
    assert nothing.share is None
    assert budget(nothing, Objective("a", 0.9, 60)).share_left is None
    assert alerts(nothing, Objective("a", 0.9, 60)) == []
    assert available([1, 2], [404, 422]).share is None


@pytest.mark.parametrize(("at_s", "status"), [([1.0], [200, 200]), ([nan], [200])])
def test_a_request_without_a_time_is_refused(at_s: list[float], status: list[int]) -> None:
    with pytest.raises(ValueError, match="every request needs a time"):
        available(at_s, status)


@pytest.mark.parametrize(("target", "window_s"), [(0, 60), (1, 60), (nan, 60), (0.9, 0), (0.9, inf)])
def test_an_objective_can_be_missed_and_met(target: float, window_s: float) -> None:
    with pytest.raises(ValueError, match="availability: a target lies between"):
        Objective("availability", target, window_s)


def test_the_budget_by_hand() -> None:
    told = budget(outcomes(*[True] * 993, *[False] * 7), Objective("a", 0.99, 1000))
    assert (told.allowed, told.spent, told.left, told.share_left) == (pytest.approx(10), 7, pytest.approx(3), pytest.approx(0.3))
    assert budget(outcomes(True, False), Objective("a", 0.75, 2)).share_left == -1  # half a failure allowed, one happened


def test_the_burn_rate_by_hand() -> None:
    told = burn(outcomes(True, False, True, True, False, False), Objective("a", 0.9, 60), width_s=2, at_s=[0, 1, 2, 3, 5.5, 6, 7.5, 8])
    assert isnan(told[0]) and isnan(told[-1])  # (−2, 0] and (6, 8] hold nothing
    assert told[1:-1] == pytest.approx([0, 5, 5, 5, 10, 10])  # half of the window is 0.5 ÷ 0.1


@given(good=st.lists(st.booleans(), min_size=1, max_size=60), target=st.sampled_from([0.5, 0.9, 0.999]))
def test_a_burn_rate_of_one_uses_the_budget_up(good: list[bool], target: float) -> None:
    objective, told = Objective("a", target, len(good)), outcomes(*good)
    (rate,) = burn(told, objective, width_s=len(good), at_s=[len(good)])
    left = budget(told, objective).share_left
    assert left is not None and rate == pytest.approx(1 - left)


def test_the_workbooks_windows_and_what_they_cost() -> None:
    hours = [(pair.severity, pair.factor, pair.long * 720, pair.short * 720) for pair in PAIRS]
    assert hours == [("page", 14.4, pytest.approx(1), pytest.approx(1 / 12)), ("page", 6, pytest.approx(6), pytest.approx(0.5)),
                     ("ticket", 3, pytest.approx(24), pytest.approx(2)), ("ticket", 1, pytest.approx(72), pytest.approx(6))]
    assert [pair.factor * pair.long for pair in PAIRS] == pytest.approx([0.02, 0.05, 0.1, 0.1])  # of the budget


@pytest.mark.parametrize("period_s", [DAYS30_S, 7200])  # a month, and its replay in two hours
def test_an_outage_pages_at_once_and_the_page_ends_soon_after_it(period_s: float) -> None:
    at_s = np.linspace(0, period_s, 43_201)  # one a minute of the month
    share = at_s / period_s * 720  # hours
    good = ~((share > 240) & (share <= 241))  # an hour of total failure after ten days
    told = alerts(Outcomes(at_s, good), Objective("a", 0.999, period_s))
    first = told[0]
    assert first.pair is PAIRS[0]
    hours = period_s / 720
    assert (first.start_s / hours - 240) * 60 == pytest.approx(1, abs=0.51)  # 14.4 × 0.1 % of an hour: the first failed minute suffices
    assert (first.end_s / hours - 241) * 60 == pytest.approx(4, abs=1.01)  # while the last failure lies in the five minutes
    assert {alert.pair for alert in told} == set(PAIRS)  # such an outage costs 1.4 budgets: all of them see it


def test_a_slow_burn_is_a_ticket_and_no_page() -> None:
    good = np.ones(3 * 86_400, bool)  # one a second for three days
    good[250::500] = False  # 0.2 % against 0.1 %: twice as fast as allowed
    told = alerts(Outcomes(np.arange(float(len(good))), good), Objective("a", 0.999, DAYS30_S))
    assert {alert.pair.severity for alert in told} == {"ticket"}
    assert told[-1].end_s == len(good) - 1  # and still open at the end


def test_alerts_are_told_in_order_and_apart() -> None:
    pair = PAIRS[0]
    told = alerts(outcomes(*[True] * 50, *[False] * 3, *[True] * 50, *[False] * 2, *[True] * 9), Objective("a", 0.99, 7200), pairs=(pair,))
    # From the second failure in 10 s on; the short window, 0.83 s, holds one request.
    assert told == [Alert(pair, 52, 53), Alert(pair, 105, 105)]


def test_psi_by_hand() -> None:
    reference = Reference.of(np.arange(100) % 2, bins=2)
    assert (reference.edges.tolist(), reference.counts.tolist()) == ([0], [50, 50])
    told = reference.drift([0] * 30 + [1] * 70)
    assert told is not None
    now, was = (30.5 / 101, 70.5 / 101), 0.5
    assert told.psi == pytest.approx(sum((share - was) * log(share / was) for share in now))
    assert (told.n, told.expected) == (100, pytest.approx(1 * (1 / 100 + 1 / 100)))
    assert told.bound == pytest.approx(10.8276 * 0.02, rel=1e-4)  # χ² with one degree of freedom, 99.9 %
    assert not told.drifted
    worse = reference.drift([1] * 100)
    assert worse is not None and worse.drifted and worse.psi < inf


def test_the_noise_without_drift_is_as_said() -> None:
    rng, psi, alarms, trials = np.random.default_rng(3), [], 0, 2000
    for _ in range(trials):
        told = Reference.of(rng.beta(0.5, 20, 5000)).drift(rng.beta(0.5, 20, 1000), confidence=0.99)
        assert told is not None
        psi.append(told.psi)
        alarms += told.drifted
    assert np.mean(psi) == pytest.approx(9 * (1 / 1000 + 1 / 5000), rel=0.05)
    assert 8 <= alarms <= 34  # 1 % of 2000 is 20, ± 3 standard deviations


def test_a_drift_that_is_there_is_seen_and_the_folklore_misses_it() -> None:
    rng = np.random.default_rng(4)
    told = Reference.of(rng.normal(0, 1, 200_000)).drift(rng.normal(0.05, 1, 20_000))
    assert told is not None and told.drifted and told.psi < 0.1
    few = Reference.of(rng.normal(0, 1, 200)).drift(rng.normal(0, 1, 100))
    assert few is not None and not few.drifted and few.expected > 0.1  # where the folklore would see one without any


def test_too_few_scores_tell_nothing() -> None:
    reference = Reference.of(np.arange(1000.0))
    assert reference.counts.tolist() == [100] * 10
    assert reference.drift(np.arange(99.0)) is None
    assert reference.drift(np.arange(100.0)) is not None
    with pytest.raises(ValueError, match="1 of 3 scores are NaN"):
        reference.drift([0.1, nan, 0.3])


@given(scores=st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, -inf, inf]), min_size=100, max_size=150).filter(lambda s: len(set(s)) > 1),
       seen=st.lists(st.floats(allow_nan=False), min_size=100, max_size=150))
def test_equal_scores_make_fewer_bins_and_none_is_empty(scores: list[float], seen: list[float]) -> None:
    reference = Reference.of(scores)
    assert reference.counts.min() > 0 and reference.counts.sum() == len(scores) and 2 <= len(reference.counts) <= 10
    same, other = reference.drift(scores), reference.drift(seen)
    assert same is not None and same.psi == 0
    assert other is not None and 0 <= other.psi < inf


@pytest.mark.parametrize("scores", [[], [0.1] * 500, [0.1] * 99, [nan, *range(200)], list(range(99))])
def test_what_makes_no_reference(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="make no reference of 10 bins"):
        Reference.of(scores)
