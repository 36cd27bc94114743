"""From YOLOv8's raw output to boxes in the frame: the best of the wanted labels at each anchor, a threshold, suppression label by label.

Two ways with one result: `boxes`, and `boxes_plainly`, which reads as one writes it first and shows what vectorising is worth. Refuses
NaN, which would otherwise look like an empty shop, and an output of another shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, isnan

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.vision.boxes import Boxes, none
from lib.vision.coco import NAMES
from lib.vision.letterbox import Fit

BOX = 4  # the first rows: centre x, centre y, width, height in net pixels; one row a label follows


class BadHead(ValueError):
    """The network's output is not what a YOLOv8 detector trained on COCO puts out."""


def boxes(raw: NDArray[np.float32], fit: Fit, *, labels: Sequence[int], score: float = 0.25, overlap: float = 0.7) -> Boxes:
    """`raw` (84, anchors) → boxes that hold one of `labels` with more than `score`, the surest first.

    Of two with the same label and an intersection over union above `overlap` the surer stays; different labels never suppress each other.
    Boxes outside the frame are dropped. Raises BadHead for NaN, infinity in a wanted box or another shape, ValueError for unknown labels.
    """
    _check(raw, labels)
    scores = raw[BOX + labels[0]][None] if len(labels) == 1 else raw[[BOX + label for label in labels]]
    best = scores.max(axis=0)
    if isnan(best.max(initial=0)):
        raise BadHead(NOT_A_NUMBER)
    anchors = np.flatnonzero(best > score)
    if not len(anchors):
        return none()
    centre, half = raw[:2, anchors].T, raw[2:BOX, anchors].T * np.float32(0.5)
    corners = np.concatenate((centre - half, centre + half), axis=1)
    if not np.isfinite(corners).all():
        raise BadHead(INFINITE)
    with_area = np.all(half > 0, axis=1)  # OpenCV takes two boxes for one where their areas add up to nothing
    anchors, corners, half = anchors[with_area], corners[with_area], half[with_area]
    best, label = best[anchors], np.asarray(labels, np.int32)[scores[:, anchors].argmax(axis=0)]
    shapes = np.concatenate((corners[:, :2] - corners.min(initial=0), half * 2), axis=1)  # it keeps labels apart from zero up
    kept = np.asarray(cv2.dnn.NMSBoxesBatched(shapes.tolist(), best.tolist(), label.tolist(), 0.0, overlap), np.intp)
    return _seen(Boxes(fit.to_frame(corners[kept]), best[kept], label[kept]))


def boxes_plainly(raw: NDArray[np.float32], fit: Fit, *, labels: Sequence[int], score: float = 0.25, overlap: float = 0.7) -> Boxes:
    """As `boxes`, anchor by anchor and pair by pair."""
    _check(raw, labels)
    candidates = []
    for anchor in range(raw.shape[1]):
        best, held = raw[BOX + labels[0], anchor], labels[0]
        for label in labels:
            if isnan(raw[BOX + label, anchor]):
                raise BadHead(NOT_A_NUMBER)
            if raw[BOX + label, anchor] > best:
                best, held = raw[BOX + label, anchor], label
        if best > score:
            x, y, width, height = raw[:BOX, anchor]
            corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            if not all(map(isfinite, corners)):
                raise BadHead(INFINITE)
            if width > 0 and height > 0:
                candidates.append((best, held, corners))
    kept: list[tuple[np.float32, int, tuple[np.float32, ...]]] = []
    for best, held, corners in sorted(candidates, key=lambda candidate: -candidate[0]):
        if not any(held == other and _iou(corners, place) > overlap for _, other, place in kept):
            kept.append((best, held, corners))
    if not kept:
        return none()
    best_of, label_of, corners_of = zip(*kept, strict=True)
    return _seen(Boxes(fit.to_frame(np.array(corners_of, np.float32)), np.array(best_of, np.float32), np.array(label_of, np.int32)))


NOT_A_NUMBER = "The network puts out scores that are not a number: its precision does not hold on this device; take float32"
INFINITE = "The network puts out a box without end: its precision does not hold on this device; take float32"


def _check(raw: NDArray[np.float32], labels: Sequence[int]) -> None:
    if raw.ndim != 2 or raw.shape[0] != BOX + len(NAMES):
        raise BadHead(f"The network's output is {raw.shape}; YOLOv8 with {len(NAMES)} labels puts out ({BOX + len(NAMES)}, anchors)")
    if not len(labels) or not all(0 <= label < len(NAMES) for label in labels):
        raise ValueError(f"labels {labels}: at least one of 0 to {len(NAMES) - 1} is wanted")


def _seen(found: Boxes) -> Boxes:
    """Those with area left once clipped: what lies in the padding has none."""
    return found.at(np.all(found.xyxy[:, 2:] > found.xyxy[:, :2], axis=1))


def _iou(a: Sequence[np.float32], b: Sequence[np.float32]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return float(width * height / (both - width * height))
