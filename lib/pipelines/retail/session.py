"""A session of the retail notebook: the run that speaks, the models it measures, the footage it watches.

In mode "recorded", or where the models or the footage cannot be had, nothing is measured and a recorded run speaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

from lib import install
from lib.pipelines.retail import floor as floors
from lib.pipelines.retail.floor import Floor
from lib.pipelines.retail.footage import CLIP, FLOOR, footage
from lib.session import Session as SessionOf
from lib.session import checked, opened
from lib.vision import yolo
from lib.vision.yolo import NotReady, Yolo

PARTS = ("openvino", "opencv-python", "supervision", "trackers")


@dataclass(frozen=True, slots=True)
class Shop:
    """What is watched and with what: the models, the clip, its floor."""

    yolo: Yolo
    clip: Path
    floor: Floor


Session: TypeAlias = SessionOf[Shop]


def shop() -> Shop:
    """Models and footage, if they are on this machine. Raises NotReady."""
    return Shop(yolo.load(), footage() / CLIP, floors.load(FLOOR))


def session(*, profile: str, mode: str, fresh: bool = False) -> Session:
    """Open the run of 02_retail_pipeline. Raises ValueError, NothingRecorded, and NotReady in mode "live" without models."""
    checked(profile, mode)
    watched, lacks = None, None
    if mode != "recorded":
        try:
            watched = shop()
        except NotReady as reason:
            if mode == "live":
                raise
            lacks = str(reason)
    versions = {**{name: install.pinned(name) for name in install.names("retail")}, **{name: version(name) for name in PARTS}}
    told = opened("02_retail_pipeline", mode=mode, lacks=lacks, parameters={"profile": profile}, versions=versions, fresh=fresh)
    return Session(told, watched if told.here else None)
