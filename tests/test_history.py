"""Histories are of one machine and one method, in order; what is called a change is one, and what cannot be told says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pytest import approx
from typer.testing import CliRunner

from lib import history, install, multiples, otava, record, thresholds
from lib.__main__ import app
from lib.history import History
from lib.measured import Broke, Skipped
from lib.record import NotComparable, Point, Run

HERE = {"machine_id": "epyc-2c-abc123", "stack_id": "s1", "packages": {}, "python": "3.11.7"}
RATES = pd.DataFrame([{"runs": runs, "p": p, "series": 10_000, "alarmed": 8 * p * worse, "lo": 4 * p * worse, "hi": 9.6 * p * worse}
                      for runs, worse in ((6, 1), (10, 3)) for p in (1e-2, 1e-3, 1e-4)])  # fmt: skip


def run(root: Path, day: int, points: Sequence[Point], *, notebook: str = "10_llm_latency", environment: Mapping[str, Any] = HERE,
        method: int | None = None) -> Run:  # fmt: skip
    made = record.begin(notebook, parameters={}, environment=environment, root=root, fresh=True)
    header = json.loads((made.path / "run.json").read_text())
    header |= {"utc": f"2026-11-{day:02}T00:00:00Z", "git": {"sha": "0" * 40, "dirty": False}, "method": method or header["method"]}
    (made.path / "run.json").write_text(json.dumps(header))
    with (made.path / "points.jsonl").open("w") as lines:
        lines.writelines(json.dumps({name: getattr(point, name) for name in Point.__slots__}) + "\n" for point in points)
    return record.load(made.path)


def cell(value: float, *, what: str = "ttft_s", n: int = 8, **setting: Any) -> list[Point]:
    """`n` rounds about `value`."""
    return [Point({"what": "cell", **setting, "round": turn}, "ok", samples={what: [value * (1 + 0.001 * turn)]}) for turn in range(n)]


def limit(value: float) -> list[Point]:
    return [Point({"what": "ceiling", "name": "matmul"}, "ok", samples={"seconds": [value] * 8})]


def series(*medians: float, name: str = "a", what: str = "ttft_s") -> History:
    unknown = (None,) * len(medians)
    return History((json.dumps({"what": name}), what), tuple(f"run {nth}" for nth in range(len(medians))), medians, unknown, unknown)


# --- what a history is ---


def test_medians_come_in_the_order_of_time_with_intervals_where_repeats_carry_one(tmp_path: Path) -> None:
    later, first = run(tmp_path, 3, cell(0.3)), run(tmp_path, 2, [*cell(0.2), *cell(1.0, n=3, size=8)])
    found = {one.point: one for one in history.history([later, first])}
    both, once = found["cell"], found["cell, size 8"]
    assert both.at == (first.run_id, later.run_id)
    assert both.medians == approx((0.2006, 0.3009))
    assert (both.lo[0], both.hi[0]) == approx((0.2, 0.2014))
    assert (once.at, once.lo) == ((first.run_id,), (None,))  # three rounds carry no 95 %


def test_a_run_that_lacks_a_quantity_is_left_out_of_its_history_alone(tmp_path: Path) -> None:
    failed = [Point({"what": "cell", "round": 0}, "failed", "the server died")]
    runs = [run(tmp_path, 1, cell(0.2)), run(tmp_path, 2, [*failed, *limit(1.0)]), run(tmp_path, 3, cell(0.2))]
    found = {one.point: len(one.at) for one in history.history(runs)}
    assert found == {"cell": 2, "ceiling, name matmul": 1}


def test_runs_that_no_history_may_join_are_refused(tmp_path: Path) -> None:
    one = run(tmp_path, 1, limit(1.0))
    for other, why in ((run(tmp_path, 2, [], environment={**HERE, "machine_id": "xeon"}), "across machine_ids"),
                       (run(tmp_path, 2, [], method=99), "across methods")):  # fmt: skip
        for joined in (history.history, history.limits):
            with pytest.raises(NotComparable, match=why):
                joined([one, other])
    elsewhere = run(tmp_path, 2, [*limit(1.1), *cell(0.2)], notebook="11_llm_throughput")
    with pytest.raises(NotComparable, match="different things"):
        history.history([one, elsewhere])
    assert [(found.point, found.medians) for found in history.limits([one, elsewhere])] == [("ceiling, name matmul", (1.0, 1.1))]


def test_within_a_run_the_rounds_are_a_history(tmp_path: Path) -> None:
    found = history.repeats(run(tmp_path, 1, cell(0.2, n=4)))
    assert [(one.at[:2], one.medians) for one in found] == [(("repeat 1", "repeat 2"), approx((0.2, 0.2002, 0.2004, 0.2006)))]


def test_machines_and_methods_stand_apart_and_a_promoted_run_counts_once(tmp_path: Path) -> None:
    here, there = tmp_path / "runs", tmp_path / "reference"
    first, second = run(here, 2, []), run(there, 1, [])
    run(here, 1, [], environment={**HERE, "machine_id": "xeon"})
    run(here, 1, [], method=99)
    record.shutil.copytree(first.path, there / first.notebook / first.machine_id / first.run_id)
    found = history.machines("10_llm_latency", roots=(here, there, tmp_path / "none"))
    assert {group[1:]: [one.run_id for one in runs] for group, runs in found.items()}[HERE["machine_id"], record.METHOD] == [
        second.run_id, first.run_id]  # fmt: skip
    assert len(found) == 3
    assert history.machines("11_llm_throughput", roots=(here, there)) == {}


def test_the_longest_history_is_the_machine_whose_limits_were_measured_most(tmp_path: Path) -> None:
    once = run(tmp_path, 1, limit(1.0), environment={**HERE, "machine_id": "xeon"})
    others = [run(tmp_path, day, cell(1.0), environment={**HERE, "machine_id": "xeon"}) for day in (2, 3, 4)]
    twice = [run(tmp_path, day, limit(1.0), notebook=str(day)) for day in (1, 2)]
    assert history.longest([once, *others, *twice]) == twice
    assert history.longest([]) == []
    nothing = history.changes([], RATES)
    assert history.verdict(nothing) == {"n": None, "runs": None, "changed": None, "spread": None}
    assert history.shown(nothing).empty


def test_a_frame_is_relative_to_the_first_run() -> None:
    table = history.frame([History(("{}", "s"), ("x", "y"), (2.0, 3.0), (1.0, None), (4.0, None))])
    keys = [(json.dumps({"what": "ceiling", "device": "cpu", "name": name}), "s") for name in "mn"]
    cores = [History(key, ("x",), (1.0,), (None,), (None,)) for key in keys]
    assert history.frame(cores)["panel"].tolist() == ["m", "n"]
    assert table[["nth", "at", "median"]].values.tolist() == [[1, "x", 1.0], [2, "y", 1.5]]
    assert table[["lo", "hi"]].iloc[0].tolist() == [0.5, 2.0]
    assert table[["lo", "hi"]].iloc[1].isna().all()


# --- thresholds ---


def test_the_p_is_the_most_lenient_that_keeps_a_family_quiet() -> None:
    """5 % shared by 5 is 1 %: of six runs 0.96 % alarm at most at p = 0.001, of ten runs 2.9 %, so those have to be asked more strictly."""
    assert thresholds.threshold(RATES, runs=6, series=5) == 1e-3
    assert thresholds.threshold(RATES, runs=10, series=5) == 1e-4
    assert thresholds.threshold(RATES, runs=8, series=5) == 1e-4  # between two lengths the stricter
    assert thresholds.threshold(RATES, runs=90, series=5) == 1e-4
    assert thresholds.threshold(RATES, runs=6, series=1) == 1e-3


@pytest.mark.parametrize(("runs", "many"), [(5, 1), (6, 0), (6, 60), (0, 1)])
def test_no_p_is_guessed(runs: int, many: int) -> None:
    assert thresholds.threshold(RATES, runs=runs, series=many) is None
    assert thresholds.threshold(RATES[:0], runs=6, series=1) is None


def test_a_rate_that_falls_back_is_not_trusted_below_it() -> None:
    """More alarms at a stricter p are luck of the draw: only a p from which on all is quiet counts."""
    rates = RATES.copy()
    rates.loc[(rates["runs"] == 6) & (rates["p"] == 1e-4), "hi"] = 0.5
    assert thresholds.threshold(rates, runs=6, series=5) is None


# --- changes ---


def quiet(series: Sequence[Sequence[float]], p: Sequence[float]) -> list[tuple[otava.Step, ...]]:
    """Otava's place: a step where a series doubles."""
    assert len(series) == len(p)
    return [tuple(otava.Step(at, values[at - 1], values[at], 1e-9) for at in range(1, len(values)) if values[at] >= 2 * values[at - 1])
            for values in series]  # fmt: skip


def test_a_change_is_told_with_its_run_and_size_and_the_rest_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otava, "steps", quiet)
    histories = [series(1, 1, 1, 1, 2, 2), series(*[1.0] * 6, name="b"), series(1, name="once"), series(1, 2, name="short"),
                 series(0, 1, 1, 1, 1, 1, name="zero"), series(1, 1, 4, 4, 8, 8, name="twice", what="rate_per_s")]  # fmt: skip
    table = history.changes(histories, RATES).set_index("point")
    assert table["verdict"].to_dict() == {"a": "slower", "b": "same", "once": None, "short": None, "zero": None, "twice": "faster"}
    assert table.loc["a", ["changed_at", "change", "p", "spread"]].tolist() == ["run 4", 1.0, 1e-3, 1.0]
    assert table.loc["twice", "changed_at"] == "run 4"
    steps = [list(step.values()) for step in table.attrs["steps"]]
    assert steps == [["a, ttft_s", 5, 1.0, "+100%"], ["twice, rate_per_s", 3, 3.0, "+300%"], ["twice, rate_per_s", 5, 1.0, "+100%"]]
    assert table.loc["once", "why"] == history.ALONE
    assert "2 runs are too few" in table.loc["short", "why"]
    assert "no ratio" in table.loc["zero", "why"]
    assert history.verdict(table) == {"n": 3, "runs": 6, "changed": 2, "spread": 7.0}
    shown = history.shown(table.reset_index()).set_index("setting")["since, or why"]
    assert shown[["a", "b", "once"]].tolist() == ["+100.0% since run 4", "", history.ALONE]
    said = history.told("Here", table.reset_index())
    assert said.startswith("Here: 2 of 3 quantities changed for good over 6 runs")
    assert "slower  +100.0% since run 4" in said
    assert "not tested: 1, for one run: there is nothing to compare it with" in said


def test_a_long_history_is_read_from_its_newest_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otava, "steps", quiet)
    long = series(*[1.0] * 50, 2.0)
    row = history.changes([long], RATES).iloc[0]
    assert (row["changed_at"], row["runs"]) == ("run 50", 51)
    assert history.changes([long], RATES).attrs["steps"][0]["nth"] == 51


def test_without_otava_or_without_outcomes_on_noise_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    six = [series(*[1.0] * 6)]
    for error in (Skipped("Apache Otava is not built on this machine yet"), Broke("Apache Otava: ended with status 1")):
        monkeypatch.setattr(otava, "steps", lambda *_, error=error: (_ for _ in ()).throw(error))
        table = history.changes([*six, series(1.0, name="once")], RATES)
        assert table[["verdict", "why"]].values.tolist() == [[None, str(error)], [None, history.ALONE]]
    monkeypatch.setattr(otava, "steps", quiet)
    assert history.changes(six, RATES[:0])["why"].tolist() == [history.UNTRIED]
    assert history.changes(six * 60, RATES)["why"].unique().tolist() == ["more series than Otava was tried on"]
    assert history.changes(six, RATES[:0], p=0.001)["verdict"].tolist() == ["same"]  # asked for as it is, whatever it is worth
    assert history.told("Here", history.changes([], RATES)) == "Here: no history can be judged"


# --- Otava ---


@pytest.mark.parametrize("values", [[1.0, None, 1.0], [1.0, float("nan")], [1.0, float("inf")], [1.0, 0.0], [-1.0], []])
def test_a_series_with_a_gap_is_refused(values: list[float | None]) -> None:
    with pytest.raises(ValueError, match="leave out a run"):
        otava.steps([[1.0, 1.0], values], [0.001, 0.001])


def test_an_otava_that_is_not_there_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "find", lambda name: install.Missing(name, "not built"))
    assert otava.steps([], []) == []
    with pytest.raises(Skipped, match="not built"):
        otava.steps([[1.0, 1.0]], [0.001])


def test_otava_itself() -> None:
    if isinstance(there := install.find("otava"), install.Missing):
        pytest.skip(there.reason)
    level, noise = [1.0] * 10, [0.01 * (-1) ** nth for nth in range(40)]
    stepped = [value + shake for value, shake in zip([*level, *[1.1] * 10], noise, strict=False)]
    twice = [value + shake for value, shake in zip([*level * 2, *[1.2] * 20], noise, strict=False)]
    small = [*level, *[1.005] * 10]
    told = otava.steps([stepped, level, [1.0] * 4 + [2.0] * 4, [1.0], [1.0, 2.0], small, twice], [0.001] * 7)
    assert [[step.at for step in found] for found in told] == [[10], [], [4], [], [], [], [20]]  # too small to matter; in a second window
    assert told[0][0].change == approx(0.1, abs=0.003)
    assert told[0][0].p < 1e-6
    assert otava.rungs([stepped, level], (0.01, 0.001, 1e-300)) == [2, 0]


# --- the command line, and how it looks ---


def test_the_command_tells_every_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day, value in enumerate((1, 1, 1, 1, 2, 2), start=1):
        run(tmp_path, day, [*cell(0.2 * value), *limit(1.0)])
    run(tmp_path, 9, cell(0.2), notebook="11_llm_throughput")
    groups = history.machines(roots=(tmp_path,))
    monkeypatch.setattr(history, "machines", lambda: groups)
    monkeypatch.setattr(install, "names", lambda part: [])
    monkeypatch.setattr(otava, "steps", quiet)
    monkeypatch.setattr(thresholds, "rates", lambda known: RATES)
    done = CliRunner().invoke(app, ["history"])
    assert done.exit_code == 0, done.output
    assert "Limits of epyc-2c-abc123 itself, by all notebooks: 0 of 1 quantities changed for good over 6 runs" in done.stdout
    assert "10_llm_latency on epyc-2c-abc123: 1 of 2 quantities changed for good" in done.stdout
    assert "0 of 1 quantities changed beyond the noise" in done.stdout  # the last two runs, by their rounds
    assert f"{history.ALONE}" in done.stdout
    assert "11_llm" not in CliRunner().invoke(app, ["history", "10"]).stdout
    assert CliRunner().invoke(app, ["history", "99"]).exit_code == 2


def test_panels_share_a_scale_and_mark_changes_where_they_are() -> None:
    table = history.frame([series(1, 2, 2), series(1, 1, 1, name="b")])
    marks = [{"panel": "a", "nth": 2, "text": "+100 %"}, {"panel": "gone", "nth": 1, "text": "no"}]
    fig = multiples.panels(table, "panel", "nth", "median", x_title="run", y_title="of the first", marks=marks)
    assert [list(trace.y) for trace in fig.data] == [[1.0, 2.0, 2.0], [1.0, 1.0, 1.0]]
    assert fig.layout.yaxis2.matches == "y"
    assert [(shape.x0, shape.xref) for shape in fig.layout.shapes] == [(2, "x")]
    assert [one.text for one in fig.layout.annotations] == ["a", "b", "+100 %"]
    assert all(value is None for trace in fig.data for value in trace.error_y.array)
    lines = pd.DataFrame({"panel": ["p", "p", "q"], "line": ["u", "v", "u"], "x": [1, 1, 1], "y": [1.0, None, 3.0], "lo": 0.5, "hi": 4.0})
    fig = multiples.panels(lines, "panel", "x", "y", by="line", x_title="", y_title="")
    assert [(trace.name, trace.showlegend) for trace in fig.data] == [("u", True), ("v", True), ("u", False)]
    assert fig.data[0].line.color == fig.data[2].line.color != fig.data[1].line.color
