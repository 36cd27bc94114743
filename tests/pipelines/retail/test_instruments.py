"""What Prometheus reads is what happened: every frame once, stages that add up to the age, buckets that tell one from another."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lib.pipelines.retail.fleet import Fleet
from lib.pipelines.retail.hub import Hub
from lib.pipelines.retail.instruments import SECONDS, Instruments, Model
from lib.pipelines.retail.sample import STAGES, Sample
from tests.pipelines.retail.null import Detector, Eye, Roll, until


def seen(*stamps: float, batch: int = 2, boxes: int = 3) -> Any:
    return SimpleNamespace(sample=Sample("a", 0, 0, batch, 1, *stamps), sight=SimpleNamespace(boxes=[0] * boxes))


def told(instruments: Instruments) -> dict[str, float]:
    """Every series with its value."""
    return {
        sample.name + "".join(f",{name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(instruments.text().decode())
        for sample in family.samples
    }


def test_stages_add_up_to_the_age() -> None:
    instruments = Instruments(Model("v", "int8", "none"))
    instruments.seen("a", seen(1.0, 1.001, 1.003, 1.010, 1.011, 1.031, 1.032, 1.034, 1.0345))
    found = told(instruments)
    assert found["retail_frame_age_seconds_sum"] == pytest.approx(0.0345)
    assert sum(found[f"retail_stage_seconds_sum,stage={stage}"] for stage in STAGES) == pytest.approx(0.0345)
    assert found["retail_stage_seconds_sum,stage=infer"] == pytest.approx(0.020)
    assert (found["retail_detections_total"], found["retail_batch_frames_sum"]) == (3, 2)


def test_a_gated_frame_shared_no_batch() -> None:
    instruments = Instruments(Model("v", "int8", "none"))
    instruments.seen("a", seen(*[1.0] * 9, batch=0, boxes=0))
    assert told(instruments)["retail_batch_frames_count"] == 0


def test_buckets_tell_a_millisecond_from_two_and_a_fifth_of_a_second_from_a_quarter() -> None:
    assert {1e-3, 0.2, 1.0} <= set(SECONDS)
    assert all(1 < b / a <= 2 for a, b in pairwise(SECONDS) if a < 0.5)


def test_the_fleet_is_read_when_it_is_asked() -> None:
    instruments = Instruments(Model("v", "int8", "AGPL-3.0"))
    fleet = Fleet([Detector()], hub=Hub())
    instruments.of(fleet)
    try:
        fleet.start("a", lambda: Roll(4), Eye(), fps=100, loop=False)  # type: ignore[arg-type]
        until(lambda: told(instruments)["retail_cameras,state=ended"] == 1)
        outcomes = [f"retail_frames_total,camera=a,outcome={one}" for one in ("seen", "dropped")]
        until(lambda: sum(told(instruments)[one] for one in outcomes) >= 4)  # more where a busy machine loses slots
        assert told(instruments)["retail_model_info,licence=AGPL-3.0,precision=int8,version=v"] == 1
        assert told(instruments)["retail_ready"] == 1
        with fleet.hub.subscribed(None, int):
            assert told(instruments)["retail_subscribers"] == 1
        fleet.stop("a")
        assert not [name for name in told(instruments) if "camera=a" in name]
    finally:
        fleet.close()
    assert told(instruments)["retail_ready"] == 0
