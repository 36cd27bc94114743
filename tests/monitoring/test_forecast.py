"""A forecast speaks of the alerts that a scenario names, and of the thresholds that the rules have."""

from __future__ import annotations

import pytest
from pytest import approx

from lib.home import ROOT
from lib.monitoring import alerts, config, deploys, forecast, spec
from lib.monitoring.faults import SCENARIOS, USUAL, named
from lib.monitoring.timing import DRILL, PRODUCTION

FAULTS = [one for one in SCENARIOS if not one.control]
RULES = {rule["alert"] for group in config.groups(PRODUCTION) for rule in group["rules"] if "alert" in rule}


@pytest.mark.parametrize("what", FAULTS, ids=lambda one: one.name)
def test_every_fault_is_forecast_for_the_alerts_that_would_be_right(what: object) -> None:
    assert {signal.alert for signal in forecast.signals(what.name, DRILL)} == set(what.right) <= RULES  # type: ignore[attr-defined]
    told = forecast.of(what, DRILL)  # type: ignore[arg-type]
    assert told is not None and told["by"] in what.right and 0 < told["at_s"] < what.hold_s  # type: ignore[attr-defined]
    assert told["slack_s"] == DRILL.scrape_s + DRILL.evaluation_s


def test_there_are_faults_and_controls_enough_and_no_two_of_a_name() -> None:
    assert len(FAULTS) >= 12 and len(SCENARIOS) - len(FAULTS) >= 3 and len({one.name for one in SCENARIOS}) == len(SCENARIOS)
    assert all(forecast.of(one, DRILL) is None for one in SCENARIOS if one.control)


@pytest.mark.parametrize(("alert", "says"), [
    ("ErrorBurst", f"> {forecast.BURSTING} "), ("SilentFailure", f"> {forecast.SILENT} "), ("SilentFailure", f">= {forecast.FEWEST}"),
    ("HostCpuSaturated", f"> {forecast.PRESSED} "), ("TokenCostSpike", f"> {forecast.DEARER:g} *"), ("QueueGrowing", "[5m]) > 4"),
    ("ScoreDrift", f"> {forecast.SHIFTED}"), ("ClientErrors", f"> {forecast.INVALID} "), ("ClientErrors", f">= {forecast.FEWEST_INVALID}"),
    ("PrefixCacheLost", f"< {forecast.UNCACHED} *"), ("MemoryGrowing", f"+ {deploys.GROWN_BYTES:.1e}".replace("e+0", "e")),
])  # fmt: skip
def test_thresholds_are_those_of_the_rules(alert: str, says: str) -> None:
    assert says in next(one.expr for one in alerts.ALERTS if one.name == alert)


def test_the_objective_of_frames_is_the_one_that_is_promised() -> None:
    promised = {slo.alert: float(slo.objective) / 100 for slo in spec.load(ROOT / "monitoring" / "slo")}
    assert promised.pop("RetailFreshnessBudgetBurn") == approx(forecast.FRESH) and set(promised.values()) == {forecast.OBJECTIVE}


def test_the_more_cameras_the_sooner_their_frames_are_most_of_an_hour_s() -> None:
    """Of 160 frames a second 120 are not looked at: with 5 a second before, 0.67 s of them are 36 % of 24 s; and a scrape until there is
    a rate."""
    told = forecast.of(named("many cameras"), DRILL)
    assert told is not None and told["at_s"] == approx(0.5 + 0.36 * 120 / (120 - 0.36 * 155) + 0.5 + 0.2)


def test_the_burn_of_an_outage_is_the_formula_and_the_way_to_the_receiver() -> None:
    told = forecast.of(named("added latency"), DRILL)
    assert told is not None and told["by"] == "LlmTtftBudgetBurn"
    lag = 1.5 + 1 / USUAL["llm"]["rate"]
    assert told["at_s"] == approx(lag + 14.4 * 0.01 * (24 - lag) + 0.5 + 0.2)


def test_an_injection_that_takes_its_time_is_due_later() -> None:
    soon, late = (forecast.of(named("memory pressure"), DRILL, seen_s=s) for s in (0.0, 7.0))
    assert soon is not None and late is not None and late["at_s"] == approx(soon["at_s"] + 7)


def test_an_alert_that_goes_on_without_its_gauge_is_over_that_much_later() -> None:
    told = forecast.of(named("camera lost"), DRILL)
    assert told is not None and told["alerts"]["CameraDown"]["over_s"] == approx(0.5 + DRILL.seconds("2m") + DRILL.seconds("5m") / 2)
