"""What clients ask for, read with suspicion: a body has a largest size and a longest time, JSON the keys that are known, a source a name.

Nothing a client sends is a path or an address, so there is nothing to reach through the service. Every refusal says what is wrong and what
would be right.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from lib.pipelines.retail import floor as floors
from lib.pipelines.retail.camera import Source
from lib.pipelines.retail.floor import BadFloor, Floor

BODY_S = 10.0
MOST_JSON_BYTES, MOST_PICTURE_BYTES = 64 * 1024, 10_000_000
PICTURES = ("image/jpeg", "image/png", "image/webp", "image/bmp")
LEAST_FPS, MOST_FPS = 0.1, 60.0


@dataclass(frozen=True, slots=True)
class Footage:
    """A clip that cameras may play, and the floor that was drawn for it. `fps`: what a camera delivers unless it is told otherwise."""

    open: Callable[[], Source]
    frame_hw: tuple[int, int]
    fps: float
    floor: Floor


@dataclass(frozen=True, slots=True)
class Wish:
    """A camera that somebody wants."""

    source: str
    footage: Footage
    fps: float
    floor: Floor
    loop: bool


async def body(request: Request, *, most_bytes: int) -> bytes:
    """The whole body. Refused with 413 as soon as it is known to be larger than `most_bytes`, and with 408 when it takes too long."""
    promised = request.headers.get("content-length", "")
    if promised.isdecimal() and int(promised) > most_bytes:
        raise HTTPException(413, f"The body has {promised} bytes; at most {most_bytes} are taken")
    read = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                read += part
                if len(read) > most_bytes:
                    raise HTTPException(413, f"The body has more than {most_bytes} bytes, which is all that is taken")
    except TimeoutError:
        raise HTTPException(408, f"The body did not arrive within {BODY_S:g} s") from None
    return bytes(read)


def kind(request: Request, allowed: tuple[str, ...]) -> None:
    """Refuse another content type with 415."""
    told = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if told not in allowed:
        raise HTTPException(415, f"Content-Type is {told or 'missing'}; send one of {', '.join(allowed)}")


def camera(sent: bytes, known: Mapping[str, Footage]) -> Wish:
    """The camera that a body describes: {"source": name, "fps": number, "floor": {…}, "loop": bool}, all but the first optional.

    Refused with 400 (no JSON), 404 (no such footage) or 422 (JSON that cannot be meant).
    """
    try:
        asked = json.loads(sent)
    except (ValueError, RecursionError):
        raise HTTPException(400, 'The body is not JSON; send for instance {"source": "' + next(iter(known), "name") + '"}') from None
    if not isinstance(asked, dict):
        raise HTTPException(422, "The body must be an object with the key source")
    if strange := sorted(asked.keys() - {"source", "fps", "floor", "loop"}):
        raise HTTPException(422, f"Known keys are source, fps, floor and loop, not {', '.join(strange)[:200]}")
    source, loop = asked.get("source"), asked.get("loop", True)
    if not isinstance(source, str) or not isinstance(loop, bool):
        raise HTTPException(422, "source must be the name of a footage, loop true or false")
    if source not in known:
        raise HTTPException(404, f"There is no footage {source[:64]!r}; there is {', '.join(known)}")
    footage = known[source]
    fps = asked.get("fps", footage.fps)
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not LEAST_FPS <= fps <= MOST_FPS:
        raise HTTPException(422, f"fps must be a number between {LEAST_FPS:g} and {MOST_FPS:g}")
    return Wish(source, footage, float(fps), _floor(asked["floor"], source, footage) if "floor" in asked else footage.floor, loop)


def _floor(drawn: Any, source: str, footage: Footage) -> Floor:
    if not isinstance(drawn, dict):
        raise HTTPException(422, "floor must be an object with zones and a line")
    height, width = footage.frame_hw
    try:
        floor = floors.parse({"frame": [width, height], **drawn})
    except BadFloor as error:
        raise HTTPException(422, f"The floor cannot be meant: {error}") from None
    if floor.frame_hw != footage.frame_hw:
        raise HTTPException(422, f"The floor is drawn on {floor.frame_hw[1]} × {floor.frame_hw[0]} pixels; {source} has {width} × {height}")
    return floor
