"""The rules on trial: what the record holds of proofs, mutants, clean days and the lint, as a reader is told it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest import approx
from scipy.stats import beta, poisson

from lib import measured
from lib.install import Missing
from lib.measured import Skipped
from lib.monitoring import trials, tsdb
from lib.monitoring.session import Session
from lib.monitoring.timing import DRILL
from tests.monitoring import drilled
from tests.monitoring.drilled import drill, point

PARTS = ("proofs", "mutants", "lint", "quiet")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    return drilled.begun(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def recorded() -> Session:
    return drilled.recorded()


def mutant(kind: str, where: str, by: str | None, equivalent: str | None = None) -> dict[str, Any]:
    return {"kind": kind, "where": where, "what": "x", "caught": by is not None, "by": by, "equivalent": equivalent}


# --- proofs ---


def test_proofs_are_counted_by_what_they_prove(made: Session) -> None:
    rows = [("a-1h", "A", "fires"), ("a-6h", "A", "fires"), ("b", "B", "fires"), ("b", "B", "gap"), ("a-1h", "A", "gap"),
            ("a-1h", "A", "gap")]  # fmt: skip
    point(made, "proofs", {"proofs": [dict(zip(("file", "alert", "kind"), row, strict=True)) for row in rows], "files": 3})
    told = trials.proven(made)
    assert told["proof"].tolist() == [trials.KINDS["fires"], trials.KINDS["gap"]]
    assert told[["alerts", "scenes"]].to_numpy().tolist() == [[2, 3], [2, 3]]


def test_a_proof_that_failed_proves_nothing(made: Session) -> None:
    point(made, "proofs", {"proofs": [{"file": "a", "alert": "A", "kind": "fires"}]}, check="a: it did not fire")
    assert not len(trials.proven(made))


# --- mutants ---


def test_mutants_that_change_nothing_are_counted_apart(made: Session) -> None:
    """Six tried, one of them the same in effect: of the five others three were noticed."""
    point(made, "mutants", {"mutants": [
        mutant("window", "here", "promtool: a"), mutant("window", "there", None), mutant("window", "nowhere", None, "the same"),
        mutant("renamed", "here", "lint: metric-exists"), mutant("renamed", "there", "check"), mutant("renamed", "far", None),
    ]}, n=6)  # fmt: skip
    told = trials.mutants(made).set_index("change")
    assert told.loc["window"].tolist() == [3, 1, "promtool: a", 1, "there"]
    assert told.loc["renamed"].tolist() == [3, 2, "check, lint: metric-exists", 0, "far"]
    found = trials.caught(told.reset_index())
    assert (found["hits"], found["n"], found["share"]) == (3, 5, 0.6)
    assert (found["lo"], found["hi"]) == (approx(beta.ppf(0.025, 3, 3)), approx(beta.ppf(0.975, 4, 2)))




def test_what_is_the_same_in_effect_is_no_hit_either(made: Session) -> None:
    """Of two that change anything one was noticed; the lint also noticed one that changes nothing."""
    point(made, "mutants", {"mutants": [mutant("window", "here", "check"), mutant("window", "there", None),
                                        mutant("window", "nowhere", "lint: counter-rated", "0 times anything is 0")]}, n=3)  # fmt: skip
    found = trials.caught(trials.mutants(made))
    assert (found["hits"], found["n"]) == (1, 2)


def test_of_mutants_that_all_change_nothing_there_is_no_share(made: Session) -> None:
    point(made, "mutants", {"mutants": [mutant("window", "here", None, "the same")]}, n=1)
    assert set(trials.caught(trials.mutants(made)).values()) == {None}


def test_no_more_than_three_that_were_missed_are_named(made: Session) -> None:
    point(made, "mutants", {"mutants": [mutant("window", place, None) for place in "abcde"]}, n=5)
    (row,) = trials.mutants(made).to_dict("records")
    assert (row["tried"], row["noticed"], row["missed"], row["by"]) == (5, 0, "a; b; c", "")


# --- clean days ---


@pytest.mark.parametrize(("alarms", "fired", "names", "bound"), [
    ({}, 0, "no rule", 2.9957 / 72 * 168), ({"A": 2, "B": 1}, 3, "A, B", 7.7537 / 72 * 168),
])  # fmt: skip
def test_clean_time_bounds_false_alarms(made: Session, alarms: dict[str, int], fired: int, names: str, bound: float) -> None:
    point(made, "quiet", {"hours": 72.0, "alarms": alarms, "requests": 900, "errors": 1}, days=3)
    assert trials.clean(made) == {"hours": 72.0, "fired": fired, "names": names, "per_week": approx(bound, rel=1e-4), "requests": 900}


def test_days_are_made_of_clean_requests_that_were_recorded(made: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_promtool", lambda: None)
    with pytest.raises(Skipped, match="no clean requests were recorded"):
        trials._quiet(made, 3)
    logs = {"llamacpp": pd.DataFrame({"duration_s": [1.0]}), "vllm": pd.DataFrame({"duration_s": [9.0]})}
    for engine in ("vllm", "llamacpp"):
        point(made, "steady", {}, series={"log": logs[engine]}, engine=engine)
    seen: list[tuple[float, float, int]] = []

    def replayed(log: pd.DataFrame, *, hours: float, seed: int) -> trials.quiet.Quiet:
        seen.append((log["duration_s"].iloc[0], hours, seed))
        return trials.quiet.Quiet(hours, {"A": seed}, 10, 0)

    monkeypatch.setattr(trials.quiet, "replayed", replayed)
    found = trials._quiet(made, 3)
    assert sorted(seen) == [(1.0, 24, 0), (1.0, 24, 1), (1.0, 24, 2)]
    assert (found.facts["hours"], found.facts["alarms"]["A"]) == (72, 3)


def test_without_promtool_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials.tools, "find", lambda name: Missing("promtool", "promtool is not on this machine"))
    for attempt in (trials._proofs, lambda: trials._mutants(1)):
        with pytest.raises(Skipped, match="promtool is not on this machine"):
            attempt()


@pytest.mark.parametrize(("rows", "why"), [(2, None), (1, "1 of 2 were tried")])
def test_a_survey_that_lacks_mutants_may_not_be_quoted(monkeypatch: pytest.MonkeyPatch, rows: int, why: str | None) -> None:
    monkeypatch.setattr(trials, "_promtool", lambda: None)
    told = pd.DataFrame([mutant("window", "here", None)] * rows)
    monkeypatch.setattr(trials.changed, "survey", lambda seed, n: told.assign(by=float("nan")))
    found = trials._mutants(2)
    assert found.checks == {"6 books": why} and found.facts["mutants"][0]["by"] is None  # a record knows no NaN


# --- the lint ---


def test_findings_of_ours_stand_beside_theirs(made: Session) -> None:
    def row(owner: str, rule: str, findings: int, example: str = "") -> dict[str, Any]:
        return {"owner": owner, "panels": 9, "rule": rule, "why": f"why {rule}", "findings": findings, "example": example}

    point(made, "lint", {"findings": [row("ours", "unit", 0), row("ours", "rate", 1, "mine"), row("vLLM", "unit", 4, "theirs"),
                                      row("vLLM", "rate", 0)]})  # fmt: skip
    told = trials.linted(made).set_index("rule")
    assert told.loc["unit", ["why", "ours", "vLLM", "example"]].tolist() == ["why unit", 0, 4, "theirs"]
    assert told.loc["rate", ["ours", "vLLM", "example"]].tolist() == [1, 0, ""]  # an example of ours is not shown as theirs


# --- service levels ---


def exported(rows: dict[str, list[tuple[float, float]]]) -> pd.DataFrame:
    samples = [(series, t_s, value) for series, course in rows.items() for t_s, value in course]
    return tsdb.packed(pd.DataFrame(samples, columns=["series", "t_s", "value"]))


def asked(outcome: str) -> str:
    return f'gateway_requests_total{{outcome="{outcome}",service="llm"}}'


def test_days_join_the_scenarios_of_the_first_round(made: Session) -> None:
    """Ninety and eight more were answered, two were not: 98 % of 100 in the only day. Another round keeps no series, and says nothing."""
    began = 50_000.0
    drill(made, "cut", 0, began=began, series=exported({asked("ok"): [(began, 10.0), (began + 20, 100.0)]}))
    drill(made, "slow", 0, began=began + 30, series=exported({asked("ok"): [(began + 30, 0.0), (began + 50, 8.0)],
                                                              asked("timeout"): [(began + 30, 0.0), (began + 50, 2.0)]}))  # fmt: skip
    drill(made, "cut", 1, began=began + 5000)
    told = trials.days(made)
    llm = told[told["service"] == "llm"]
    assert llm["day"].tolist() == [1] and llm["requests"].tolist() == [100.0]
    assert (llm["available"].iloc[0], llm["top_error"].iloc[0]) == (approx(0.98), "timeout")


def test_a_drill_of_two_of_its_days_has_two(made: Session) -> None:
    assert DRILL.seconds("1d") == trials.DAY_S
    began = 50_000.0
    ends = [(began, 0.0), (began + 10, 1.0), (began + 1.5 * trials.DAY_S, 4.0)]
    drill(made, "cut", 0, began=began, series=exported({asked("ok"): ends}))
    told = trials.days(made)
    assert told.loc[told["service"] == "llm", ["day", "requests"]].to_numpy().tolist() == [[1, 1.0], [2, 3.0]]


def test_nothing_tried_is_nothing_claimed(made: Session) -> None:
    for table in (trials.proven, trials.mutants, trials.linted, trials.days):
        assert not len(table(made)), table.__name__
    assert set(trials.caught(trials.mutants(made)).values()) == set(trials.clean(made).values()) == {None}


# --- the recorded trials ---


def facts(s: Session, what: str) -> dict[str, Any]:
    found = next(measured.points(s.run, what), None)
    return pytest.skip(f"{what}: not recorded") if found is None else found["facts"]


def test_recorded_proofs_are_all_counted(recorded: Session) -> None:
    rows = facts(recorded, "proofs")["proofs"]
    told = trials.proven(recorded)
    assert told["scenes"].sum() == len(rows) > 0
    for kind, words in trials.KINDS.items():
        mine = told[told["proof"] == words]
        assert mine["alerts"].sum() == len({row["alert"] for row in rows if row["kind"] == kind})


def test_recorded_mutants_were_noticed_as_often_as_it_says(recorded: Session) -> None:
    rows = facts(recorded, "mutants")["mutants"]
    told = trials.caught(trials.mutants(recorded))
    real = [row for row in rows if row["equivalent"] is None]
    hits = sum(row["caught"] for row in real)
    assert (told["hits"], told["n"], told["share"]) == (hits, len(real), approx(hits / len(real)))


def test_every_recorded_mutant_is_in_the_table(recorded: Session) -> None:
    rows, told = facts(recorded, "mutants")["mutants"], trials.mutants(recorded).set_index("change")
    assert told["tried"].sum() == len(rows) and all((row["by"] is not None) == row["caught"] for row in rows)
    for kind, same in told["the same in effect"].items():
        assert same == sum(row["kind"] == kind and row["equivalent"] is not None for row in rows)
        lost = [row["where"] for row in rows if row["kind"] == kind and not row["caught"] and row["equivalent"] is None]
        assert told.loc[kind, "missed"] == "; ".join(lost[:3])


def test_the_recorded_bound_on_false_alarms_is_poisson_s(recorded: Session) -> None:
    """Of so many alarms a week as it says, no more than were seen would be seen in one of twenty tries."""
    told = facts(recorded, "quiet")
    found, fired = trials.clean(recorded), sum(told["alarms"].values())
    assert (found["hours"], found["fired"]) == (told["hours"], fired)
    assert poisson.cdf(fired, found["per_week"] / 168 * told["hours"]) == approx(0.05)


def test_recorded_findings_of_the_lint_are_all_there(recorded: Session) -> None:
    rows, told = facts(recorded, "lint")["findings"], trials.linted(recorded)
    for owner in {row["owner"] for row in rows}:
        assert told.set_index("rule")[owner].to_dict() == {row["rule"]: row["findings"] for row in rows if row["owner"] == owner}


def test_recorded_service_levels_follow_from_the_counters(recorded: Session) -> None:
    """All that the counters rose by, sample by sample, is in some day; a counter that falls began anew."""
    found = [one for one in measured.points(recorded.run, "drill") if "series" in one["facts"]["series"]]
    if not found:
        pytest.skip("no series of a drill were recorded")
    began = min(one["facts"]["began_unix"] for one in found)
    courses: dict[str, list[tuple[float, float]]] = {}
    for one in found:
        for text, t_s, value in rises(measured.series(recorded.run, one, "series")):
            courses.setdefault(text, []).append((t_s, value))
    asked_for: dict[str, list[float]] = {}
    for text, course in courses.items():
        known = tsdb.labels(text)
        course.sort()
        times, values = (np.array(each) for each in zip(*course, strict=True))
        rise = np.diff(values)
        rise = np.where(rise < 0, values[1:], rise)[times[1:] > began]
        good, bad = (rise.sum(), 0.0) if known["outcome"] == "ok" else (0.0, rise.sum())
        if known["outcome"] != "client":
            both = asked_for.setdefault(known["service"], [0.0, 0.0])
            both[0], both[1] = both[0] + good, both[1] + bad
    told = trials.days(recorded)
    last = max(t_s for course in courses.values() for t_s, _ in course)
    assert told["day"].max() in (days := int(np.ceil((last - began) / trials.DAY_S)), days + 1)  # others' samples may be later
    assert told["requests"].sum() > 0
    for service, rows in told.groupby("service"):
        good, bad = asked_for[str(service)]
        assert rows["requests"].sum() == approx(good + bad)
        assert ((1 - rows["available"].astype(float)) * rows["requests"]).sum() == approx(bad, abs=1e-6)


def rises(packed: pd.DataFrame) -> Iterator[tuple[str, float, float]]:
    """The samples of the gateway's requests, unpacked by hand: both columns are differences, the values' as bits."""
    of = packed[packed["series"].astype(str).str.startswith("gateway_requests_total{")]
    for text, one in of.groupby(of["series"].astype(str)):
        values = np.cumsum(one["dvalue"].to_numpy(np.int64)).view(np.float64)
        yield from ((str(text), t_ms / 1000, float(value)) for t_ms, value in zip(np.cumsum(one["dt_ms"]), values, strict=True))
