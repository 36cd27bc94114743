"""What the cameras of this machine play: OpenCV's clip of pedestrians, the floor that was drawn on it, and where both lie."""

from __future__ import annotations

from pathlib import Path

from lib import fetch
from lib.home import INPUTS
from lib.vision import yolo
from lib.vision.yolo import NotReady

FLOOR = INPUTS / "retail" / "floor.toml"
CLIP = "vtest.avi"
FPS = 10.0  # what the clip was taken at


def footage() -> Path:
    """The directory of OpenCV's samples. Raises NotReady."""
    if not (path := fetch.sources()[yolo.SAMPLES].path).exists():
        raise NotReady(f"{CLIP} is not on this machine yet; python -m lib.vision.yolo fetches it")
    return path
