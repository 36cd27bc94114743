"""Boxes of one frame joined with those before: who is who, by ByteTrack (Zhang et al., 2022) as the trackers package has it.

ByteTrack wants the unsure boxes too: it spends them on people that it follows already. Refuses time that runs backwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.vision.boxes import Boxes

# The scores of ByteTrack's paper, and not ours to tune on the clip that they are judged by. Boxes below UNSURE are nobody; those above SURE
# are matched first, the others only with who is followed already; a new track begins above NEW.
UNSURE, SURE, NEW = 0.1, 0.5, 0.6
LOST_S = 3.0  # a person behind a lamp post keeps their number for so long
OVERLAP = 0.15  # least intersection over union between where a person was expected and where a box is


@dataclass(frozen=True, slots=True)
class Tracks:
    """People seen in a frame and known by number. `ids`: (n,) int64, never reused; `xyxy`: (n, 4) float32, pixels; `score`: (n,)."""

    ids: NDArray[np.int64]
    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def feet(self) -> NDArray[np.float32]:
        """Where each stands: the middle of the box's lower edge, (n, 2) pixels."""
        return np.column_stack([self.xyxy[:, [0, 2]].mean(axis=1), self.xyxy[:, 3]]).astype(np.float32)


NOBODY = Tracks(np.empty(0, np.int64), np.empty((0, 4), np.float32), np.empty(0, np.float32))


class Tracker:
    """One camera's memory of who walks there. `fps`: frames a second that are offered to it when none is skipped."""

    def __init__(self, *, fps: float) -> None:
        from trackers import ByteTrackTracker

        self._track: Any = ByteTrackTracker(
            lost_track_buffer=round(LOST_S * 30),  # trackers counts in thirtieths of a second and scales by its frame rate
            frame_rate=fps,
            track_activation_threshold=NEW,
            high_conf_det_threshold=SURE,
            minimum_iou_threshold=OVERLAP,
        )
        self._now_s = float("-inf")

    def update(self, boxes: Boxes, time_s: float) -> Tracks:
        """Who is in the frame taken at `time_s`. Whoever is seen for the first time is only known from the second on. Raises ValueError."""
        import supervision

        if time_s <= self._now_s:
            raise ValueError(f"a frame of {time_s:.3f} s came after one of {self._now_s:.3f} s")
        self._now_s = time_s
        seen = boxes.above(UNSURE)
        told = self._track.update(supervision.Detections(seen.xyxy, confidence=seen.score), timestamp=time_s)
        known = told.tracker_id >= 0
        if not known.any():
            return NOBODY
        return Tracks(told.tracker_id[known].astype(np.int64), told.xyxy[known].astype(np.float32), told.confidence[known])
