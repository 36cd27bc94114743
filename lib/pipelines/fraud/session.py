"""A session of the fraud notebook: the run that speaks, the model it measures, the stream it replays.

In mode "recorded", or where the model cannot be built, nothing is measured and a recorded run speaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lib import install, record
from lib.home import cache
from lib.pipelines.fraud import model as models
from lib.pipelines.fraud.model import Model
from lib.session import Opened, checked, opened


@dataclass(frozen=True, slots=True)
class Session:
    """`model` is None where nothing is measured."""

    opened: Opened
    model: Model | None

    @property
    def run(self) -> record.Run:
        return self.opened.run

    @property
    def note(self) -> str | None:
        return self.opened.note

    def frame(self) -> pd.DataFrame:
        """All points of this run, one row each."""
        return self.opened.run.frame()

    def facts(self, **setting: Any) -> dict[str, Any]:
        """What the run knows of one setting; LookupError where it was not measured."""
        found = next((p for p in self.run.points() if p.key == record.canonical(setting)), None)
        if found is None:
            raise LookupError(f"run {self.run.run_id} has no point {setting}")
        return dict(found.facts)


def session(*, profile: str, mode: str, fresh: bool = False) -> Session:
    """Open the run of 01_fraud_pipeline. Raises ValueError, NothingRecorded, and NotReady in mode "live" without a model."""
    checked(profile, mode)
    model, lacks = None, None
    if mode != "recorded":
        try:
            model = models.load()
        except models.NotReady as reason:
            if mode == "live":
                raise
            lacks = str(reason)
    versions = {name: install.pinned(name) for name in install.names("fraud")}
    told = opened("01_fraud_pipeline", mode=mode, lacks=lacks, parameters={"profile": profile}, versions=versions, fresh=fresh)
    return Session(told, model if told.here else None)


def logs() -> Path:
    """Where servers of a session print to."""
    return cache() / "logs"
