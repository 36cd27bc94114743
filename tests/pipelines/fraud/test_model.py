"""The model is built whole or not at all, twice the same, and says what to do where it cannot be."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from lib import fetch
from lib.install import Missing
from lib.pipelines.fraud import data, model, trees
from lib.pipelines.fraud.model import Model, NotReady


def quiet(_: str) -> None: ...


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a ledger of 3,000 made-up transactions, six trees."""
    rng = np.random.default_rng(5)
    v = rng.normal(size=(3_000, 28))
    fraud = v[:, 3] + rng.normal(scale=0.5, size=3_000) > 1.5
    stream = data.Ledger(np.sort(rng.integers(0, 9_000, 3_000)), rng.integers(1, 9_999, 3_000), v, fraud)
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))
    monkeypatch.setattr(model, "TREES", 6)
    monkeypatch.setattr(fetch, "fetch", lambda name, say: Path(name))
    monkeypatch.setattr(data, "read", lambda wheel: stream)
    return tmp_path / "fraud"


def test_what_is_not_built_says_how_to_build_it(toy: Path) -> None:
    assert isinstance(missing := model.ready(), Missing)
    assert "python -m lib.pipelines.fraud.model" in missing.reason
    with pytest.raises(NotReady, match=r"python -m lib\.pipelines\.fraud\.model"):
        model.load()


def test_built_once_then_found_and_twice_the_same(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = model.build(say=quiet)
    assert first.missing == {}
    assert {path.name for path in first.root.iterdir()} == {
        "ok.json", "rows.npy", "model.txt", "model.onnx", "forest.so", "tl2cgen.so", "build.log"}
    assert first.version == hashlib.sha256(first.file("model.txt").read_bytes()).hexdigest()[:12]
    assert first.rows().shape == (3_000, 35)
    assert (first.facts["trained_on"], first.facts["calibrated_on"], first.facts["judged_on"]) == (2_100, 300, 600)
    assert np.array_equal(first.typical, np.median(first.rows()[:2_100][~data.read(Path()).fraud[:2_100]], axis=0))
    with monkeypatch.context() as only:
        only.setattr(model, "_make", None)
        assert model.build(say=quiet).version == model.load().version == first.version
    kept = first.file("model.txt").read_bytes()
    shutil.rmtree(first.root)
    again = model.build(say=quiet)
    assert again.file("model.txt").read_bytes() == kept
    assert (again.version, again.calibration) == (first.version, first.calibration)
    assert np.array_equal(again.typical, first.typical)


def test_thresholds_are_float32(toy: Path) -> None:
    _, thresholds = trees.of_lightgbm(model.build(say=quiet).file("model.txt").read_text()).splits()
    assert np.array_equal(thresholds.astype(np.float32), thresholds)


def test_a_build_that_breaks_leaves_nothing_that_counts(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(root: Path, say: object) -> dict[str, str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "_compile", full)
    with pytest.raises(NotReady, match=r"cannot be built: .*No space left"):
        model.build(say=quiet)
    assert isinstance(model.ready(), Missing)
    assert [path.suffix for path in toy.iterdir()] == [".lock"]


def test_a_rounding_that_changes_a_margin_keeps_nothing(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "floor32", lambda values: np.asarray(values, np.float32) - np.float32(0.1))
    with pytest.raises(AssertionError, match="have changed a margin"):
        model.build(say=quiet)
    assert isinstance(model.ready(), Missing)


def test_without_a_compiler_the_rest_is_there_and_the_reason_is_told(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.shutil, "which", lambda name: None)
    made = model.build(say=quiet)
    assert made.file("model.onnx").exists()
    for name in ("forest.so", "tl2cgen.so"):
        with pytest.raises(NotReady, match="no gcc on this machine; install it"):
            made.file(name)


def test_data_that_cannot_be_had_is_a_reason(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str, say: object) -> Path:
        raise fetch.Refused("no room")

    monkeypatch.setattr(fetch, "fetch", refused)
    with pytest.raises(NotReady, match="cannot be built: no room"):
        model.build(say=quiet)


def test_calibration_finds_the_line_that_frauds_were_drawn_from() -> None:
    rng = np.random.default_rng(7)
    margins = rng.normal(scale=3, size=200_000)
    fraud = rng.random(200_000) < 1 / (1 + np.exp(-(0.7 * margins - 1.5)))
    a, b = model._platt(margins, fraud)
    assert a == pytest.approx(0.7, abs=0.02)
    assert b == pytest.approx(-1.5, abs=0.02)
    made = Model("v", Path(), (a, b), np.zeros(35, np.float32), {}, {})
    assert made.probabilities(margins).mean() == pytest.approx(fraud.mean(), abs=1e-4)


def test_the_real_model_is_worth_serving(built: Model) -> None:
    assert built.facts["transactions"] == 284_807
    assert built.facts["average_precision"] > 0.75
    assert built.rows().shape == (284_807, 35)
    assert built.version == hashlib.sha256(built.file("model.txt").read_bytes()).hexdigest()[:12]
