"""One camera's eye: the steps before the network and after it, and what they remember from frame to frame.

gate → letterbox → (normalise → infer, which are the detector's) → boxes → track → floor → event. Refuses frames of another size than
the floor was drawn on.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.pipelines.retail.floor import Floor, FloorState, Report
from lib.pipelines.retail.tracking import NOBODY, UNSURE, Tracker, Tracks
from lib.vision import head, letterbox
from lib.vision.boxes import Boxes, none
from lib.vision.coco import PERSON
from lib.vision.motion import Gate

MOVED = 0.0008  # share of the picture that must change before the network looks: a quarter of a person 60 pixels tall
LOOK_S = 1.0  # and it looks at least so often, for what the gate overlooks


class WrongFrame(ValueError):
    """A frame whose size is not the floor's."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a camera's frame came to. `boxes` is empty for a frame that the network did not look at: `tracks` are then the last ones."""

    time_s: float
    boxes: Boxes
    tracks: Tracks
    report: Report

    def event(self, camera: str) -> bytes:
        """As it goes to a consumer: one line of JSON."""
        corners = self.tracks.xyxy.round().astype(int).tolist()
        people = [{"id": number, "box": box} for number, box in zip(self.tracks.ids.tolist(), corners, strict=True)]
        return json.dumps({"camera": camera, **self.report.json(), "tracks": people}, separators=(",", ":")).encode()


class Eye:
    """One camera: where its frames lie on the network's canvas, who walks there, what the floor has seen.

    `plain`: post-processing as one writes it first, for comparison. `gated`: frames in which nothing moves are not looked at.
    """

    def __init__(self, floor: Floor, *, net_hw: tuple[int, int], fps: float, labels: Collection[int] = (PERSON,),
                 plain: bool = False, gated: bool = False) -> None:
        self.fit = letterbox.fit(floor.frame_hw, net_hw)
        self._labels = tuple(labels)
        self._boxes = head.boxes_plainly if plain else head.boxes
        self._tracker, self._floor = Tracker(fps=fps), FloorState(floor)
        self._gate = Gate(floor.frame_hw) if gated else None
        self._rested, self._patience = 0, max(1, round(fps * LOOK_S))
        self._tracks, self._last = NOBODY, none()

    def moved(self, frame: NDArray[np.uint8]) -> bool:
        """Whether the network must look at this frame. Always where the camera is not gated."""
        if self._gate is None:
            return True
        self._rested += 1
        if self._gate.moved(frame) >= MOVED or self._rested >= self._patience:
            self._rested = 0
            self._gate.looked()
        return not self._rested

    def canvas(self, frame: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """The frame, (h, w, 3) BGR, fitted into `out`, (H, W, 3). Raises WrongFrame."""
        if frame.shape[:2] != self.fit.frame_hw:
            (h, w), (floor_h, floor_w) = frame.shape[:2], self.fit.frame_hw
            raise WrongFrame(f"a frame of {w} × {h} pixels, but the floor was drawn on {floor_w} × {floor_h}")
        letterbox.letterbox(frame, self.fit, out)

    def boxes(self, raw: NDArray[np.float32]) -> Boxes:
        """What the network's answer for this camera's frame, (84, A), holds."""
        return self._boxes(raw, self.fit, labels=self._labels, score=UNSURE)

    def track(self, boxes: Boxes, time_s: float) -> Tracks:
        """Who these boxes are."""
        self._last, self._tracks = boxes, self._tracker.update(boxes, time_s)
        return self._tracks

    def report(self, tracks: Tracks, time_s: float) -> Report:
        """What the floor says with these people on it."""
        return self._floor.update(tracks, time_s)

    def see(self, raw: NDArray[np.float32], time_s: float) -> Sight:
        """From the network's answer to what a shop wants to know."""
        boxes = self.boxes(raw)
        tracks = self.track(boxes, time_s)
        return Sight(time_s, boxes, tracks, self.report(tracks, time_s))

    def rest(self, time_s: float) -> Sight:
        """A frame in which nothing moved: what the network saw last, it would see again. The tracker learns that people stand."""
        tracks = self.track(self._last, time_s)
        return Sight(time_s, none(), tracks, self.report(tracks, time_s))

    def hold(self, time_s: float) -> Sight:
        """A frame that was skipped: nobody knows better than that people are where they were."""
        return Sight(time_s, none(), self._tracks, self.report(self._tracks, time_s))
