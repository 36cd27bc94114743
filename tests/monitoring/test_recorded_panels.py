"""Every panel's queries as a real Prometheus answered them in the recorded drill: under load, idle, in each fault, none is empty unsaid."""

from __future__ import annotations

import pandas as pd
import pytest

from lib.measured import points, series
from lib.monitoring import dashboards
from lib.monitoring.dashboards.query import COLUMNS, panels
from lib.monitoring.session import session
from lib.session import NothingRecorded

NEVER_HERE = {"no GPU on this machine": "gpu", "only a dcgm-exporter tells": "gpu", "only vLLM tells": "vllm"}
PANELS = [(board["uid"], one["id"], one["title"], one["fieldConfig"]["defaults"].get("noValue"))
          for board in dashboards.ALL for one in panels(board)]  # fmt: skip


@pytest.fixture(scope="module")
def shown() -> dict[str, pd.DataFrame]:
    """Scenario or engine of the steady minute → what all panels were told."""
    try:
        s = session(profile="quick", mode="recorded")
    except NothingRecorded as reason:
        pytest.skip(str(reason))
    drilled = {f"{one['scenario']} {one['round']:.0f}": series(s.run, one, "panels") for one in points(s.run, "drill")}
    return drilled | {f"steady {one['engine']}": series(s.run, one, "panels") for one in points(s.run, "steady")}


@pytest.mark.parametrize(("uid", "panel", "title", "empty"), PANELS, ids=[f"{uid}-{panel}" for uid, panel, *_ in PANELS])
def test_no_panel_is_empty_but_those_that_say_why(
    shown: dict[str, pd.DataFrame], uid: str, panel: int, title: str, empty: str | None
) -> None:
    told = {where for where, frame in shown.items() if frame.loc[(frame.dashboard == uid) & (frame.panel == panel), "value"].notna().any()}
    if empty is None:
        assert told == set(shown), f"{title} shows nothing in {sorted(set(shown) - told)}, and does not say why"
    elif NEVER_HERE.get(empty) == "vllm":
        assert told == {where for where in shown if where == "steady vllm"}, f"{title}: {empty}"
    elif empty not in NEVER_HERE:
        assert told, f"{title} never shows anything"


def test_what_was_recorded_is_what_the_dashboards_ask(shown: dict[str, pd.DataFrame]) -> None:
    known = {(uid, panel) for uid, panel, *_ in PANELS}
    assert len(shown) >= 19
    for where, frame in shown.items():
        assert set(frame.columns) == set(COLUMNS), where
        assert set(zip(frame.dashboard, frame.panel, strict=True)) <= known, f"{where}: panels that are no more"
