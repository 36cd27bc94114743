"""At which p Otava may be believed: the one at which, of a whole family of series in which nothing changed, hardly any raises an alarm.

Read off outcomes on noise (alarms.py): for each length of history, how many series alarm at each p of a ladder. Series of one machine hang
together, so a family shares its 5 % out evenly (Bonferroni), which holds however they do; and of a rate the upper end of its interval
counts, not the luck of the draw. Unknown, and so None, is the p for histories shorter than any that was tried, and for more series than
the draws can speak of. Refuses to be strict by guess.
"""

from __future__ import annotations

import pandas as pd

from lib import measured, record, stats
from lib.compare import PROMISED
from lib.home import REFERENCE, RUNS

NOTEBOOK = "90_verdict"
LADDER = tuple(float(f"{10 ** (-2 - rung / 2):.3g}") for rung in range(13))  # p from 0.01 to 1e-8
COLUMNS = ["runs", "p", "series", "alarmed", "lo", "hi"]


def known(*, notebook: str = NOTEBOOK) -> record.Run | None:
    """The newest run that holds outcomes on noise, a recorded one first: they do not depend on the machine. None where there is none."""
    for root in (REFERENCE, RUNS):
        for run in reversed(record.runs(notebook, roots=(root,))):
            if run.method == record.METHOD and any(measured.points(run, "noise only")):
                return run
    return None


def rates(run: record.Run | None, *, use: str = "calibrate", shape: str = "ours") -> pd.DataFrame:
    """A row a length of history and p: the share `alarmed` of the `series` in which nothing changed, with its exact 95 % interval."""
    rows = []
    for point in measured.points(run, "noise only") if run else ():
        if (point["use"], point["shape"]) == (use, shape):
            rungs = measured.series(run, point, "outcome")["rungs"]  # type: ignore[arg-type]
            for rung, p in enumerate(point["facts"]["ladder"]):
                rows.append({"runs": int(point["runs"]), "p": p, **share(int((rungs > rung).sum()), len(rungs))})
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(["runs", "p"], ascending=[True, False], ignore_index=True)


def threshold(rates: pd.DataFrame, *, runs: int, series: int, promised: float = PROMISED) -> float | None:
    """The most lenient p of `rates` that keeps the probability of any alarm over `series` histories of so many `runs` under `promised`.

    Between two lengths that were tried the stricter counts; beyond the longest, its own: Otava is given no more runs than that.
    """
    tried = sorted(rates["runs"].unique())
    if not tried or runs < tried[0] or series < 1:
        return None
    around = {max(length for length in tried if length <= runs), min((length for length in tried if length >= runs), default=tried[-1])}
    held = rates[rates["runs"].isin(around)].groupby("p")["hi"].max() <= promised / series
    strict = [float(p) for p in held.sort_index(ascending=False).index if held[held.index <= p].all()]
    return strict[0] if strict else None


def share(hits: int, trials: int) -> dict[str, float | int | None]:
    """`hits` of `trials` as a share with its exact 95 % interval (Clopper-Pearson)."""
    found = stats.share(hits, trials)
    return {"series": trials, "alarmed": found.value, "lo": found.lo, "hi": found.hi}
