"""A session of the profiling notebooks: the run that speaks, and what is profiled: ResNet here, YOLOv8n and the exported forms where built.

In mode "recorded", or where the models cannot be had, nothing is measured and a recorded run speaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal, TypeAlias

from lib import install
from lib.session import Session as SessionOf
from lib.session import checked, opened
from lib.vision import classifier, yolo
from lib.vision.classifier import Classifiers
from lib.vision.yolo import Yolo

PARTS = ("torch", "openvino", "transformers")
Notebook: TypeAlias = Literal["30_profile_layers", "31_profile_batch"]


@dataclass(frozen=True, slots=True)
class Bench:
    """What is profiled: networks in the forms that engines run."""

    yolo: Yolo
    classifiers: Classifiers


Session: TypeAlias = SessionOf[Bench]


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
    told = opened(notebook, mode=mode, lacks=lacks, parameters={"profile": profile}, versions=versions, fresh=fresh)
    return Session(told, bench if told.here else None)
