"""Ways from a clip's bytes to events, each one step further than the one before; what each costs in truth is judged from what it reports.

Refuses to compare ways of different minutes: in every round ultralytics' own loop runs first, and speeds are told as multiples of it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from lib.measured import Found, keep
from lib.pipelines.retail import ladder, walk
from lib.pipelines.retail.floor import Floor, Zone
from lib.pipelines.retail.footage import FPS
from lib.pipelines.retail.ladder import REFERENCE, processors
from lib.pipelines.retail.plan import Plan
from lib.pipelines.retail.session import Session, Shop
from lib.pipelines.retail.walk import STAGES, Walk
from lib.vision import labels, yolo
from lib.vision.clip import frames as frames_of
from lib.vision.clip import open_clip

UNEXPLAINED_S = 0.001  # a frame; more than this between the stamps is time that nobody accounts for
LOOP = "ultralytics"


@dataclass(frozen=True, slots=True)
class Way:
    """One way from a clip's bytes to events. `lanes` 0: one frame after another; else so many frames in the network at once.

    `view`: the "whole" picture or a "quiet" part of it.
    """

    name: str
    variant: str
    changed: str
    plain: bool = False
    lanes: int = 0
    every: int = 1
    gated: bool = False
    view: str = "whole"


WAYS = (
    Way("first draft", REFERENCE, "written as it comes: fresh arrays, loops over anchors", plain=True),
    Way("vectorised", REFERENCE, "vectorised and into buffers that stay"),
    Way("in the graph", "OpenVINO f32", "OpenVINO; normalisation inside the graph"),
    Way("overlapped", "OpenVINO f32", "two frames in the network, decoding and tracking meanwhile", lanes=2),
    Way("bf16", "OpenVINO bf16", "bfloat16", lanes=2),
    Way("INT8", "OpenVINO INT8", "NNCF's INT8", lanes=2),
    Way("INT8, smaller", "OpenVINO INT8 512×384", "64 % of the pixels", lanes=2),
    Way("every 2nd", "OpenVINO INT8 512×384", "the network looks at every second frame", lanes=2, every=2),
    Way("every 3rd", "OpenVINO INT8 512×384", "the network looks at every third frame", lanes=2, every=3),
    Way("gated", "OpenVINO INT8 512×384", "the network looks where something moves", lanes=2, gated=True),
    Way("quiet, all", "OpenVINO INT8 512×384", "a quiet part of the picture, every frame", lanes=2, view="quiet"),
    Way("quiet, gated", "OpenVINO INT8 512×384", "a quiet part of the picture, gated", lanes=2, gated=True, view="quiet"),
)


def ways(s: Session, plan: Plan) -> None:
    """In each round ultralytics' loop on the whole clip and on its quiet part, then every way; the first round walks the whole clip."""
    if s.model is None:
        return
    for turn in range(plan.rounds):
        for view in ("whole", "quiet"):
            keep(s.run, {"what": "loop", "view": view, "round": turn}, partial(_loop, s.model, view, plan.predict_frames))
            for way in (way for way in WAYS if way.view == view):
                frames = plan.ways_frames if turn else plan.whole
                keep(s.run, {"what": "way", "name": way.name, "round": turn}, partial(_way, s.model, way, frames, full=turn == 0))


def _loop(shop: Shop, view: str, frames: int) -> Found:
    clip, _ = watched(shop, view)
    told = yolo.ask({"job": "predict", "clip": str(clip), "frames": frames, "threads": processors()}, what="ultralytics' loop",
                    say=lambda line: None)  # fmt: skip
    people = [sum(label == 0 for *_, label in boxes) for boxes in told["boxes"]]
    facts = {"frames": frames, "people": people, "peak_bytes": told["peak_bytes"], "nms": told["nms"], "speed": told["speed"][:5]}
    return Found({"frame_s": [ns / 1e9 for ns in told["ns"]]}, facts, {})


def _way(shop: Shop, way: Way, frames: int, *, full: bool) -> Found:
    clip, floor = watched(shop, way.view)
    variant = ladder.named(way.variant)
    if way.lanes:
        made = variant.detector(shop, streams=way.lanes)
        walked = walk.overlapped(clip, floor, made, fps=FPS, frames=frames, lanes=way.lanes, every=way.every, gated=way.gated)
    else:
        made = variant.detector(shop)
        walked = walk.serial(clip, floor, made, fps=FPS, frames=frames, every=way.every, gated=way.gated, plain=way.plain)
    unexplained_s = walked.wall_s / frames - float((walked.stamps_ns[:, -1] - walked.stamps_ns[:, 0]).mean()) / 1e9
    adds_up = None if way.lanes or unexplained_s <= UNEXPLAINED_S else f"{unexplained_s * 1e3:.2f} ms of a frame are in no stage"
    facts = {"changed": way.changed, "variant": way.variant, "frames": frames, "lanes": way.lanes, "every": way.every, "gated": way.gated,
             "plain": way.plain, "view": way.view, "wall_s": walked.wall_s, "unexplained_s": unexplained_s,
             "looked": walked.outcomes.count("seen")}  # fmt: skip
    series = {"frames": told(walked)}
    if full:
        series["feet"] = feet(walked)
    return Found({}, facts, {"1 stages": adds_up}, series)


def told(walked: Walk) -> pd.DataFrame:
    """One row a frame: what became of it, what the floor reported, and its times: µs a stage (serial), or from decode to event."""
    reports = [sight.report for sight in walked.sights]
    columns = {"outcome": pd.Categorical(walked.outcomes), **{name: [getattr(report, name) for report in reports]
               for name in ("people", "queue", "entries", "exits")}}  # fmt: skip
    for name in reports[0].zones:
        columns[f"in {name}"] = [report.zones[name].count for report in reports]
        columns[f"dwell {name}"] = [sum(report.zones[name].dwell_s) for report in reports]
        columns[f"visits {name}"] = [report.zones[name].visits for report in reports]
    spans_us = np.diff(walked.stamps_ns, axis=1).astype(np.float32) / 1e3
    names = STAGES if spans_us.shape[1] == len(STAGES) else ("whole",)
    return pd.DataFrame({**columns, **{f"{name}, µs": spans_us[:, place] for place, name in enumerate(names)}})


def feet(walked: Walk) -> pd.DataFrame:
    """Where everybody stood, frame by frame: number of the track, x and y in pixels of the frame."""
    rows = [(number, who, *at) for number, sight in enumerate(walked.sights)
            for who, at in zip(sight.tracks.ids.tolist(), sight.tracks.feet.tolist(), strict=True)]  # fmt: skip
    kinds = {"frame": np.int16, "id": np.int32, "x": np.float32, "y": np.float32}
    return pd.DataFrame(rows, columns=list(kinds)).astype(kinds)


def watched(shop: Shop, view: str) -> tuple[Path, Floor]:
    """The clip that a camera with this view records, and its floor. The quiet part is cut out once, and kept as Motion JPEG."""
    if view == "whole":
        return shop.clip, shop.floor
    quiet = labels.load().quiet_view
    x, y, w, h = quiet.x, quiet.y, quiet.width, quiet.height
    floor = Floor((h, w), (Zone("view", ((0, 0), (w - 1, 0), (w - 1, h - 1), (0, h - 1))),), None)
    path = shop.yolo.root / f"quiet-{x}-{y}-{w}-{h}.avi"
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix=".cut-", dir=path.parent) as scratch, open_clip(shop.clip) as clip:
            half = Path(scratch) / path.name
            out = cv2.VideoWriter(str(half), cv2.VideoWriter.fourcc(*"MJPG"), clip.fps, (w, h))
            for _, frame in frames_of(shop.clip):
                out.write(quiet.of(frame))
            out.release()
            half.replace(path)
    return path, floor
