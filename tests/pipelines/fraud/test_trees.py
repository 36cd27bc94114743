"""The trees as arrays are the trees that were grown, and rounding down moves no row to another branch."""

from __future__ import annotations

from collections.abc import Callable

import lightgbm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lib.pipelines.fraud import trees
from lib.pipelines.fraud.forest import Native
from lib.pipelines.fraud.model import Model

TWO = trees.Trees(tree=np.array([0, 0, 0, 1]), node=np.array([0, 1, 2, 0]), leaf=np.array([False, True, True, True]),
                  feature=np.array([1, 0, 0, 0]), threshold=np.array([0.1, 0, 0, 0]), left=np.array([1, 0, 0, 0]),
                  right=np.array([2, 0, 0, 0]), value=np.array([0, -1.0, 3.0, 1.0]))


def summed(forest: trees.Trees, row: NDArray[np.float32]) -> float:
    """What a row gets, by walking."""
    total = 0.0
    for tree in np.unique(forest.tree):
        at = int(np.flatnonzero(forest.tree == tree)[0])
        place = at
        while not forest.leaf[place]:
            left = float(row[forest.feature[place]]) <= forest.threshold[place]
            place = at + int((forest.left if left else forest.right)[place])
        total += float(forest.value[place])
    return total


@given(threshold=st.floats(-1e30, 1e30), x=st.floats(width=32, allow_nan=False))
def test_a_threshold_rounded_down_takes_every_float32_where_it_went(threshold: float, x: float) -> None:
    floor = trees.floor32(threshold)
    assert (x <= threshold) == (np.float32(x) <= floor)
    assert (np.float32(threshold) <= floor) == (float(np.float32(threshold)) <= threshold)  # where it matters most
    assert trees.floor32(float(floor)) == floor


def test_the_arrays_score_as_lightgbm_does(grown: Model) -> None:
    forest, rows = trees.of_lightgbm((grown.root / "model.txt").read_text()), grown.rows()[:100]
    assert len(np.unique(forest.tree)) == 8
    assert int(forest.leaf.sum()) == 64
    np.testing.assert_allclose([summed(forest, row) for row in rows], Native(grown).margins(rows), rtol=0, atol=1e-12)


@pytest.mark.parametrize("edge", [-float(trees.ZERO), float(trees.ZERO)])
def test_what_lightgbm_takes_for_zero_goes_where_it_sends_it(grown: Model, edge: float) -> None:
    def native_and_walked(change: Callable[[NDArray[np.float64]], NDArray[np.float32]]) -> tuple[NDArray[np.float64], list[float]]:
        text = trees.rewritten((grown.root / "model.txt").read_text(), lambda t: change(np.full(len(t), edge)))
        booster = lightgbm.Booster(model_str=text)
        return booster.predict(rows, raw_score=True), [summed(trees.of_lightgbm(text), row) for row in rows]

    around = [np.nextafter(trees.ZERO, np.float32(0)), trees.ZERO, np.nextafter(trees.ZERO, np.float32(1))]
    rows = np.repeat(np.array([[0], *([sign * x] for sign in (1, -1) for x in around)], np.float32), 35, axis=1)
    native, walked = native_and_walked(trees.canonical)
    np.testing.assert_allclose(native, walked, rtol=0, atol=1e-12)
    plain, walked_plain = native_and_walked(trees.floor32)
    assert np.array_equal(plain, native)  # LightGBM's own answer is what it was
    assert np.allclose(plain, walked_plain) == (edge > 0)  # and only there was it another than everybody's


def test_splits_are_told_once(grown: Model) -> None:
    features, thresholds = trees.of_lightgbm((grown.root / "model.txt").read_text()).splits()
    assert 0 < len(features) <= 8 * 7
    assert len({*zip(features.tolist(), thresholds.tolist(), strict=True)}) == len(features)
    assert np.array_equal(trees.floor32(thresholds), thresholds)
    assert [one.tolist() for one in TWO.splits()] == [[1], [0.1]]


def test_rewriting_changes_thresholds_and_nothing_else(grown: Model) -> None:
    text = (grown.root / "model.txt").read_text()
    before = trees.of_lightgbm(text)
    after = trees.of_lightgbm(trees.rewritten(text, lambda t: np.nextafter(trees.floor32(t), np.float32(np.inf))))
    assert (after.threshold[~before.leaf] > before.threshold[~before.leaf]).all()
    assert np.array_equal(after.value, before.value)
    assert np.array_equal(after.left, before.left)


def test_other_splits_than_numbers_are_refused(grown: Model) -> None:
    text = (grown.root / "model.txt").read_text().replace("decision_type=2", "decision_type=1", 1)
    with pytest.raises(ValueError, match="tree 0 has splits of type 1"):
        trees.of_lightgbm(text)


@pytest.mark.parametrize(("average", "left", "right"), [(False, 0.0, 4.0), (True, 0.0, 2.0)])
def test_the_graph_sums_or_averages_and_what_equals_a_threshold_goes_left(average: bool, left: float, right: float) -> None:
    import onnxruntime

    graph = trees.onnx(TWO, inputs=2, average=average).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    at = trees.floor32(0.1)
    rows = np.array([[9, at], [9, np.nextafter(at, np.float32(1))]], np.float32)
    assert session.run(["margin"], {"x": rows})[0].tolist() == [[left], [right]]
