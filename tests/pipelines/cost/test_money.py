"""Dollars by hand: what a million costs, when a GPU pays, what a spare replica is worth, and prices that are none."""

from __future__ import annotations

import itertools
from datetime import date
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.pipelines.cost import money, prices
from lib.pipelines.cost.money import Tariff


def test_an_hour_is_processors_and_memory() -> None:
    assert Tariff(0.04, 0.005).hour(2, 4e9) == pytest.approx(0.10)


def test_a_million_by_hand() -> None:
    # 100 a second at half of that for an hour are 180,000; at 0.09 USD an hour a million costs 0.50 USD.
    assert money.per_million(0.09, 100, 0.5) == pytest.approx(0.5)
    assert money.per_million(0.09, 100, 1.0) == pytest.approx(0.25)


@pytest.mark.parametrize("rate", [None, 0, 0.0])
def test_what_carries_nothing_has_no_price(rate: float | None) -> None:
    assert money.per_million(1.0, rate, 0.5) is None
    assert money.replicas(100, rate) is None
    assert money.break_even_per_s(rate, 1.0, 0.5) is None


@pytest.mark.parametrize("utilisation", [0, -0.1, 1.01, inf, float("nan")])
def test_a_utilisation_is_a_share(utilisation: float) -> None:
    with pytest.raises(ValueError, match="utilisation"):
        money.per_million(1.0, 100, utilisation)


@given(st.floats(0.01, 100), st.floats(0.1, 1e5), st.floats(0.05, 1), st.floats(0.1, 50))
def test_at_break_even_both_cost_the_same(hour: float, rate: float, utilisation: float, gpu_hour: float) -> None:
    ours = money.per_million(hour, rate, utilisation)
    even = money.break_even_per_s(ours, gpu_hour, utilisation)
    assert money.per_million(gpu_hour, even, utilisation) == pytest.approx(ours)


def test_replicas_carry_the_peak() -> None:
    assert (money.replicas(100, 100), money.replicas(101, 100), money.replicas(1, 100)) == (1, 2, 1)


def test_availability_by_hand() -> None:
    assert money.available(1, 1, 0.99) == pytest.approx(0.99)
    assert money.available(1, 2, 0.99) == pytest.approx(1 - 0.01**2)
    assert money.available(2, 3, 0.9) == pytest.approx(0.9**3 + 3 * 0.9**2 * 0.1)
    assert money.nines(0.999) == pytest.approx(3)
    assert money.nines(1.0) == inf


@given(st.integers(1, 20), st.floats(0.5, 0.999))
def test_a_spare_never_harms(needed: int, each: float) -> None:
    steps = money.spares(needed, each, 1.0)
    assert [step.replicas for step in steps] == [needed, needed + 1, needed + 2, needed + 3]
    assert all(later.availability >= sooner.availability - 1e-12 for sooner, later in itertools.pairwise(steps))
    assert steps[1].usd_year - steps[0].usd_year == pytest.approx(money.HOURS_A_YEAR)


def test_the_price_list_is_whole() -> None:
    known = prices.prices()
    assert {prices.VCPU, prices.MEMORY} <= set(known)
    assert all(price.source and price.usd > 0 and price.as_of <= date.today() for price in known.values())
    tokens = {"Mtoken-input", "Mtoken-input-cached", "Mtoken-output"}
    assert {price.unit for price in known.values()} == {"vCPU-hour", "GB-hour", "GPU-hour"} | tokens


def test_the_users_own_price_takes_the_place_of_the_lists() -> None:
    own = prices.priced(prices.VCPU, 0.02)
    assert (own.usd, own.unit, own.source) == (0.02, "vCPU-hour", "the notebook's parameters")
    assert prices.priced(prices.VCPU).usd == prices.prices()[prices.VCPU].usd


@pytest.mark.parametrize("usd", [0.0, -1.0, inf, float("nan")])
def test_a_price_of_ones_own_must_be_one(usd: float) -> None:
    with pytest.raises(ValueError, match="none"):
        prices.priced(prices.VCPU, usd)


def test_an_unknown_price_names_those_there_are() -> None:
    with pytest.raises(LookupError, match="AWS Fargate vCPU"):
        prices.priced("H900")


@pytest.mark.parametrize("row", [
    "x,GPU-hour,1.0,of,where,2026-01-01,",  # no source
    "x,GPU-hour,1.0,of,where,,somebody",  # no date
    "x,GPU-hour,-1,of,where,2026-01-01,somebody",
    "x,GPU-hour,cheap,of,where,2026-01-01,somebody",
    "x,,1.0,of,where,2026-01-01,somebody",
    "x,GPU-hour",
])  # fmt: skip
def test_a_price_without_source_or_date_is_refused_with_its_line(row: str, tmp_path: Path) -> None:
    (table := tmp_path / "prices.csv").write_text(f"name,unit,usd,of,region,as_of,source\n{row}\n")
    with pytest.raises(ValueError, match=r"prices\.csv, line 2"):
        prices.prices(table)
