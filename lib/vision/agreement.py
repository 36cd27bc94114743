"""How well what was found agrees with what is there, or with what a slower detector found; frame by frame, pure.

A box is right where it holds the same label and overlaps enough; each answers for at most one. Unknown is None: no found box, no
precision. Refuses lists of different lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from lib.vision.boxes import Boxes, iou


@dataclass(frozen=True, slots=True)
class F1:
    """Shares 0 to 1 over all frames together, None where there is nothing to take a share of. `matched`: pairs of boxes."""

    precision: float | None
    recall: float | None
    f1: float | None
    matched: int


def f1(reference: Sequence[Boxes], found: Sequence[Boxes], *, overlap: float = 0.5) -> F1:
    """`found` against `reference`, one entry a frame: in each as many pairs as any assignment allows. Raises ValueError."""
    _same_length(reference, found)
    matched = sum(_pairs(ours, theirs, overlap) for ours, theirs in zip(reference, found, strict=True))
    there, said = sum(map(len, reference)), sum(map(len, found))
    return F1(_share(matched, said), _share(matched, there), _share(2 * matched, there + said), matched)


def average_precision(truth: Sequence[Boxes], found: Sequence[Boxes], *, overlap: float = 0.5) -> float | None:
    """COCO's AP at one overlap: precision at 101 levels of recall, averaged, then over the labels in `truth`; None where it holds none.

    As COCO does it: the surest first, each taking the free box of the truth that it overlaps most. Unlike COCO, all found boxes of a frame
    count, not the first hundred. Raises ValueError.
    """
    _same_length(truth, found)
    labels = sorted({int(label) for boxes in truth for label in boxes.label})
    per_label = [_average_precision([b.of([label]) for b in truth], [b.of([label]) for b in found], overlap) for label in labels]
    return float(np.mean(per_label)) if per_label else None


def count_error(truth_counts: Sequence[int], found_counts: Sequence[int]) -> float | None:
    """By how many the count is wrong, on average over the frames; None for no frame. Raises ValueError."""
    _same_length(truth_counts, found_counts)
    return float(np.mean(np.abs(np.subtract(found_counts, truth_counts)))) if len(truth_counts) else None


def _pairs(reference: Boxes, found: Boxes, overlap: float) -> int:
    fits = (iou(reference.xyxy, found.xyxy) >= overlap) & (reference.label[:, None] == found.label[None, :])
    return int(fits[linear_sum_assignment(fits, maximize=True)].sum())


def _average_precision(truth: Sequence[Boxes], found: Sequence[Boxes], overlap: float) -> float:
    scores = np.concatenate([boxes.score for boxes in found])
    order = np.argsort(-scores, kind="stable")
    right = np.concatenate([_right(there, said, overlap) for there, said in zip(truth, found, strict=True)])[order]
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / sum(map(len, truth))
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # at a recall or any higher one
    level = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0.0)[level].mean())  # a recall never reached has no precision


def _right(truth: Boxes, found: Boxes, overlap: float) -> NDArray[np.bool_]:
    """Which of `found` (one label) are right: (n,), in its order."""
    right = np.zeros(len(found), np.bool_)
    if not len(truth):
        return right
    shared = iou(found.xyxy, truth.xyxy)
    for row in np.argsort(-found.score, kind="stable"):
        best = int(shared[row].argmax())
        if shared[row, best] >= overlap:
            right[row] = True
            shared[:, best] = -1  # taken
    return right


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _same_length(a: Sequence[object], b: Sequence[object]) -> None:
    if len(a) != len(b):
        raise ValueError(f"{len(a)} frames against {len(b)}: both must be the same frames in the same order")
