"""What a reader should see with their own eyes: annotated frames of the clip, and still pictures of a shelf with what was counted on them.

Drawn when it is measured and kept with the run, for a recorded run is shown where there is no clip. Hand labels are drawn beside what was
found. Refuses nothing that looks bad: the frames are chosen before anything is detected.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.measured import Found, keep
from lib.pipelines.retail import ladder, walk
from lib.pipelines.retail.footage import FPS, footage
from lib.pipelines.retail.pipeline import Eye
from lib.pipelines.retail.session import Session, Shop
from lib.pipelines.retail.view import annotated
from lib.vision import head, labels, letterbox, picture
from lib.vision.boxes import Boxes
from lib.vision.clip import frames as frames_of
from lib.vision.coco import NAMES, SHELF

SHOWN = (324, 486)  # of the labelled frames
ROWS = slice(120, 430)  # of the frame: where people are
VARIANT = "OpenVINO INT8 512×384"
STILL_HW = (640, 640)
LABEL, FOUND = (255, 255, 255), (0, 220, 255)
SHELF_SCORE = 0.25


def pictures(s: Session) -> None:
    """Frames with their tracks and hand labels, and shelves with what was counted and what is there."""
    if s.model is not None:
        keep(s.run, {"what": "frames", "name": VARIANT}, partial(_frames, s.model), timed=False)
        keep(s.run, {"what": "shelf"}, partial(_shelf, s.model), timed=False)


def _frames(shop: Shop) -> Found:
    variant, truth = ladder.named(VARIANT), labels.load()
    made = variant.detector(shop)
    eye, prepare = Eye(shop.floor, net_hw=variant.net_hw, fps=FPS), walk.preparing(made)
    canvas, drawn = np.empty((1, *variant.net_hw, 3), np.uint8), []
    for number, frame in frames_of(shop.clip, last=max(SHOWN)):
        eye.canvas(frame, canvas[0])
        sight = eye.see(made.infer(prepare(canvas))[0], number / FPS)
        if number in SHOWN:
            shown = annotated(frame, sight, shop.floor)
            for corners in truth.frames[number].round().astype(int).tolist():
                _dashed(shown, corners)
            drawn.append(shown)
    jpegs = [picture.jpeg(np.vstack([each[ROWS] for each in drawn]), quality=60)]
    small = cv2.cvtColor(cv2.resize(drawn[0], (192, 144), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    ground = picture.jpeg(cv2.cvtColor(small, cv2.COLOR_GRAY2BGR), quality=60)
    missing = None if len(drawn) == len(SHOWN) else f"{len(drawn)} of {len(SHOWN)} frames were drawn"
    series = {"jpegs": pd.DataFrame({"jpeg": jpegs}), "ground": pd.DataFrame({"jpeg": [ground]})}
    return Found({}, {"frames": SHOWN}, {"6 books": missing}, series)


def _dashed(drawn: NDArray[np.uint8], corners: list[int]) -> None:
    """A box in dashes: what the hand drew."""
    left, top, right, bottom = corners
    for at in range(left, right, 8):
        for y in (top, bottom):
            cv2.line(drawn, (at, y), (min(at + 4, right), y), LABEL, 1)
    for at in range(top, bottom, 8):
        for x in (left, right):
            cv2.line(drawn, (x, at), (x, min(at + 4, bottom)), LABEL, 1)


def _shelf(shop: Shop) -> Found:
    """Each labelled still picture: what is there by hand, what each of two variants counts, and one of them drawn."""
    rows, drawn = [], []
    for precision in ("f32", "INT8"):
        made = ladder.openvino(precision, STILL_HW).detector(shop)
        prepare, canvas = walk.preparing(made), np.empty((1, *STILL_HW, 3), np.uint8)
        for told in labels.load().pictures:
            image = picture.read((footage() / told.name).read_bytes())
            fit = letterbox.fit((image.shape[0], image.shape[1]), STILL_HW)
            letterbox.letterbox(image, fit, canvas[0])
            found = head.boxes(made.infer(prepare(canvas))[0], fit, labels=SHELF, score=SHELF_SCORE)
            counts = Counter(NAMES[label] for label in found.label.tolist())
            rows.append({"picture": told.name, "precision": precision, "there": told.counts, "found": dict(counts)})
            if precision == "f32" and told.counts:
                drawn.append(_boxed(image, found))
    strip = np.hstack([cv2.resize(each, (round(each.shape[1] * 260 / each.shape[0]), 260)) for each in drawn])
    wanted = 2 * len(labels.load().pictures)
    missing = None if len(rows) == wanted else f"{len(rows)} of {wanted} looks"
    return Found({}, {"rows": rows}, {"6 books": missing}, {"jpegs": pd.DataFrame({"jpeg": [picture.jpeg(strip, quality=75)]})})


def _boxed(image: NDArray[np.uint8], found: Boxes) -> NDArray[np.uint8]:
    shown = image.copy()
    for (left, top, right, bottom), label, score in zip(found.xyxy.round().astype(int).tolist(), found.label, found.score, strict=True):
        cv2.rectangle(shown, (left, top), (right, bottom), FOUND, 2)
        cv2.putText(shown, f"{NAMES[label]} {score:.2f}", (left + 3, top + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, FOUND, 1, cv2.LINE_AA)
    return shown
