"""What stands behind each part: how many points were recorded, how many checks they passed, and what became of the others.

Pure, of runs. Refuses to leave out what failed: it is counted beside what is ok.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from lib.record import Run

STATUSES = {"ok": "may be quoted", "skipped": "could not run here: a row with its reason", "invalid": "broke a check: kept, not quoted",
            "failed": "failed: kept, not quoted"}  # fmt: skip


def standing(runs: Iterable[Run]) -> pd.DataFrame:
    """A row a run, however often it is named: its points by status in percent (`ok`, `skipped`, `invalid`, `failed`), `points` and `checks`
    in number, a `label`.
    """
    rows = []
    for run in {run.run_id: run for run in runs}.values():
        points = run.points()
        checks = sum(len(point.audit) for point in points)
        shares = {status: 100 * sum(point.status == status for point in points) / len(points) if points else None for status in STATUSES}
        label = f"{run.notebook[:2]}: {len(points):,} points, {checks:,} checks"
        rows.append({"label": label, "points": len(points), "checks": checks, **shares})
    return pd.DataFrame(rows, columns=["label", "points", "checks", *STATUSES])


def backed(table: pd.DataFrame) -> str:
    """The whole in a sentence, as a figure's title."""
    if table.empty:
        return "Nothing is recorded, so nothing is backed"
    quotable = (table["ok"] * table["points"]).sum() / table["points"].sum()
    return f"{table['checks'].sum():,} checks stand behind {table['points'].sum():,} recorded points; {quotable:.0f}% of them may be quoted"
