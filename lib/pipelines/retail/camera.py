"""A camera: a thread that takes frames from a source when they are due, and tells how it is doing.

Frames are due on a schedule, and a frame's capture is the moment when it was due, not when the machine found time for it: waiting for a
processor is part of its age. Whole slots that pass meanwhile are lost, as a real camera's would be: counted, never caught up. Footage
that ends starts over or ends the camera; a source that fails is opened again after a while, by itself. A read that never returns cannot
be interrupted: the camera is stalled until it does, and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from threading import Event, Thread
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

AFRESH_S = 1.0  # a camera that is further behind skips the footage instead of reading through it, which costs what it lacks
FIRST_WAIT_S, MOST_WAIT_S = 0.5, 10.0  # before a source that failed is opened again; doubled each time
STOP_S = 2.0  # how long an orderly end may take: a read and some change


class Source(Protocol):
    """Where frames come from: a clip. `read`: (h, w, 3) uint8 BGR, the caller's from then on, or None at the end; `skip`: False there."""

    def read(self) -> NDArray[np.uint8] | None: ...
    def skip(self) -> bool: ...
    def rewind(self) -> None: ...
    def close(self) -> None: ...


class State(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    STALLED = "stalled"
    FAILED = "failed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture and its first stamps (s, monotonic): when it was due, when the thread turned to it, when it was decoded.

    `number` counts all slots of this camera, `place` is the frame's index in its footage.
    """

    image: NDArray[np.uint8]
    number: int
    place: int
    captured_s: float
    woken_s: float
    decoded_s: float


@dataclass(frozen=True, slots=True)
class Status:
    """How a camera does. `late`: slots that passed before the thread came to them. `reason` says why it does not run."""

    state: State
    reason: str | None
    frames: int
    late: int
    restarts: int


class Exhausted(Exception):
    """Footage without a single frame: to start it over would never end."""


class Camera:
    """One source on one thread, from construction until `stop`."""

    def __init__(
        self, name: str, open: Callable[[], Source], deliver: Callable[[Frame], None], *, fps: float, loop: bool = True,
        stall_s: float = 2.0, first_wait_s: float = FIRST_WAIT_S, now: Callable[[], float] = perf_counter,
    ) -> None:  # fmt: skip
        """`deliver` is called on the camera's thread and must not block. Raises ValueError unless 0 < fps ≤ 240."""
        if not 0 < fps <= 240:
            raise ValueError(f"a camera at {fps} frames a second: take more than 0 and at most 240")
        self.name, self.fps = name, fps
        self._open, self._deliver, self._loop = open, deliver, loop
        self._stall_s, self._first_wait_s, self._now = stall_s + 1 / fps, first_wait_s, now
        self._state, self._reason = State.STARTING, None
        self._alive_s = now()  # when it last had a frame, or was begun
        self._frames = self._late = self._restarts = self._number = self._place = 0
        self._told = Event()
        self._thread = Thread(target=self._run, name=f"camera {name}", daemon=True)  # a read that never returns must not hold the process
        self._thread.start()

    _state: State
    _reason: str | None

    def status(self) -> Status:
        """As of now; that no frame comes shows here without anybody's help."""
        silent_s = self._now() - self._alive_s
        if self._state in (State.STARTING, State.RUNNING) and silent_s > self._stall_s:
            return Status(State.STALLED, f"no frame for {silent_s:.1f} s", self._frames, self._late, self._restarts)
        return Status(self._state, self._reason, self._frames, self._late, self._restarts)

    def leave(self) -> None:
        """Tell the thread to end, without waiting for it."""
        self._told.set()

    def stop(self, *, within_s: float = STOP_S) -> bool:
        """End the thread; whether it has ended. One that hangs in a read is left behind: it delivers nothing any more."""
        self.leave()
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        wait_s = self._first_wait_s
        while not self._told.is_set():
            began_s = self._alive_s = self._now()
            self._state, self._reason = State.STARTING, None
            try:
                with closing(self._open()) as source:
                    self._play(source)
                if not self._told.is_set():
                    self._state, self._reason = State.ENDED, "the footage is at its end"
                return
            except Exception as error:  # a source may fail in any way; its camera, and no other, waits and tries again
                if self._now() - began_s > MOST_WAIT_S:
                    wait_s = self._first_wait_s
                self._state, self._reason = State.FAILED, f"{type(error).__name__}: {error}; opened again after {wait_s:g} s"
            self._told.wait(wait_s)
            wait_s = min(2 * wait_s, MOST_WAIT_S)
            self._restarts += 1

    def _play(self, source: Source) -> None:
        """Deliver frames as they fall due, until told to stop or the footage is over. The first is due now."""
        due_s, self._place = self._now(), 0
        while not self._told.wait(max(0.0, due_s - self._now())):
            lost = slots_lost(due_s, self._now(), fps=self.fps)
            due_s += lost / self.fps
            self._late += lost
            self._number += lost
            for _ in range(lost if lost <= self.fps * AFRESH_S else 0):
                self._place += source.skip()  # the footage goes on while nobody looks, so that seconds in it stay seconds
            woken_s = self._now()
            if (image := self._read(source)) is None:
                return
            decoded_s = self._now()
            self._state, self._reason, self._alive_s = State.RUNNING, None, decoded_s
            if self._told.is_set():
                return  # it hung in a read and was given up: nobody wants this frame
            self._frames += 1
            self._number += 1
            self._deliver(Frame(image, self._number - 1, self._place - 1, due_s, woken_s, decoded_s))
            due_s += 1 / self.fps

    def _read(self, source: Source) -> NDArray[np.uint8] | None:
        """The next frame, over the end of the footage if it loops. Raises Exhausted for footage without frames."""
        image = source.read()
        if image is None and self._loop:
            source.rewind()
            self._place, image = 0, source.read()
            if image is None:
                raise Exhausted("the footage holds no frame")
        self._place += image is not None
        return image


def slots_lost(due_s: float, now_s: float, *, fps: float) -> int:
    """How many whole slots of 1/fps have passed since a frame was due: their frames are lost. A frame that is a little late is not."""
    return max(0, int((now_s - due_s) * fps))
