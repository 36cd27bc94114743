"""The bill: each token once, from the log and from counters alike."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.monitoring import tokens
from lib.monitoring.request_log import Entry
from lib.monitoring.tokens import Card
from lib.pipelines.cost import prices

CARD = Card({"input_uncached": 1.0, "input_cached": 0.25, "output": 4.0})


def asked(uncached: int | None, cached: int | None, output: int | None) -> Entry:
    return Entry(0.0, "llm", "ok", 200, 1.0, None, None, uncached, cached, output)


LOG = [asked(8, 40, 12), asked(48, 0, 12), None, Entry(0.0, "fraud", "ok", 200, 0.1), asked(None, None, None)]


def test_the_log_by_hand() -> None:
    counted = tokens.logged(LOG)
    assert counted == {"input_uncached": 56, "input_cached": 40, "output": 24}
    assert tokens.cost_usd(counted, CARD) == {"input_uncached": 56.0, "input_cached": 10.0, "output": 96.0}


def test_the_wrong_bills_are_wrong_by_what_they_say() -> None:
    counted = tokens.logged(LOG)
    right = sum(tokens.cost_usd(counted, CARD).values())
    assert tokens.naive_usd(counted, CARD) == right + 40 * 1.0  # all 96 in full, and 40 cached ones again
    assert tokens.naive_usd(counted, CARD) == (56 + 40) * 1.0 + 40 * 0.25 + 24 * 4.0
    assert tokens.plain_usd(counted, CARD) == right + 40 * 0.75


def test_a_counter_that_begins_anew_loses_nothing_it_was_seen_with() -> None:
    assert tokens.increase([5, 10, 15, 2, 4]) == 10 + 2 + 2
    assert tokens.increase([5]) == tokens.increase([]) == 0


@pytest.mark.parametrize("samples", [[1, -1], [nan], [1, nan, 2]])
def test_what_is_no_counter(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="counter"):
        tokens.increase(samples)


requests = st.lists(st.tuples(*[st.integers(0, 5000)] * 3), min_size=1, max_size=30)


@given(requests, st.data())
def test_log_and_counters_agree_over_a_restart(made: list[tuple[int, int, int]], data: st.DataObject) -> None:
    """Counters are read after each request; one of them is the first after a restart."""
    restart = data.draw(st.integers(0, len(made)))
    counters = {}
    for place, kind in enumerate(tokens.TYPES):
        value, seen = 0, [0]
        for number, one in enumerate(made):
            if number == restart:
                value = 0
                seen.append(0)
            value += one[place]
            seen.append(value)
        counters[kind] = tokens.increase(seen)
    found = tokens.reconcile(tokens.logged([asked(*one) for one in made]), counters, CARD)
    assert found.counters_usd == pytest.approx(found.log_usd)
    assert found.share is None or abs(found.share) < 1e-9
    assert found.naive_usd >= found.plain_usd >= found.log_usd


def test_a_difference_is_told_as_a_share() -> None:
    log = {"input_uncached": 100, "input_cached": 0, "output": 0}
    assert tokens.reconcile(log, {**log, "input_uncached": 101}, CARD).share == pytest.approx(0.01)
    assert tokens.reconcile(dict.fromkeys(tokens.TYPES, 0), log, CARD).share is None


def test_the_hosted_prices_are_in_the_list_and_cached_is_cheapest() -> None:
    usd = tokens.card().usd
    assert 0 < usd["input_cached"] < usd["input_uncached"] < usd["output"] < 1e-5


def test_a_model_without_all_its_prices_is_refused() -> None:
    known = {name: price for name, price in prices.prices().items() if "cached" not in name}
    with pytest.raises(LookupError, match="Mtoken-input-cached"):
        tokens.card(known=known)
    with pytest.raises(LookupError, match="no price"):
        tokens.card("GPT-9")


@pytest.mark.parametrize("usd", [{}, {"input_uncached": 1.0}, dict.fromkeys(tokens.TYPES, 0.0), dict.fromkeys(tokens.TYPES, inf)])
def test_no_card(usd: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a card"):
        Card(usd)
