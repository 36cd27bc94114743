"""What the monitoring notebook says follows from the record: made-up drills with known answers, the recorded one from its notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest import approx
from scipy.stats import beta, binom

from lib import measured
from lib.monitoring import dashboards, findings
from lib.monitoring.dashboards.query import panels
from lib.monitoring.session import Session
from lib.session import Opened
from tests.monitoring import drilled
from tests.monitoring.drilled import drill, due, point


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    return drilled.begun(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def recorded() -> Session:
    return drilled.recorded()


def two_rounds(s: Session) -> pd.DataFrame:
    """Two faults and a control in two rounds each, and a fault that nobody saw happen, which is no evidence."""
    drill(s, "cut", 0, [(2.5, "Right", "firing"), (14.0, "Right", "resolved")], forecast=due(3.0), before=0.1, during=0.5)
    drill(s, "cut", 1, [(1.0, "Noise", "firing"), (6.0, "Right", "firing")], forecast=due(3.0), before=0.3, during=0.9)
    drill(s, "slow", 0, forecast=due(5.0))
    drill(s, "slow", 1, [(4.0, "Right", "firing")])
    drill(s, "nothing", 0, control=True)
    drill(s, "nothing", 1, [(3.0, "Noise", "firing"), (4.0, "Other", "firing")], control=True)
    drill(s, "unseen", 0, [(2.0, "Right", "firing")], check="nothing was seen to happen")
    return findings.courses(s)


# --- who would have known ---


def test_every_recorded_machine_is_judged_for_itself(made: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_rounds(made)
    other = drilled.begun(tmp_path / "other", monkeypatch)
    drill(other, "cut", 0, [(2.5, "Right", "firing")], forecast=due(3.0))
    both = Session(Opened(made.run, (other.run,), None), None)
    monkeypatch.setattr(findings, "moves", lambda s: pd.DataFrame())  # made-up drills show no panels
    told = findings.everywhere(both)
    assert told["run"].tolist() == [made.run.run_id, other.run.run_id], "who speaks comes first"
    assert (told["whole rounds"].tolist(), told["kinds of faults"].tolist()) == ([2, 1], [2, 1])
    assert told["detected"].tolist() == ["3 of 4", "1 of 1"] and told["right one first"].tolist() == ["2 of 4", "1 of 1"]
    assert told["when due"].tolist() == ["1 of 2", "1 of 1"] and told["controls with an alarm"].tolist() == ["1 of 2", "0 of 0"]


def test_shares_are_of_the_faults_that_are_evidence(made: Session) -> None:
    head = findings.headline(two_rounds(made))
    assert (head["faults"], head["kinds"], head["rounds"], head["controls"], head["false_alarms"]) == (4, 2, 2, 2, 1)
    assert (head["detected_hits"], head["detected_n"], head["first_hits"], head["first_n"]) == (3, 4, 2, 4)
    assert (head["due_hits"], head["due_n"], head["due_share"]) == (1, 2, 0.5)  # 2.5 s for 3 s; 6 s is too late; two came or were due never
    assert (head["detected_lo"], head["detected_hi"]) == (approx(beta.ppf(0.025, 3, 2)), approx(beta.ppf(0.975, 4, 1)))
    assert (head["median_s"], head["slowest_s"], head["slowest"]) == (4.0, 6.0, "cut")


def test_a_fault_that_fired_before_it_was_done_is_not_detected(made: Session) -> None:
    drill(made, "cut", 0, [(-1.5, "Right", "firing"), (2.0, "Right", "resolved")], forecast=due(3.0))
    told = findings.courses(made)
    head = findings.headline(told)
    assert (head["detected_hits"], head["median_s"], head["slowest"]) == (0, None, None)
    assert "due_hits" not in head  # nothing came, so no forecast was tried
    assert findings.spread(told) == {"median": None, "worst": None, "whose": None}


def test_a_fault_s_row_counts_its_rounds(made: Session) -> None:
    table = findings.shown(two_rounds(made)).set_index("fault")
    assert table.index.tolist() == ["slow", "cut"]  # 4 s before a median of 4.25 s
    cut = table.loc["cut"]
    assert cut[["detected", "right one first", "within a scrape and an evaluation"]].tolist() == ["2 of 2", "1 of 2", "1 of 2"]
    assert (cut["what is done"], cut["right alert"], cut["came first"]) == ("does cut", "Right", "Right or Noise")
    assert cut[["after, s", "due, s", "over, s", "due over, s"]].tolist() == [4.25, 3.0, 4.0, 3.0]  # it ended 4 s after the fault did
    assert table.loc["slow", ["detected", "came first", "due, s"]].tolist() == ["1 of 2", "Right", 5.0]


def test_controls_and_witnesses_have_rows_of_their_own(made: Session) -> None:
    told = two_rounds(made)
    assert findings.controls(told).to_dict("records") == [
        {"control": "nothing", "what is done": "nothing", "rounds": 2, "rounds with an alarm": 1, "what fired": "Noise"}]  # fmt: skip
    seen = findings.witnessed(told).set_index("fault")
    assert seen.index.tolist() == ["cut", "slow"]
    assert seen.loc["cut"].tolist() == ["seen of cut", approx(0.2), approx(0.7)]


def test_a_quiet_control_says_so(made: Session) -> None:
    drill(made, "nothing", 0, control=True)
    assert findings.controls(findings.courses(made))["what fired"].tolist() == ["nothing"]


# --- when, and as forecast or not ---


def test_what_happened_is_marked_right_or_not_and_ordered_by_its_detection(made: Session) -> None:
    states = pd.DataFrame({"series": ['ALERTS{alertname="Right",alertstate="pending"}'] * 2
                           + ['ALERTS{alertname="Before",alertstate="pending"}'], "t_s": [1.5, 2.0, -9.0], "value": 1.0})  # fmt: skip
    drill(made, "late", 0, [(6.0, "Right", "firing"), (1.0, "Noise", "firing")], forecast=due(3.0, 1.5))
    drill(made, "soon", 0, [(2.5, "Right", "firing")], alerts=states)
    drill(made, "nothing", 0, [(0.5, "Right", "firing")], control=True)
    drill(made, "soon", 1, [(9.0, "Right", "firing")])
    events, forecast, rows = findings.happened(made, 0)
    assert rows == ["soon", "late", "nothing"]
    assert forecast.to_dict("records") == [{"row": "late", "at_s": 3.0, "slack_s": 1.5}]
    firing = events[events["kind"] == "firing"].set_index(["row", "alert"])
    assert firing["right"].to_dict() == {("late", "Right"): True, ("late", "Noise"): False, ("soon", "Right"): True,
                                         ("nothing", "Right"): False}  # fmt: skip
    assert 9.0 not in events["from_s"].tolist()  # of another round
    assert events.loc[events["kind"] == "pending", ["row", "from_s", "to_s"]].to_numpy().tolist() == [["soon", 1.5, 2.0]]
    assert events.loc[events["kind"] == "fault", "row"].tolist() == ["late", "soon"]


def test_forecasts_stand_beside_what_came(made: Session) -> None:
    drill(made, "late", 0, [(6.0, "Right", "firing")], forecast=due(3.0))
    drill(made, "late", 1, [(5.0, "Right", "firing")], forecast=due(3.0))
    drill(made, "soon", 0, [(1.0, "Right", "firing")], forecast=due(0.5))
    drill(made, "never", 0, forecast=due(1.0))
    events, forecast, rows = findings.forecasts(findings.courses(made))
    assert rows == ["soon", "late"] and forecast["at_s"].tolist() == [0.5, 3.0]
    assert sorted(zip(events["row"], events["from_s"], strict=True)) == [("late", 5.0), ("late", 6.0), ("soon", 1.0)]


@pytest.mark.parametrize(("at_s", "worst", "middle"), [((2.5, 6.0, 3.5), 3.0, 0.5), ((2.5, 0.25, 3.5), -2.75, -0.5)])
def test_the_furthest_miss_is_named_early_or_late(made: Session, at_s: tuple[float, ...], worst: float, middle: float) -> None:
    for name, at in zip(("a", "b", "c"), at_s, strict=True):
        drill(made, name, 0, [(at, "Right", "firing")], forecast=due(3.0))
    drill(made, "d", 0, [(90.0, "Right", "firing")])  # without a forecast
    assert findings.spread(findings.courses(made)) == {"median": middle, "worst": worst, "whose": "b"}


# --- what showed what ---


def test_an_alert_is_first_where_it_is_the_right_one(made: Session) -> None:
    drill(made, "cut", 0, [(2.0, "Right", "firing"), (5.0, "Noise", "firing"), (9.0, "Noise", "resolved")])
    drill(made, "slow", 0, [(1.0, "Noise", "firing"), (5.0, "Right", "firing")])
    drill(made, "gone", 0, [(9.0, "Right", "resolved")])
    told = findings.alarms(made).to_dict("split")["data"]
    assert told == [["cut", "Noise", findings.FIRED], ["cut", "Right", findings.FIRST],
                    ["slow", "Noise", findings.FIRED], ["slow", "Right", findings.FIRED]]  # fmt: skip


def course(board: dict[str, Any], number: int, calm: float, fault: float) -> pd.DataFrame:
    """A panel at one value for five seconds, and at another for eight."""
    panel, t_s = [*panels(board)][number], np.arange(-5, 8) + 0.5
    return pd.DataFrame({"dashboard": board["uid"], "panel": panel["id"], "ref": "A", "series": "x", "t_s": t_s,
                         "value": np.where(t_s < 0, calm, fault)})  # fmt: skip


def test_panels_that_moved_in_half_of_the_rounds_moved(made: Session) -> None:
    board = dashboards.ALL[0]
    first, second, third = (one["title"] for one in [*panels(board)][:3])

    def shown(*levels: float) -> pd.DataFrame:
        return pd.concat([course(board, number, 10, level) for number, level in enumerate(levels)], ignore_index=True)

    drill(made, "cut", 0, panels=shown(30, 10, 10))
    drill(made, "cut", 1, panels=shown(10, 10, 10))
    drill(made, "slow", 0, panels=shown(10, 10.5, 10))
    drill(made, "nothing", 0, control=True, panels=shown(10, 30, 10))
    moved = findings.moves(made)
    level = moved.set_index(["scenario", "title"])["level"]
    assert level["cut", first] == 1 and level["slow", first] == 0 and level["cut", second] == 0 and level["nothing", second] == 1
    assert moved.set_index(["scenario", "title"])["moved"]["cut", first] == 0.5
    empty = sum(1 for one in dashboards.ALL for _ in panels(one)) - 3
    assert findings.movement(moved) == {"moved": 1, "panels": 3, "constants": 0, "empty": empty}  # a control is no fault
    still = findings.still(moved)
    assert len(still) == sum(1 for one in dashboards.ALL for _ in panels(one)) - 1
    why = still[still["dashboard"] == board["title"]].set_index("panel")["why"]
    assert first not in why.index and why[second] == why[third] == "did not move"
    assert why.drop([second, third]).str.startswith("no data here: ").all()


def test_what_cannot_move_is_named_and_is_a_panel() -> None:
    known = {(board["uid"], one["title"]) for board in dashboards.ALL for one in panels(board)}
    assert set(findings.CONSTANT) <= known and all(len(why) > 20 for why in findings.CONSTANT.values()) and len(findings.CONSTANT) <= 3


def test_a_constant_is_counted_apart(made: Session) -> None:
    board = next(one for one in dashboards.ALL if one["uid"] == "inference-slo")
    number = [one["title"] for one in panels(board)].index("Objective")
    drill(made, "cut", 0, panels=pd.concat([course(board, number, 0.99, 0.99), course(board, number + 1, 1, 0.5)], ignore_index=True))
    moved = findings.moves(made)
    told = findings.movement(moved)
    assert (told["moved"], told["panels"], told["constants"]) == (1, 1, 1)
    assert findings.still(moved).set_index("panel")["why"]["Objective"].startswith("a constant: a promise")


# --- what watching costs ---


def test_what_a_scrape_adds_is_paired(made: Session) -> None:
    """20 and 10 µs more in the median, 29.8 and 10 at p99: paired, so that what changed between the pairs is in neither."""
    samples = {"plain": [[100, 200], [500, 600]], "scraped": [[110, 230], [510, 610]]}
    point(made, "scraped", {"scrapes_per_s": 10}, samples=samples)
    told = findings.scraped(made)
    assert (told["p50_us"], told["p99_us"], told["plain_us"], told["per_s"]) == (approx(15.0), approx(19.9), 350.0, 10)
    assert (told["lo_us"], told["hi_us"]) == (approx(15 - 5 * 12.7062, rel=1e-5), approx(15 + 5 * 12.7062, rel=1e-5))  # t of one degree
    assert (told["p99_lo_us"], told["p99_hi_us"]) == (approx(19.9 - 9.9 * 12.7062, rel=1e-5), approx(19.9 + 9.9 * 12.7062, rel=1e-5))
    assert told["production_us"] == approx(15 / 10 / 15)


def test_all_that_watches_beside_all_that_works(made: Session) -> None:
    used = {"gateway": (1.0, 50e6), "prometheus": (0.5, 70e6), "llm": (4.5, 300e6)}
    point(made, "watchers", {"wall_s": 10.0, "watchers": ["gateway", "prometheus", "gpu"],
                             "used": {name: {"cpu_s": cpu, "rss_bytes": rss} for name, (cpu, rss) in used.items()}})  # fmt: skip
    table = findings.watchers(made).set_index("process")
    assert table["CPU, % of a core"].to_dict() == {"gateway": approx(10), "prometheus": approx(5), "llm": approx(45)}
    assert table["watches"].to_dict() == {"gateway": True, "prometheus": True, "llm": False}
    assert findings.watching(table.reset_index()) == {"cpu": approx(0.15), "share": approx(0.25), "memory_mb": approx(120)}


def test_nothing_measured_is_nothing_claimed(made: Session) -> None:
    told = findings.courses(made)
    assert not len(told) and set(findings.headline(told).values()) == {None}
    assert not len(findings.shown(told)) and not len(findings.controls(told)) and not len(findings.witnessed(told))
    assert set(findings.spread(told).values()) == {None} and not len(findings.alarms(made)) and not len(findings.moves(made))
    assert findings.movement(findings.moves(made)) == {"moved": 0, "panels": 0, "constants": 0, "empty": 0}
    events, forecast, rows = findings.happened(made, 0)
    assert not len(events) and not len(forecast) and rows == []
    assert set(findings.scraped(made).values()) == set(findings.watching(findings.watchers(made)).values()) == {None}


# --- the recorded run ---


def fired(one: dict[str, Any]) -> list[tuple[float, str]]:
    facts = one["facts"]
    return sorted((n["at_s"], n["alert"]) for n in facts["notices"] if n["status"] == "firing" and n["at_s"] >= facts["asked_s"])


def test_the_recorded_headline_follows_from_its_notices(recorded: Session) -> None:
    faults = controls = alarms = hits = first = kept = forecast = 0
    times: list[tuple[float, str]] = []
    for one in measured.points(recorded.run, "drill"):
        facts, said = one["facts"], fired(one)
        if facts["control"]:
            controls, alarms = controls + 1, alarms + bool(said)
            continue
        faults += 1
        if not (right := [at for at, alert in said if alert in facts["right"]]):
            continue
        hits, times = hits + 1, [*times, (right[0], one["scenario"])]
        first += right[0] - said[0][0] < facts["evaluation_s"]
        if facts["due"]:
            forecast, kept = forecast + 1, kept + (abs(right[0] - facts["due"]["at_s"]) <= facts["due"]["slack_s"])
    head = findings.headline(findings.courses(recorded))
    assert faults and (head["faults"], head["controls"], head["false_alarms"]) == (faults, controls, alarms)
    assert (head["detected_hits"], head["first_hits"], head["due_hits"], head["due_n"]) == (hits, first, kept, forecast)
    assert head["median_s"] == approx(float(np.median([at for at, _ in times]))) and (head["slowest_s"], head["slowest"]) == max(times)
    for name, good, n in (("detected", hits, faults), ("first", first, faults), ("due", kept, forecast)):
        assert head[f"{name}_share"] == approx(good / n) and head[f"{name}_lo"] <= good / n <= head[f"{name}_hi"]
        if good:  # at the interval's end, as much as this is seen in one of forty
            assert binom.sf(good - 1, n, head[f"{name}_lo"]) == approx(0.025)
        if good < n:
            assert binom.cdf(good, n, head[f"{name}_hi"]) == approx(0.025)


def test_the_recorded_misses_follow_from_the_forecasts(recorded: Session) -> None:
    off = [(right[0] - one["facts"]["due"]["at_s"], one["scenario"]) for one in measured.points(recorded.run, "drill")
           if one["facts"]["due"] and (right := [at for at, alert in fired(one) if alert in one["facts"]["right"]])]  # fmt: skip
    told = findings.spread(findings.courses(recorded))
    worst = max(off, key=lambda one: abs(one[0]))
    assert (told["median"], told["worst"], told["whose"]) == (approx(float(np.median([by for by, _ in off]))), approx(worst[0]), worst[1])


def test_the_recorded_rounds_are_counted_in_each_row(recorded: Session) -> None:
    table = findings.shown(findings.courses(recorded)).set_index("fault")
    rounds: dict[str, list[bool]] = {}
    for one in measured.points(recorded.run, "drill"):
        if not one["facts"]["control"]:
            rounds.setdefault(one["scenario"], []).append(any(alert in one["facts"]["right"] for _, alert in fired(one)))
    assert table["detected"].to_dict() == {name: f"{sum(seen)} of {len(seen)}" for name, seen in rounds.items()}


def test_every_alert_of_the_recorded_drill_is_in_its_matrix(recorded: Session) -> None:
    told = findings.alarms(recorded)
    known = {(one["scenario"], n["alert"]) for one in measured.points(recorded.run, "drill") for n in one["facts"]["notices"]
             if n["status"] == "firing"}  # fmt: skip
    assert known and set(zip(told["scenario"], told["alert"], strict=True)) == known


def test_recorded_panels_moved_as_their_series_did(recorded: Session) -> None:
    """One scenario, told again in plain words. A panel moves where a series comes or goes, or leaves its calm for two steps: by more than
    a fifth of its level, and three times as far as 97 % of all calms stray at most. The first two seconds are no calm.
    """
    every = list(measured.points(recorded.run, "drill"))
    name = next(one["scenario"] for one in every if not one["facts"]["control"])
    strays: dict[tuple[Any, ...], list[float]] = {}
    told: dict[str, list[dict[tuple[Any, ...], tuple[list[float], list[float]]]]] = {}
    for one in every:
        shown, end = measured.series(recorded.run, one, "panels"), one["facts"]["cleared_s"] + 2
        values: dict[tuple[Any, ...], tuple[list[float], list[float]]] = {}
        settled = shown["t_s"].min() + 2
        for board, panel, ref, label, t_s, value in shown.itertuples(index=False):
            calm, fault = values.setdefault((board, panel, ref, label), ([], []))
            if np.isfinite(value) and settled <= t_s < one["facts"]["asked_s"]:
                calm.append(value)
            elif np.isfinite(value) and 0 < t_s <= end:
                fault.append(value)
        for key, (calm, _) in values.items():
            strays.setdefault(key, []).extend([max(abs(value - np.median(calm)) for value in calm)] if calm else [])
        told.setdefault(one["scenario"], []).append(values)
    stray = {key: float(np.quantile(off, 0.97, method="higher")) for key, off in strays.items() if off}
    votes: dict[tuple[str, int], list[bool]] = {}
    for values in told[name]:
        hit: dict[tuple[str, int], bool] = {}
        for key, (calm, fault) in values.items():
            left = not min(len(calm), len(fault)) and max(len(calm), len(fault)) >= 2
            if calm:
                room = max(3 * stray[key], 0.2 * abs(np.median(calm)), 1e-9)
                left = left or sum(abs(value - np.median(calm)) > room for value in fault) >= 2
            hit[key[0], key[1]] = hit.get((key[0], key[1]), False) or left
        for panel_, left in hit.items():
            votes.setdefault(panel_, []).append(left)
    mine = findings.moves(recorded)
    assert mine[mine["scenario"] == name].set_index(["dashboard", "panel"])["level"].to_dict() == {
        key: float(np.mean(seen) >= 0.5) for key, seen in votes.items()}  # fmt: skip


def test_recorded_panels_hardly_move_where_nothing_is_done(recorded: Session) -> None:
    told = findings.moves(recorded)
    quiet = told[told["scenario"].isin(["nothing", "deploy"])]
    assert len(quiet) > 100 and quiet["level"].mean() <= 0.02, quiet.loc[quiet["level"] > 0, ["scenario", "title"]].values.tolist()


def test_the_recorded_watchers_take_what_was_counted(recorded: Session) -> None:
    if not (found := list(measured.points(recorded.run, "watchers"))):
        pytest.skip("the cost of watching was not recorded")
    facts = found[0]["facts"]
    ours = [facts["used"][name] for name in facts["watchers"]]
    told = findings.watching(findings.watchers(recorded))
    assert told["cpu"] == approx(sum(one["cpu_s"] for one in ours) / facts["wall_s"])
    assert told["share"] == approx(sum(one["cpu_s"] for one in ours) / sum(one["cpu_s"] for one in facts["used"].values()))
    assert told["memory_mb"] == approx(sum(one["rss_bytes"] for one in ours) / 1e6)


def test_the_recorded_cost_of_a_scrape_follows_from_its_pairs(recorded: Session) -> None:
    if not (found := list(measured.points(recorded.run, "scraped"))):
        pytest.skip("what a scrape costs was not recorded, or not without lag")
    pairs = list(zip(found[0]["samples"]["plain"], found[0]["samples"]["scraped"], strict=True))
    told = findings.scraped(recorded)
    for q, name, low in ((50, "p50_us", "lo_us"), (99, "p99_us", "p99_lo_us")):
        more = [np.percentile(with_it, q) - np.percentile(without, q) for without, with_it in pairs]
        assert told[name] == approx(float(np.mean(more))) and told[low] <= told[name]
    mean = np.mean([np.mean(with_it) - np.mean(without) for without, with_it in pairs])
    assert told["production_us"] == approx(mean / found[0]["facts"]["scrapes_per_s"] / 15)
