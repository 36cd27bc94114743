"""Parity finds what it is there for: a comparison the wrong way round that no real transaction shows, and verdicts that flip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lib.pipelines.fraud import parity, trees
from lib.pipelines.fraud.forest import Native
from lib.pipelines.fraud.model import Model


class Strict(Native):
    """x < t for x ≤ t: thresholds one float32 lower."""

    def __init__(self, model: Model) -> None:
        import lightgbm

        super().__init__(model)
        text = trees.rewritten(model.file("model.txt").read_text(), lambda t: np.nextafter(trees.floor32(t), np.float32(-np.inf)))
        self.booster = lightgbm.Booster(model_str=text)


class Shifted(Native):
    """A margin higher for the first `n` rows."""

    def __init__(self, model: Model, by: float, n: int) -> None:
        super().__init__(model)
        self.by, self.n = by, n

    def margins(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        found = super().margins(rows)
        found[:self.n] += self.by
        return found


class Reused(Native):
    """One buffer for all answers, as a compiled engine has."""

    _out = np.zeros(20_000)

    def margins(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        self._out[:len(rows)] = super().margins(rows)
        return self._out[:len(rows)]


def test_the_native_engine_is_equal_to_itself(grown: Model) -> None:
    assert parity.against_native(grown, Native(grown)) == {
        "rows": 600, "max_margin_difference": 0, "max_probability_difference": 0, "flips": 0,
        "near": 20_000, "max_margin_difference_near": 0, "flips_near_thresholds": 0}


def test_a_wrong_comparison_shows_on_the_thresholds_alone(grown: Model) -> None:
    told = parity.against_native(grown, Strict(grown))
    assert told["max_margin_difference"] == 0  # thresholds lie between the values that were seen
    assert told["max_margin_difference_near"] > 0.1
    assert told["flips_near_thresholds"] > 0


def test_differences_and_flips_are_counted(grown: Model) -> None:
    told = parity.against_native(grown, Shifted(grown, 50.0, 3))
    assert told["max_margin_difference"] == pytest.approx(50)
    assert 0.5 < told["max_probability_difference"] <= 1
    assert told["flips"] == 3  # approved or looked at before, declined now
    assert parity.against_native(grown, Shifted(grown, 1e-9, 600))["flips"] == 0


def test_another_reference_is_used_and_buffers_may_be_reused(grown: Model) -> None:
    shifted = parity.against_native(grown, Native(grown), reference=Shifted(grown, -50.0, 1))
    assert shifted["max_margin_difference"] == pytest.approx(50)
    assert parity.against_native(grown, Reused(grown), reference=Shifted(grown, 1.0, 600))["max_margin_difference"] == pytest.approx(1)
    reused = Reused(grown)
    assert parity.compared(grown, grown.rows(), reused, Shifted(grown, 1.0, 600))["max_margin_difference"] == pytest.approx(1)


def test_fuzzed_rows_are_real_but_for_one_feature_on_a_threshold(grown: Model) -> None:
    features, thresholds = trees.of_lightgbm((grown.root / "model.txt").read_text()).splits()
    n = 3 * len(features)
    fuzzed, rows = parity.near_thresholds(grown, np.random.default_rng(4), n), grown.rows()
    assert fuzzed.shape == (n, 35)
    assert fuzzed.dtype == np.float32
    assert fuzzed.flags.c_contiguous
    seen = set()
    for row in fuzzed:
        origin = rows[(rows != row).sum(axis=1).argmin()]
        (changed,) = np.flatnonzero(origin != row)
        seen.add((int(changed), float(row[changed])))
    at = thresholds.astype(np.float32)
    ways = [at, np.nextafter(at, np.float32(-np.inf)), np.nextafter(at, np.float32(np.inf))]
    assert seen == {(int(f), float(t)) for way in ways for f, t in zip(features, way, strict=True)}  # every split, three ways


def test_fuzzing_is_the_same_for_the_same_seed_and_leaves_the_file_alone(grown: Model) -> None:
    before = Path(grown.root / "rows.npy").read_bytes()
    one, two, other = (parity.near_thresholds(grown, np.random.default_rng(seed), 50) for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert Path(grown.root / "rows.npy").read_bytes() == before
