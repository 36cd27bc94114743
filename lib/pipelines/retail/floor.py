"""What a shop wants to know of its floor: people in each zone and for how long, who crosses the line, how long the queue is.

A floor is drawn once for a camera, in pixels of its frame, in TOML. Refuses zones that leave the frame, cross themselves or
enclose nothing, lines without length, and words it does not know.
"""

from __future__ import annotations

import re
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.pipelines.retail.tracking import Tracks

MOST_ZONES, MOST_CORNERS = 16, 64
LEAST_PIXELS = 64  # a smaller zone holds no foot
GONE_S = 2.0  # whoever is not seen in a zone for so long has left it; less is a lamp post in the way
STANDS_S = 2.0  # whoever is in a queue's zone for so long has joined the queue; less walks through
Point = tuple[float, float]


class BadFloor(ValueError):
    """A floor that cannot be meant; the message says which part and why."""


@dataclass(frozen=True, slots=True)
class Zone:
    """An area of the floor; `queue`: people stand in line here."""

    name: str
    corners: tuple[Point, ...]
    queue: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """People who cross it from the right of `start` → `end` to its left, as seen walking along it, enter; the others leave."""

    start: Point
    end: Point


@dataclass(frozen=True, slots=True)
class Floor:
    """`frame_hw`: height and width in pixels of the frames that it is drawn on."""

    frame_hw: tuple[int, int]
    zones: tuple[Zone, ...]
    line: Line | None


def load(path: Path) -> Floor:
    """The floor in a TOML file. Raises BadFloor, also for a file that is none."""
    try:
        return parse(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadFloor(f"{path.name}: {error}") from error


def parse(drawn: Mapping[str, Any]) -> Floor:
    """A floor from TOML's or JSON's tables. Raises BadFloor with the first thing that is wrong."""
    _known(drawn, {"frame", "zones", "line"}, "the floor")
    match drawn.get("frame"):
        case [int(width), int(height)] if 1 <= width <= 16_384 and 1 <= height <= 16_384:
            frame_hw = height, width
        case other:
            raise BadFloor(f"frame must be [width, height] in pixels, not {other!r}")
    zones = drawn.get("zones", [])
    if not isinstance(zones, list) or len(zones) > MOST_ZONES:
        raise BadFloor(f"zones must be a list of at most {MOST_ZONES}")
    made = tuple(_zone(zone, frame_hw) for zone in zones)
    if len({zone.name for zone in made}) < len(made):
        raise BadFloor("two zones have one name")
    return Floor(frame_hw, made, None if drawn.get("line") is None else _line(drawn["line"], frame_hw))


@dataclass(frozen=True, slots=True)
class Stay:
    """One zone now: how many are in it, for how long each (s, longest first), and how many came so far."""

    count: int
    dwell_s: tuple[float, ...]
    visits: int


@dataclass(frozen=True, slots=True)
class Report:
    """What one frame says. `entries` and `exits` count from the beginning; `queue`: people who wait in queues' zones."""

    time_s: float
    people: int
    zones: Mapping[str, Stay]
    queue: int
    entries: int
    exits: int

    def json(self) -> dict[str, Any]:
        """For the wire: seconds to a tenth."""
        zones = {name: {"count": stay.count, "visits": stay.visits, "longest_s": round(max(stay.dwell_s, default=0.0), 1)}
                 for name, stay in self.zones.items()}  # fmt: skip
        return {"time_s": round(self.time_s, 3), "people": self.people, "zones": zones, "queue": self.queue,
                "entries": self.entries, "exits": self.exits}  # fmt: skip


@dataclass(slots=True)
class _Guest:
    since_s: float
    seen_s: float


@dataclass(slots=True)
class FloorState:
    """A floor and what has happened on it. Frames come in the order of their time."""

    floor: Floor
    _areas: list[Any] = field(init=False)
    _line: Any = field(init=False)
    _guests: dict[str, dict[int, _Guest]] = field(init=False)
    _visits: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a progress bar that it brings along, where a notebook has no widgets
            from supervision import LineZone, PolygonZone, Position
            from supervision import Point as At

        line = self.floor.line
        self._areas = [PolygonZone(np.array(zone.corners).round().astype(np.int64)) for zone in self.floor.zones]
        # Two frames on the other side count: a box that trembles on the line would enter and leave all day.
        feet = [Position.BOTTOM_CENTER]
        self._line = line and LineZone(At(*line.start), At(*line.end), triggering_anchors=feet, minimum_crossing_threshold=2)
        self._guests = {zone.name: {} for zone in self.floor.zones}
        self._visits = dict.fromkeys(self._guests, 0)

    def update(self, tracks: Tracks, time_s: float) -> Report:
        """What is known after the frame of `time_s` with these people in it."""
        from supervision import Detections

        people = Detections(tracks.xyxy, tracker_id=tracks.ids)
        if self._line:
            self._line.trigger(people)
        inside = self._inside(people)
        stays, queue = {}, 0
        for zone, here in zip(self.floor.zones, inside, strict=True):
            stays[zone.name] = stay = self._stay(zone.name, tracks.ids[here], time_s)
            queue += zone.queue and sum(dwell >= STANDS_S for dwell in stay.dwell_s)
        crossed = (self._line.in_count, self._line.out_count) if self._line else (0, 0)
        return Report(time_s, len(tracks), stays, queue, *crossed)

    def inside(self, tracks: Tracks) -> list[NDArray[np.bool_]]:
        """For each zone of the floor, who stands in it, (n,). Remembers nothing."""
        from supervision import Detections

        return self._inside(Detections(tracks.xyxy))

    def _inside(self, people: Any) -> list[NDArray[np.bool_]]:
        return [area.trigger(people) for area in self._areas]

    def _stay(self, name: str, ids: NDArray[np.int64], time_s: float) -> Stay:
        guests = self._guests[name]
        for gone in [number for number, guest in guests.items() if time_s - guest.seen_s > GONE_S]:
            del guests[gone]
        for number in ids.tolist():
            if number not in guests:
                guests[number] = _Guest(time_s, time_s)
                self._visits[name] += 1
            guests[number].seen_s = time_s
        return Stay(len(ids), tuple(sorted((time_s - guests[number].since_s for number in ids.tolist()), reverse=True)), self._visits[name])


def _zone(drawn: Any, frame_hw: tuple[int, int]) -> Zone:
    from shapely import Polygon
    from shapely.validation import explain_validity

    if not isinstance(drawn, Mapping):
        raise BadFloor(f"a zone must be a table, not {drawn!r}")
    _known(drawn, {"name", "corners", "queue"}, "a zone")
    name, queue, corners = drawn.get("name"), drawn.get("queue", False), drawn.get("corners")
    if not isinstance(name, str) or not re.fullmatch(r"[\w -]{1,32}", name):
        raise BadFloor(f"a zone's name must be 1 to 32 letters, digits, spaces or dashes, not {name!r}")
    if not isinstance(queue, bool):
        raise BadFloor(f"zone {name!r}: queue must be true or false, not {queue!r}")
    if not isinstance(corners, list) or not 3 <= len(corners) <= MOST_CORNERS:
        raise BadFloor(f"zone {name!r} needs 3 to {MOST_CORNERS} corners")
    points = tuple(_point(corner, frame_hw, f"zone {name!r}") for corner in corners)
    shape = Polygon(points)
    if not shape.is_valid:
        raise BadFloor(f"zone {name!r} is no simple shape: {explain_validity(shape)}")
    if shape.area < LEAST_PIXELS:
        raise BadFloor(f"zone {name!r} covers {shape.area:.0f} square pixels; at least {LEAST_PIXELS} are needed")
    return Zone(name, points, queue)


def _line(drawn: Any, frame_hw: tuple[int, int]) -> Line:
    if not isinstance(drawn, Mapping):
        raise BadFloor(f"the line must be a table with start and end, not {drawn!r}")
    _known(drawn, {"start", "end"}, "the line")
    start, end = (_point(drawn.get(which), frame_hw, f"the line's {which}") for which in ("start", "end"))
    if np.hypot(end[0] - start[0], end[1] - start[1]) < 2:
        raise BadFloor("the line has no length")
    return Line(start, end)


def _point(drawn: Any, frame_hw: tuple[int, int], whose: str) -> Point:
    match drawn:
        case [int() | float() as x, int() | float() as y] if not isinstance(x, bool) and not isinstance(y, bool):
            if 0 <= x <= frame_hw[1] and 0 <= y <= frame_hw[0]:
                return float(x), float(y)
            raise BadFloor(f"{whose}: ({x:g}, {y:g}) lies outside of the frame of {frame_hw[1]} × {frame_hw[0]} pixels")
    raise BadFloor(f"{whose}: a point is [x, y] in pixels, not {drawn!r}")


def _known(drawn: Mapping[str, Any], words: set[str], what: str) -> None:
    if strange := sorted(map(str, drawn.keys() - words)):
        raise BadFloor(f"{what} knows {', '.join(sorted(words))}, not {', '.join(strange)}")
