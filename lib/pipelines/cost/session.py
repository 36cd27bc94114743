"""A session of the cost notebook: the run that speaks, and what it prices: the fraud model, the shop and its detector, the classifiers.

In mode "recorded", or where one of them cannot be had, nothing is measured and a recorded run speaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TypeAlias

from lib import install
from lib.pipelines.fraud import model as forests
from lib.pipelines.fraud.model import Model
from lib.pipelines.retail import session as shops
from lib.pipelines.retail.session import Shop
from lib.session import Session as SessionOf
from lib.session import checked, opened
from lib.vision import classifier, yolo
from lib.vision.classifier import Classifiers

NOTEBOOK = "03_pipeline_cost"
PARTS = ("torch", "openvino", "lightgbm", "lleaves", "numpy")


@dataclass(frozen=True, slots=True)
class Priced:
    """What is priced."""

    forest: Model
    shop: Shop
    classifiers: Classifiers


Session: TypeAlias = SessionOf[Priced]


def session(*, profile: str, mode: str, fresh: bool = False) -> Session:
    """Open the run of 03_pipeline_cost. Raises ValueError, NothingRecorded, and NotReady in mode "live" without a model."""
    checked(profile, mode)
    priced, lacks = None, None
    if mode != "recorded":
        try:
            priced = Priced(forests.load(), shops.shop(), classifier.load())
        except (forests.NotReady, yolo.NotReady, classifier.NotReady) as reason:
            if mode == "live":
                raise
            lacks = str(reason)
    versions = {**{name: install.pinned(name) for name in ("ultralytics", "servers", "ray")}, **{name: version(name) for name in PARTS}}
    told = opened(NOTEBOOK, mode=mode, lacks=lacks, parameters={"profile": profile}, versions=versions, fresh=fresh)
    return Session(told, priced if told.here else None)
