"""What one detector's thread does with the frames it took: fit them side by side into one canvas made once, infer, hand out the heads.

A frame that does not fit fails alone. A detector that fails, fails all that it was given, and says so in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lib.pipelines.retail.camera import Frame
from lib.pipelines.retail.watch import Watch
from lib.vision import letterbox

if TYPE_CHECKING:
    from lib.vision.detector import Detector

Canvas = NDArray[np.uint8]
Raw = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames with their raw heads (84, A), None for those in which nothing moved; stamps in s. `size`: how many were inferred together."""

    frames: Sequence[tuple[Watch, Frame, Raw | None]]
    size: int
    taken_s: float
    fitted_s: float
    inferred_s: float
    error: Exception | None


class Looker:
    """A canvas and the detectors that look at it. For one thread."""

    def __init__(self, detectors: Sequence[Detector], *, now: Callable[[], float]) -> None:
        """`detectors`: of one geometry, each for another batch size. Raises ValueError."""
        if len({(one.net_hw, one.takes) for one in detectors}) != 1:
            raise ValueError("it takes detectors, all of one net size and one kind of input")
        self._detectors, self._now = sorted(detectors, key=lambda one: one.batch), now
        (height, width), self.most = detectors[0].net_hw, max(one.batch for one in detectors)
        self._canvas = np.zeros((self.most, height, width, 3), np.uint8)
        self._tensor = np.zeros((self.most, 3, height, width), np.float32) if detectors[0].takes == "tensor" else None

    def warm(self) -> None:
        """Let each detector look once: the first look takes long, and one that cannot look should say so now."""
        for detector in self._detectors:
            self._infer(detector.batch)

    def room(self, waiting: int) -> int:
        """How many of `waiting` frames to take: the largest batch that they fill, so that nothing is inferred in vain."""
        return max((one.batch for one in self._detectors if one.batch <= waiting), default=waiting)

    def look(self, taken: Sequence[tuple[Watch, Frame]]) -> Batch:
        """At most `most` frames. The heads are the caller's to keep."""
        taken_s = self._now()
        frames: list[tuple[Watch, Frame, Raw | None]] = []
        fitted: list[tuple[Watch, Frame]] = []
        for watch, frame in taken:
            try:
                if watch.eye.moved(frame.image):
                    self._fit(len(fitted), partial(watch.eye.canvas, frame.image))
                    fitted.append((watch, frame))
                else:
                    frames.append((watch, frame, None))
            except Exception as error:  # whatever is wrong with one camera's frame leaves the others theirs
                watch.failed(error)
        fitted_s, failure = self._now(), None
        if fitted:
            try:
                heads = self._infer(len(fitted))
                frames += [(watch, frame, head.copy()) for (watch, frame), head in zip(fitted, heads, strict=True)]
            except Exception as error:  # a detector may fail in any way of its library's
                failure = error
                for watch, _ in fitted:
                    watch.failed(error)
        return Batch(frames, len(fitted), taken_s, fitted_s, self._now(), failure)

    def look_at(self, fill: Callable[[Canvas], None]) -> Raw:
        """One picture, fitted by `fill` into (H, W, 3): its head (84, A)."""
        self._fit(0, fill)
        head: Raw = self._infer(1)[0].copy()
        return head

    def _fit(self, place: int, fill: Callable[[Canvas], None]) -> None:
        fill(self._canvas[place])
        if self._tensor is not None:
            letterbox.normalise_into(self._canvas[place], self._tensor[place : place + 1])

    def _infer(self, n: int) -> Raw:
        """The heads (n, 84, A) of the first `n` places, valid until the next call; the smallest batch that holds them is taken."""
        detector = next(one for one in self._detectors if one.batch >= n)
        canvas = self._canvas if self._tensor is None else self._tensor
        heads: Raw = detector.infer(canvas[: detector.batch])[:n]
        return heads
