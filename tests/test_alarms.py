"""Outcomes on noise and planted changes are what they are called, and the shares made of them are right where the truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest import approx
from scipy import stats as scipy_stats

from lib import alarm_views, alarms, compare, install, otava, record, session, thresholds
from lib.alarms import Plan
from lib.record import Point, Run

HERE = {"machine_id": "epyc-2c-abc123", "stack_id": "s1"}
SMALL = Plan(calibrate=4000, check=3000, other=500, planted=40, lengths=(6, 10))


def honest(series: Sequence[Sequence[float]], p: Sequence[float]) -> list[tuple[otava.Step, ...]]:
    """In Otava's place: a t-test of the last half against the first, whose p is true."""
    found = []
    for values, limit in zip(series, p, strict=True):
        half = len(values) // 2
        tested = scipy_stats.ttest_ind(values[half:], values[:half])
        step = otava.Step(half, float(np.mean(values[:half])), float(np.mean(values[half:])), float(tested.pvalue))
        found.append((step,) if tested.pvalue < limit else ())
    return found


def ranks(series: Sequence[Sequence[float]], ladder: Sequence[float]) -> list[int]:
    """As `honest`, for all series of one length at once."""
    rungs = np.zeros(len(series), dtype=int)
    for length in {len(values) for values in series}:
        mine = [nth for nth, values in enumerate(series) if len(values) == length]
        values = np.array([series[nth] for nth in mine])
        p = np.nan_to_num(scipy_stats.ttest_ind(values[:, length // 2:], values[:, :length // 2], axis=1).pvalue, nan=1.0)
        rungs[mine] = (p[:, None] < np.array(ladder)).sum(axis=1)
    return rungs.tolist()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Everything that `measure` does, with a test that is honest in Otava's place, over normal recorded repeats."""
    root = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    points = [Point({"what": "cell", "nth": nth, "round": turn}, "ok", samples={"ttft_s": [float(np.exp(rng.normal(0, 0.02)))]})
              for nth in range(60) for turn in range(8)]  # fmt: skip
    reference = filled(root, points, notebook="10_llm_latency")
    run = record.begin(alarms.NOTEBOOK, parameters={}, environment=HERE, root=root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(otava, "rungs", ranks)
        patch.setattr(otava, "steps", honest)
        patch.setattr(alarms, "references", lambda: [reference])
        patch.setattr(alarms, "HELD", ((3, 3), (5, 5), (20, 20)))
        alarms.measure(run, SMALL)
    return run


def filled(root: Path, points: Sequence[Point], *, notebook: str) -> Run:
    run = record.begin(notebook, parameters={}, environment=HERE, root=root, fresh=True)
    lines = [record.json.dumps({name: getattr(point, name) for name in Point.__slots__}) for point in points]
    (run.path / "points.jsonl").write_text("\n".join(lines) + "\n")
    return run


# --- what is drawn ---


@pytest.mark.parametrize("shape", ["normal", "heavy", "drifting", alarms.OURS])
def test_noise_varies_by_one_and_changes_nowhere(shape: str) -> None:
    scatter = np.random.default_rng(1).uniform(-np.sqrt(3), np.sqrt(3), 5000)
    noise = alarms.drawn(np.random.default_rng(0), shape, series=4000, runs=20, scatter=scatter)
    assert noise.shape == (4000, 20)
    assert noise.mean() == approx(0, abs=0.02)
    assert noise.std() == approx(1, abs=0.1 if shape == "heavy" else 0.02)
    assert noise[:, 10:].mean() - noise[:, :10].mean() == approx(0, abs=0.03)
    cling = np.mean(noise[:, 1:] * noise[:, :-1])
    assert cling == approx(alarms.CLINGS if shape == "drifting" else 0, abs=0.03)


def test_a_shape_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="shaped 'square'"):
        alarms.drawn(np.random.default_rng(0), "square", series=1, runs=6, scatter=np.ones(3))
    with pytest.raises(ValueError, match="no recorded repeats"):
        alarms.drawn(np.random.default_rng(0), alarms.OURS, series=1, runs=6, scatter=np.array([]))


def test_deviations_are_those_of_recorded_repeats_and_pass_over_what_does_not_vary(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cells = [(f"cell {nth}", np.exp(rng.normal(nth, 0.01 * (nth + 1), 8))) for nth in range(200)]
    cells += [("still", np.ones(8)), ("few", np.arange(1.0, 6.0)), ("zero", np.array([0.0, *range(1, 8)]))]
    points = [Point({"what": name, "round": turn}, "ok", samples={"s": [float(value)]})
              for name, values in cells for turn, value in enumerate(values)]  # fmt: skip
    found = alarms.deviations([filled(tmp_path, points, notebook="10_llm_latency")])
    assert len(found) == 1600
    assert found.std() == approx(1, abs=0.01)
    assert len(alarms.deviations([])) == 0


# --- what is measured ---


def test_every_setting_is_a_point_with_its_outcomes_and_is_not_measured_twice(measured: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    points = measured.points()
    assert {point.status for point in points} == {"ok"}
    kinds = [point.setting["what"] for point in points]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"noise only": 10, "recorded order": 1, "planted": 2}  # 20 + 20 is too long
    monkeypatch.setattr(alarms, "references", lambda: [])
    monkeypatch.setattr(alarms, "HELD", ())
    alarms.measure(measured, SMALL)  # nothing is left to ask Otava for
    assert len(measured.points()) == len(points)


def test_without_otava_every_point_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "find", lambda name: install.Missing(name, "Apache Otava is not built"))
    eight = filled(tmp_path, [Point({"what": "x"}, "ok", samples={"s": list(range(1, 9))})], notebook="10_llm_latency")
    monkeypatch.setattr(alarms, "references", lambda: [eight])
    run = record.begin(alarms.NOTEBOOK, parameters={}, environment=HERE, root=tmp_path)
    alarms.measure(run, Plan(10, 10, 10, 2, (6,)))
    assert {(point.status, point.reason) for point in run.points()} == {("skipped", "Apache Otava is not built")}
    assert thresholds.rates(run).empty
    assert alarm_views.false_alarms(run).empty
    assert alarm_views.power(run).empty
    assert alarm_views.recorded_order(run).empty
    assert alarm_views.verdict(run)["shipped"] is None


def test_a_session_without_otava_shows_what_was_recorded_or_says_that_nothing_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "find", lambda name: install.Missing(name, "Apache Otava is not built"))
    monkeypatch.setattr(session, "REFERENCE", tmp_path)
    with pytest.raises(session.NothingRecorded):
        alarms.session(profile="quick", mode="auto")
    with pytest.raises(ValueError, match="unknown profile"):
        alarms.session(profile="long", mode="auto")
    kept = record.begin(alarms.NOTEBOOK, parameters={}, environment=HERE, root=tmp_path)
    told = alarms.session(profile="quick", mode="auto")
    assert (told.run.run_id, told.here) == (kept.run_id, None)
    assert "Apache Otava is not built" in str(told.note)


# --- what follows from it ---


def test_an_honest_test_alarms_as_often_as_its_p_says(measured: Run) -> None:
    rates = thresholds.rates(measured).set_index(["runs", "p"])
    for runs in SMALL.lengths:
        assert rates.loc[(runs, 0.01), "lo"] < 0.011
        assert rates.loc[(runs, 0.01), "hi"] > 0.009
        assert rates.loc[(runs, 0.01), "series"] == SMALL.calibrate
    table = alarm_views.false_alarms(measured)
    mine = table[table["noise"] == alarms.OURS].set_index(["runs", "asked"])
    assert mine.loc[(6, "lenient"), "families"] == SMALL.check // alarms.FAMILY
    assert mine.loc[(6, "lenient"), "any_alarm"] == approx(1 - 0.99**alarms.FAMILY, abs=0.15)
    assert (mine["any_lo"] <= mine["any_alarm"]).all()
    assert (mine["any_alarm"] <= mine["any_hi"]).all()
    assert set(table["noise"]) == {alarms.OURS, *alarms.SHAPES}
    drifting = table[(table["noise"] == "drifting") & (table["asked"] == "lenient")].set_index("runs")
    assert drifting.loc[10, "alarmed"] > 2 * mine.loc[(10, "lenient"), "alarmed"]  # no test of independent runs survives that
    assert alarm_views.shown_alarms(table)["alarm in a series"].str.fullmatch(r"[\d.]+% \([\d.]+% – [\d.]+%\)").all()


def test_a_calibrated_family_is_quiet(measured: Run) -> None:
    table = alarm_views.false_alarms(measured)
    held = table[(table["noise"] == alarms.OURS) & (table["asked"] == "calibrated")]
    assert held["runs"].tolist() == list(SMALL.lengths)
    assert (held["p"] < 0.001).all()
    assert (held["any_lo"] <= compare.PROMISED).all()
    wide = alarm_views.strained(table)
    assert wide["noise"].tolist() == [alarms.OURS, *alarms.SHAPES]
    assert wide.columns.tolist() == ["noise", "6 runs", "10 runs"]
    assert wide["6 runs"].str.contains("%").all()
    fields = alarm_views.verdict(measured)
    assert (fields["runs"], fields["family"]) == (10, alarms.FAMILY)
    assert fields["calibrated_any"] <= fields["shipped_any"] <= fields["lenient_any"]
    assert fields["worst_any"] == held["any_alarm"].max()


def test_the_recorded_order_is_told_apart_from_a_shuffled_one(measured: Run) -> None:
    table = alarm_views.recorded_order(measured)
    first = table[table["p"] == 0.01].set_index("order")
    assert first["series"].to_dict() == {"as they came": 60, "shuffled": 60 * alarms.SHUFFLES}


def test_a_larger_step_over_less_noise_is_found_more_often(measured: Run) -> None:
    table = alarm_views.power(measured)
    assert table["series"].unique().tolist() == [SMALL.planted]
    found = table[table["asked"] == "as shipped"].set_index(["before", "noise", "step"])["found"]
    assert found[5, 0.01, 0.10] == 1.0
    assert found[5, 0.01, 0.10] >= found[5, 0.01, 0.03] > found[5, 0.04, 0.03]
    assert found[5, 0.02, 0.05] >= found[3, 0.02, 0.05]
    assert alarm_views.found(table, before=5, after=5, noise=0.01, step=0.10, asked="as shipped") == 1.0
    assert alarm_views.found(table, before=9, after=9, noise=0.01, step=0.10) is None
    curves = alarm_views.curves(table)
    assert curves["panel"].unique().tolist() == ["noise 1%", "noise 2%", "noise 4%"]
    assert set(curves["line"]) == {"3 + 3 runs", "5 + 5 runs"}


def test_two_runs_show_false_alarms_and_power_with_intervals(measured: Run) -> None:
    rng = np.random.default_rng(3)
    points = [Point({"what": "cell", "nth": nth, "round": turn}, "ok", samples={"ttft_s": [float(np.exp(rng.normal(0, 0.005)))]})
              for nth in range(20) for turn in range(8)]  # fmt: skip
    table = alarm_views.two_runs([filled(measured.path.parents[2], points, notebook="11_llm_throughput")], trials=40)
    drawn: dict[Any, Any] = table[table["dealt"] == "drawn"].set_index("planted")["found"].to_dict()
    assert drawn[0.0] <= 0.1
    assert drawn[0.10] == 1.0
    shown = alarm_views.shown_two_runs(table)
    assert shown["planted"].iloc[0].startswith("nothing")
    assert set(shown["trials"]) == {40}


def test_limits_of_an_untouched_machine_in_numbers() -> None:
    assert alarm_views.limit_pairs([]) == {"pairs": 0, "by_repeats": 0, "with_drift": 0, "largest": None}


def test_the_recorded_outcomes_hold_what_is_promised() -> None:
    """What the repository says of Otava, on draws other than those its p was chosen on."""
    if (run := thresholds.known()) is None:
        pytest.skip("no run of 90_verdict is recorded")
    table = alarm_views.false_alarms(run)
    held = table[(table["noise"] == alarms.OURS) & (table["asked"] == "calibrated")]
    assert (held["any_lo"] <= compare.PROMISED).all()
    shipped = table[(table["noise"] == alarms.OURS) & (table["asked"] == "as shipped")]
    assert (shipped["any_lo"] > compare.PROMISED).all()
    assert isinstance(held, pd.DataFrame)
    assert len(held) == len(shipped) == len(alarms.LENGTHS)
