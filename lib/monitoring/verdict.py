"""What a drill says: which alert came first, when, as predicted or not, what showed what; and how sure so few faults make one. Pure.

Of several notices of one alert the first counts. A fault without an impact proves nothing either way and is left out, named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib import stats
from lib.monitoring.timing import DRILL

MOVED = 3.0  # times as far as calm looks stray, and MOVED_SHARE of its level: then a series moved
MOVED_SHARE = 0.2
STRAY = 0.97  # of all scenarios' calms lie within: of fifty one may have been none
FEWEST = 2  # steps for which it has to
SETTLED_S = DRILL.seconds("5m")  # a rate climbs until its window is full; what it does until then is no calm
WHICH = ["dashboard", "panel", "ref", "series"]


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


def share(hits: int, n: int, *, confidence: float = 0.95) -> dict[str, float | None]:
    """A share with its exact (Clopper–Pearson) interval. Raises ValueError where nothing was tried."""
    found = stats.share(hits, n, confidence=confidence)
    return {"hits": hits, "n": n, "share": found.value, "lo": found.lo, "hi": found.hi}


def strays(shown: Sequence[pd.DataFrame]) -> pd.Series[float]:
    """By WHICH: how far from its middle a series strays while nothing is done: in STRAY of all scenarios' calms no look lies further.

    One calm of five steps knows too little of a series: all together know it well. Calms are counted, not looks: a rate keeps one blow for
    as long as its window is, so the looks of one calm are one observation, and one calm that was none would outweigh many that were.
    """
    furthest = [(calm["value"] - calm.groupby(WHICH)["value"].transform("median")).abs().groupby([calm[name] for name in WHICH]).max()
                for calm in map(_calm, shown)]  # fmt: skip
    return pd.concat(furthest).groupby(level=WHICH).quantile(STRAY, interpolation="higher")


def moved(shown: pd.DataFrame, stray: pd.Series[float], *, cleared_s: float) -> pd.DataFrame:
    """dashboard, panel, moved: whether a series of it left its calm level while the fault lasted, came or went.

    `shown`: as the drill keeps it; `stray`: as `strays` tells it. To leave is to be as far off as MOVED × its stray and MOVED_SHARE of its
    level, for FEWEST steps. As far, not further: a full batch of four is three requests more than the one that strays into it.
    """
    known, calm = shown[np.isfinite(shown["value"])], _calm(shown)
    fault = known[(known["t_s"] > 0) & (known["t_s"] <= cleared_s + 2)]
    counts = {"was": calm.groupby(WHICH).size(), "now": fault.groupby(WHICH).size()}
    each = pd.DataFrame({**counts, "level": calm.groupby(WHICH)["value"].median()}).join(stray.rename("stray"))
    each["room"] = np.maximum(np.maximum(MOVED * each["stray"].fillna(0), MOVED_SHARE * each["level"].abs()), 1e-9)
    far = fault.join(each[["level", "room"]], on=WHICH)
    each["far"] = ((far["value"] - far["level"]).abs() >= far["room"]).groupby([far[name] for name in WHICH]).sum()
    told = each.fillna({"was": 0, "now": 0, "far": 0})
    came_or_went = (told[["was", "now"]].min(axis=1) == 0) & (told[["was", "now"]].max(axis=1) >= FEWEST)
    left = (came_or_went | (told["far"] >= FEWEST)).groupby(["dashboard", "panel"]).any()
    every = shown[["dashboard", "panel"]].drop_duplicates().itertuples(index=False, name=None)
    return pd.DataFrame([(*key, bool(left.get(key, False))) for key in every], columns=["dashboard", "panel", "moved"])


def _calm(shown: pd.DataFrame) -> pd.DataFrame:
    settled = shown["t_s"].min() + SETTLED_S
    calm: pd.DataFrame = shown[np.isfinite(shown["value"]) & (shown["t_s"] >= settled) & (shown["t_s"] < 0)]
    return calm


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
