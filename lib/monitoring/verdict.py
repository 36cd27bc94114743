"""What a drill says: which alert came first, when, as predicted or not, what showed what; and how sure so few faults make one. Pure.

Of several notices of one alert the first counts. A fault without an impact proves nothing either way and is left out, named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

MOVED = 4.0  # times a panel's own calm spread, and MOVED_SHARE of its level: then it moved
MOVED_SHARE = 0.2
FEWEST = 2  # steps for which it has to


COURSE = ["scenario", "round", "control", "does", "right", "first", "came", "detected", "right_first", "at_s", "due_s", "slack_s", "by",
          "as_due", "undone_s", "over_s", "over_due_s", "over_slack_s", "before", "during", "witness", "alarms"]  # fmt: skip
EVENT = ["scenario", "round", "kind", "alert", "from_s", "to_s"]


def courses(points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a scenario and round: what came first, whether that was right, when, and when it was due; times in s from the injection."""
    told = pd.DataFrame([_course(point) for point in points], columns=COURSE)
    return told.astype(dict.fromkeys(("control", "detected", "right_first"), bool))


def _course(point: Mapping[str, Any]) -> dict[str, Any]:
    facts = point["facts"]
    fired = [n for n in facts["notices"] if n["status"] == "firing" and n["at_s"] >= facts["asked_s"]]
    first = min(fired, key=lambda n: n["at_s"], default=None)
    right = min((n for n in fired if n["alert"] in facts["right"]), key=lambda n: n["at_s"], default=None)
    over = [n["at_s"] for n in facts["notices"] if n["status"] == "resolved" and right and n["alert"] == right["alert"]]
    due = facts["due"] or {"alerts": {}}
    end = due["alerts"].get(right["alert"], {}) if right else {}
    at_s = right["at_s"] if right else None
    # Alerts of one evaluation arrive in any order: what came in the same one is not earlier.
    together = [n["alert"] for n in fired if first and n["at_s"] - first["at_s"] < facts["evaluation_s"]]
    return {
        "scenario": point["scenario"], "round": point["round"], "control": facts["control"], "does": facts["does"],
        "right": " or ".join(facts["right"]), "first": first["alert"] if first else None, "came": right["alert"] if right else None,
        "detected": right is not None, "right_first": bool(set(together) & set(facts["right"])), "at_s": at_s,
        "due_s": due.get("at_s"), "slack_s": due.get("slack_s"), "by": due.get("by"),
        "as_due": None if at_s is None or due.get("at_s") is None else abs(at_s - due["at_s"]) <= due["slack_s"],
        "undone_s": facts["undone_s"], "over_s": max(over) - facts["undone_s"] if over else None,
        "over_due_s": end.get("over_s"), "over_slack_s": end.get("over_slack_s"),
        "before": facts["before"], "during": facts["during"], "witness": facts["witness"], "alarms": len({n["alert"] for n in fired}),
    }  # fmt: skip


def share(hits: int, n: int, *, confidence: float = 0.95) -> dict[str, float]:
    """A share with its exact (Clopper–Pearson) interval. Raises ValueError where nothing was tried."""
    found = stats.binomtest(hits, n).proportion_ci(confidence)
    return {"hits": hits, "n": n, "share": hits / n, "lo": float(found.low), "hi": float(found.high)}


def moved(shown: pd.DataFrame, *, cleared_s: float) -> pd.DataFrame:
    """dashboard, panel, moved: whether a series of it left its calm range while the fault lasted, came or went.

    `shown`: as the drill keeps it. Spread is the calm's 5 to 95 % range; a jump has to last for FEWEST steps.
    """
    left = [(board, panel, any(_left(one, cleared_s) for _, one in rows.groupby(["ref", "series"])))
            for (board, panel), rows in shown.groupby(["dashboard", "panel"], sort=False)]  # fmt: skip
    return pd.DataFrame(left, columns=["dashboard", "panel", "moved"])


def _left(one: pd.DataFrame, cleared_s: float) -> bool:
    known = one[np.isfinite(one["value"])]
    calm = known.loc[(known["t_s"] < 0), "value"].to_numpy()
    fault = known.loc[(known["t_s"] > 0) & (known["t_s"] <= cleared_s + 2), "value"].to_numpy()
    if len(calm) < FEWEST or len(fault) < FEWEST:
        return max(len(calm), len(fault)) >= FEWEST and min(len(calm), len(fault)) == 0
    low, middle, high = np.quantile(calm, (0.05, 0.5, 0.95))
    room = max(MOVED * (high - low), MOVED_SHARE * abs(middle), 1e-9)
    return int((np.abs(fault - middle) > room).sum()) >= FEWEST


def timeline(points: Sequence[Mapping[str, Any]], alerts: Mapping[tuple[str, int], pd.DataFrame]) -> pd.DataFrame:
    """What happened when: scenario, round, kind (fault, pending, firing, resolved), alert, from_s, to_s."""
    rows = [row for point in points for row in _happened(point, alerts[point["scenario"], point["round"]])]
    return pd.DataFrame(rows, columns=EVENT)


def _happened(point: Mapping[str, Any], pending: pd.DataFrame) -> Iterator[dict[str, Any]]:
    facts = point["facts"]
    same = {"scenario": point["scenario"], "round": point["round"]}
    if not facts["control"]:
        yield {**same, "kind": "fault", "alert": "", "from_s": 0.0, "to_s": facts["undone_s"]}
    for told, rows in pending[pending["series"].str.contains('alertstate="pending"')].groupby("series"):
        name = str(told).split('alertname="')[1].split('"')[0]
        yield {**same, "kind": "pending", "alert": name, "from_s": rows["t_s"].min(), "to_s": rows["t_s"].max()}
    for notice in facts["notices"]:
        yield {**same, "kind": notice["status"], "alert": notice["alert"], "from_s": notice["at_s"], "to_s": notice["at_s"]}
