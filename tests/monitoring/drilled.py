"""Runs of the monitoring notebook that are made up, for tests that know what has to come out, and the one that is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lib import measured, record
from lib.measured import Found
from lib.monitoring.session import Session, session
from lib.session import NothingRecorded, Opened

ENVIRONMENT = {"machine_id": "made", "stack_id": "made"}
PANELS = ["dashboard", "panel", "ref", "series", "t_s", "value"]
ALERTS = ["series", "t_s", "value"]
Told = tuple[float, str, str]  # when, which alert, firing or resolved


def begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """An empty run on a machine that nothing disturbs."""
    monkeypatch.setattr(measured.audit, "undisturbed", lambda host, cores: None)
    run = record.begin("20_monitoring", parameters={}, environment=ENVIRONMENT, root=folder)
    return Session(Opened(run, (), None), None)


def recorded() -> Session:
    """The recorded run; the test is skipped where there is none."""
    try:
        return session(profile="quick", mode="recorded")
    except NothingRecorded as reason:
        pytest.skip(str(reason))


def point(s: Session, what: str, facts: Mapping[str, Any], *, samples: Mapping[str, Any] | None = None,
          series: Mapping[str, pd.DataFrame] | None = None, check: str | None = None, **setting: Any) -> None:
    """Keep a point with these facts; `check`: why it may not be quoted."""
    measured.keep(s.run, {"what": what, **setting}, lambda: Found(samples or {}, facts, {"made": check}, series))


def due(at_s: float, slack_s: float = 1.0, *, by: str = "Right", over_s: float = 3.0) -> dict[str, Any]:
    """A forecast of one alert."""
    return {"by": by, "at_s": at_s, "slack_s": slack_s,
            "alerts": {by: {"at_s": at_s, "slack_s": slack_s, "over_s": over_s, "over_slack_s": 2.0}}}  # fmt: skip


def drill(s: Session, scenario: str, turn: int, notices: Sequence[Told] = (), *, right: Sequence[str] = ("Right",), control: bool = False,
          forecast: Mapping[str, Any] | None = None, began: float = 1000.0, panels: pd.DataFrame | None = None,
          alerts: pd.DataFrame | None = None, requests: pd.DataFrame | None = None, series: pd.DataFrame | None = None,
          before: float = 0.0, during: float = 1.0, check: str | None = None) -> None:  # fmt: skip
    """A scenario: asked 1 s before it is injected, cleared after 8 s, undone after 10 s, ended after 20 s; injected 5 s after it began."""
    told = [{"at_s": at, "alert": alert, "status": status} for at, alert, status in notices]
    facts = {
        "began_unix": began, "injected_unix": began + 5, "calm_s": -4.0, "asked_s": -1.0, "cleared_s": 8.0, "undone_s": 10.0,
        "ended_s": 20.0, "seen_s": 0.0, "evaluation_s": 0.5, "scrape_s": 0.5, "control": control, "right": [] if control else list(right),
        "service": "llm", "does": f"control: {scenario}" if control else f"does {scenario}", "witness": f"seen of {scenario}",
        "before": before, "during": during, "due": None if forecast is None else dict(forecast), "notices": told,
    }  # fmt: skip
    kept = {"panels": pd.DataFrame(columns=PANELS) if panels is None else panels,
            "alerts": pd.DataFrame({"series": [""], "t_s": [0.0], "value": [0.0]}) if alerts is None else alerts,
            "requests": pd.DataFrame({"due_s": [0.0], "service": ["llm"]}) if requests is None else requests}  # fmt: skip
    point(s, "drill", facts, series=kept if series is None else {**kept, "series": series}, check=check, round=turn, scenario=scenario)
