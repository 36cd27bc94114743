"""The hand's truth about the pedestrian clip and the shelf pictures (data/inputs/retail/labels.json), read and checked.

Refuses, by name and place, what cannot be true: a box outside its picture or too small to have been labelled, a crossing after the clip's
end, a thing that no shelf of ours holds, a key that nobody reads. The rule by which it was labelled stands in the README beside the file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lib import home
from lib.vision import coco
from lib.vision.boxes import Boxes

Direction = Literal["left", "right"]
SMALLEST_PX = 25  # the labelling rule leaves lower persons out


class BadLabels(ValueError):
    """What the labels say cannot be: where, and why."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Somebody's foot point (the middle of the box's lower edge) is on the new side of a line from `frame` (± 3) on."""

    frame: int
    direction: Direction


@dataclass(frozen=True, slots=True)
class Line:
    """An upright line in pixels of the frame, and everybody who crossed it in the whole clip, in order."""

    x: float
    top: float
    bottom: float
    crossings: tuple[Crossing, ...]

    def count(self, direction: Direction) -> int:
        return sum(crossing.direction == direction for crossing in self.crossings)


@dataclass(frozen=True, slots=True)
class QuietView:
    """A part of the clip, in pixels of its frames, in which somebody is seen in `share` of all frames: in `present` (first, last)."""

    x: int
    y: int
    width: int
    height: int
    present: tuple[tuple[int, int], ...]
    share: float

    def of(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """That part of a frame (h, w, 3): a view."""
        return frame[self.y : self.y + self.height, self.x : self.x + self.width]


@dataclass(frozen=True, slots=True)
class Picture:
    """A still picture of OpenCV's sample data by file name, and what a shelf would hold of it (scores 1); often nothing."""

    name: str
    height: int
    width: int
    things: Boxes

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(coco.NAMES[label] for label in self.things.label))


@dataclass(frozen=True, slots=True)
class Labels:
    """`frames`: every labelled frame's persons by its index, (n, 4) float32: left, top, right, bottom in pixels of the frame."""

    frames: dict[int, NDArray[np.float32]]
    lines: tuple[Line, ...]
    quiet_view: QuietView
    pictures: tuple[Picture, ...]

    def persons(self, frame: int) -> Boxes:
        """A labelled frame's persons with score 1. KeyError for a frame that was not labelled."""
        return _sure(self.frames[frame], [coco.PERSON] * len(self.frames[frame]))

    def line(self, x: float) -> Line:
        """The line at `x`. BadLabels where nobody counted."""
        for line in self.lines:
            if line.x == x:
                return line
        raise BadLabels(f"crossings were counted at x = {', '.join(f'{line.x:g}' for line in self.lines)}, not at {x:g}")


def load(path: Path = home.INPUTS / "retail" / "labels.json") -> Labels:
    """The labels of a file. Raises BadLabels."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadLabels(f"{path.name} is no JSON: {error}") from error
    return parse(told)


def parse(told: object) -> Labels:
    """The labels in what the file says. Raises BadLabels."""
    clip, frames, lines, quiet_view, pictures = _fields(told, ("clip", "frames", "lines", "quiet_view", "pictures"), "labels")
    _, length, height, width = _fields(clip, ("name", "frames", "height", "width"), "clip")
    _must(isinstance(frames, dict) and all(index.isdecimal() for index in frames), f"frames: boxes by frame index, not {frames!r}")
    return Labels(
        {_frame(int(index), length): _persons(boxes, height, width, f"frame {index}") for index, boxes in frames.items()},
        tuple(_line(line, length, height, width) for line in lines),
        _quiet_view(quiet_view, length, height, width),
        tuple(_picture(picture) for picture in pictures),
    )


def _persons(told: Any, height: int, width: int, where: str) -> NDArray[np.float32]:
    boxes = np.array([_box(box, height, width, where) for box in told], np.float32).reshape(-1, 4)
    tall = boxes[:, 3] - boxes[:, 1]
    _must(bool((tall >= SMALLEST_PX).all()), f"{where}: a person {tall.min(initial=np.inf):g} px tall is below the rule's {SMALLEST_PX} px")
    return boxes


def _line(told: Any, length: int, height: int, width: int) -> Line:
    x, top, bottom, crossings = _fields(told, ("x", "top", "bottom", "crossings"), "line")
    _must(0 < x < width and 0 <= top < bottom <= height, f"line at x = {x} from {top} to {bottom}: not inside {width} × {height}")
    events = tuple(Crossing(_frame(frame, length), direction) for frame, direction in crossings)
    for event in events:
        _must(event.direction in get_args(Direction), f"line at x = {x}, frame {event.frame}: nobody goes {event.direction!r}")
    _must(all(a.frame <= b.frame for a, b in pairwise(events)), f"line at x = {x}: crossings are not in order")
    return Line(x, top, bottom, events)


def _quiet_view(told: Any, length: int, height: int, width: int) -> QuietView:
    x, y, wide, tall, present = _fields(told, ("x", "y", "width", "height", "present"), "quiet_view")
    _must(0 <= x < x + wide <= width and 0 <= y < y + tall <= height, f"quiet_view {x, y, wide, tall}: not inside {width} × {height}")
    spans = tuple((_frame(first, length), _frame(last, length)) for first, last in present)
    ends = [end for span in spans for end in span]
    _must(ends == sorted(ends), f"quiet_view: the spans {spans} overlap or run backwards")
    return QuietView(x, y, wide, tall, spans, sum(last - first + 1 for first, last in spans) / length)


def _picture(told: Any) -> Picture:
    name, height, width, things = _fields(told, ("name", "height", "width", "things"), "picture")
    for thing, _ in things:
        _must(thing in coco.NAMES and coco.NAMES.index(thing) in coco.SHELF, f"{name}: {thing!r} is on no shelf of ours")
    boxes = np.array([_box(box, height, width, name) for _, box in things], np.float32).reshape(-1, 4)
    return Picture(name, height, width, _sure(boxes, [coco.NAMES.index(thing) for thing, _ in things]))


def _box(told: Any, height: int, width: int, where: str) -> tuple[float, float, float, float]:
    numbers = isinstance(told, list) and len(told) == 4 and all(isinstance(side, int | float) for side in told)
    _must(numbers, f"{where}: a box is left, top, right, bottom, not {told!r}")
    left, top, right, bottom = told
    _must(0 <= left < right <= width and 0 <= top < bottom <= height, f"{where}: the box {told} is not inside {width} × {height}")
    return left, top, right, bottom


def _frame(index: int, length: int) -> int:
    _must(0 <= index < length, f"frame {index}: the clip has frames 0 to {length - 1}")
    return index


def _fields(told: Any, names: Sequence[str], where: str) -> tuple[Any, ...]:
    _must(isinstance(told, dict) and set(told) == set(names), f"{where}: wants exactly {', '.join(names)}, not {told!r:.200}")
    return tuple(told[name] for name in names)


def _sure(boxes: NDArray[np.float32], labels: Sequence[int]) -> Boxes:
    return Boxes(boxes, np.ones(len(boxes), np.float32), np.array(labels, np.int32))


def _must(true: bool, otherwise: str) -> None:
    if not true:
        raise BadLabels(otherwise)
