"""What the ledger says follows from its points: made-up rounds with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lib import figures, measured, record
from lib.measured import Found, Skipped
from lib.pipelines.cost import ledger_views
from lib.pipelines.cost.ledger_forms import FOREST, FORMS, YOLO, named
from lib.pipelines.cost.session import Session
from lib.pipelines.retail import variants
from lib.session import Opened
from lib.vision.boxes import Boxes, none

COLD = {"interpreter": 0.05, "import": 0.2, "load": 0.1, "first": 0.01}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """An empty run on a machine that nothing disturbs."""
    monkeypatch.setattr(measured.audit, "undisturbed", lambda host, cores: None)
    run = record.begin("03_pipeline_cost", parameters={}, environment={"machine_id": "made", "stack_id": "made"}, root=tmp_path)
    return Session(Opened(run, (), None), None)


def put(s: Session, model: str, form: str, ms: list[float], *, per_batch_ms: float = 8.0, start: float = 1.0, wrong: str | None = None,
        series: dict[str, pd.DataFrame] | None = None, n: int = 40, **facts: Any) -> None:  # fmt: skip
    """A round for each of `ms`."""
    one = named(model, form)
    for turn, taken in enumerate(ms):
        samples = {"latency_s": [taken / 1e3] * n, "batch_1_s": [taken / 1e3] * 5, "batch_4_s": [per_batch_ms / 1e3] * 5}
        told = {"kind": one.kind, "engine": one.engine, "precision": one.precision, "file_bytes": 5_000_000, "batches": [1, 4],
                "loaded_bytes": 90_000_000, "used_bytes": 100_000_000, "peak_bytes": 120_000_000,
                "cold_s": {part: start * seconds * (1 + turn) for part, seconds in COLD.items()}, **facts}  # fmt: skip
        found = Found(samples, told, {"1 cold": wrong}, series if turn == 0 else None)
        measured.keep(s.run, {**one.setting, "round": turn}, lambda found=found: found)  # type: ignore[misc]


def skip(s: Session, model: str, form: str, reason: str) -> None:
    def measure() -> Found:
        raise Skipped(reason)

    measured.keep(s.run, {**named(model, form).setting, "round": 0}, measure)


def fine(flips: int = 0) -> dict[str, Any]:
    return {"judged": {"rows": 1000, "flips": flips, "max_probability_difference": 4e-8, "max_margin_difference": 1e-5}}


def classes(*agrees: int, sure: float = 0.9) -> dict[str, Any]:
    n = len(agrees)
    return {"judged": {"agrees": list(agrees), "sure": [sure] * n, "photographs": [f"{place // 2}" for place in range(n)],
                       "logit_off": [0.2] * n, "classes": 3}}  # fmt: skip


def row(s: Session, model: str, form: str) -> dict[str, Any]:
    told = ledger_views.table(s)
    return dict(told[(told["model"] == model) & (told["form"] == form)].iloc[0])


def test_an_empty_run_has_empty_views_and_no_claims(made: Session) -> None:
    assert len(ledger_views.table(made)) == len(ledger_views.losses(made)) == 0
    assert len(ledger_views.cold(made)) == len(ledger_views.ranked(made)) == len(ledger_views.shown(made)) == 0
    assert set(ledger_views.headline(made).values()) == {None}
    with pytest.raises(figures.NotMeasured):
        figures.filled("{model} gains {times:.1f}×", **ledger_views.headline(made))
    assert ledger_views.no_help(made)["cases"] == 0 and ledger_views.no_help(made)["model"] is None


def test_rows_parts_and_ratios_follow_from_the_rounds(made: Session) -> None:
    put(made, FOREST, "LightGBM", [4.0, 4.0, 8.0], **fine())
    put(made, FOREST, "ONNX Runtime fp32", [2.0, 2.0, 4.0], per_batch_ms=4.0, **fine())
    skip(made, FOREST, "ONNX Runtime INT8", "there are no products")
    told = row(made, FOREST, "ONNX Runtime fp32")
    assert (told["p50_ms"], told["n"], told["rounds"], told["p99_ms"]) == (2.0, 120, 3, None)
    assert told["times"] == 2.0 and told["times_lo"] <= 2.0 <= told["times_hi"]
    assert (told["per_s"], told["batch"]) == (pytest.approx(1000), 4)
    assert [told[part] for part in ledger_views.PARTS] == pytest.approx([2 * seconds for seconds in COLD.values()])
    assert told["cold_s"] == pytest.approx(sum(told[part] for part in ledger_views.PARTS))
    assert (told["file_mb"], told["rss_mb"], told["peak_mb"]) == (5, 100, 120)
    assert told["delta"] == "|Δp| ≤ 4e-08, 0 verdicts differ (n = 1,000)" and told["holds"] and told["best"]
    skipped = row(made, FOREST, "ONNX Runtime INT8")
    assert (skipped["status"], skipped["reason"]) == ("skipped", "there are no products") and pd.isna(skipped["p50_ms"])
    other = row(made, FOREST, "tl2cgen")
    assert (other["status"], other["reason"]) == ("not asked", "not part of this profile")
    assert list(ledger_views.table(made)["form"]) == [form.name for form in FORMS if form.model == FOREST]
    assert list(ledger_views.cold(made)["name"]) == ["fraud forest · LightGBM", "fraud forest · ONNX Runtime fp32"]
    assert len(ledger_views.shown(made)) == 3  # what was asked for


def test_a_tail_is_told_of_enough_samples_only(made: Session) -> None:
    put(made, FOREST, "LightGBM", [4.0, 4.0], n=400, **fine())
    assert row(made, FOREST, "LightGBM")["p99_ms"] == 4.0


def test_invalid_points_are_in_no_number_but_their_reason_is_told(made: Session) -> None:
    put(made, FOREST, "LightGBM", [4.0], wrong="the parts do not add up", **fine())
    told = row(made, FOREST, "LightGBM")
    assert (told["status"], told["rounds"]) == ("invalid", 0) and "do not add up" in told["reason"]


def test_the_quickest_is_best_only_if_its_answers_hold(made: Session) -> None:
    put(made, FOREST, "LightGBM", [4.0], **fine())
    put(made, FOREST, "ONNX Runtime fp32", [3.0], **fine())
    put(made, FOREST, "lleaves, compiled", [1.0], **fine(flips=2))
    assert not row(made, FOREST, "lleaves, compiled")["holds"]
    assert row(made, FOREST, "ONNX Runtime fp32")["best"]
    assert ledger_views.headline(made)["form"] == "ONNX Runtime fp32"


def test_the_best_is_the_quickest_over_rounds(made: Session) -> None:
    put(made, FOREST, "LightGBM", [4.0] * 3, **fine())
    put(made, FOREST, "ONNX Runtime fp32", [1.0, 3.0, 3.0], **fine())
    put(made, FOREST, "tl2cgen", [2.0, 2.0, 9.0], **fine())
    assert row(made, FOREST, "tl2cgen")["best"] and not row(made, FOREST, "ONNX Runtime fp32")["best"]


def test_the_headline_is_who_gains_most(made: Session) -> None:
    model = "EfficientNet-Lite0"
    put(made, FOREST, "LightGBM", [4.0] * 3, **fine())
    put(made, FOREST, "ONNX Runtime fp32", [2.0] * 3, **fine())
    put(made, model, "PyTorch", [40.0] * 3, start=10, **classes(1, 1))
    put(made, model, "ONNX Runtime INT8", [8.0] * 3, **classes(1, 1))
    told = ledger_views.headline(made)
    assert (told["model"], told["form"], told["framework"], told["times"], told["n"]) == (model, "ONNX Runtime INT8", "PyTorch", 5.0, 3)
    assert (told["from_ms"], told["to_ms"], told["least_model"], told["least_times"]) == (40.0, 8.0, FOREST, 2.0)
    assert (told["cold_model"], told["cold_times"]) == (model, pytest.approx(10))
    assert told["cold_from_load_s"] == pytest.approx(2 * 10 * COLD["load"])  # of the middle round of three
    assert told["cold_least_times"] == pytest.approx(10 * (sum(COLD.values()) - COLD["load"]) / sum(COLD.values()))
    assert "5.0×" in figures.filled("{model} gains {times:.1f}× ({lo:.1f}–{hi:.1f})", **told)
    assert ledger_views.ranked(made)[["name", "times"]].to_numpy().tolist() == [
        ["fraud forest · ONNX Runtime fp32", 2.0], ["EfficientNet-Lite0 · ONNX Runtime INT8", 5.0]]  # fmt: skip


def test_where_it_does_not_help_is_told_the_worst_first(made: Session) -> None:
    put(made, FOREST, "LightGBM", [4.0] * 3, per_batch_ms=4.0, **fine())
    put(made, FOREST, "ONNX Runtime fp32", [2.0] * 3, per_batch_ms=8.0, **fine())  # quicker alone, slower in batches
    put(made, YOLO, "ONNX Runtime fp32", [20.0] * 3, per_batch_ms=80.0, frames=[])
    put(made, YOLO, "ONNX Runtime INT8", [10.0] * 3, per_batch_ms=40.0, frames=[])
    put(made, YOLO, "ONNX Runtime INT8, signed", [40.0] * 3, per_batch_ms=120.0, frames=[])
    told = ledger_views.losses(made)
    assert told[["model", "form", "against", "what", "times"]].to_numpy().tolist() == [
        [YOLO, "ONNX Runtime INT8, signed", "ONNX Runtime INT8", "one at a time", 0.25],
        [YOLO, "ONNX Runtime INT8, signed", "ONNX Runtime INT8", "in batches", pytest.approx(1 / 3)],
        [FOREST, "ONNX Runtime fp32", "LightGBM", "in batches", 0.5],
    ]
    worst = ledger_views.no_help(made)
    assert (worst["form"], worst["times"], worst["cases"], worst["asked"]) == ("ONNX Runtime INT8, signed", 0.25, 3, 6)


# --- answers ---


def frame(*found: Boxes) -> dict[str, pd.DataFrame]:
    return {"boxes": variants.table(range(len(found)), found)}


def test_boxes_equal_to_the_frameworks_are_f1_of_one_and_missing_ones_are_seen(made: Session) -> None:
    person = Boxes(np.array([[10, 10, 50, 90], [60, 10, 99, 90]], np.float32), np.full(2, 0.9, np.float32), np.zeros(2, np.int32))
    put(made, YOLO, "PyTorch", [40.0], series=frame(person, none()), frames=[0, 1])
    put(made, YOLO, "ONNX Runtime fp32", [20.0], series=frame(person, none()), frames=[0, 1])
    put(made, YOLO, "ONNX Runtime INT8", [10.0], series=frame(person.at(np.array([True, False])), none()), frames=[0, 1])
    assert (row(made, YOLO, "PyTorch")["f1"], row(made, YOLO, "ONNX Runtime fp32")["f1"]) == (1.0, 1.0)
    told = row(made, YOLO, "ONNX Runtime INT8")
    assert told["f1"] == pytest.approx(2 / 3) and not told["holds"] and told["delta"] == "F1 of people 0.667 (n = 2 frames)"
    assert row(made, YOLO, "ONNX Runtime fp32")["best"]


def test_without_the_frameworks_boxes_nothing_is_said_of_them(made: Session) -> None:
    put(made, YOLO, "ONNX Runtime fp32", [20.0], series=frame(none()), frames=[0])
    told = row(made, YOLO, "ONNX Runtime fp32")
    assert told["delta"] == "the framework's own answers are not known" and not told["best"]


def test_what_the_framework_is_unsure_of_does_not_decide(made: Session) -> None:
    facts = classes(1, 1, 1, 0, sure=0.9)
    facts["judged"]["sure"] = [0.9, 0.9, 0.9, 0.2]
    put(made, "EfficientNet-Lite0", "ONNX Runtime INT8", [1.0], **facts)
    put(made, "ResNet-50", "ONNX Runtime INT8", [1.0], **classes(1, 1, 1, 0, sure=0.1))
    told = row(made, "EfficientNet-Lite0", "ONNX Runtime INT8")
    assert (told["top1"], told["top1_sure"], told["n_sure"], bool(told["holds"])) == (0.75, 1.0, 3, True)
    assert told["delta"] == "top-1 the same in 75.0% of 4 crops, in 100.0% of 3 that are sure, median |Δlogit| 0.2 σ"
    random = row(made, "ResNet-50", "ONNX Runtime INT8")
    assert random["holds"] is None and random["best"] and random["delta"].endswith("random weights") and "sure" not in random["delta"]


def test_an_interval_counts_photographs_and_has_a_width_where_all_agree() -> None:
    crops = ledger_views.over_photographs([1] * 80, [f"{place // 8}" for place in range(80)])
    assert crops is not None and crops.n == 10
    assert (crops.value, crops.hi) == (1.0, 1.0) and crops.lo == pytest.approx(0.692, abs=0.001)  # of ten of ten, not of eighty
    half = ledger_views.over_photographs([1, 0] * 10, [f"{place // 2}" for place in range(20)])
    assert half is not None and half.value == 0.5 and half.lo is not None and half.lo < 0.25
    assert ledger_views.over_photographs([], []) is None


def test_what_a_reader_is_shown_says_why_in_place_of_answers(made: Session) -> None:
    put(made, FOREST, "LightGBM", [1.0, 1.0, 1.0], **fine())
    skip(made, FOREST, "ONNX Runtime INT8", "a tree has no products: nothing to do in 8 bits")
    told = ledger_views.shown(made).set_index("form")
    assert told.loc["LightGBM", "answers as float32's"] == "0 of 1,000 verdicts differ"
    assert told.loc["LightGBM", "p99, ms"] == f"n < {ledger_views.TAIL}"
    assert told.loc["ONNX Runtime INT8", "answers as float32's"] == "a tree has no products"
    assert "lleaves, compiled" not in told.index  # nobody asked for it in this profile
    weighed = ledger_views.weighed(made)
    assert weighed["form"].tolist() == ["LightGBM"]
    assert weighed["cold start, s"].iloc[0] == pytest.approx(2 * sum(COLD.values()))  # the median of three
