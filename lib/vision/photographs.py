"""Photographs that classifiers are calibrated on and judged by: which of the fetched pictures are photographs, and seeded crops of them.

No photograph serves both: what an INT8 network is judged by must not be what its ranges were taken from. Crops of one photograph are
alike, so whoever takes an interval over them draws photographs, not crops. Refuses a picture that is not there or not readable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lib import fetch
from lib.child import Say

SAMPLES, PEOPLE, NATURE = "opencv-samples", "ultralytics-pictures", "mate-nature"  # of the manifest
SIDE = 224
SEED = 5

# OpenCV's samples hold chessboards, drawings and scans as well, and many things twice; these are the photographs, each scene once.
CALIBRATE = {
    SAMPLES: ("aero1.jpg", "apple.jpg", "basketball1.png", "board.jpg", "building.jpg", "chicky_512.png", "ela_original.jpg", "graf1.png",
              "home.jpg", "leuvenA.jpg", "rubberwhale1.png", "stuff.jpg"),
    PEOPLE: ("zidane.jpg",),
    NATURE: ("Aqua.jpg", "Dune.jpg", "FreshFlower.jpg", "GreenMeadow.jpg", "RainDrops.jpg", "Wood.jpg"),
}  # fmt: skip
JUDGE = {
    SAMPLES: ("aloeL.jpg", "baboon.jpg", "box_in_scene.png", "butterfly.jpg", "cards.png", "fruits.jpg", "left01.jpg",
              "licenseplate_motion.jpg", "messi5.jpg", "orange.jpg", "smarties.png", "squirrel_cls.jpg"),
    PEOPLE: ("bus.jpg",),
    NATURE: ("Blinds.jpg", "Garden.jpg", "LadyBird.jpg", "Storm.jpg", "TwoWings.jpg", "YellowFlower.jpg"),
}  # fmt: skip


class BadPhotograph(Exception):
    """A picture that is not there, or that OpenCV does not read; the message names it."""


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """`images`: uint8 (n, SIDE, SIDE, 3) RGB. `of`: the photograph's name of each. A photograph's first crop is its middle."""

    images: NDArray[np.uint8]
    of: tuple[str, ...]


def fetched(names: dict[str, tuple[str, ...]], *, say: Say) -> list[Path]:
    """Where these photographs lie, fetched first where needed. Raises fetch.Refused."""
    return [fetch.fetch(source, say=say) / name for source, files in names.items() for name in files]


def crops(paths: Sequence[Path], *, each: int) -> Crops:
    """The middle square of each photograph and `each` − 1 squares of 40 to 100 % of its short side, wherever the seed puts them.

    Raises BadPhotograph.
    """
    images, of = [], []
    for path in paths:
        whole = cv2.imread(str(path))
        if whole is None:
            raise BadPhotograph(f"{path.name} is not among the fetched pictures, or no picture that OpenCV reads")
        rng = np.random.default_rng([SEED, *path.name.encode()])  # by name: another photograph in the list changes no other's crops
        for turn in range(each):
            images.append(_square(whole, rng if turn else None))
            of.append(path.name)
    return Crops(np.stack(images), tuple(of))


def tensor(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, h, w, 3) RGB → float32 (n, 3, h, w), 0 to 1, contiguous: what the networks take."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def _square(whole: NDArray[np.generic], rng: np.random.Generator | None) -> NDArray[np.uint8]:
    height, width = whole.shape[:2]
    side = int(min(height, width) * (rng.uniform(0.4, 1.0) if rng else 1.0))
    top, left = (int(rng.integers(over + 1)) if rng else over // 2 for over in (height - side, width - side))
    cut = whole[top : top + side, left : left + side]
    shrinks = side > SIDE
    fitted = cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.ascontiguousarray(fitted[:, :, ::-1], np.uint8)
