"""The calibration runs and says what it saw."""

from __future__ import annotations

from pathlib import Path

from lib.pipelines.calibration import calibrate


def test_a_calibration_has_a_row_a_rate_and_one_for_the_closed_loop(tmp_path: Path) -> None:
    told = calibrate([500, 2000], logs=tmp_path, seconds=0.4, server=None, client=None)
    assert told["rate_per_s"].isna().tolist() == [True, False, False]
    assert (told["unanswered"] == 0).all() and told["n"].tolist()[1:] == [200, 800]
    assert told["latency_p99_s"].isna().tolist() == [False, True, False]  # 200 samples carry no p99
    assert (told["latency_p50_s"] > 0).all() and (told["cpu_s"] >= 0).all()
    assert told["achieved_per_s"][0] > told["achieved_per_s"][2] > 1000
