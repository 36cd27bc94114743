"""Agreement on cases small enough to count by hand, and AP against COCO's definition as supervision computes it."""

from __future__ import annotations

import numpy as np
import pytest

from lib.vision.agreement import F1, average_precision, count_error, f1
from lib.vision.boxes import Boxes, none


def made(*rows: tuple[float, ...], label: int = 0) -> Boxes:
    """Rows of left, top, right, bottom and, where it matters, score."""
    table = np.array([(*row, 1.0)[:5] for row in rows], np.float32).reshape(-1, 5)
    return Boxes(table[:, :4], table[:, 4], np.full(len(rows), label, np.int32))


A, B, C = (0, 0, 10, 10), (100, 0, 110, 10), (200, 0, 210, 10)
FAR = (500, 500, 510, 510)


def test_perfect_disjoint_and_half() -> None:
    assert f1([made(A, B)], [made(B, A)]) == F1(1, 1, 1, 2)
    assert f1([made(A)], [made(FAR)]) == F1(0, 0, 0, 0)
    assert f1([made(A, B), made(C)], [made(A), made(C, FAR)]) == F1(2 / 3, 2 / 3, 2 / 3, 2)


def test_a_second_box_on_the_same_thing_is_wrong() -> None:
    assert f1([made(A)], [made(A, A)]) == F1(0.5, 1, 2 / 3, 1)


def test_nothing_there_or_nothing_found() -> None:
    assert f1([none()], [made(A)]) == F1(0, None, 0, 0)
    assert f1([made(A)], [none()]) == F1(None, 0, 0, 0)
    assert f1([none()], [none()]) == f1([], []) == F1(None, None, None, 0)


def test_as_many_pairs_as_possible_where_the_nearest_first_would_lose_one() -> None:
    truth = made((0, 0, 10, 10), (3, 0, 13, 10))
    found = made((1, 0, 11, 10), (-3, 0, 7, 10))  # the first is nearest to truth 0, but only truth 0 fits the second
    assert f1([truth], [found]).matched == 2


def test_another_label_is_no_match_and_the_overlap_counts() -> None:
    assert f1([made(A)], [made(A, label=39)]).matched == 0
    shifted = made((2, 0, 12, 10))  # 80 / 120
    assert f1([made(A)], [shifted], overlap=0.66).matched == 1
    assert f1([made(A)], [shifted], overlap=0.67).matched == 0


def test_average_precision_by_hand() -> None:
    truth = [made(A, B), made(C)]
    found = [made((*A, 0.9), (*FAR, 0.8)), made((*C, 0.7))]
    # precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3: levels 0 to 0.33 get 1, 0.34 to 0.66 get 2/3, the last 34 none
    assert average_precision(truth, found) == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)


def test_a_second_box_on_the_same_thing_costs_precision() -> None:
    found = made((*A, 0.9), (*A, 0.8), (*B, 0.7))
    assert average_precision([made(A, B)], [found]) == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_average_precision_at_the_ends() -> None:
    assert average_precision([made(A, B)], [made((*A, 0.5), (*B, 0.4))]) == 1
    assert average_precision([made(A)], [none()]) == 0
    assert average_precision([made(A)], [made(FAR)]) == 0
    assert average_precision([none()], [made(A)]) is None
    assert average_precision([], []) is None


def test_what_nobody_is_sure_of_costs_nothing_once_all_is_found() -> None:
    assert average_precision([made(A)], [made((*A, 0.9), (*FAR, 0.1))]) == 1
    assert average_precision([made(A)], [made((*A, 0.1), (*FAR, 0.9))]) == pytest.approx(0.5)


def test_the_surer_takes_the_box_and_labels_are_averaged() -> None:
    assert average_precision([made(A)], [made((*A, 0.2), (1, 0, 11, 10, 0.9))]) == 1  # the second one is surer and fits well enough
    both = Boxes(np.array([A, B], np.float32), np.ones(2, np.float32), np.array([0, 39], np.int32))
    assert average_precision([both], [made(A)]) == 0.5


def jittered(rng: np.random.Generator, truth: Boxes) -> Boxes:
    """Some of `truth`, shaken, with scores, and a few that are not there."""
    seen = truth.at(rng.random(len(truth)) < 0.8)
    shaken = seen.xyxy + rng.uniform(-6, 6, seen.xyxy.shape).astype(np.float32)
    extra = scattered(rng, int(rng.integers(0, 3)))
    return Boxes(np.concatenate((shaken, extra.xyxy)), rng.random(len(seen) + len(extra)).astype(np.float32),
                 np.concatenate((seen.label, extra.label)))


def scattered(rng: np.random.Generator, n: int) -> Boxes:
    corner, size, label = rng.uniform(0, 300, (n, 2)), rng.uniform(20, 60, (n, 2)), rng.integers(0, 3, n, np.int32)
    return Boxes(np.concatenate((corner, corner + size), axis=1).astype(np.float32), np.ones(n, np.float32), label)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_cocos(seed: int) -> None:
    supervision = pytest.importorskip("supervision")
    rng = np.random.default_rng(seed)
    truth = [scattered(rng, int(rng.integers(0, 8))) for _ in range(12)]
    found = [jittered(rng, boxes) for boxes in truth]

    def theirs(boxes: Boxes) -> object:
        return supervision.Detections(xyxy=boxes.xyxy, confidence=boxes.score, class_id=boxes.label)

    metric = supervision.metrics.MeanAveragePrecision()
    metric.update([theirs(boxes) for boxes in found], [theirs(boxes) for boxes in truth])
    result = metric.compute()
    assert average_precision(truth, found) == pytest.approx(result.map50, abs=1e-6)
    assert average_precision(truth, found, overlap=0.75) == pytest.approx(result.map75, abs=1e-6)
    assert 0.3 < result.map50 < 0.95  # not a comparison of zeros


def test_by_how_many_the_count_is_wrong() -> None:
    assert count_error([3, 5, 0], [4, 3, 0]) == 1
    assert count_error([], []) is None


@pytest.mark.parametrize("measure", [f1, average_precision, count_error])
def test_frames_that_do_not_pair_up_are_refused(measure: object) -> None:
    with pytest.raises(ValueError, match="1 frames against 2"):
        measure([none()], [none(), none()])  # type: ignore[operator]
