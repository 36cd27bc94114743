"""Dollars by hand: prices that are none, the split of an hour, intervals turned round, and the recorded bill worked out from its file."""

from __future__ import annotations

import json
from datetime import date
from math import inf, nan
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from lib import stats
from lib.llm import cost_readings, dollars, recorded, throughput
from lib.llm.dollars import Hourly
from lib.llm.events import Answer
from lib.llm.pace import Pace
from lib.pipelines.cost import prices
from tests.test_throughput import made

PACE = Pace(knots=(1, 4), decode_s=(0.1, 0.1), context_s=0.0, prompt_s=0.0, token_s=0.01, square_s=0.0, overhead_s=0.0)


def hour(amount: Any = 3.6, currency: Any = "USD", unit: Any = "machine-hour") -> Hourly:
    return Hourly(amount, currency, unit, "a machine", date(2026, 1, 1), "here")


def answer(number: int, sent_s: float, *stamps_s: float, prompt_tokens: int = 10) -> Answer:
    return Answer(number, 0.0, sent_s, stamps_s, tuple(range(1, len(stamps_s) + 1)), "", len(stamps_s), "usage", prompt_tokens, 0, {}, None)


# --- prices ---


@pytest.mark.parametrize("amount", [0, -1, 0.0, inf, nan, None, "3", True])
def test_a_price_that_is_not_positive_is_none(amount: Any) -> None:
    with pytest.raises(ValueError, match="positive"):
        hour(amount)


@pytest.mark.parametrize("currency", ["", None, "$", "usd", "USDT"])
def test_a_price_says_its_currency(currency: Any) -> None:
    with pytest.raises(ValueError, match="currency"):
        hour(currency=currency)


@pytest.mark.parametrize("unit", ["", None, "month", "GPU"])
def test_a_price_says_its_unit(unit: Any) -> None:
    with pytest.raises(ValueError, match="hour of what"):
        hour(unit=unit)


@pytest.mark.parametrize("missing", ["amount", "currency", "unit"])
def test_a_price_of_ones_own_is_whole(missing: str) -> None:
    said = {"amount": 0.12, "currency": "EUR", "unit": "machine-hour"}
    assert (dollars.own(said).amount, dollars.own(said).currency) == (0.12, "EUR")
    with pytest.raises(ValueError, match=missing):
        dollars.own({key: value for key, value in said.items() if key != missing})


def test_a_listed_hour_is_processors_and_memory_or_gpus() -> None:
    cpu = dollars.listed({"gpus": [], "threads": 2}, 4e9)
    known = prices.prices()
    assert cpu.amount == pytest.approx(2 * known[prices.VCPU].usd + 4 * known[prices.MEMORY].usd)
    gpu = dollars.listed({"gpus": [{"name": "NVIDIA H200"}, {"name": "NVIDIA H200"}], "threads": 64}, 1e12)
    assert gpu.amount == pytest.approx(2 * known["H200 hyperscaler"].usd)
    with pytest.raises(LookupError, match="give your own"):
        dollars.listed({"gpus": [{"name": "Some other card"}]}, 0.0)


# --- the formula ---


def test_a_million_by_hand() -> None:
    # 3.60 an hour is 0.001 a second; at 1,000 tokens a second a million takes 1,000 s: 1.00.
    assert dollars.million(hour(), stats.Estimate(1000.0, 500.0, 2000.0, 3, ""), 1.0) == pytest.approx({"value": 1.0, "lo": 0.5, "hi": 2.0})
    assert dollars.million(hour(), stats.Estimate(1000.0, None, None, 1, ""), 0.5) == {"value": pytest.approx(2.0), "lo": None, "hi": None}
    assert dollars.million(hour(), stats.Estimate(1000.0, -5.0, 2000.0, 2, ""), 1.0)["hi"] is None  # no end: the rate might be nothing
    assert dollars.million(hour(), None, 1.0) == {"value": None, "lo": None, "hi": None}


@pytest.mark.parametrize("utilisation", [0, 1.1, nan])
def test_a_utilisation_is_a_share(utilisation: float) -> None:
    with pytest.raises(ValueError, match="utilisation"):
        dollars.million(hour(), stats.Estimate(1.0, None, None, 1, ""), utilisation)


# --- the split ---


def test_alone_the_first_token_is_the_prompts_and_the_rest_the_answers() -> None:
    assert dollars.prompt_share([answer(0, 5.0, 1.0, 2.0, 3.0, 4.0)], PACE) == pytest.approx(1 / 4)


def test_idle_time_is_nobodys() -> None:
    two = [answer(0, 0.0, 1.0, 2.0), answer(1, 50.0, 1.0, 2.0)]
    assert dollars.prompt_share(two, PACE) == pytest.approx(1 / 2)


def test_a_step_that_holds_a_prompt_is_split_as_the_pace_splits_it() -> None:
    # The first: 1 s of prompt, steps of 0.1, 0.2 and 0.1. The second's first token comes with the end of the second step: prompt 0.1, as
    # long as the answer's 0.1. So of 1.4 s the prompts had 1.1.
    two = [answer(0, 0.0, 1.0, 1.1, 1.3, 1.4), answer(1, 1.05, 0.25, 0.35)]
    assert dollars.prompt_share(two, PACE) == pytest.approx(1.1 / 1.4)


def test_nothing_answered_is_no_share() -> None:
    assert dollars.prompt_share([], PACE) is None
    assert dollars.prompt_share([answer(0, 0.0)], PACE) is None


@given(st.floats(0.2, 3.0), st.floats(0.05, 1.0), st.integers(2, 6), st.integers(1, 500))
def test_the_parts_of_an_hour_pay_the_whole_hour(ttft_s: float, tpot_s: float, tokens: int, prompt: int) -> None:
    stamps = [ttft_s + tpot_s * i for i in range(tokens)]
    end = stamps[-1]
    cell = made("a 16-bit", 1, 0, [answer(0, 0.0, *stamps, prompt_tokens=prompt)], steady_s=[0.0, end + 1e-9])
    told = dollars.flows(cell, PACE)
    assert told is not None
    each = {part: dollars.million(hour(), stats.Estimate(told[part], None, None, 1, ""), 1.0)["value"] for part in dollars.PARTS}
    paid = 3.6 * end / 3600
    assert (each["input"] * prompt + each["output"] * tokens) / 1e6 == pytest.approx(paid, rel=1e-6)  # type: ignore[operator]
    assert each["blended"] * (prompt + tokens) / 1e6 == pytest.approx(paid, rel=1e-6)  # type: ignore[operator]
    assert each["whole"] * tokens / 1e6 == pytest.approx(paid, rel=1e-6)  # type: ignore[operator]
    assert told["share"] == pytest.approx(ttft_s / end)


# --- bills ---


def loop(level: float, turn: int, *, ttft_s: float = 1.0, at_once: int = 1, contender: str = "a 16-bit") -> dict[str, Any]:
    stamps = [ttft_s + 0.05 * i for i in range(3)]
    answers = [answer(n, n // at_once * (stamps[-1] + 1e-6), *stamps) for n in range(8)]
    until = 8 // at_once * (stamps[-1] + 1e-6)
    return made(contender, level, turn, answers, steady_s=[0.0, until])


def test_the_fastest_load_that_keeps_its_promise_is_priced() -> None:
    rows = [loop(1, turn) for turn in range(3)] + [loop(2, turn, at_once=2) for turn in range(3)]
    rows += [loop(4, turn, ttft_s=3.0, at_once=8) for turn in range(3)]  # the most tokens/s, but nobody waits 3 s
    table = dollars.bills(pd.DataFrame(rows), {"a 16-bit": PACE}, {"a 16-bit": hour()}, work="8 → 2", utilisation=1.0)
    server = table[table["slo"] == "server"].iloc[0]
    assert (server["level"], server["met"], server["tried"], server["rounds"]) == (2, 24, 24, 3)
    assert server["whole"] == pytest.approx(1e6 * 0.001 / (6 / 1.1), rel=0.01)
    interactive = table[table["slo"] == "interactive"].iloc[0]
    assert "no load kept it" in interactive["reason"] and pd.isna(interactive["blended"])
    fields = cost_readings.headline(table)
    assert fields["first"] == "a 16-bit" and fields["blended"] == server["blended"]
    assert cost_readings.headline(table, slo="interactive") == {}
    shown = cost_readings.bills(table)
    assert shown["met"].iloc[0] == "24 of 24" and shown["so at least"].iloc[0] == "88%"


def test_without_a_pace_nobody_says_how_input_and_output_share_unless_they_never_meet() -> None:
    rows = [loop(1, 0), loop(1, 0, contender="transformers 16-bit")]
    hours = {"a 16-bit": hour(), "transformers 16-bit": hour()}
    table = dollars.bills(pd.DataFrame(rows), {}, hours, work="8 → 2", utilisation=1.0)
    mine, static = (table[(table["slo"] == "server") & (table["contender"] == name)].iloc[0] for name in hours)
    assert pd.isna(mine["input"]) and pd.isna(mine["output"]) and mine["blended"] == static["blended"] > 0
    assert static["share"] == pytest.approx(1 / 1.1, rel=0.01) and static["input"] > static["output"]  # 1 s for 10, 0.1 s for 3


def test_who_has_no_price_has_a_row_that_says_why() -> None:
    table = dollars.bills(pd.DataFrame([loop(1, 0)]), {}, {}, work="8 → 2", utilisation=1.0)
    assert "no price" in table[table["slo"] == "server"]["reason"].iloc[0]
    assert cost_readings.headline(table) == {} and "why no price" in cost_readings.bills(table)


def test_what_so_many_of_so_many_show() -> None:
    assert dollars.at_least(48, 48) == pytest.approx(0.05 ** (1 / 48))
    assert dollars.at_least(0, 10) == 0.0 and dollars.at_least(0, 0) is None
    p = dollars.at_least(9, 10)
    assert scipy_stats.binom.sf(8, 10, p) == pytest.approx(0.05)


def test_price_and_idleness_are_proportional() -> None:
    table = pd.DataFrame([{"contender": "a", "slo": "server", "blended": 2.0, "blended_lo": 1.0, "blended_hi": None},
                          {"contender": "b", "slo": "server", "blended": None, "blended_lo": None, "blended_hi": None}])
    told = dollars.sensitivity(table, asked=0.5, factors=(1.0, 2.0), shares=(0.5, 1.0))
    assert told["contender"].unique().tolist() == ["a"]
    assert told.set_index(["factor", "utilisation"])["money"].to_dict() == {(1, 0.5): 2.0, (1, 1.0): 1.0, (2, 0.5): 4.0, (2, 1.0): 2.0}
    assert cost_readings.sensitivities(told).columns.tolist() == ["engine", "SLO", "hour", "50% used", "100% used"]
    assert told["lo"].tolist() == [1.0, 0.5, 2.0, 1.0] and told["hi"].isna().all()
    assert cost_readings.sensitive(told)["percent"].tolist() == [50, 100]
    assert cost_readings.idle(told) == {"first": "a", "cheap": 1.0, "full": 1.0, "dear": 2.0, "little": 0.5}


def test_what_others_publish_is_priced_apart() -> None:
    told = dollars.elsewhere()
    assert (told["per_s"] > 0).all() and told["source"].map(bool).all()
    row = told[(told["gpu"] == "H200 hyperscaler")].iloc[0]
    assert row["million"] == pytest.approx(row["hour"] / (row["per_s"] * 3600) * 1e6)


# --- the recorded run, worked out again from its files ---


@pytest.fixture(scope="module")
def told() -> tuple[Any, pd.DataFrame, pd.DataFrame]:
    s = recorded.session(profile="quick", mode="recorded")
    cells = throughput.cells(s)
    fitted = recorded.together(recorded.paces(cells))
    plan = throughput.PLANS[s.run.parameters["profile"]]
    work = throughput.fixed(plan.prompt_tokens, plan.output_tokens)
    return s, cells, dollars.bills(cells, fitted, dollars.hours(s.run, fitted), work=work, utilisation=1.0)


def test_the_recorded_bill_follows_from_the_recorded_stamps(told: tuple[Any, pd.DataFrame, pd.DataFrame]) -> None:
    s, _, table = told
    checked = 0
    for bill in table[table["whole"].notna() & (table["kind"] == "closed")].to_dict("records"):
        rates, peak = [], 0.0
        for line in (s.run.path / "points.jsonl").read_text().splitlines():
            point = json.loads(line)
            setting, facts = point["setting"], point["facts"]
            if setting.get("what") != "cell" or f"{setting['engine']} {setting['precision']}" != bill["contender"] or not facts.get("host"):
                continue
            peak = max(peak, facts["host"]["tree_rss_max_bytes"])
            if setting.get("streams") == bill["level"] and "prompt_tokens" in setting and point["status"] == "ok":
                stamps, samples = pd.read_parquet(s.run.path / facts["events"]), point["samples"]
                at = stamps["stamp_s"] + stamps["request"].map(dict(zip(samples["number"], samples["sent_s"], strict=True)))
                since, until = facts["steady_s"]
                rates.append(((at >= since) & (at < until)).sum() / (until - since))  # one token an event: checked by the audit's lengths
        usd = 2 * prices.prices()[prices.VCPU].usd + 1.25 * peak / 1e9 * prices.prices()[prices.MEMORY].usd
        assert bill["hour"] == pytest.approx(usd)
        assert bill["rounds"] == len(rates)
        assert bill["whole"] == pytest.approx(usd / (sum(rates) / len(rates) * 3600) * 1e6, rel=0.03)
        assert bill["whole_lo"] < bill["whole"] and bill["blended"] < bill["output"] < bill["whole"]
        checked += 1
    assert checked


def test_energy_is_a_number_or_a_reason(told: tuple[Any, pd.DataFrame, pd.DataFrame]) -> None:
    table = dollars.joules(told[0].run)
    assert len(table) and (table["j_token"].notna() ^ table["reason"].notna()).all()
