"""What a service is asked, the same of every image: real transactions, real pictures, and once along all its routes.

Answers must be equal to the last byte: the engine, its options and the order are the same, so only the image could make a difference.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from lib import fetch
from lib.images.store import Absent
from lib.pipelines.fraud import data
from lib.pipelines.retail.footage import CLIP, footage
from lib.vision import picture, yolo
from lib.vision.clip import frames as frames_of

CAMERA_S = 20.0  # a camera on one slow core has seen its first frames by then
FRAMES, EVERY = 4, 90  # of the clip


@dataclass(frozen=True, slots=True)
class Question:
    """One request. `kind` is its content type."""

    path: str
    body: bytes
    kind: str


def questions(service: str, *, count: int) -> list[Question]:
    """At most `count`, always the same ones. Raises fetch.Refused, Absent."""
    return {"fraud": _transactions, "retail": _pictures}[service](count)


def samples(service: str) -> Path | None:
    """The directory of clips that a service is given to play; None for one that plays none. Raises Absent."""
    if service != "retail":
        return None
    try:
        return footage()
    except yolo.NotReady as reason:
        raise Absent(str(reason)) from reason


def _transactions(count: int) -> list[Question]:
    ledger = data.ledger()
    return [Question("/v1/score", ledger.body(i), "application/json") for i in range(count)]


def _pictures(count: int) -> list[Question]:
    stills = [path.read_bytes() for path in sorted(fetch.fetch(yolo.SAMPLES).glob("*.jpg"))]
    frames = [picture.jpeg(frame, quality=90) for _, frame in frames_of(_clip(), every=EVERY, last=EVERY * (FRAMES - 1))]
    return [Question("/v1/pictures", body, "image/jpeg") for body in [*frames, *stills][:count]]


def _clip() -> Path:
    place = samples("retail")
    assert place is not None
    return place / CLIP


def ask(url: str, asked: Sequence[Question]) -> list[tuple[int, bytes]]:
    """(status, body) of each, one after another on one connection. Raises httpx.HTTPError."""
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
        replies = [http.post(one.path, content=one.body, headers={"Content-Type": one.kind}) for one in asked]
    return [(reply.status_code, reply.content) for reply in replies]


def exercise(service: str, url: str, asked: Question) -> dict[str, int]:
    """Along every route, as an operator would; route → status. Raises httpx.HTTPError."""
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
        found = {f"GET {path}": http.get(path).status_code for path in ("/", "/healthz", "/readyz", "/metrics")}
        found[f"POST {asked.path}"] = http.post(asked.path, content=asked.body, headers={"Content-Type": asked.kind}).status_code
        found |= _fraud(http, asked) if service == "fraud" else _retail(http)
    return found


def _fraud(http: httpx.Client, asked: Question) -> dict[str, int]:
    known = http.post(asked.path, content=asked.body).json()["id"]
    return {"GET /v1/model": http.get("/v1/model").status_code, "GET /v1/decisions/{id}": http.get(f"/v1/decisions/{known}").status_code}


def _retail(http: httpx.Client) -> dict[str, int]:
    """A camera begins, is looked at while it plays, and ends."""
    name = "/v1/cameras/look"
    found = {"PUT camera": http.put(name, json={"source": Path(CLIP).stem}).status_code}
    until_s = time.monotonic() + CAMERA_S
    while (status := http.get(f"{name}/frame.jpg").status_code) != 200 and time.monotonic() < until_s:
        time.sleep(0.2)
    found["GET frame.jpg"] = status
    for route in ("/v1/events", f"{name}/stream.mjpg"):
        with http.stream("GET", route) as stream:
            begun = bool(next(stream.iter_bytes(), b""))
            found[f"GET {route.rpartition('/')[2]}"] = stream.status_code if begun else 0
    found["GET /v1/cameras"] = http.get("/v1/cameras").status_code
    found["DELETE camera"] = http.delete(name).status_code
    return found


def refused(statuses: Mapping[str, int]) -> list[str]:
    """Routes that did not answer as they should."""
    return [f"{route}: {status}" for route, status in statuses.items() if not 200 <= status < 300]
