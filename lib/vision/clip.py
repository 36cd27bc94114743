"""A video file, frame by frame, as OpenCV's FFmpeg decodes it. Refuses what is no clip before FFmpeg sees it.

Only local files in AVI, MP4/MOV, Matroska or WebM: a playlist would make FFmpeg open what it names. The header's promises are checked
against the first frame; how many frames there really are shows only at the end. A frame that is damaged in the file comes as FFmpeg mends
it, one of another size scaled to the first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.vision.picture import MOST_PIXELS

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what goes wrong is raised, not written to the terminal by a C library
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
MOST_FPS = 240.0
Frame = NDArray[np.uint8]


class BadClip(ValueError):
    """This file is no clip that can be played; the message says why."""


class Clip:
    """An open clip. `height`, `width` in px, `fps` frames a second; `frames`: how many the file promises, None where it does not say."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self.path, self._threads = path, threads
        self._capture = self._opened()
        self.height, self.width = (int(self._capture.get(side)) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        self.fps = self._capture.get(cv2.CAP_PROP_FPS)
        promised = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(promised) if 0 < promised < 2**31 else None
        if reason := self._wrong():
            self.close()
            raise BadClip(f"{path.name} {reason}")
        self._ahead = True  # the first frame, which _wrong has decoded

    def read(self, into: Frame | None = None) -> Frame | None:
        """The next frame (height, width, 3) BGR, the caller's own or in `into`; None at the end. Raises BadClip, ValueError."""
        if into is not None and (into.shape != (self.height, self.width, 3) or into.dtype != np.uint8):
            raise ValueError(f"frames of {self.path.name} do not go into {into.dtype} {into.shape}: uint8 {(self.height, self.width, 3)}")
        if not self.skip():
            return None
        whole, frame = self._capture.retrieve(into)
        if not whole:
            raise BadClip(f"{self.path.name} holds a frame that cannot be converted to BGR")
        return np.asarray(frame, dtype=np.uint8)

    def skip(self) -> bool:
        """Pass over the next frame for 0.6 of the cost of reading it; False at the end. Raises ValueError on a closed clip."""
        if not self._capture.isOpened():
            raise ValueError(f"{self.path.name} is closed")
        there = self._ahead or self._capture.grab()
        self._ahead = False
        return there

    def rewind(self) -> None:
        """Back to the first frame. By opening anew, which takes a millisecond and, unlike seeking, is exact in every container."""
        self.close()
        self._capture, self._ahead = self._opened(), False

    def close(self) -> None:
        self._capture.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> cv2.VideoCapture:
        _refuse(self.path)
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, self._threads])
        if not capture.isOpened():
            raise BadClip(f"{self.path.name} ({self.path.stat().st_size} bytes) is damaged, cut short, or holds no video that FFmpeg knows")
        return capture

    def _wrong(self) -> str | None:
        if not 0 < self.height * self.width <= MOST_PIXELS:  # before a frame of that size is allocated
            return f"says that its frames are {self.width}×{self.height}; between 1 and {MOST_PIXELS} pixels are taken"
        if not 0 < self.fps <= MOST_FPS:
            return f"says that it runs at {self.fps:g} frames/s; above 0 and up to {MOST_FPS:g} are taken"
        return None if self._capture.grab() else f"({self.path.stat().st_size} bytes) ends before its first frame: it is cut short"


def open_clip(path: Path, *, threads: int = 1) -> Clip:
    """The clip at `path`, decoded on `threads` threads. Raises BadClip for a missing, empty, truncated or foreign file or absurd sizes."""
    return Clip(path, threads=threads)


def frames(path: Path, *, every: int = 1, first: int = 0, last: int | None = None) -> Iterator[tuple[int, Frame]]:
    """(index, frame) of `first`, `first` + `every`, … up to and including `last`, without it to the end.

    Raises BadClip where the clip ends before `last` (without it: before `first`), ValueError for a selection that means nothing.
    """
    needed = first if last is None else last
    if every < 1 or not 0 <= first <= needed:
        raise ValueError(f"frames {first} to {last} in steps of {every}: 0 ≤ first ≤ last and a step of at least 1 are wanted")
    with open_clip(path) as clip:
        index = 0
        while last is None or index <= last:
            wanted = index >= first and (index - first) % every == 0
            frame = clip.read() if wanted else None
            if (frame is None) if wanted else not clip.skip():
                break
            if frame is not None:
                yield index, frame
            index += 1
        if index <= needed:
            raise BadClip(f"{path.name} ends after {index} frames, before frame {needed}")


def _refuse(path: Path) -> None:
    if not path.is_file():
        raise BadClip(f"There is no file {path.name}")
    with path.open("rb") as file:
        start = file.read(12)
    if not start:
        raise BadClip(f"{path.name} is empty: zero bytes")
    avi, mp4, matroska = start[:4] == b"RIFF" and start[8:] == b"AVI ", start[4:8] == b"ftyp", start[:4] == b"\x1aE\xdf\xa3"
    if not (avi or mp4 or matroska):
        raise BadClip(f"{path.name} is no AVI, MP4, MOV, Matroska or WebM file, whatever its name says")
