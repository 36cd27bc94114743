"""What the outcomes on noise and on planted changes say, as frames: how often compare and Otava cry wolf, and what they would notice.

Of Otava from the recorded run of alarms.py, whose p was chosen on other draws than those it is checked on here; of compare.py from recorded
runs dealt anew (compare.calibrate), in seconds. Refuses a share without its interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from lib import compare, measured, record, thresholds
from lib.alarms import FAMILY, OURS, SHAPES, SHIPPED
from lib.thresholds import share

LENIENT = 0.01
DRAWN = ((3, 3), (5, 5), (10, 5), (20, 20), (37, 3), (39, 1))  # of what was planted: as many as one figure can tell apart
ALARMS = ["noise", "runs", "asked", "p", "series", "alarmed", "lo", "hi", "families", "any_alarm", "any_lo", "any_hi"]
POWER = ["before", "after", "asked", "p", "noise", "step", "series", "found", "lo", "hi"]


def false_alarms(run: record.Run) -> pd.DataFrame:
    """A row a shape of `noise`, length of history and way of asking: series that `alarmed` and families with `any_alarm`, as shares.

    `asked`: p as shipped, ten times as lenient, and calibrated for families of alarms.FAMILY series. 95 % intervals, exact.
    """
    chosen = thresholds.rates(run)
    rows = []
    for point in sorted(measured.points(run, "noise only"), key=lambda point: ((OURS, *SHAPES).index(point["shape"]), point["runs"])):
        if point["use"] == "check":
            rungs = measured.series(run, point, "outcome")["rungs"].to_numpy()
            strict = thresholds.threshold(chosen, runs=int(point["runs"]), series=FAMILY)
            for asked, p in (("lenient", LENIENT), ("as shipped", SHIPPED), ("calibrated", strict)):
                if p is not None:
                    hits = rungs > point["facts"]["ladder"].index(p)
                    rows.append({"noise": point["shape"], "runs": int(point["runs"]), "asked": asked, "p": p, **_both(hits)})
    return pd.DataFrame(rows, columns=ALARMS)


def recorded_order(run: record.Run) -> pd.DataFrame:
    """Repeats of recorded runs, in which nobody changed anything: series that alarm in the order they came, and shuffled."""
    rows = []
    for point in measured.points(run, "recorded order"):
        outcome = measured.series(run, point, "outcome")
        for (shuffled, p), hits in _by_rung(outcome, "shuffled", point["facts"]["ladder"]):
            rows.append({"order": "shuffled" if shuffled else "as they came", "p": p, **share(int(hits.sum()), len(hits))})
    return pd.DataFrame(rows, columns=["order", "p", "series", "alarmed", "lo", "hi"])


def power(run: record.Run) -> pd.DataFrame:
    """A row a planted `step`: the share of series in which Otava found it, by runs before and after, noise and way of asking."""
    rows = []
    for point in measured.points(run, "planted"):
        outcome = measured.series(run, point, "outcome")
        for (noise, step), group in outcome.groupby(["noise", "step"]):
            for asked, p in point["facts"]["p"].items():
                told = _renamed(share(int(group[asked].sum()), len(group)), alarmed="found")
                rows.append({"before": int(point["before"]), "after": int(point["after"]), "asked": asked, "p": p,
                             "noise": noise, "step": step, **told})  # fmt: skip
    return pd.DataFrame(rows, columns=POWER)


def found(power: pd.DataFrame, *, before: int, after: int, noise: float, step: float, asked: str = "calibrated") -> float | None:
    """One share of `power`; None for what was not planted."""
    mine = power.set_index(["before", "after", "noise", "step", "asked"])["found"]
    return float(mine[key]) if (key := (before, after, noise, step, asked)) in mine.index else None


def two_runs(runs: Iterable[record.Run], *, trials: int = 200) -> pd.DataFrame:
    """compare.calibrate over `runs`, pooled: a row a way of dealing, planted change (0: none) and class of noise (10 s for all of ours)."""
    return compare.pooled(compare.calibrate(runs, trials=trials))


def limit_pairs(runs: Iterable[record.Run]) -> dict[str, Any]:
    """compare.untouched in numbers, fields for a claim: pairs of runs of an untouched machine, with any alarm by repeats, with drift."""
    table = compare.untouched(runs)
    return {"pairs": len(table), "by_repeats": int(table["by_repeats"].sum()), "with_drift": int(table["with_drift"].sum()),
            "largest": None if table.empty else float(table["largest"].max())}  # fmt: skip


def verdict(run: record.Run) -> dict[str, Any]:
    """The longest histories of our noise, fields for a claim: alarms of a series and a family as shipped, and of a family calibrated."""
    table = false_alarms(run)
    mine = table[(table["noise"] == OURS) & (table["runs"] == table["runs"].max())].set_index("asked")
    fields: dict[str, Any] = {"runs": None if mine.empty else int(mine["runs"].iloc[0]), "family": FAMILY}
    for asked, name in (("lenient", "lenient"), ("as shipped", "shipped"), ("calibrated", "calibrated")):
        row = mine.loc[asked] if asked in mine.index else None
        fields |= {name: None if row is None else float(row["alarmed"]), f"{name}_any": None if row is None else float(row["any_alarm"]),
                   f"{name}_p": None if row is None else float(row["p"])}  # fmt: skip
    held = table[(table["noise"] == OURS) & (table["asked"] == "calibrated")]
    return {**fields, "worst_any": None if held.empty else float(held["any_alarm"].max())}


def shown_alarms(table: pd.DataFrame) -> pd.DataFrame:
    """`false_alarms` to read."""
    asked = [f"{p:.2g}, {how}" for p, how in zip(table["p"], table["asked"], strict=True)]
    return pd.DataFrame({
        "noise": table["noise"], "runs": table["runs"], "p": asked,
        "series": table["series"], "alarm in a series": _spelled(table, "alarmed", "lo", "hi"), "families": table["families"],
        f"any in {FAMILY} series": _spelled(table, "any_alarm", "any_lo", "any_hi"),
    })  # fmt: skip


def shown_order(table: pd.DataFrame) -> pd.DataFrame:
    """`recorded_order` to read, at the two p that people ask for."""
    asked = table[table["p"].isin((LENIENT, SHIPPED))]
    return pd.DataFrame({"order": asked["order"], "p": asked["p"], "series": asked["series"],
                         "alarm in a series": _spelled(asked, "alarmed", "lo", "hi")})  # fmt: skip


def strained(table: pd.DataFrame) -> pd.DataFrame:
    """What becomes of the calibrated p where noise is not ours: any alarm in a family, a row a shape of noise, a column a length."""
    mine = table[table["asked"] == "calibrated"]
    spelled = mine.assign(any=_spelled(mine, "any_alarm", "any_lo", "any_hi"), runs=[f"{runs} runs" for runs in mine["runs"]])
    wide = spelled.pivot(index="noise", columns="runs", values="any")
    return wide.loc[mine["noise"].unique(), spelled["runs"].unique()].reset_index().rename_axis(columns=None)


def shown_two_runs(table: pd.DataFrame) -> pd.DataFrame:
    """`two_runs` to read."""
    what = ["nothing: false alarms, any quantity" if share == 0 else f"+{share:.0%}" for share in table["planted"]]
    apart = ["any" if planted == 0 else "more" if np.isinf(top) else f"up to {top:.0%}"
             for planted, top in zip(table["planted"], table["noise"], strict=True)]  # fmt: skip
    return pd.DataFrame({"repeats": table["dealt"], "planted": what, "repeats lie apart": apart, "trials": table["trials"],
                         "found": _spelled(table, "found", "lo", "hi")})  # fmt: skip


def curves(table: pd.DataFrame, *, asked: str = "calibrated") -> pd.DataFrame:
    """`power` for multiples.panels: a panel a size of noise, a line a pair of DRAWN, shares over the planted step in %."""
    held = pd.Series(list(zip(table["before"], table["after"], strict=True)), index=table.index, dtype=object)
    mine = table[(table["asked"] == asked) & held.isin(DRAWN)]
    return pd.DataFrame({
        "panel": [f"noise {noise:.0%}" for noise in mine["noise"]], "step": mine["step"] * 100,
        "line": [f"{before} + {after} runs" for before, after in zip(mine["before"], mine["after"], strict=True)],
        "found": mine["found"], "lo": mine["lo"], "hi": mine["hi"],
    }).reset_index(drop=True)  # fmt: skip


def _both(hits: Any) -> dict[str, Any]:
    """By series, and by families of as many that follow one another; those that are left over make none."""
    families = hits[:len(hits) // FAMILY * FAMILY].reshape(-1, FAMILY).any(axis=1)
    told: dict[str, Any] = share(int(hits.sum()), len(hits))
    many = share(int(families.sum()), len(families)) if len(families) else {}
    return {**told, "families": len(families), "any_alarm": many.get("alarmed"), "any_lo": many.get("lo"), "any_hi": many.get("hi")}


def _by_rung(outcome: pd.DataFrame, by: str, ladder: list[float]) -> Iterator[tuple[tuple[Any, float], pd.Series[bool]]]:
    for name, group in outcome.groupby(by):
        for rung, p in enumerate(ladder):
            yield (name, p), group["rungs"] > rung


def _renamed(fields: dict[str, Any], **names: str) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in fields.items()}


def _spelled(table: pd.DataFrame, value: str, lo: str, hi: str) -> list[str]:
    return ["–" if pd.isna(one) else f"{one:.2%} ({low:.2%} – {high:.2%})"
            for one, low, high in zip(table[value], table[lo], table[hi], strict=True)]  # fmt: skip
