"""Whether a still camera's picture has changed since somebody last looked closely, cheaply enough to ask of every frame.

The comparison is with the frame that was looked at, not with the one before: slow movement adds up until it shows, and a person who stands
still is no news. Shrinking by halves averages the sensor's noise away (and is a quarter of the cost of one step of INTER_AREA). Says how
much changed, not what to do about it; refuses frames of another size.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
MOST_HW = (144, 192)  # a person of 40 px in 768×576 is still 10 px tall
STEP = 12  # grey levels: seven standard deviations of what a noise of 5 a pixel leaves


class Gate:
    """For one camera with frames of `frame_hw` (height, width). `step`: by how many grey levels a pixel changes, if it does."""

    def __init__(self, frame_hw: tuple[int, int], *, step: int = STEP) -> None:
        self._step = step
        self._sizes = [frame_hw]
        while self._sizes[-1][0] > MOST_HW[0] or self._sizes[-1][1] > MOST_HW[1]:
            height, width = self._sizes[-1]
            self._sizes.append((max(height // 2, 1), max(width // 2, 1)))
        self._greys = [np.empty(size, np.uint8) for size in self._sizes]
        self._seen: Grey | None = None

    def moved(self, frame: NDArray[np.uint8]) -> float:
        """The share of `frame` (h, w, 3) BGR that differs from the one last looked at; 1.0 before the first look. Raises ValueError."""
        if frame.shape != (*self._sizes[0], 3):
            raise ValueError(f"a frame of {frame.shape} came to a gate for {self._sizes[0]}: a camera has one size")
        cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY, dst=self._greys[0])
        for larger, smaller in zip(self._greys, self._greys[1:], strict=False):
            cv2.resize(larger, smaller.shape[::-1], dst=smaller, interpolation=cv2.INTER_AREA)
        return 1.0 if self._seen is None else changed(self._seen, self._greys[-1], threshold=self._step)

    def looked(self) -> None:
        """The frame that `moved` was last asked about is now looked at: change counts from it."""
        if self._seen is None:
            self._seen = np.empty_like(self._greys[-1])
        self._seen[:] = self._greys[-1]


def changed(before: Grey, now: Grey, *, threshold: int) -> float:
    """The share of pixels whose grey level differs by more than `threshold`, 0 to 1."""
    return float(np.count_nonzero(cv2.absdiff(before, now) > threshold) / now.size)
