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


def moves(one: pd.DataFrame, *others: pd.DataFrame) -> bool:
    """Whether its panel moved, `others` being what else was drilled."""
    (row,) = verdict.moved(one, verdict.strays([one, *others]), cleared_s=max(1.0, one["t_s"].max())).to_dict("records")
    return bool(row["moved"])


def test_a_panel_moves_when_it_leaves_its_calm() -> None:
    assert moves(shown(10, 30, 31))
    assert not moves(shown(10, 11, 9))
    assert not moves(shown(10, 90, 10)), "one step is a blip"
    assert moves(shown(5, 5, calm=())), "a series that comes is a movement"
    assert not moves(shown(0, 0, 0, calm=(0, 0, 0, 0, 0)))
    assert moves(shown(np.nan, np.nan, np.nan)), "so is one that goes"
    assert not moves(shown(11.9, 11.9, calm=(10,) * 6)) and moves(shown(12.1, 12.1, calm=(10,) * 6)), "a fifth of the level is seen"


def test_what_climbs_until_its_window_is_full_is_no_calm() -> None:
    """A rate over two seconds begins low, whoever asks; with that as its calm nothing that cannot fall below 0 would ever have moved."""
    begins = (2.0, 3.8, 5.3, 5.3, 4.7, 5.3)
    assert moves(shown(4.7, 0, 0, 0, calm=begins)) and not moves(shown(4.7, 5.3, 4.7, calm=begins))
    assert moves(shown(0.99, 1.0, 0.97, calm=(0.9, 0.72, 0.45, 0.5, 0.44, 0.46))), "a share cannot go further than 1"


def test_of_three_cameras_one_that_is_lost_is_seen() -> None:
    assert moves(shown(2, 2, calm=(3,) * 6)) and moves(shown(1, 1, calm=(0,) * 6))


def test_a_calm_that_was_still_by_chance_is_known_to_stray() -> None:
    """Of this scenario five equal looks; of others it is known that the series goes from 8 to 12 by itself."""
    others = [shown(10, calm=(10, 10, 8, 10, 12, 10, 9)) for _ in range(4)]
    assert moves(shown(15, 15, calm=(10,) * 6)) and not moves(shown(15, 15, calm=(10,) * 6), *others)
    assert moves(shown(17, 17, calm=(10,) * 6), *others)


def test_one_calm_that_was_none_does_not_hide_what_moves() -> None:
    """What is windowed keeps a blow for a whole calm: five looks of forty calms are 2.5 % of looks, and still one calm."""
    others = [shown(10, calm=(10, 10, 9.5, 10, 10.5, 10, 10)) for _ in range(39)]
    disturbed = shown(10, calm=(10, 10, 10, 10, 40, 40, 10))
    assert moves(shown(15, 15, calm=(10,) * 6), *others, disturbed)
    assert not moves(shown(15, 15, calm=(10,) * 6), *others, *[disturbed] * 3), "three of forty are how it strays"


def test_a_count_is_seen_when_it_moves_as_far_as_it_has_to() -> None:
    """A batch of four that had no or one request in it by chance: three more are three times one, and there is no fourth."""
    others = [shown(0, calm=(0, 0, 1, 0, 0, 0, 0)) for _ in range(4)]
    assert moves(shown(4, 4, calm=(1,) * 6), *others) and not moves(shown(3, 3, calm=(1,) * 6), *others)


def test_noise_does_not_move() -> None:
    """Fifty panels of nothing but noise, around levels from 0 up, in twenty scenarios each: hardly any moves."""
    chance, rounds = np.random.default_rng(3), 20
    level = np.repeat(np.linspace(0, 20, 50), 18)

    def drilled() -> pd.DataFrame:
        t_s = np.tile(np.arange(-6, 12) + 0.5, 50)
        value = level + chance.choice([chance.normal(0, 1, 900), chance.exponential(1, 900) - 1])
        panel = np.repeat(np.arange(50), 18)
        return pd.DataFrame({"dashboard": "d", "panel": panel, "ref": "A", "series": "s", "t_s": t_s, "value": value})

    every = [drilled() for _ in range(rounds)]
    stray = verdict.strays(every)
    found = pd.concat([verdict.moved(one, stray, cleared_s=10) for one in every])
    assert len(found) == 50 * rounds and found["moved"].mean() < 0.001


def test_the_timeline_has_what_happened() -> None:
    states = ("pending", "pending", "firing")
    pending = pd.DataFrame({"series": [f'ALERTS{{alertname="Right",alertstate="{state}"}}' for state in states],
                            "t_s": [1.0, 1.5, 2.0], "value": 1.0})  # fmt: skip
    told = verdict.timeline([point((2.2, "Right", "firing"), (12, "Right", "resolved"))], {("a fault", 0): pending})
    assert told["kind"].tolist() == ["fault", "pending", "firing", "resolved"]
    assert told.loc[told["kind"] == "pending", ["from_s", "to_s"]].to_numpy().tolist() == [[1.0, 1.5]]
