"""Boxes hold together, answer for subsets, and overlap as geometry says."""

from __future__ import annotations

import numpy as np
import pytest

from lib.vision import boxes
from lib.vision.boxes import Boxes
from lib.vision.coco import NAMES, PERSON, SHELF


def made(*rows: tuple[float, float, float, float, float, int]) -> Boxes:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Boxes(table[:, :4], table[:, 4], table[:, 5].astype(np.int32))


SOME = made((0, 0, 10, 10, 0.9, 0), (5, 0, 15, 10, 0.5, 39), (40, 40, 50, 60, 0.3, 0))


@pytest.mark.parametrize(("xyxy", "score", "label"), [((3, 4), 2, 2), ((2, 4), 2, 3), ((2, 3), 2, 2), ((8,), 2, 2)])
def test_columns_that_do_not_belong_together_are_refused(xyxy: tuple[int, ...], score: int, label: int) -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        Boxes(np.zeros(xyxy, np.float32), np.zeros(score, np.float32), np.zeros(label, np.int32))


def test_none_is_none() -> None:
    assert len(boxes.none()) == 0
    assert boxes.iou(boxes.none().xyxy, SOME.xyxy).shape == (0, 3)


def test_subsets_keep_their_order() -> None:
    assert SOME.of([PERSON]).xyxy[:, 0].tolist() == [0, 40]
    assert SOME.of(SHELF).label.tolist() == [39]
    assert len(SOME.of([])) == 0
    assert SOME.above(0.5).score.tolist() == [np.float32(0.9)]  # surer than, not as sure as
    assert SOME.at(np.array([2, 0])).xyxy[:, 0].tolist() == [40, 0]


def test_overlap_by_hand() -> None:
    found = boxes.iou(SOME.xyxy, SOME.xyxy)
    assert np.diag(found).tolist() == [1, 1, 1]
    assert found[0, 1] == pytest.approx(50 / 150)
    assert found[0, 2] == 0


@pytest.mark.parametrize("flat", [(5, 5, 5, 5), (5, 0, 5, 10), (9, 9, 1, 1)])
def test_a_box_without_area_overlaps_nothing(flat: tuple[int, ...]) -> None:
    assert boxes.iou(np.array([flat], np.float32), np.array([(0, 0, 10, 10), flat], np.float32)).tolist() == [[0, 0]]


def test_the_labels_are_cocos() -> None:
    assert (len(NAMES), PERSON, NAMES[79]) == (80, 0, "toothbrush")
    assert [NAMES[label] for label in SHELF[:3]] == ["bottle", "wine glass", "cup"]
