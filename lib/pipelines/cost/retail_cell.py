"""The retail service in a container's limits: the frames a second that it carries within its SLA, 95 % told within 200 ms of being due.

Cameras are inside of the service, as they are in a shop: decoding is part of what its processors pay for. What became of every frame is
the service's own account, read before and after a window: dropped frames are misses. A rate that fails is tried once more, and both windows
are kept.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from lib.measured import Broke, Found, Skipped
from lib.pipelines.cost.boxes import Meter, serving, within
from lib.pipelines.cost.cells import Cell, search
from lib.pipelines.cost.plan import Plan
from lib.pipelines.retail.footage import CLIP, footage
from lib.vision import picture
from lib.vision.clip import frames as frames_of

SLA_S, ATTAINED = 0.2, 0.95
SIZE = ("--size", "384x512")
CAMERAS, MOST_FPS = 4, 50.0
LEAST = 1.0  # frames a second: what carries less carries nothing
SHOWN = 270  # the frame of the clip that still pictures are


def measure(cell: Cell, plan: Plan) -> Found:
    """The point of one cell. Samples: "windows", one row for each rate that was tried, and the picture times in s. Raises Skipped, Died."""
    if ceil(cell.cpus) > (there := len(os.sched_getaffinity(0))):
        raise Skipped(f"a limit of {cell.cpus:g} processors limits nothing: this machine has {there}")
    windows = list[dict[str, Any]]()
    with serving("retail", (*cell.options, *SIZE), cpus=cell.cpus) as (box, (process,)), client(process.port) as asking:
        meter, taken_s = Meter(box), pictures(asking, plan.cameras_s / 2)

        def carries(rate: float) -> bool:
            for _ in range(2 if rate >= LEAST else 0):
                with playing(asking, rate):
                    sleep(plan.settle_s)
                    before, began_s, looked = _account(asking), perf_counter(), Meter(box)
                    sleep(plan.cameras_s)
                    after, seconds = _account(asking), perf_counter() - began_s
                    found = {name: after[name] - before[name] for name in after}
                windows.append({"per_s": rate, "seconds": seconds, **found, **looked.spent().facts})
                if found["due"] and found["good"] >= ATTAINED * found["due"]:
                    return True
            return False

        per_s = search(carries, min(cell.workers, cell.cpus) * len(taken_s) / sum(taken_s))
        spent, peak = meter.spent(), box.usage().peak_bytes
    facts = {"per_s": per_s, "ready_s": process.ready_s, "peak_bytes": peak, "name": cell.name, **spent.facts}
    return Found({"windows": windows, "picture_s": taken_s}, facts, {"6 books": books(windows), "9 quota": within(spent, cell.cpus)})


def books(windows: list[dict[str, Any]]) -> str | None:
    """As many frames fell due as the cameras were to deliver: what a camera could not read in time it must have told as dropped."""
    for window in windows:
        meant = window["per_s"] * window["seconds"]
        if abs(window["due"] - meant) > 0.1 * meant + 2 * CAMERAS:
            return f"{meant:.0f} frames should have fallen due in {window['seconds']:.1f} s, the service accounts for {window['due']:.0f}"
    return None


def pictures(client: httpx.Client, seconds: float, *, warm: int = 3) -> list[float]:
    """Seconds of each still picture, sent one after another for so long. Raises Broke for an answer that is none."""
    body, taken_s = jpeg(), list[float]()
    began_s = perf_counter()
    while (began := perf_counter()) - began_s < seconds or len(taken_s) <= warm:
        answer = client.post("/v1/pictures", content=body, headers={"Content-Type": "image/jpeg"})
        taken_s.append(perf_counter() - began)
        if answer.status_code != 200 or not answer.json()["people"]:
            raise Broke(f"a picture with people was answered {answer.status_code}: {answer.text[:100]}")
    return taken_s[warm:]


def jpeg() -> bytes:
    """A frame of the clip as a camera would upload it."""
    return picture.jpeg(next(image for _, image in frames_of(footage() / CLIP, first=SHOWN, last=SHOWN)), quality=85)


def client(port: int) -> httpx.Client:
    """To a service of ours. Once a connection is refused or breaks it raises httpx.HTTPError."""
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False)


@contextlib.contextmanager
def playing(client: httpx.Client, rate: float) -> Iterator[None]:
    """Cameras that deliver `rate` frames a second together, until the block is left."""
    names = [f"priced-{n}" for n in range(max(CAMERAS, ceil(rate / MOST_FPS)))]
    for name in names:
        client.put(f"/v1/cameras/{name}", json={"source": Path(CLIP).stem, "fps": rate / len(names)}).raise_for_status()
    try:
        yield
    finally:
        for name in names:
            client.delete(f"/v1/cameras/{name}").raise_for_status()


def _account(client: httpx.Client) -> dict[str, float]:
    """Frames that fell due so far, those that were dropped, and those whose event came within the SLA."""
    found = {"due": 0.0, "dropped": 0.0, "good": 0.0}
    for family in text_string_to_metric_families(client.get("/metrics").raise_for_status().text):
        for sample in family.samples:
            if sample.name == "retail_frames_total":
                found["due"] += sample.value
                found["dropped"] += sample.value if sample.labels["outcome"] == "dropped" else 0
            elif sample.name == "retail_frame_age_seconds_bucket" and float(sample.labels["le"]) == SLA_S:
                found["good"] += sample.value
    return found
