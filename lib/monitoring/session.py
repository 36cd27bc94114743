"""A session of the monitoring notebook: the run that speaks, and whether all that is drilled is on this machine.

In mode "recorded", or where a part is missing, nothing is measured and a recorded run speaks.
"""

from __future__ import annotations

from typing import TypeAlias

from lib import install
from lib.install import Missing
from lib.monitoring import tools
from lib.pipelines.fraud import model as forests
from lib.pipelines.fraud.model import Model
from lib.session import Session as SessionOf
from lib.session import checked, opened

NOTEBOOK = "20_monitoring"
PROGRAMS = ("prometheus", "alertmanager", "node_exporter")

Session: TypeAlias = SessionOf[Model]


def session(*, profile: str, mode: str, fresh: bool = False) -> Session:
    """Open the run of 20_monitoring. Raises ValueError, NothingRecorded, and NotReady in mode "live" where something is missing."""
    checked(profile, mode)
    model, lacks = None, None
    if mode != "recorded":
        try:
            if isinstance(missing := tools.lacking() or install.find("llamacpp"), Missing):
                raise forests.NotReady(missing.reason)
            model = forests.load()
        except forests.NotReady as reason:
            if mode == "live":
                raise
            lacks = str(reason)
    versions = {} if model is None else {name: tools.version(name) for name in PROGRAMS} | {"llamacpp": install.pinned("llamacpp")}
    told = opened(NOTEBOOK, mode=mode, lacks=lacks, parameters={"profile": profile}, versions=versions, fresh=fresh)
    return Session(told, model if told.here else None)
