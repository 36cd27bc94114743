"""The variants of the network on a machine that cannot run all of them: what is lacking is a row that says why."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib import record
from lib.measured import Skipped, keep
from lib.pipelines.retail import ladder, variants, ways
from lib.pipelines.retail.plan import PLANS
from lib.vision import product
from lib.vision.detector import WrongDevice


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant in bfloat16 is one that the processor refuses."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise WrongDevice("yolov8n.onnx was to run in bf16; OpenVINO computes in f32 on this processor")

    told = tuple(replace(each, make=refuse) if each.precision == "bf16" and each.make else each for each in ladder.VARIANTS)
    monkeypatch.setattr(ladder, "VARIANTS", told)


def test_what_the_processor_lacks_is_skipped_with_its_reason(lacking: None) -> None:
    with pytest.raises(Skipped, match="computes in f32 on this processor"):
        ladder.named("OpenVINO bf16").detector(SimpleNamespace())  # type: ignore[arg-type]


def test_a_way_that_the_processor_lacks_is_a_row(lacking: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "watched", lambda shop, view: (tmp_path / "clip", None))
    way = next(way for way in ways.WAYS if way.variant == "OpenVINO bf16")
    run = record.begin("02_retail_pipeline", parameters={}, environment={"machine_id": "made", "stack_id": "made"}, root=tmp_path)
    keep(run, {"what": "way"}, partial(ways._way, SimpleNamespace(), way, 1, full=False), timed=False)  # type: ignore[arg-type]
    (point,) = run.points()
    assert (point.status, point.reason) == ("skipped", "yolov8n.onnx was to run in bf16; OpenVINO computes in f32 on this processor")


def test_a_ceiling_is_not_told_in_a_precision_that_was_not_computed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    class Stubborn(openvino.Core):
        """A processor without bfloat16: OpenVINO computes in float32 whatever it is asked for, without a word."""

        def compile_model(self, it: Any, device: str, how: dict[str, Any]) -> Any:
            return super().compile_model(it, device, {**how, "INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(openvino, "Core", Stubborn)
    with pytest.raises(WrongDevice, match="a matrix product was to run in bf16"):
        product.product("bf16", threads=1, budget_s=0.01)
    with pytest.raises(Skipped, match="a matrix product was to run in bf16"):
        variants._product("bf16")


def test_ceiling_product_is_counted_in_float32() -> None:
    rate, timing = product.product("f32", threads=1, budget_s=0.02)
    assert rate == 2 * product.SIDE**3 / min(timing.samples_s) > 1e9


def test_set_ups_name_variants_and_ways_that_there_are() -> None:
    named = {way.name for way in ways.WAYS}
    for plan in PLANS.values():
        assert all(ladder.named(setup.variant) and setup.way in named for setup in plan.setups)
    with pytest.raises(LookupError, match="no variant"):
        ladder.named("OpenVINO fp8")
