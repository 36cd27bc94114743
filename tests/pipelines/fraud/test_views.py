"""What the notebook says follows from the record: made-up runs with known answers, and the recorded one from its raw samples again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lib import measured, record
from lib.measured import Found, Skipped
from lib.pipelines.fraud import bench, door_views, findings, levels, load_views, views
from lib.pipelines.fraud.pipeline import STAGES
from lib.pipelines.fraud.session import session
from lib.session import NothingRecorded, Opened, Session

ENVIRONMENT = {"machine_id": "made", "stack_id": "made"}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """An empty run on a machine that nothing disturbs."""
    monkeypatch.setattr(measured.audit, "undisturbed", lambda host, cores: None)
    run = record.begin("01_fraud_pipeline", parameters={}, environment=ENVIRONMENT, root=tmp_path)
    return Session(Opened(run, (), None), None)


@pytest.fixture(scope="module")
def recorded() -> Session:
    try:
        return session(profile="quick", mode="recorded")
    except NothingRecorded as reason:
        pytest.skip(str(reason))


def load(
    s: Session, *, share: float, rate: float, latency_ms: list[float], status: list[int], throttle: bool = False, turn: int = 0
) -> None:
    """One round of one load: the requests come evenly over a second."""
    n = len(latency_ms)
    frame = pd.DataFrame({"latency_us": (np.array(latency_ms) * 1e3).astype(np.int32), "status": np.array(status, np.int16),
                          "due_ms": np.linspace(0, 1000, n).astype(np.int32)})  # fmt: skip
    facts = {"rate_per_s": rate, "window_s": 1.0, "wall_s": 1.0, "server_cpu_s": 0.5, "sent": n, "answered": status.count(200)}
    setting = {"what": "load", "share": share, "throttle": throttle, "round": turn}
    measured.keep(s.run, setting, lambda: Found({}, facts, {"6 books": None}, {"calls": frame}))


# --- what is kept ---


def test_a_point_is_measured_once_and_again_only_if_it_was_not_fit(made: Session) -> None:
    asked: list[str] = []

    def measure(word: str, wrong: str | None = None) -> Found:
        asked.append(word)
        return Found({"s": [1.0]}, {"f": 2}, {"6 books": wrong}, {"ns": pd.DataFrame({"ns": [1, 2]})})

    measured.keep(made.run, {"what": "x"}, lambda: measure("first"))
    measured.keep(made.run, {"what": "x"}, lambda: measure("never"))
    measured.keep(made.run, {"what": "y"}, lambda: measure("bad", "two and two are five"))
    measured.keep(made.run, {"what": "y"}, lambda: measure("again"))
    assert asked == ["first", "bad", "again"]
    rows = made.frame().to_dict("records")
    assert [(row["what"], row["status"]) for row in rows] == [("x", "ok"), ("y", "ok")]
    assert measured.series(made.run, rows[0], "ns")["ns"].tolist() == [1, 2]


def test_what_other_work_disturbed_is_tried_once_more(made: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["other processes took 50%", None])
    monkeypatch.setattr(measured.audit, "undisturbed", lambda host, cores: next(said))
    measured.keep(made.run, {"what": "x"}, lambda: Found({}, {}, {}))
    assert [p.status for p in made.run.points()] == ["ok"]
    assert (made.run.path / "points.jsonl").read_text().count('"invalid"') == 1  # the first try stays


@pytest.mark.parametrize(
    ("error", "status"), [(Skipped("no redis"), "skipped"), (OSError("refused"), "failed"), (measured.Died("gone"), "failed")]
)
def test_what_cannot_be_measured_is_a_row_with_its_reason(made: Session, error: Exception, status: str) -> None:
    def measure() -> Found:
        raise error

    measured.keep(made.run, {"what": "x", "n": 1}, measure)
    unfit = views.unfit(made)
    assert unfit["status"].tolist() == [status]
    assert str(error) in unfit["why"][0]
    assert unfit["setting"][0] == "n 1"


@pytest.mark.parametrize(
    ("answered", "decided", "unanswered", "fine"), [(5, 5, 0, True), (5, 6, 1, True), (5, 7, 1, False), (5, 4, 0, False)]
)
def test_books_agree_or_say_how_they_do_not(answered: int, decided: float, unanswered: int, fine: bool) -> None:
    assert (bench.books(answered, decided, unanswered) is None) is fine


# --- loads ---


def test_goodput_counts_decisions_in_time_over_all_that_was_due(made: Session) -> None:
    load(made, share=0.5, rate=1000, latency_ms=[1] * 900 + [20] * 50 + [1] * 30 + [-1] * 20, status=[200] * 950 + [503] * 30 + [0] * 20)
    row = load_views.loads(made).iloc[0]
    assert (row["goodput"], row["attained"], row["refused"], row["lost"]) == (900, 0.9, 0.03, 0.02)
    assert row["p50"] == 1
    assert row["p99"] == 20  # of what was accepted
    assert row["cores"] == 0.5


def fine(n: int) -> dict[str, Any]:
    return {"latency_ms": [1.0] * n, "status": [200] * n}


def test_capacity_is_the_last_rate_before_the_first_that_fails(made: Session) -> None:
    for share, rate, good in ((0.5, 1000, 1000), (0.8, 1800, 1800), (1.0, 2000, 1500), (1.25, 2500, 2490), (2.0, 4000, 900)):
        for turn in range(3):
            status = [200] * good + [503] * (rate - good)
            load(made, share=share, rate=rate, latency_ms=[1.0] * rate, status=status, turn=turn)
    load(made, share=2.0, rate=4000, latency_ms=[1.0] * 4000, status=[200] * 1800 + [-1] * 2200, throttle=True)
    found = load_views.capacity(load_views.loads(made))
    assert found["sustained"] == 1800  # 2,500 is kept again, but 2,000 was not
    assert found["peak"] == 2490
    assert found["twice"] == 4000
    assert found["left"] == pytest.approx(900 / 2490)
    assert found["polite"] == pytest.approx(1800 / 2490)


def test_one_bad_round_of_three_does_not_make_a_rate_fail(made: Session) -> None:
    for turn in range(3):
        load(
            made,
            share=0.5,
            rate=1000,
            latency_ms=[1.0] * 1000,
            status=[200] * (500 if turn == 1 else 1000) + [503] * (500 if turn == 1 else 0),
            turn=turn,
        )
    assert load_views.capacity(load_views.loads(made))["sustained"] == 1000


def test_an_empty_run_has_empty_views_and_no_claims(made: Session) -> None:
    loads = load_views.loads(made)
    assert load_views.capacity(loads) == load_views.target(loads) == findings.extremes(views.ladder(made)) == {}
    tables = [load_views.quantiles_long(loads), load_views.goodput_long(loads), load_views.loads_table(loads)]
    for table in (*tables, views.waterfall(made, rows=1), views.unfit(made), load_views.replay(made)):
        assert table.empty
        assert len(table.columns)


def test_invalid_points_are_in_no_number(made: Session) -> None:
    frame = pd.DataFrame({"latency_us": [1], "status": [200], "due_ms": [0]})
    facts = {"rate_per_s": 1.0, "window_s": 1.0, "wall_s": 1.0, "server_cpu_s": 0.5, "sent": 1}
    measured.keep(
        made.run,
        {"what": "load", "share": 1.0, "throttle": False, "round": 0},
        lambda: Found({}, facts, {"6 books": "wrong"}, {"calls": frame}),
    )
    assert load_views.loads(made).empty
    assert views.unfit(made)["why"].tolist() == ["6 books: wrong"]


# --- in process ---


def test_stages_stand_beside_their_budget(made: Session) -> None:
    frame = pd.DataFrame({stage: np.full(1000, 1000 * (place + 1), np.int32) for place, stage in enumerate(STAGES)})
    measured.keep(made.run, {"what": "stages", "windows": "embedded", "rows": 1}, lambda: Found({}, {}, {}, {"stages": frame}))
    table = views.waterfall(made, rows=1)
    assert table["p50"].tolist() == [1, 2, 3, 4, 5, 6, 7, 28]
    assert table["budget"].iloc[-1] == sum(views.BUDGET_US.values())
    assert views.budget(table)["kept"].tolist() == ["yes"] * 8
    late = table.assign(p99=[100.0] * 7 + [None])
    assert views.budget(late)["kept"].tolist() == ["no", "no", "no", "no", "yes", "no", "no", "–"]


def test_a_quantile_of_too_few_is_not_told() -> None:
    told = views.stats_us(np.arange(1, 101) * 1000)
    assert (told["p50"], told["p99"], told["n"]) == (50, None, 100)
    assert views.enough(told["p99"]) == "too few samples"


# --- the recorded run, computed once more by hand ---


def test_the_recorded_target_follows_from_its_calls(recorded: Session) -> None:
    files = [measured.series(recorded.run, row, "calls") for row in views.points(recorded, "target")]
    accepted = np.sort(np.concatenate([calls["latency_us"][calls["status"] == 200] for calls in files])) / 1e3
    told = load_views.target(load_views.loads(recorded))
    assert told["p99"] == accepted[int(np.ceil(0.99 * len(accepted))) - 1]
    assert told["rounds"] == len(files)


def test_the_recorded_headline_follows_from_its_samples(recorded: Session) -> None:
    ways = {row["way"]: measured.series(recorded.run, row, "ns")["ns"].to_numpy() for row in views.points(recorded, "path")}
    told = findings.headline(views.ways(recorded), {})
    whole = np.sort(ways[findings.WHOLE])
    assert told["p50"] == whole[int(np.ceil(0.5 * len(whole))) - 1] / 1e3
    steps = {row["step"]: np.sort(measured.series(recorded.run, row, "warm")["ns"].to_numpy()) for row in views.points(recorded, "step")}
    middles = {name: taken[int(np.ceil(0.5 * len(taken))) - 1] / 1e3 for name, taken in steps.items()}
    extremes = findings.extremes(views.ladder(recorded))
    assert extremes["best"] == min(middles.values())
    assert extremes["times"] == pytest.approx(next(iter(middles.values())) / min(middles.values()))


def test_the_recorded_run_lost_no_decision_and_flipped_none(recorded: Session) -> None:
    assert (views.parity(recorded)[["verdicts that flip", "flips there"]].to_numpy() == 0).all()
    facts = recorded.facts(what="kill")
    assert facts["lost"] == facts["changed"] == 0
    assert facts["sent"] == facts["logged_after"] == facts["distinct_after"]
    assert door_views.kill(recorded)["count"].iloc[0] == f"{facts['sent']:,}"


def test_the_recorded_replay_spends_the_budget_that_it_says(recorded: Session) -> None:
    table = levels.table(recorded)
    for point, rows in zip(views.points(recorded, "replay"), (table.iloc[:2], table.iloc[2:]), strict=True):
        calls = measured.series(recorded.run, point, "calls")
        assert rows["failed"].tolist()[0] == int((calls["status"] != 200).sum())
        assert rows["failed"].tolist()[1] == int(((calls["status"] != 200) | (calls["latency_us"] > 10_000)).sum())


def test_a_question_that_was_not_measured_is_an_error(recorded: Session) -> None:
    with pytest.raises(LookupError, match="has no point"):
        recorded.facts(what="moon")
