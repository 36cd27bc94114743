"""What is called a change is one, on runs made by hand; and what is random noise is called one no oftener than promised."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx
from scipy import stats as scipy_stats
from typer.testing import CliRunner

from lib import compare, moderated, record
from lib.__main__ import app
from lib.home import REFERENCE
from lib.record import NotComparable, Point, Run

HERE = {"machine_id": "epyc-2c-abc123", "stack_id": "s1", "packages": {"vLLM": "0.32.0"}, "python": "3.11.7"}


def run(root: Path, points: Sequence[Point], *, notebook: str = "10_llm_latency", utc: str = "2026-11-23T11:00:00Z",
        environment: Mapping[str, Any] = HERE, method: int | None = None) -> Run:  # fmt: skip
    made = record.begin(notebook, parameters={"profile": "quick"}, environment=environment, root=root, fresh=True)
    header = json.loads((made.path / "run.json").read_text())
    header |= {"utc": utc, "git": {"sha": "0" * 40, "dirty": False}, "method": method or header["method"]}
    (made.path / "run.json").write_text(json.dumps(header))
    with (made.path / "points.jsonl").open("w") as lines:
        lines.writelines(json.dumps({name: getattr(point, name) for name in Point.__slots__}) + "\n" for point in points)
    return record.load(made.path)


def rounds(what: str, *values: float, **setting: Any) -> list[Point]:
    """A cell of one sample in each of as many rounds."""
    return [Point({"what": "cell", **setting, "round": turn}, "ok", samples={what: [value]}) for turn, value in enumerate(values)]


def noisy(rng: np.random.Generator, centre: float, noise: float, n: int = 6) -> list[float]:
    return [float(v) for v in centre * np.exp(rng.normal(0, noise, n))]


def family(seed: int, *, slow: Mapping[str, float] | None = None, n: int = 6, cells: int = 20) -> list[Point]:
    """Cells of ttft_s about 0.2 s with 1 % noise; `slow`: how many times as long some of them take."""
    rng = np.random.default_rng(seed)
    return [point for name in map(str, range(cells))
            for point in rounds("ttft_s", *noisy(rng, 0.2 * (slow or {}).get(name, 1.0), 0.01, n), cell=name)]  # fmt: skip


# --- the statistics ---


def test_holm_on_an_example_worked_by_hand() -> None:
    """0.005 × 4, 0.01 × 3, 0.03 × 2, and the last is no less than the one before."""
    assert moderated.holm(np.array([0.01, 0.04, 0.03, 0.005])) == approx([0.03, 0.06, 0.06, 0.02])
    assert len(moderated.holm(np.array([]))) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_holm_keeps_the_order_and_lies_between_one_test_and_bonferroni(p: list[float]) -> None:
    values = np.array(p)
    adjusted = moderated.holm(values)
    assert (adjusted >= values - 1e-15).all()
    assert (adjusted <= np.minimum(1, len(p) * values) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(values, kind="stable")]) >= 0).all()


@given(st.floats(1e-3, 1e3))
def test_the_inverse_of_trigamma(x: float) -> None:
    from scipy.special import polygamma

    assert polygamma(1, moderated.trigamma_inverse(x)) == approx(x, rel=1e-6)


def test_the_prior_finds_what_the_variances_were_drawn_from() -> None:
    """Scaled inverse chi-square of 8 degrees of freedom around 0.01²; then all alike; then too few to tell."""
    rng = np.random.default_rng(1)
    true = 8 * 1e-4 / rng.chisquare(8, 4000)
    dof = np.full(4000, 6.0)
    drawn = true * rng.chisquare(6, 4000) / 6
    found = moderated.prior(drawn, dof)
    assert found.dof == approx(8, rel=0.15)
    assert found.variance == approx(1e-4, rel=0.05)
    alike = moderated.prior(np.full(50, 1e-4), np.full(50, 6.0))
    assert alike.dof == float("inf")
    assert moderated.prior(np.array([1e-4, 1e-4, 0.0]), np.full(3, 6.0)).dof == 0


def test_a_test_that_borrows_from_nobody_is_students() -> None:
    a, b = [np.array(v) for v in ([1.0, 1.2, 0.9, 1.1], [1.3, 1.5, 1.2])]
    tests = moderated.judged(moderated.shifts([a, b], [b, a], ["x", "y"]))
    told = scipy_stats.ttest_ind(b, a)
    assert tests.p == approx([told.pvalue, told.pvalue])
    assert tests.shift == approx([b.mean() - a.mean(), a.mean() - b.mean()])
    ends = told.confidence_interval(0.95)
    half = scipy_stats.t.ppf(0.975, tests.dof[0]) * tests.error[0]
    assert (tests.shift[0] - half, tests.shift[0] + half) == approx((ends.low, ends.high))


def test_borrowing_makes_a_lucky_variance_larger_and_never_a_large_one_smaller() -> None:
    variances, dof = np.array([1e-8, 1e-4, 1.2e-4, 0.9e-4, 1e-2]), np.full(5, 4.0)
    shrunk, worth = moderated.moderated(variances, dof, ["a"] * 5)
    assert shrunk[0] > 10 * variances[0]
    assert (shrunk >= variances).all()
    assert (worth > dof).all()
    assert (worth <= dof.sum()).all()
    apart, own = moderated.moderated(variances, dof, list("abcde"))
    assert (apart == variances).all()
    assert (own == dof).all()


def test_where_nothing_varies_equal_is_certain_and_so_is_different() -> None:
    same, other = np.full(3, np.log(7.0)), np.full(3, np.log(8.0))
    tests = moderated.judged(moderated.shifts([same, same], [same, other], ["x", "x"]))
    assert tests.p.tolist() == [1.0, 0.0]


def test_a_single_repeat_is_refused() -> None:
    with pytest.raises(ValueError, match="single repeat"):
        moderated.shifts([np.array([1.0])], [np.array([1.0, 2.0])], ["x"])


# --- repeats ---


def test_a_repeat_is_the_median_of_a_round_without_its_warm_up_and_only_of_quantities(tmp_path: Path) -> None:
    samples = {"ttft_s": [9.0, 1.0, 2.0, 6.0], "sent_s": [0, 1, 2, 3], "output_tokens": [4, 4, 4, 4], "error": [None] * 4}
    points = [Point({"what": "cell", "round": 0}, "ok", samples=samples, facts={"warmup": 1}),
              Point({"what": "cell", "round": 1}, "ok", samples={"ttft_s": [9.0, None, 3.0]}, facts={"warmup": 1}),
              Point({"what": "cell", "round": 2}, "invalid", "8 quiet: busy", {"ttft_s": [50.0]})]  # fmt: skip
    assert compare.repeats(run(tmp_path, points)) == {('{"what":"cell"}', "ttft_s"): (2.0, 3.0)}


def test_what_was_measured_in_one_go_is_cut_into_blocks(tmp_path: Path) -> None:
    points = [Point({"what": "ceiling"}, "ok", samples={"seconds": [float(v) for v in range(1, 81)]}),
              Point({"what": "few"}, "ok", samples={"s": [3.0, 1.0]})]  # fmt: skip
    found = compare.repeats(run(tmp_path, points))
    assert found['{"what":"ceiling"}', "seconds"] == tuple(10 * block + 5.5 for block in range(8))
    assert found['{"what":"few"}', "s"] == (3.0, 1.0)


# --- a comparison ---


def test_a_planted_change_is_found_with_its_size_and_nothing_else_is(tmp_path: Path) -> None:
    before, after = run(tmp_path, family(1)), run(tmp_path, family(2, slow={"3": 1.10, "7": 0.92}))
    table = compare.compare(before, after)
    assert len(table) == 20
    found = {row["point"]: row for row in table.to_dict("records") if row["verdict"] != "same"}
    assert {name: row["verdict"] for name, row in found.items()} == {"cell, cell 3": "slower", "cell, cell 7": "faster"}
    slower = found["cell, cell 3"]
    assert slower["lo"] < 0.10 < slower["hi"]
    assert slower["change"] == approx(0.10, abs=0.03)
    assert slower["after"] / slower["before"] == approx(1.10, abs=0.03)
    assert slower["repeats"] == "6, 6"
    assert 0 < slower["noise"] < 0.06
    assert slower["p"] < slower["p_holm"] <= compare.ALPHA
    assert 0.01 < slower["seen_from"] < slower["change"]
    assert max(abs(row["change"]) for row in table.to_dict("records") if row["verdict"] == "same") < 0.03
    assert table.attrs["drift"] is None


def test_a_certain_change_of_no_size_is_no_news(tmp_path: Path) -> None:
    steady = [rounds("rss_bytes", *(size + turn for turn in range(4)), n=0) for size in (10**9, 10**9 + 10**6)]
    table = compare.compare(run(tmp_path, steady[0]), run(tmp_path, steady[1]))
    assert table["p_holm"].iloc[0] < 1e-6
    assert table["verdict"].tolist() == ["same"]
    assert compare.compare(run(tmp_path, steady[0]), run(tmp_path, steady[1]), least=0.0005)["verdict"].tolist() == ["more"]


@pytest.mark.parametrize(("what", "grows", "shrinks"), [
    ("ttft_s", "slower", "faster"), ("latency_ms", "slower", "faster"), ("seconds", "slower", "faster"),
    ("requests_per_s", "faster", "slower"), ("rss_bytes", "more", "less"),
])  # fmt: skip
def test_a_verdict_knows_what_is_better(what: str, grows: str, shrinks: str, tmp_path: Path) -> None:
    low, high = (run(tmp_path, rounds(what, *(centre * v for v in (1.0, 1.01, 0.99, 1.0)))) for centre in (1.0, 1.5))
    assert compare.compare(low, high)["verdict"].tolist() == [grows]
    assert compare.compare(high, low)["verdict"].tolist() == [shrinks]


def test_what_cannot_be_tested_is_a_row_that_says_why(tmp_path: Path) -> None:
    both = rounds("ttft_s", 0.2, 0.21, 0.2, n="both")
    three = (1.0, 1.0, 1.1)
    first = run(tmp_path, [*both, *rounds("ttft_s", *three, n="gone"), *rounds("ttft_s", *three, n="twice"),
                           *rounds("ttft_s", 0.0, 1.0, 1.0, n="zero"), *rounds("ttft_s", *three, n="broke")])  # fmt: skip
    second = run(tmp_path, [*both, *rounds("ttft_s", 1.0, 2.0, n="twice"), *rounds("ttft_s", *three, n="zero"),
                            *rounds("ttft_s", *three, n="new"),
                            Point({"what": "cell", "n": "broke", "round": 0}, "failed", "the server died")])  # fmt: skip
    table = compare.compare(first, second).set_index("point")
    assert table.loc["cell, n both", "verdict"] == "same"
    why = {name.rpartition(" ")[2]: reason for name, reason in table["why"].items() if reason}
    assert why == {"gone": f"not in {second.run_id}", "new": f"not in {first.run_id}",
                   "twice": "too few repeats to tell their noise: 2 of 3",
                   "zero": "values of zero or below have no ratio", "broke": f"failed in {second.run_id}: the server died"}
    assert table["verdict"].isna().sum() == 5
    assert "not tested: 1, for failed in" in compare.told(first, second, compare.compare(first, second))


def test_runs_with_nothing_in_common_have_no_verdict(tmp_path: Path) -> None:
    table = compare.compare(run(tmp_path, rounds("ttft_s", 1.0, 1.1, n=1)), run(tmp_path, rounds("ttft_s", 1.0, 1.1, n=2)))
    assert table["verdict"].isna().all()
    assert len(table) == 2
    assert list(compare.compare(run(tmp_path, []), run(tmp_path, [])).columns) == compare.COLUMNS


def test_runs_that_no_ratio_may_join_are_refused(tmp_path: Path) -> None:
    one = run(tmp_path, family(1, cells=2))
    for other, why in ((run(tmp_path, [], environment={**HERE, "machine_id": "xeon"}), "across machine_ids"),
                       (run(tmp_path, [], method=99), "across methods"),
                       (run(tmp_path, [], notebook="11_llm_throughput"), "different things")):  # fmt: skip
        with pytest.raises(NotComparable, match=why):
            compare.compare(one, other)
    with pytest.raises(ValueError, match="with itself"):
        compare.compare(one, one)


def test_the_history_is_of_one_notebook_and_machine_and_the_newest_other_is_meant(tmp_path: Path) -> None:
    old, mine, new = (run(tmp_path, [], utc=f"2026-11-2{day}T00:00:00Z") for day in (1, 2, 3))
    run(tmp_path, [], utc="2026-11-29T00:00:00Z", environment={**HERE, "machine_id": "xeon"})
    run(tmp_path, [], utc="2026-11-29T00:00:00Z", notebook="11_llm_throughput")
    newest = [compare.newest_other(one, roots=(tmp_path,)) for one in (old, mine, new)]
    assert [one.run_id if one else None for one in newest] == [new.run_id, new.run_id, mine.run_id]
    assert compare.newest_other(mine, roots=(tmp_path / "elsewhere",)) is None


def test_what_is_unlike_is_told(tmp_path: Path) -> None:
    old, new = run(tmp_path, []), run(tmp_path, [], environment={**HERE, "packages": {"vLLM": "0.33.0"}})
    assert compare.unlike(old, new) == ["vLLM 0.32.0 → 0.33.0"]
    assert compare.unlike(old, replace(new, environment=old.environment)) == []


# --- the command line ---


def test_the_command_says_what_changed_and_ends_accordingly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, slow = run(tmp_path, family(1)), run(tmp_path, family(2, slow={"3": 1.10}), utc="2026-11-24T00:00:00Z")
    done = CliRunner().invoke(app, ["compare", str(before.path), str(slow.path)])
    assert done.exit_code == 1
    assert "1 of 20 quantities changed beyond the noise" in done.stdout
    assert "  slower: +" in done.stdout
    assert "cell, cell 3" in done.stdout
    assert "one that is slower today looks like a change" in done.stdout  # these runs have no limits of their machine
    assert CliRunner().invoke(app, ["compare", str(slow.path), str(before.path)]).exit_code == 0  # faster is no alarm
    monkeypatch.setattr(compare, "newest_other", lambda one: before if one.run_id == slow.run_id else None)
    assert CliRunner().invoke(app, ["compare", str(slow.path)]).stdout == done.stdout  # the older one comes first
    alone = CliRunner().invoke(app, ["compare", str(before.path)])
    assert (alone.exit_code, "is the only run of 10_llm_latency" in alone.stdout) == (0, True)


def test_the_command_refuses_what_cannot_be_compared(tmp_path: Path) -> None:
    one, other = run(tmp_path, []), run(tmp_path, [], environment={**HERE, "machine_id": "xeon"})
    for words in ([str(one.path), str(other.path)], [str(tmp_path / "nowhere")]):
        assert CliRunner().invoke(app, ["compare", *words]).exit_code == 2


# --- the machine's drift ---


def limits(rng: np.random.Generator, *shifts: float, noise: float = 0.002) -> list[Point]:
    """Limits of a machine, eight blocks of one sample each, that much slower than 10 ms."""
    return [Point({"what": "ceiling", "name": str(i)}, "ok", samples={"seconds": noisy(rng, 0.01 * (1 + shift), noise, 8)})
            for i, shift in enumerate(shifts)]  # fmt: skip


def test_what_the_machine_itself_shifted_is_noise_for_all_others(tmp_path: Path) -> None:
    """All is 8 % slower, and so is the machine; one cell is twice as slow. By rounds alone, everything is a change."""
    rng = np.random.default_rng(1)
    before = run(tmp_path, [*limits(rng, 0, 0, 0, 0, 0), *family(1)])
    slow = {**dict.fromkeys(map(str, range(20)), 1.08), "3": 2.0}
    after = run(tmp_path, [*limits(rng, 0.07, 0.09, 0.08, 0.10, 0.06), *family(2, slow=slow)])
    table = compare.compare(before, after)
    assert table.attrs["drift"] == approx(0.08, abs=0.03)
    assert table[table["verdict"] == "slower"]["point"].tolist() == ["cell, cell 3"]
    assert (table["verdict"] == "same").sum() == 19
    assert table[table["why"] == compare.LIMIT]["change"].tolist() == approx([0.07, 0.09, 0.08, 0.10, 0.06], abs=0.01)
    assert "the machine's own limits drifted by" in compare.told(before, after, table)
    blind = [run(tmp_path, [p for p in one.points() if p.setting["what"] != "ceiling"]) for one in (before, after)]
    assert (compare.compare(*blind)["verdict"] == "slower").sum() == 20


def test_a_machine_that_stood_still_adds_nothing(tmp_path: Path) -> None:
    before, after = (run(tmp_path, [*limits(np.random.default_rng(seed), 0, 0, 0, 0), *family(seed)]) for seed in (1, 2))
    assert compare.compare(before, after).attrs["drift"] < 0.003
    few = [run(tmp_path, [*limits(np.random.default_rng(seed), 0, 0), *family(seed)]) for seed in (1, 2)]
    assert compare.compare(*few).attrs["drift"] is None  # two limits tell no drift


def test_drift_is_what_errors_do_not_explain_and_blind_to_one_that_stands_out() -> None:
    rng = np.random.default_rng(2)
    error, dof = np.exp(rng.normal(-4, 1, 3000)), np.full(3000, 30.0)
    explained = moderated.Shifts(error * rng.normal(0, 1, 3000), error, dof)
    assert moderated.drift(explained).size < 0.2 * np.median(error)
    drifted = explained.by(rng.normal(0, 0.05, 3000))
    assert moderated.drift(drifted).size == approx(0.05, rel=0.05)
    assert moderated.drift(drifted.by(np.eye(3000)[0] * 50)).size == approx(0.05, rel=0.05)
    assert moderated.drift(drifted.of(error < 0)) == moderated.STILL


def test_limits_of_an_untouched_machine_raise_alarms_by_repeats_and_not_with_its_drift(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    days = [run(tmp_path, limits(rng, *rng.normal(0, 0.05, 6)), notebook=f"1{day}") for day in range(4)]
    other = run(tmp_path, limits(rng, *rng.normal(0, 0.05, 6)), environment={**HERE, "machine_id": "xeon"})
    told = compare.untouched([*days, other])
    assert len(told) == 6  # pairs of one machine
    assert told["by_repeats"].all()
    assert not told["with_drift"].any()
    assert (told["largest"] > 0.03).all()


# --- calibration ---


def found(told: pd.DataFrame, planted: float, *, dealt: str = "drawn", noise: float = np.inf) -> float:
    rows = told[(told["dealt"] == dealt) & (told["planted"] == planted) & (told["noise"] == noise)]
    return float(rows["found"].item())


def test_no_more_false_alarms_than_promised_and_a_slow_down_is_found(tmp_path: Path) -> None:
    """Forty quantities of 0.5 % noise, eight rounds."""
    rng = np.random.default_rng(5)
    points = [p for i in range(40) for p in rounds("ttft_s", *noisy(rng, 0.2, 0.005, 8), cell=i)]
    told = compare.calibrate([run(tmp_path, points)], trials=100)
    assert max(found(told, 0.0), found(told, 0.0, dealt="halves")) <= compare.PROMISED
    assert found(told, 0.05, noise=0.02) >= 0.95
    assert found(told, 0.10, noise=0.02, dealt="halves") == 1.0
    assert told["tests"].unique().tolist() == [40]


def test_a_test_that_does_not_correct_for_many_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moderated, "holm", lambda p: p)
    told = compare.calibrate([run(tmp_path, family(5, n=8, cells=40))], trials=60)
    assert found(told, 0.0) > 0.3


@pytest.mark.parametrize("n", [3, 4, 6])
def test_rounds_too_few_to_be_dealt_raise_no_more_alarms_where_noise_differs_from_cell_to_cell(n: int) -> None:
    """Noise drawn anew, log-normal in size: what drawing from three recorded rounds cannot show. Student's t alone, or a borrowed variance
    without the quantity's own, would not do it."""
    rng = np.random.default_rng(3)
    alarms = 0
    for _ in range(120):
        sizes = 0.02 * np.exp(rng.normal(0, 1, 40))
        before, after = ([size * rng.normal(0, 1, n) for size in sizes] for _ in range(2))
        tests = moderated.judged(moderated.shifts(before, after, ["ttft_s"] * 40))
        alarms += any(compare.news(tests, compare.ALPHA, compare.LEAST))
    assert alarms / 120 <= compare.PROMISED


def test_calibration_is_seeded_and_passes_over_what_cannot_be_dealt(tmp_path: Path) -> None:
    few = (1.0, 1.01, 1.02, 1.0, 0.99)
    made = run(tmp_path, [*family(5, n=6, cells=5), *rounds("ttft_s", *few, n="few"), *rounds("ttft_s", *few, 0.0, n="zero")])
    once, again = (compare.calibrate([made], trials=10) for _ in range(2))
    assert once.equals(again)
    assert not once.equals(compare.calibrate([made], trials=20, seed=1))
    assert once["tests"].unique().tolist() == [5]
    assert compare.calibrate([run(tmp_path, [])], trials=20).empty


def test_pooled_counts_every_trial_alike(tmp_path: Path) -> None:
    told = compare.calibrate([run(tmp_path, family(seed, n=8, cells=10)) for seed in (1, 2)], trials=30)
    row = compare.pooled(told).set_index(["dealt", "planted", "noise"]).loc[("drawn", 0.0, np.inf)]
    assert (row["trials"], row["runs"]) == (60, 2)
    each = told[(told["dealt"] == "drawn") & (told["planted"] == 0.0)]["found"]
    assert row["found"] == approx(each.mean())
    assert row["lo"] <= each.mean() <= row["hi"]


def test_on_recorded_runs_the_promises_hold() -> None:
    runs = [record.load(path.parent) for path in sorted(REFERENCE.glob("[0-9]*/*/*/run.json"))]
    told = compare.pooled(compare.calibrate(runs, trials=100, planted=(0.05,)))
    assert max(found(told, 0.0), found(told, 0.0, dealt="halves")) <= compare.PROMISED
    assert found(told, 0.05, noise=0.02) >= 0.95
    days = compare.untouched(runs)
    assert days["with_drift"].sum() <= 0.2 * len(days) < days["by_repeats"].sum()
