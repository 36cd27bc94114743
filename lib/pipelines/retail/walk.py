"""A clip walked through the pipeline at full speed: decode → gate → letterbox → normalise → infer → boxes → track → floor → event.

`serial` does one frame after another in one thread and stamps every step; `overlapped` decodes and follows while frames are in the
network. No frame is lost: what the network does not look at is skipped by plan or gated, and says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lib.pipelines.retail.floor import Floor
from lib.pipelines.retail.pipeline import Eye, Sight
from lib.vision import letterbox
from lib.vision.clip import Clip, open_clip
from lib.vision.detector import Detector

STAGES = ("decode", "gate", "letterbox", "normalise", "infer", "boxes", "track", "floor", "event")
Outcome = Literal["seen", "skipped", "gated"]
Frame = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Walk:
    """What came of it, one entry a frame. `stamps_ns`: serial (n, 10), before decode and after each stage, nought long where a stage was
    left out; overlapped (n, 2), before decode and after the event. `wall_s`: first frame to last event, by readings of its own."""

    stamps_ns: NDArray[np.int64]
    outcomes: tuple[Outcome, ...]
    sights: tuple[Sight, ...]
    wall_s: float


def preparing(detector: Detector, *, plain: bool = False) -> Callable[[Frame], NDArray[Any]]:
    """How a canvas, (1, H, W, 3), becomes the detector's input: as it is, in one float buffer for ever, or (`plain`) anew each time."""
    if detector.takes == "canvas":
        return lambda canvas: canvas
    if plain:
        return lambda canvas: letterbox.normalised(canvas[0])
    tensor, planes = np.empty((1, 3, *detector.net_hw), np.float32), np.empty((3, *detector.net_hw), np.uint8)

    def into(canvas: Frame) -> NDArray[np.float32]:
        letterbox.normalise_into(canvas[0], tensor, planes=planes)
        return tensor

    return into


def serial(path: Path, floor: Floor, detector: Detector, *, fps: float, frames: int, every: int = 1, gated: bool = False,
           plain: bool = False) -> Walk:
    """The first `frames` frames, one after another. `every`: the network looks at each n-th only. `plain`: pre- and post-processing as
    one writes them first. Raises EOFError for a clip that is shorter."""
    eye = Eye(floor, net_hw=detector.net_hw, fps=fps, plain=plain, gated=gated)
    prepare, canvas = preparing(detector, plain=plain), np.empty((1, *detector.net_hw, 3), np.uint8)
    stamps, outcomes, sights = np.zeros((frames, len(STAGES) + 1), np.int64), list[Outcome](), list[Sight]()
    with open_clip(path) as clip:
        began_ns = perf_counter_ns()
        for number in range(frames):
            now, at = stamps[number], number / fps
            now[0] = perf_counter_ns()
            frame = _next(clip, number, looked_at=number % every == 0)
            now[1] = perf_counter_ns()
            outcome: Outcome = "skipped" if frame is None else "seen" if eye.moved(frame) else "gated"
            now[2:] = perf_counter_ns()
            if frame is not None and outcome == "seen":
                if plain:
                    canvas = np.empty_like(canvas)
                eye.canvas(frame, canvas[0])
                now[3] = perf_counter_ns()
                x = prepare(canvas)
                now[4] = perf_counter_ns()
                raw = detector.infer(x)[0]
                now[5] = perf_counter_ns()
                boxes = eye.boxes(raw)
                now[6] = perf_counter_ns()
                tracks = eye.track(boxes, at)
                now[7] = perf_counter_ns()
                sight = Sight(at, boxes, tracks, eye.report(tracks, at))
            else:
                sight = eye.rest(at) if outcome == "gated" else eye.hold(at)
            now[8] = perf_counter_ns()
            sight.event("camera")
            now[9] = perf_counter_ns()
            outcomes.append(outcome)
            sights.append(sight)
        wall_s = (perf_counter_ns() - began_ns) / 1e9
    return Walk(stamps, tuple(outcomes), tuple(sights), wall_s)


def overlapped(path: Path, floor: Floor, detector: Detector, *, fps: float, frames: int, lanes: int, every: int = 1,
               gated: bool = False) -> Walk:
    """As `serial`, but up to `lanes` frames are in the network at once, each in a thread, while this one decodes and follows, in order."""
    eye = Eye(floor, net_hw=detector.net_hw, fps=fps, gated=gated)
    canvases = deque(np.empty((1, *detector.net_hw, 3), np.uint8) for _ in range(2 * lanes + 1))
    stamps, outcomes, sights = np.zeros((frames, 2), np.int64), list[Outcome](), list[Sight]()
    waiting: deque[tuple[int, Future[NDArray[np.float32]] | None]] = deque()

    def follow() -> None:
        number, answer = waiting.popleft()
        at = number / fps
        rests = eye.rest if outcomes[number] == "gated" else eye.hold
        sight = rests(at) if answer is None else eye.see(answer.result(), at)
        sight.event("camera")
        stamps[number, 1] = perf_counter_ns()
        sights.append(sight)

    def look(canvas: Frame) -> NDArray[np.float32]:
        prepare = prepares.pop()  # one a lane: two frames must not share a buffer
        raw: NDArray[np.float32] = detector.infer(prepare(canvas))[0].copy()  # the detector's own is this thread's next frame's
        prepares.append(prepare)
        return raw

    prepares = [preparing(detector) for _ in range(lanes)]
    with open_clip(path) as clip, ThreadPoolExecutor(lanes) as pool:
        began_ns = perf_counter_ns()
        for number in range(frames):
            stamps[number, 0] = perf_counter_ns()
            frame = _next(clip, number, looked_at=number % every == 0)
            outcome: Outcome = "skipped" if frame is None else "seen" if eye.moved(frame) else "gated"
            if frame is not None and outcome == "seen":
                canvas = canvases[0]
                canvases.rotate(-1)
                eye.canvas(frame, canvas[0])
                waiting.append((number, pool.submit(look, canvas)))
            else:
                waiting.append((number, None))
            outcomes.append(outcome)
            while len(waiting) > 2 * lanes or (waiting and (waiting[0][1] is None or waiting[0][1].done())):
                follow()
        while waiting:
            follow()
        wall_s = (perf_counter_ns() - began_ns) / 1e9
    return Walk(stamps, tuple(outcomes), tuple(sights), wall_s)


def _next(clip: Clip, number: int, *, looked_at: bool) -> Frame | None:
    """The next frame, or None where it is passed over: then it is decoded, as it must be, but not converted."""
    frame = clip.read() if looked_at else None
    if frame is None and (looked_at or not clip.skip()):
        raise EOFError(f"{clip.path.name} ends after {number} frames")
    return frame
