"""A session of the fraud notebook: the run that speaks, the model it measures, the stream it replays.

In mode "recorded", or where the model cannot be built, nothing is measured and a recorded run speaks.
"""

from __future__ import annotations

from typing import TypeAlias

from lib import install
from lib.pipelines.fraud import model as models
from lib.pipelines.fraud.model import Model
from lib.session import Session as SessionOf
from lib.session import checked, opened

Session: TypeAlias = SessionOf[Model]


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
