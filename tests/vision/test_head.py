"""Both readings of the raw output agree on anything; what is broken is refused and never looks like an empty shop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.vision.boxes import Boxes
from lib.vision.coco import PERSON, SHELF
from lib.vision.head import BadHead, boxes, boxes_plainly
from lib.vision.letterbox import fit

BOTH = pytest.mark.parametrize("read", [boxes, boxes_plainly])
Read = Callable[..., Boxes]
SAME = fit((480, 640), (480, 640))
SURE = 0.9


def head(*anchors: tuple[float, float, float, float, dict[int, float]]) -> np.ndarray:
    """The raw output of anchors given as left, top, right, bottom and scores by label."""
    raw = np.zeros((84, len(anchors)), np.float32)
    for column, (left, top, right, bottom, scores) in enumerate(anchors):
        raw[:4, column] = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
        for label, score in scores.items():
            raw[4 + label, column] = score
    return raw


def equal(a: Boxes, b: Boxes) -> bool:
    return np.array_equal(a.score, b.score) and np.array_equal(a.label, b.label) and np.allclose(a.xyxy, b.xyxy, rtol=0, atol=1e-3)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), anchors=st.integers(0, 60), labels=st.sampled_from([[PERSON], list(SHELF), [79, 0]]),
       score=st.sampled_from([0.0, 0.25, 0.3, 0.9]), overlap=st.sampled_from([0.1, 0.45, 0.7]),
       frame_hw=st.sampled_from([(576, 768), (1080, 1920), (5, 3)]))
def test_both_ways_find_the_same(seed: int, anchors: int, labels: list[int], score: float, overlap: float,
                                 frame_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    raw = np.concatenate((rng.normal(0, 30, (2, anchors)) + rng.choice([-20, 150, 300, 660], (2, anchors)),  # clusters, some outside
                          rng.uniform(-2, 120, (2, anchors)), rng.choice([0, 0.1, 0.3, 0.5, 1], (80, anchors)))).astype(np.float32)
    raw[4:] *= rng.choice([1, 0.999], raw[4:].shape)  # ties and near ties
    planned = fit(frame_hw, (480, 640))
    fast = boxes(raw, planned, labels=labels, score=score, overlap=overlap)
    assert equal(fast, boxes_plainly(raw, planned, labels=labels, score=score, overlap=overlap))
    assert (np.diff(fast.score) <= 0).all()
    assert set(fast.label.tolist()) <= set(labels)
    assert (fast.xyxy[:, 2:] > fast.xyxy[:, :2]).all() and (fast.xyxy >= 0).all() and (fast.xyxy <= [frame_hw[1], frame_hw[0]] * 2).all()
    assert (fast.xyxy.dtype, fast.score.dtype, fast.label.dtype) == (np.float32, np.float32, np.int32)


@BOTH
def test_one_person_in_frame_pixels(read: Read) -> None:
    found = read(head((100, 50, 140, 150, {PERSON: SURE})), fit((576, 768), (480, 640)), labels=[PERSON])
    assert found.xyxy == pytest.approx(np.array([[120, 60, 168, 180]]), abs=1e-3)
    assert (found.score.tolist(), found.label.tolist()) == ([np.float32(SURE)], [PERSON])


@BOTH
def test_the_surer_of_two_stays_and_the_surest_comes_first(read: Read) -> None:
    raw = head((10, 10, 50, 110, {PERSON: 0.5}), (11, 10, 51, 110, {PERSON: 0.8}), (300, 10, 340, 110, {PERSON: 0.9}))
    found = read(raw, SAME, labels=[PERSON])
    assert found.xyxy[:, 0].tolist() == [300, 11]
    assert len(read(raw, SAME, labels=[PERSON], overlap=0.99)) == 3


@BOTH
def test_labels_do_not_suppress_each_other(read: Read) -> None:
    bottle, cup = SHELF[0], SHELF[2]
    raw = head((10, 10, 50, 110, {bottle: 0.8}), (10, 10, 50, 110, {cup: 0.7}), (10, 10, 50, 110, {cup: 0.6}))
    assert read(raw, SAME, labels=SHELF).label.tolist() == [bottle, cup]


@BOTH
def test_labels_do_not_meet_even_where_boxes_hang_out_of_the_frame(read: Read) -> None:
    raw = head((612, 612, 640, 640, {0: 0.9}), (-20, -20, 8, 8, {1: 0.8}))  # one picture further up and left
    assert read(raw, fit((640, 640), (640, 640)), labels=[0, 1], overlap=0.25).label.tolist() == [0, 1]


@BOTH
def test_only_the_wanted_labels_are_looked_at(read: Read) -> None:
    raw = head((10, 10, 50, 110, {PERSON: 0.4, 24: 0.9}))
    assert read(raw, SAME, labels=[PERSON]).score.tolist() == [np.float32(0.4)]
    assert len(read(raw, SAME, labels=SHELF)) == 0
    raw[4 + 24] = np.nan
    assert len(read(raw, SAME, labels=[PERSON])) == 1


@BOTH
def test_as_sure_as_the_threshold_is_not_sure_enough(read: Read) -> None:
    raw = head((10, 10, 50, 110, {PERSON: 0.25}))
    assert len(read(raw, SAME, labels=[PERSON])) == 0
    assert len(read(raw, SAME, labels=[PERSON], score=0.249)) == 1


@BOTH
@pytest.mark.parametrize("raw", [np.zeros((84, 0), np.float32), np.zeros((84, 6300), np.float32)])
def test_nothing_is_found_in_nothing(read: Read, raw: np.ndarray) -> None:
    assert len(read(raw, SAME, labels=[PERSON])) == 0


@BOTH
def test_what_lies_in_the_padding_or_has_no_area_is_dropped(read: Read) -> None:
    wide = fit((240, 640), (480, 640))  # 120 rows of padding above and below
    raw = head((10, 10, 50, 110, {PERSON: SURE}), (10, 200, 10, 300, {PERSON: SURE}), (60, 100, 90, 140, {PERSON: SURE}))
    assert read(raw, wide, labels=[PERSON]).xyxy.tolist() == [[60, 0, 90, 20]]


@BOTH
@pytest.mark.parametrize("labels", [[PERSON], list(SHELF)])
def test_a_score_that_is_no_number_is_refused(read: Read, labels: list[int]) -> None:
    raw = head((10, 10, 50, 110, {labels[0]: SURE}), (200, 10, 250, 110, {}))
    raw[4 + labels[-1], 1] = np.nan
    with pytest.raises(BadHead, match="not a number"):
        read(raw, SAME, labels=labels)


@BOTH
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", range(4))
def test_a_box_without_end_is_refused(read: Read, broken: float, row: int) -> None:
    raw = head((10, 10, 50, 110, {PERSON: SURE}))
    raw[row] = broken
    with pytest.raises(BadHead, match="without end"):
        read(raw, SAME, labels=[PERSON])


@BOTH
@pytest.mark.parametrize("shape", [(6300, 84), (1, 84, 6300), (85, 6300), (84,)])
def test_another_shape_is_refused(read: Read, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadHead, match="80 labels"):
        read(np.zeros(shape, np.float32), SAME, labels=[PERSON])


@BOTH
@pytest.mark.parametrize("labels", [[], [80], [-1]])
def test_unknown_labels_are_refused(read: Read, labels: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one of 0 to 79"):
        read(np.zeros((84, 5), np.float32), SAME, labels=labels)
