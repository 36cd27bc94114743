"""A drill's record read as a person on call would: who came first, was it right, was it in time, what did the panels show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest import approx

from lib.monitoring import verdict


def point(*notices: tuple[float, str, str], right: tuple[str, ...] = ("Right",), due: dict[str, Any] | None = None,
          control: bool = False) -> dict[str, Any]:
    told = [{"at_s": at, "alert": alert, "status": status} for at, alert, status in notices]
    facts = {"notices": told, "right": list(right), "control": control, "does": "breaks", "due": due, "undone_s": 10.0,
             "evaluation_s": 0.5, "asked_s": -0.1, "before": 0.0, "during": 1.0, "witness": "seen"}  # fmt: skip
    return {"scenario": "a fault", "round": 0, "facts": facts}


DUE = {"at_s": 3.0, "slack_s": 1.0, "by": "Right", "alerts": {"Right": {"at_s": 3.0, "slack_s": 1.0, "over_s": 3.0, "over_slack_s": 2.0}}}


def test_the_right_alert_first_and_in_time() -> None:
    row = verdict.courses([point((2.5, "Right", "firing"), (6, "Other", "firing"), (14, "Right", "resolved"), due=DUE)]).iloc[0]
    assert row["detected"] and row["right_first"] and row["as_due"] and row["first"] == "Right"
    assert row["at_s"] == 2.5 and row["over_s"] == 4.0 and row["over_due_s"] == 3.0 and row["alarms"] == 2


def test_the_wrong_alert_first() -> None:
    row = verdict.courses([point((1, "Other", "firing"), (4.5, "Right", "firing"), due=DUE)]).iloc[0]
    assert row["detected"] and not row["right_first"] and not row["as_due"] and row["first"] == "Other"


def test_what_came_in_the_same_evaluation_is_not_earlier() -> None:
    assert verdict.courses([point((2.0, "Other", "firing"), (2.3, "Right", "firing"))]).iloc[0]["right_first"]
    assert not verdict.courses([point((2.0, "Other", "firing"), (2.6, "Right", "firing"))]).iloc[0]["right_first"]


def test_nothing_came_and_what_came_before_is_none() -> None:
    row = verdict.courses([point((-3, "Right", "firing"), due=DUE)]).iloc[0]
    assert not row["detected"] and row["first"] is None and row["as_due"] is None and row["alarms"] == 0


def test_shares_have_exact_intervals() -> None:
    told = verdict.share(36, 36)
    assert told["share"] == 1 and told["lo"] == approx(0.025 ** (1 / 36)) and told["hi"] == 1
    with pytest.raises(ValueError):
        verdict.share(0, 0)


def shown(*values: float, panel: str = "p", calm: tuple[float, ...] = (10, 11, 10, 9, 10, 10)) -> pd.DataFrame:
    value = [*calm, *values]
    t_s = np.arange(len(value)) - len(calm) + 0.5
    return pd.DataFrame({"dashboard": "d", "panel": panel, "ref": "A", "series": "s", "t_s": t_s, "value": value})


def test_a_panel_moves_when_it_leaves_its_calm() -> None:
    assert verdict.moved(shown(10, 30, 31), cleared_s=3).iloc[0]["moved"]
    assert not verdict.moved(shown(10, 11, 9), cleared_s=3).iloc[0]["moved"]
    assert not verdict.moved(shown(10, 90, 10), cleared_s=3).iloc[0]["moved"], "one step is a blip"
    assert verdict.moved(shown(5, 5, calm=()), cleared_s=3).iloc[0]["moved"], "a series that comes is a movement"
    assert not verdict.moved(shown(0, 0, 0, calm=(0, 0, 0)), cleared_s=3).iloc[0]["moved"]
    gone = shown(np.nan, np.nan, np.nan)
    assert verdict.moved(gone, cleared_s=3).iloc[0]["moved"], "so is one that goes"


def test_the_timeline_has_what_happened() -> None:
    states = ("pending", "pending", "firing")
    pending = pd.DataFrame({"series": [f'ALERTS{{alertname="Right",alertstate="{state}"}}' for state in states],
                            "t_s": [1.0, 1.5, 2.0], "value": 1.0})  # fmt: skip
    told = verdict.timeline([point((2.2, "Right", "firing"), (12, "Right", "resolved"))], {("a fault", 0): pending})
    assert told["kind"].tolist() == ["fault", "pending", "firing", "resolved"]
    assert told.loc[told["kind"] == "pending", ["from_s", "to_s"]].to_numpy().tolist() == [[1.0, 1.5]]
