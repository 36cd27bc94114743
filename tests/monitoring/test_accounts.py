"""What numbers from Prometheus are worth: made-up stretches worked out by hand, the recorded one against its log and the price list."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from math import ceil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest import approx

from lib import measured
from lib.home import ROOT
from lib.monitoring import accounts, percentiles, steady, tokens
from lib.monitoring.faults import USUAL
from lib.monitoring.session import Session
from tests.monitoring import drilled
from tests.monitoring.drilled import point

REQUEST, FIRST, EACH = steady.HISTOGRAMS
PRICES = {"input_uncached": 4e-6, "input_cached": 1e-6, "output": 8e-6}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(tokens, "card", lambda: tokens.Card(PRICES))
    return drilled.begun(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def recorded() -> Session:
    return drilled.recorded()


def request(service: str, duration_s: float, outcome: str = "ok", **told: float) -> dict[str, Any]:
    empty: dict[str, float | None] = dict.fromkeys(("ttft_s", "tpot_s", *tokens.TYPES))
    return {"t_unix": 0.0, "service": service, "outcome": outcome, "status": 200, "duration_s": duration_s, **empty, **told}


def stretch(s: Session, log: Iterable[dict[str, Any]], *, engine: str = "llamacpp", quantiles: dict[str, Any] | None = None,
            counted: dict[str, float] | None = None, increase: dict[str, float] | None = None, check: str | None = None) -> None:
    said = {f"{name} {q}": [] for name in steady.HISTOGRAMS for q in steady.QUANTILES} | (quantiles or {})
    facts = {"quantiles": said, "counted": counted or dict.fromkeys(tokens.TYPES, 0.0),
             "increase": [{"type": kind, "value": value} for kind, value in (increase or {}).items()]}  # fmt: skip
    point(s, "steady", facts, series={"log": pd.DataFrame(list(log))}, check=check, engine=engine)


# --- percentiles ---


def test_a_percentile_is_held_against_the_same_requests(made: Session) -> None:
    """Ten transactions of 10 to 100 ms: the fifth is the median, the tenth the 99th percentile. A timeout is in neither."""
    log = [request("fraud", n / 100) for n in range(1, 11)] + [request("fraud", 9.0, "timeout"), request("llm", 5.0, ttft_s=0.4)]
    stretch(made, log, quantiles={
        f"{REQUEST} 0.5": [{"service": "fraud", "value": 0.06}, {"service": "llm", "value": None}, {"service": "retail", "value": 1.0}],
        f"{REQUEST} 0.99": [{"service": "fraud", "value": 0.07}, {"service": "llm", "value": None}],
        f"{FIRST} 0.95": [{"model": "some-model", "value": 0.5}],
        f"{EACH} 0.5": [{"model": "some-model", "value": 0.1}],  # no request of the log has a time per token
    })  # fmt: skip
    told = accounts.told(made)
    assert told.to_dict("split")["data"] == [
        ["a request's duration", "fraud", 0.5, 10, 0.05, 0.06, approx(0.2)],
        ["a request's duration", "fraud", 0.99, 10, 0.1, 0.07, approx(-0.3)],
        ["time to the first token", "llm", 0.95, 1, 0.4, 0.5, approx(0.25)],
    ]  # fmt: skip
    assert accounts.worst(told) == {"worst": approx(0.3), "n": 3}  # too little is as wrong as too much
    assert accounts.worst(told, "whose") == {"worst": approx(0.3), "n": 3, "worst_fraud": approx(0.3), "worst_llm": approx(0.25)}


def test_a_percentile_of_nothing_is_no_row(made: Session) -> None:
    """Prometheus answers NaN for a service that nobody asked in that time."""
    found = pd.DataFrame([{"service": "fraud", "value": 0.01}, {"service": "retail", "value": float("nan")}])
    here: Any = SimpleNamespace(prometheus=SimpleNamespace(instant=lambda expr, at_s: found))
    stretch(made, [request("fraud", 0.01)], quantiles={f"{REQUEST} 0.5": steady._rows(here, "x", 0.0)})
    assert accounts.told(made)["whose"].tolist() == ["fraud"]


def test_first_tokens_are_counted_in_the_buckets_of_others(made: Session) -> None:
    """All first tokens take 0.2 s. vLLM's bucket goes from 0.1 to 0.25: its median is the middle, 0.175, which is 12.5 % off."""
    stretch(made, [request("llm", 1.0, ttft_s=0.2) for _ in range(8)] + [request("fraud", 0.01)])
    table = accounts.edges(made).set_index(["edges", "q"])
    assert set(table.index.get_level_values("edges")) == set(percentiles.OF_TTFT)
    theirs = table.loc[("vLLM", 0.5)]
    assert (theirs["exact_s"], theirs["bucket_s"], theirs["error"]) == (0.2, approx(0.175), approx(-0.125))
    shown = accounts.off(accounts.edges(made)).set_index("name")
    assert shown.loc["vLLM"].to_dict() == {"p50": approx(12.5), "p99": approx(100 * (0.1 + 0.99 * 0.15 - 0.2) / 0.2)}


def test_each_engine_has_a_stretch_of_its_own_and_one_that_is_not_fit_is_not_quoted(made: Session) -> None:
    stretch(made, [request("llm", 1.0, ttft_s=0.2)], engine="vllm")
    stretch(made, [request("llm", 1.0, ttft_s=0.4)], check="the log and the counters differ")
    assert accounts.steady(made) is None and not len(accounts.told(made))
    found = accounts.steady(made, "vllm")
    assert found is not None and found["engine"] == "vllm"
    assert accounts.edges(made, "vllm")["exact_s"].unique().tolist() == [0.2]


# --- the bill ---


def test_a_bill_by_hand(made: Session) -> None:
    """200 new tokens, 100 cached, 50 written: 800 + 100 + 400 millionths. Twice the cached ones: 400 more. No price for them: 300 more."""
    log = [request("llm", 1.0, input_uncached=120, input_cached=100, output=20),
           request("llm", 1.0, input_uncached=80, input_cached=0, output=30), request("fraud", 0.01)]  # fmt: skip
    stretch(made, log, counted={"input_uncached": 200.0, "input_cached": 100.0, "output": 50.0},
            increase={"input_uncached": 210.0, "output": 52.0})  # a type that never rose is not there
    bill = accounts.bill(made)
    usd = [approx(millionths * 1e-6) for millionths in (1300, 1300, 1256, 1700, 1600)]
    assert bill["usd"].tolist() == usd
    assert accounts.billed(bill) == {"log": 0.0, "counters": approx(0.0), "increase": approx(1256 / 1300 - 1), "naive": approx(4 / 13),
                                     "plain": approx(3 / 13)}  # fmt: skip


def test_counters_that_lost_something_are_off(made: Session) -> None:
    stretch(made, [request("llm", 1.0, input_uncached=100, input_cached=0, output=100)],
            counted={"input_uncached": 100.0, "input_cached": 0.0, "output": 50.0})  # fmt: skip
    assert accounts.billed(accounts.bill(made))["counters"] == approx(800 / 1200 - 1)


def test_without_tokens_there_is_nothing_to_be_off(made: Session) -> None:
    stretch(made, [request("fraud", 0.01)])
    assert set(accounts.billed(accounts.bill(made)).values()) == {None}


def test_nothing_measured_is_nothing_claimed(made: Session) -> None:
    assert not len(accounts.told(made)) and not len(accounts.off(accounts.edges(made))) and not len(accounts.bill(made))
    assert accounts.worst(accounts.told(made), "whose") == {"worst": None, "n": None}
    assert set(accounts.billed(accounts.bill(made)).values()) == {None}


# --- how the stretch is counted ---


def test_counters_of_one_type_add_up_over_whoever_has_them() -> None:
    rows = [{"type": "output", "model": "a", "value": 3.0}, {"type": "output", "model": "b", "value": 4.0},
            {"type": "input_cached", "model": "a", "value": 9.0}, {"service": "llm", "value": 100.0}]  # fmt: skip
    assert steady._total(rows, "output") == 7.0 and steady._total(rows, "input_uncached") == 0


def test_labels_that_a_series_lacks_are_left_out() -> None:
    found = pd.DataFrame([{"type": "output", "value": 3.0}, {"service": "llm", "value": 2.0}])
    asked: list[tuple[str, float]] = []
    here: Any = SimpleNamespace(prometheus=SimpleNamespace(instant=lambda expr, at_s: asked.append((expr, at_s)) or found))
    assert steady._rows(here, "x", 7.0) == [{"type": "output", "value": 3.0}, {"service": "llm", "value": 2.0}]
    assert asked == [("x", 7.0)]


def test_only_the_llm_s_load_depends_on_the_engine() -> None:
    assert steady.LOAD["llamacpp"] == USUAL
    slow = steady.LOAD["vllm"]
    assert {name: flow for name, flow in slow.items() if name != "llm"} == {name: flow for name, flow in USUAL.items() if name != "llm"}
    assert 0 < slow["llm"]["rate"] < USUAL["llm"]["rate"]


# --- the recorded stretch ---


def stretches(s: Session) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    found = [(one, measured.series(s.run, one, "log")) for one in measured.points(s.run, "steady")]
    return found or pytest.skip("no stretch of usual load was recorded")


def test_recorded_percentiles_follow_from_the_log(recorded: Session) -> None:
    column = {REQUEST: "duration_s", FIRST: "ttft_s", EACH: "tpot_s"}
    for one, log in stretches(recorded):
        expected = []
        for name in steady.HISTOGRAMS:
            for q in steady.QUANTILES:
                for row in one["facts"]["quantiles"][f"{name} {q}"]:
                    whose = row.get("service", "llm")
                    good = sorted(value for service, outcome, value in log[["service", "outcome", column[name]]].itertuples(index=False)
                                  if service == whose and outcome == "ok" and not np.isnan(value))  # fmt: skip
                    expected += [(whose, q, len(good), good[ceil(q * len(good)) - 1], row["value"])] if good and row.get("value") else []
        told = accounts.told(recorded, one["engine"])
        assert expected and list(told[["whose", "q", "n", "exact_s", "prometheus_s"]].itertuples(index=False, name=None)) == expected
        errors = [answer / true - 1 for *_, true, answer in expected]
        assert told["error"].tolist() == approx(errors)
        assert accounts.worst(told)["worst"] == approx(max(map(abs, errors)))


def test_recorded_first_tokens_in_buckets_follow_from_the_log(recorded: Session) -> None:
    """Each answer again, as Prometheus' manual has it: a straight line through the bucket that the rank falls into."""
    for one, log in stretches(recorded):
        first = np.sort(log["ttft_s"].dropna().to_numpy())
        for row in accounts.edges(recorded, one["engine"]).to_dict("records"):
            bounds = list(percentiles.OF_TTFT[row["edges"]])
            upto = [int((first <= bound).sum()) for bound in bounds]
            rank = row["q"] * len(first)
            place = next((k for k, count in enumerate(upto) if count >= rank), None)
            if place is None:
                assert row["bucket_s"] == bounds[-1]
                continue
            low, below = (bounds[place - 1], upto[place - 1]) if place else (0.0, 0)
            assert row["bucket_s"] == approx(low + (bounds[place] - low) * (rank - below) / (upto[place] - below))
            assert row["error"] == approx(row["bucket_s"] / first[ceil(rank) - 1] - 1)


def test_the_recorded_bill_is_that_of_the_price_list(recorded: Session) -> None:
    with (ROOT / "data" / "prices.csv").open(encoding="utf-8") as file:
        listed = {row["unit"]: float(row["usd"]) / 1e6 for row in csv.DictReader(line for line in file if not line.startswith("#"))
                  if row["name"].startswith(f"{tokens.HOSTED} ")}  # fmt: skip
    new, cached, output = (listed[f"Mtoken-{what}"] for what in ("input", "input-cached", "output"))
    for one, log in stretches(recorded):
        a, b, c = (float(log[kind].sum()) for kind in ("input_uncached", "input_cached", "output"))
        grown = {row["type"]: row["value"] for row in one["facts"]["increase"]}
        counted = one["facts"]["counted"]
        right = a * new + b * cached + c * output
        usd = [right, counted["input_uncached"] * new + counted["input_cached"] * cached + counted["output"] * output,
               grown.get("input_uncached", 0) * new + grown.get("input_cached", 0) * cached + grown.get("output", 0) * output,
               (a + b) * new + b * cached + c * output, (a + b) * new + c * output]  # fmt: skip
        bill = accounts.bill(recorded, one["engine"])
        assert right > 0 and bill["usd"].tolist() == approx(usd)
        assert list(accounts.billed(bill).values()) == approx([each / right - 1 for each in usd], abs=1e-12)
        assert counted == {"input_uncached": a, "input_cached": b, "output": c}  # else it may not be quoted
