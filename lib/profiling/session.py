"""A session of the profiling notebooks: the run that speaks, and what is profiled: ResNet here, YOLOv8n and the exported forms where built.

In mode "recorded", or where the models cannot be had, nothing is measured and a recorded run speaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal, TypeAlias

from lib import install
from lib.session import Session as SessionOf
from lib.session import checked, opened
from lib.vision import classifier, yolo
from lib.vision.classifier import Classifiers
from lib.vision.yolo import Yolo

WAY = 4  # raised when how these notebooks measure changes: an earlier run of this machine is then not gone on with
PARTS = ("torch", "openvino", "transformers")
Notebook: TypeAlias = Literal["30_profile_layers", "31_profile_batch"]
# What an earlier way did otherwise than the notebook's method says, by notebook and the last way that did.
EARLIER: Mapping[str, Mapping[int, str]] = {
    "30_profile_layers": {
        2: "unwatched passes were taken once a turn, and not beside each way of watching; what watching costs was measured in warm caches; "
           "an engine's watched and unwatched passes were of two loaded networks; OpenVINO's times are the running means that it tells; "
           "fewer threads, more pictures and other weights had processes of their own",
        3: "what watching costs was measured on operators, modules and nodes that do little; pages that it touches first were not counted"},
    "31_profile_batch": {
        1: "each size was timed by itself, so that a pace that changed in between is the size's; a load's line was fitted before it alone, "
           "and there is no simulation at the pace of serving",
        2: "no form of eager PyTorch kept its memory"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bench:
    """What is profiled: networks in the forms that engines run."""

    yolo: Yolo
    classifiers: Classifiers


Session: TypeAlias = SessionOf[Bench]


def earlier(s: Session) -> dict[str, str | None]:
    """"differs": what the run that speaks was measured otherwise than today, in words; None where it was not."""
    way = int(s.run.parameters.get("way", 1))
    told = [words for last, words in EARLIER[s.run.notebook].items() if way <= last]
    return {"differs": "; ".join(told) or None}


def session(notebook: Notebook, *, profile: str, mode: str, fresh: bool = False) -> Session:
    """Open the run of a profiling notebook. Raises ValueError, NothingRecorded, and NotReady in mode "live" without a model."""
    checked(profile, mode)
    bench, lacks = None, None
    if mode != "recorded":
        try:
            bench = Bench(yolo.load(), classifier.load())
        except (yolo.NotReady, classifier.NotReady) as reason:
            if mode == "live":
                raise
            lacks = str(reason)
    versions = {yolo.ENGINE: install.pinned(yolo.ENGINE), **{name: version(name) for name in PARTS}}
    told = opened(notebook, mode=mode, lacks=lacks, parameters={"profile": profile, "way": WAY}, versions=versions, fresh=fresh)
    return Session(told, bench if told.here else None)
