"""What a detector found in one frame: boxes, how sure it is, and what each holds. Refuses columns of different lengths."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Boxes:
    """`xyxy`: (n, 4) float32, left, top, right, bottom in pixels of the frame. `score`: (n,) float32. `label`: (n,) int32, see coco."""

    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    label: NDArray[np.int32]

    def __post_init__(self) -> None:
        n = len(self.score)
        if self.xyxy.shape != (n, 4) or self.score.shape != (n,) or self.label.shape != (n,):
            raise ValueError(f"boxes {self.xyxy.shape}, scores {self.score.shape} and labels {self.label.shape} do not belong together")

    def __len__(self) -> int:
        return len(self.score)

    def at(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Boxes:
        """Those at `rows`: a mask or indices."""
        return Boxes(self.xyxy[rows], self.score[rows], self.label[rows])

    def of(self, labels: Collection[int]) -> Boxes:
        """Those that hold one of `labels`."""
        return self.at(np.isin(self.label, list(labels)))

    def above(self, score: float) -> Boxes:
        """Those that the detector is surer of than `score`."""
        return self.at(self.score > score)


def none() -> Boxes:
    """No box at all."""
    return Boxes(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of each box of `a` (n, 4) with each of `b` (m, 4): (n, m). Boxes without area overlap nothing."""
    corner_lo = np.maximum(a[:, None, :2], b[None, :, :2])
    corner_hi = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(corner_hi - corner_lo, 0, None).prod(axis=2)
    both = _area(a)[:, None] + _area(b)[None, :] - shared
    overlap: NDArray[np.float32] = np.divide(shared, both, out=np.zeros_like(shared), where=both > 0)
    return overlap


def _area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    area: NDArray[np.float32] = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    return area
