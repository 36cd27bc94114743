"""The service as a user runs it, for as long as it takes to see a leak: three cameras, a listener, a viewer, and a camera that breaks.

One camera plays a clip of its own that is taken away at a third of the time, and put back at a half. Nobody tells the service. Refuses to
measure from inside: memory, descriptors and threads are the operating system's word on another process.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event, Thread
from time import perf_counter, sleep

import cv2
import httpx
import pandas as pd
import psutil

from lib.home import logs
from lib.measured import Found, keep
from lib.pipelines.retail.footage import FPS
from lib.pipelines.retail.plan import Plan
from lib.pipelines.retail.session import Session, Shop
from lib.process import Process, running
from lib.vision.clip import frames as frames_of

BREAKS = "cam-3"
SECONDS = 6  # of the clip that breaks: it is opened anew as often
BROKEN, MENDED = 1 / 3, 1 / 2  # of the time
EVERY_S = 0.5


def soak(s: Session, plan: Plan) -> None:
    """Three cameras at the clip's own rate."""
    if s.model is not None:
        keep(s.run, {"what": "soak", "seconds": plan.soak_s}, partial(_soak, s.model, plan.soak_s))


def _soak(shop: Shop, seconds: float) -> Found:
    with tempfile.TemporaryDirectory(prefix="retail-") as scratch:
        clip = own(shop, Path(scratch) / "own.avi")
        options = ("--fps", f"{FPS:g}", "--clip", f"own={clip}")
        command = (sys.executable, "-m", "lib.pipelines.retail.service", *options)
        with running(lambda port: (*command, "--port", str(port)), name="retail service", logs=logs()) as process:
            for name, source in (("cam-1", shop.clip.stem), ("cam-2", shop.clip.stem), (BREAKS, "own")):
                httpx.put(f"{process.url}/v1/cameras/{name}", json={"source": source}, timeout=10, trust_env=False).raise_for_status()
            with listening(process) as heard, watching(process) as pictures:
                rows = _watched(process, clip, seconds)
            heard_, pictures_ = dict(heard), dict(pictures)
    table = pd.DataFrame(rows)
    facts = {"seconds": seconds, "events": heard_, "pictures": pictures_.get("pictures", 0), "broken_s": seconds * BROKEN,
             "mended_s": seconds * MENDED, "ready_s": process.ready_s}  # fmt: skip
    return Found({}, facts, {"6 books": books(table, heard_)}, {"course": table})


def own(shop: Shop, path: Path) -> Path:
    """The first seconds of the clip in a file of their own."""
    height, width = shop.floor.frame_hw
    out = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (width, height))
    for _, frame in frames_of(shop.clip, last=round(SECONDS * FPS) - 1):
        out.write(frame)
    out.release()
    return path


def _watched(process: Process, clip: Path, seconds: float) -> list[dict[str, float | int | str | None]]:
    """One row every so often: what the operating system says of the process, and what it says of its cameras."""
    tree, away, rows = psutil.Process(process.pid), clip.with_suffix(".away"), []
    with httpx.Client(base_url=process.url, timeout=10, trust_env=False) as client:
        began_s = perf_counter()
        while (at_s := perf_counter() - began_s) < seconds:
            if BROKEN * seconds <= at_s < MENDED * seconds and clip.exists():
                clip.rename(away)
            if at_s >= MENDED * seconds and away.exists():
                away.rename(clip)
            process.check()
            cpu = tree.cpu_times()
            row: dict[str, float | int | str | None] = {
                "at_s": at_s, "rss_bytes": tree.memory_info().rss, "fds": tree.num_fds(), "threads": tree.num_threads(),
                "cpu_s": cpu.user + cpu.system,
            }  # fmt: skip
            for camera in client.get("/v1/cameras").json()["cameras"]:
                name = camera["name"]
                row |= {f"{name} {key}": camera[key] for key in ("state", "fps", "seen", "dropped", "failed", "age_p99_ms")}
            rows.append(row)
            sleep(max(0.0, EVERY_S - (perf_counter() - began_s - at_s)))
    return rows


@contextlib.contextmanager
def listening(process: Process) -> Iterator[Counter[str]]:
    """Counts the events of each camera as a consumer hears them."""
    heard: Counter[str] = Counter()
    told = Event()

    def listen() -> None:
        with contextlib.suppress(httpx.HTTPError), httpx.stream("GET", process.url + "/v1/events", timeout=10, trust_env=False) as answer:
            kind = ""
            for line in answer.iter_lines():
                if told.is_set():
                    return
                if line.startswith("event:"):
                    kind = line[6:].strip()
                if line.startswith("data:") and kind == "sight":
                    heard[json.loads(line[5:])["camera"]] += 1

    thread = Thread(target=listen, daemon=True)
    thread.start()
    yield heard
    told.set()
    thread.join(10)


@contextlib.contextmanager
def watching(process: Process) -> Iterator[Counter[str]]:
    """Looks at a camera's stream of annotated pictures, and counts them."""
    seen: Counter[str] = Counter()
    told = Event()

    def watch() -> None:
        url = process.url + "/v1/cameras/cam-1/stream.mjpg"
        with contextlib.suppress(httpx.HTTPError), httpx.stream("GET", url, timeout=10, trust_env=False) as answer:
            for part in answer.iter_bytes():
                if told.is_set():
                    return
                seen["pictures"] += part.count(b"\xff\xd8\xff")

    thread = Thread(target=watch, daemon=True)
    thread.start()
    yield seen
    told.set()
    thread.join(10)


def books(table: pd.DataFrame, heard: dict[str, int]) -> str | None:
    """A listener hears of the frames that were seen while it listened: no more than that, and all but those of its last moments."""
    for name in ("cam-1", "cam-2"):
        seen = int(table[f"{name} seen"].iloc[-1] - table[f"{name} seen"].iloc[0])
        if not seen <= heard.get(name, 0) + 1 or heard.get(name, 0) > seen + 3 * FPS:
            return f"{name} saw {seen} frames, a listener heard of {heard.get(name, 0)}"
    return None
