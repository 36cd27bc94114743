"""The drill: rounds in an order of their own, calm before a fault and an all-clear after it, and what makes a scenario no evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from pytest import approx

from lib import measured
from lib.measured import Broke
from lib.monitoring import drill, faults
from lib.monitoring.drill import Plan
from lib.monitoring.faults import Scenario
from lib.monitoring.webhook import Notice
from lib.monitoring.witness import Witness
from tests.monitoring import drilled

Alerts = tuple[str, ...]
UP = pd.DataFrame({"job": ["llm", "fraud"], "health": ["up", "up"]})
DOWN = UP.assign(health=["down", "up"])
NONE_YET = UP[:0]


class Clock:
    """Time passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Stand:
    """A Prometheus and a receiver that tell what they are given: alerts that are pending or firing, targets, notices."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.scraped: list[tuple[float, pd.DataFrame]] = [(0.0, UP)]
        self.loud: list[tuple[float, Alerts]] = [(0.0, (drill.WATCHDOG,))]
        self.told: list[Notice] = []
        self.prometheus = SimpleNamespace(targets=lambda: self._now(self.scraped), alerts=self._alerts)
        self.notices = SimpleNamespace(since=self._since, wait_for=self._wait_for)

    def _now(self, course: list[tuple[float, Any]]) -> Any:
        return [one for at, one in course if at <= self.clock.now][-1]

    def _alerts(self) -> pd.DataFrame:
        return pd.DataFrame({"alertname": list(self._now(self.loud))}, dtype=object)

    def _since(self, at_s: float) -> list[Notice]:
        return [one for one in self.told if at_s <= one.at_s <= self.clock.now]

    def _wait_for(self, enough: Any, timeout_s: float, *, since: float = 0.0) -> bool:
        until = self.clock.now + timeout_s
        while not enough(self._since(since)) and self.clock.now < until:
            self.clock.now += 0.1
        return bool(enough(self._since(since)))

    def fires(self, alert: str, at_s: float, status: Any = "firing", **labels: str) -> None:
        self.told.append(Notice(at_s, "page", alert, labels, status, at_s, None))


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Any:
    clock = Clock()
    monkeypatch.setattr(drill, "time", clock)
    return Stand(clock)


# --- the order ---


def test_every_round_has_every_scenario_once_in_an_order_of_its_own_and_always_the_same() -> None:
    plan = Plan(drill.ALL, 3)
    told = list(drill._settings(plan))
    assert told == list(drill._settings(plan)) and all(one["what"] == "drill" for one in told)
    rounds = [[one["scenario"] for one in told if one["round"] == turn] for turn in range(3)]
    assert [one["round"] for one in told] == sorted(one["round"] for one in told)
    assert all(sorted(each) == sorted(drill.ALL) for each in rounds) and len(told) == 3 * len(drill.ALL)
    assert len({tuple(each) for each in rounds}) == 3 and list(drill.ALL) not in rounds


def test_a_longer_plan_begins_with_the_shorter_one() -> None:
    """So that a run that is continued with more rounds keeps what it has."""
    assert list(drill._settings(Plan(drill.ALL, 3)))[: len(drill.ALL)] == list(drill._settings(Plan(drill.ALL, 1)))


def test_plans_know_their_scenarios() -> None:
    assert set(drill.PLANS) == {"smoke", "quick", "full"}
    for plan in drill.PLANS.values():
        assert plan.rounds >= 1 and {faults.named(name).control for name in plan.scenarios} == {True, False}
    assert set(drill.PLANS["full"].scenarios) == {one.name for one in faults.SCENARIOS}


def test_nothing_is_drilled_where_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s = drilled.begun(tmp_path, monkeypatch)
    monkeypatch.setattr(drill, "stand", lambda *_, **__: pytest.fail("a stand was started"))
    drill.drilled(s, drill.PLANS["smoke"])
    assert s.run.points() == []


# --- calm ---


def test_it_is_calm_once_all_is_scraped_and_nothing_is_pending(stand: Any) -> None:
    stand.scraped = [(0.0, NONE_YET), (1002.0, DOWN), (1004.0, UP)]
    stand.loud = [(0.0, ()), (1006.0, (drill.WATCHDOG, "HostCpuSaturated")), (1008.0, (drill.WATCHDOG,))]
    drill._calm(stand)
    assert stand.clock.now == approx(1008.0, abs=0.31)


@pytest.mark.parametrize(("scraped", "loud", "why"), [
    (DOWN, (drill.WATCHDOG,), r"down \['llm'\], pending or firing \[\]"),
    (UP, (drill.WATCHDOG, "B", "A", "B"), r"down \[\], pending or firing \['A', 'B'\]"),
    (UP, (), r"down \[\], pending or firing \[\]"),  # no rule was evaluated
    (NONE_YET, (drill.WATCHDOG,), r"down \[\], pending or firing \[\]"),
])  # fmt: skip
def test_what_never_calms_down_is_told(stand: Any, scraped: pd.DataFrame, loud: Alerts, why: str) -> None:
    stand.scraped, stand.loud = [(0.0, scraped)], [(0.0, loud)]
    with pytest.raises(Broke, match=f"not calm after 10 s: {why}"):
        drill._calm(stand, patience_s=10)
    assert 1010 <= stand.clock.now <= 1011


# --- the all-clear ---


def test_all_is_clear_once_each_alert_was_taken_back(stand: Any) -> None:
    stand.fires(drill.WATCHDOG, 999.0)
    stand.fires("A", 990.0)  # before anything was asked
    stand.fires("A", 1001.0, service="llm")
    stand.fires("A", 1001.0, service="fraud")
    stand.fires("A", 1003.0, "resolved", service="llm")
    stand.fires("A", 1005.0, "resolved", service="fraud")
    stand.clock.now = 1002.0
    drill._all_clear(stand, 995.0, 30.0)
    assert stand.clock.now == approx(1005.0, abs=0.21)


def test_all_is_not_clear_while_an_alert_is_on_its_way(stand: Any) -> None:
    stand.loud = [(0.0, (drill.WATCHDOG, "A")), (1004.0, (drill.WATCHDOG,))]
    drill._all_clear(stand, 0.0, 30.0)
    assert stand.clock.now == approx(1004.0, abs=0.21)


def test_an_alert_that_stays_is_not_waited_for_without_end(stand: Any) -> None:
    stand.fires("A", 1000.0)
    stand.fires("A", 1000.0, "resolved")
    stand.fires("A", 1000.0)  # again
    drill._all_clear(stand, 0.0, 5.0)
    assert stand.clock.now == approx(1005.0, abs=0.21)


def test_the_watchdog_is_no_alert(stand: Any) -> None:
    stand.fires(drill.WATCHDOG, 1000.0)
    stand.fires("A", 1000.0)
    assert [one.alert for one in drill._told(stand, 0.0)] == ["A"]


# --- a scenario ---

CLEAN = drill._Clean({}, ())
PLAN = Plan(("made",), 1, calm_s=5.0, after_s=2.0, clear_s=16.0)


def done(stand: Any, monkeypatch: pytest.MonkeyPatch, *, during: float = 1.0, control: bool = False, low: Any = None,
         hold_s: float = 16.0) -> tuple[measured.Found, list[str]]:  # fmt: skip
    """A scenario that is injected 5 s from now, with nothing real behind it; and what was done in which order."""
    did: list[str] = []
    asked: list[tuple[float, float]] = []

    def read(_: Any, start_s: float, end_s: float) -> float:
        asked.append((start_s, end_s))
        did.append("read")
        return during if len(asked) > 1 else 0.0

    @contextmanager
    def inject(_: Any) -> Iterator[Any]:
        did.append("inject")
        yield low
        did.append("undo")

    made = Scenario("engine killed", "is made up", "llm", () if control else ("TargetDown",), inject,
                    Witness("seen", read, lambda a, b: b - a > 0.5), hold_s=hold_s, ready=lambda _: did.append("ready"))  # fmt: skip
    monkeypatch.setattr(drill, "_afresh", lambda *_: did.append("afresh"))
    monkeypatch.setattr(drill, "_kept", lambda *_, series: {"kept": pd.DataFrame({"series": [series]})})
    found = drill._scenario(stand, made, PLAN, CLEAN, series=True)
    assert asked[0] == (1000.0, 1005.0) and asked[1][0] == found.facts["injected_unix"]
    return found, did


def test_a_fault_is_prepared_in_peace_and_timed_from_its_injection(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stand.fires("TargetDown", 1007.5)
    stand.fires("TargetDown", 1012.0, "resolved")
    found, did = done(stand, monkeypatch)
    assert did == ["ready", "afresh", "read", "inject", "read", "undo"]
    facts: Mapping[str, Any] = found.facts
    assert (facts["began_unix"], facts["injected_unix"], facts["calm_s"]) == (1000.0, 1005.0, -5.0)
    assert (facts["cleared_s"], facts["undone_s"]) == (approx(4.5, abs=0.11), approx(4.5, abs=0.11))  # 2 s after the alert came
    assert facts["ended_s"] == approx(7 + 2 * drill.STEP_S, abs=0.3)
    assert [(one["at_s"], one["status"]) for one in facts["notices"]] == [(2.5, "firing"), (7.0, "resolved")]
    assert found.checks == {"impact": None, "calm": None} and facts["due"]["by"] == "TargetDown"
    assert (facts["control"], facts["right"], facts["before"], facts["during"]) == (False, ["TargetDown"], 0.0, 1.0)


def test_a_fault_without_an_alert_is_undone_after_its_time(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = done(stand, monkeypatch, hold_s=10.0)
    assert found.facts["cleared_s"] == approx(12.0, abs=0.11) and found.facts["notices"] == []


def test_the_wrong_alert_is_not_waited_for(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stand.fires("ErrorBurst", 1006.0)
    stand.fires("ErrorBurst", 1008.0, "resolved")
    found, _ = done(stand, monkeypatch, hold_s=10.0)
    assert found.facts["cleared_s"] == approx(12.0, abs=0.11) and len(found.facts["notices"]) == 2


def test_without_an_impact_it_is_no_evidence(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = done(stand, monkeypatch, during=0.2)
    assert found.checks["impact"] == "seen: 0.0 before, 0.2 during: nothing was seen to happen" and found.checks["calm"] is None


def test_a_control_needs_no_impact(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = done(stand, monkeypatch, during=0.0, control=True)
    assert set(found.checks.values()) == {None} and found.facts["due"] is None and found.facts["control"] is True


def test_what_fired_before_makes_it_no_evidence(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for alert, at_s in (("B", 1003.0), ("A", 1004.0), (drill.WATCHDOG, 1001.0), ("C", 1006.0)):
        stand.fires(alert, at_s)
    found, _ = done(stand, monkeypatch)
    assert found.checks["calm"] == "fired before anything was done: A, B"


def test_what_takes_time_to_be_seen_is_due_later(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, _ = done(stand, monkeypatch)
    stand.clock.now, stand.told = 1000.0, []
    later, _ = done(stand, monkeypatch, low=[1008.0])
    assert (at_once.facts["seen_s"], later.facts["seen_s"]) == (0.0, 3.0)
    assert later.facts["due"]["at_s"] == approx(at_once.facts["due"]["at_s"] + 3.0)


# --- what is kept of it ---


def test_times_are_kept_from_the_injection(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = pd.DataFrame({"dashboard": ["d"], "panel": [1], "t_s": [1004.0], "value": [1.0]})
    said = pd.DataFrame({"series": ["x"], "t_s": [1007.0], "value": [1.0], "labels": [{}]})
    sent = pd.DataFrame({name: [1005.5] for name in ("due_s", "sent_s", "first_s", "last_s", "done_s")}).assign(first_s=[None])
    monkeypatch.setattr(drill.query, "asked", lambda *_, **__: shown)
    stand.prometheus.range = lambda *_: said
    stand.load = SimpleNamespace(requests=lambda *_: sent.astype(float))
    exported = pd.DataFrame({"series": ["y"]})
    monkeypatch.setattr(drill.tsdb, "export", lambda *_, **__: exported)
    kept = drill._kept(stand, 1000.0, 1020.0, 1005.0, series=False)
    assert set(kept) == {"panels", "alerts", "requests"} and "labels" not in kept["alerts"]
    assert (kept["panels"]["t_s"].tolist(), kept["alerts"]["t_s"].tolist()) == ([-1.0], [2.0])
    assert kept["requests"]["done_s"].tolist() == [0.5] and kept["requests"]["first_s"].isna().all()
    shown["t_s"], said["t_s"] = 1004.0, 1007.0
    assert drill._kept(stand, 1000.0, 1020.0, 1005.0, series=True)["series"] is exported


# --- the recorded drill ---


def test_the_recorded_drill_is_evidence_and_in_the_order_of_time() -> None:
    s = drilled.recorded()
    found = list(measured.points(s.run, "drill"))
    assert len({(one["round"], one["scenario"]) for one in found}) == len(found)
    for one in found:
        facts = one["facts"]
        times = [facts[name] for name in ("calm_s", "asked_s", "cleared_s", "undone_s", "ended_s")]
        assert times == sorted(times) and facts["asked_s"] <= 0 <= facts["cleared_s"]
        early = {n["alert"] for n in facts["notices"] if n["status"] == "firing" and n["at_s"] < facts["asked_s"]}
        assert not early and drill.WATCHDOG not in {n["alert"] for n in facts["notices"]}
        assert ("series" in facts["series"]) == (one["round"] == 0)  # of the first round more is kept
    spans = sorted((one["facts"]["began_unix"], one["facts"]["injected_unix"] + one["facts"]["ended_s"]) for one in found)
    assert all(end < begin for (_, end), (begin, _) in pairwise(spans)), "two scenarios at a time"


def test_a_recorded_fault_lasts_until_its_alert_came_or_for_its_time() -> None:
    s = drilled.recorded()
    for one in measured.points(s.run, "drill"):
        facts = one["facts"]
        right = [n["at_s"] for n in facts["notices"] if n["status"] == "firing" and n["alert"] in facts["right"]]
        held = facts["cleared_s"] - drill.PLANS["quick"].after_s
        first = min((at for at in right if at <= held + 0.5), default=None)
        if first is not None:
            assert held == approx(max(first, 0.0), abs=0.5)
        else:
            assert held >= min(faults.named(one["scenario"]).hold_s, 10.0)
