"""What the run says of allocation: what each setting carries within its SLA, what a quota does to threads, how little memory will do.

Pure: points in, frames and the fields of sentences out. Refuses to rank what was measured in one window as if it were sure: intervals come
from rounds, and a setting without rounds has none.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

import pandas as pd

from lib import stats
from lib.measured import points
from lib.pipelines.cost.allocation import cell, compared
from lib.pipelines.cost.cells import DEFAULTS, Cell, Service
from lib.pipelines.cost.session import Session

MIB = 1 << 20


def cells(s: Session, service: Service) -> pd.DataFrame:
    """One row a setting, as the grid has them: medians over rounds. Rates: predictions a second within the SLA, 0 where none is."""
    by: dict[Cell, list[dict[str, Any]]] = {}
    for point in points(s.run, "cell"):
        if point["service"] == service:
            by.setdefault(cell(point), []).append(point)
    columns = ["cell", "name", "cpus", "per_s", "per_core", "lo", "hi", "rounds", "throttled", "peak_mb", "ready_s"]
    return pd.DataFrame([_row(one, rows, _processors(s, one)) for one, rows in by.items()], columns=columns)


def _processors(s: Session, one: Cell) -> int:
    """Those that a cell may run on: all of the machine's, but for the fraud service, whose client has one of its own."""
    return ceil(one.cpus) if one.service == "fraud" else int(s.run.environment.get("threads") or 1)


def _held(facts: dict[str, Any], processors: int) -> float:
    """The share of its processors' time in which something wanted to run and had no quota; the kernel counts each processor apart."""
    return float(facts["throttled_s"] / facts["wall_s"] / processors)


def _row(one: Cell, rows: list[dict[str, Any]], processors: int) -> dict[str, Any]:
    facts = [row["facts"] for row in rows]
    per_core = stats.median([rate / one.cpus for rate in _rates(rows)])
    mean = stats.mean([rate / one.cpus for rate in _rates(rows)])
    ends = (mean.lo, mean.hi) if mean is not None and mean.n > 2 else (None, None)
    return {
        "cell": one, "name": one.name, "cpus": one.cpus, "per_s": per_core.value * one.cpus if per_core else None,
        "per_core": per_core.value if per_core else None, "lo": ends[0], "hi": ends[1], "rounds": len(rows),
        "throttled": float(pd.Series([_held(fact, processors) for fact in facts]).median()),
        "peak_mb": max((fact["peak_bytes"] / 1e6 for fact in facts if fact["peak_bytes"]), default=None),
        "ready_s": float(pd.Series([fact["ready_s"] for fact in facts]).median()),
    }  # fmt: skip


def _rates(rows: list[dict[str, Any]]) -> list[float]:
    return [row["facts"]["per_s"] or 0.0 for row in rows]


def wide(grid: pd.DataFrame) -> pd.DataFrame:
    """One row a setting's name, what a processor carries at each CPU limit: columns "0.5", "1", "2" as far as they were measured."""
    told = grid.assign(limit=[f"{cpus:g}" for cpus in grid["cpus"]])
    table = told.pivot_table(index="name", columns="limit", values="per_core", sort=False, dropna=False).reset_index()
    table.columns.name = None
    best = table.drop(columns="name").max(axis=1)
    return table.assign(best=best).sort_values("best", ascending=False).drop(columns="best").reset_index(drop=True)


def compare(s: Session, service: Service) -> pd.DataFrame:
    """The default, the ladder and the finalists, best first: what a processor carries, its interval, and how often the default."""
    grid = cells(s, service)
    known = grid[grid["cell"].isin(compared(s, service))].sort_values("per_core", ascending=False)
    default = grid[grid["cell"] == DEFAULTS[service]]["per_core"]
    unit = float(default.iloc[0]) if len(default) and default.iloc[0] else float("nan")
    names = [one.name + (" (the default)" if one == DEFAULTS[service] else "") for one in known["cell"]]
    return pd.DataFrame({
        "setting": names, "CPU limit": known["cpus"].tolist(), "a second, within the SLA": known["per_s"].tolist(),
        "per processor": known["per_core"].tolist(),
        "95 %": [f"{max(0, lo):,.0f}–{hi:,.0f}" if pd.notna(lo) else None for lo, hi in zip(known["lo"], known["hi"], strict=True)],
        "× the default": (known["per_core"] / unit).tolist(), "held back": [f"{share:.0%}" for share in known["throttled"]],
        "peak, MB": known["peak_mb"].tolist(),
    })  # fmt: skip


def best(s: Session, service: Service, *, same: bool = False) -> Cell | None:
    """The setting that carries most per processor in the median of its rounds; `same`: of those with the default's engine and precision."""
    asked = set(compared(s, service))
    known = [row for row in cells(s, service).to_dict("records") if row["cell"] in asked and row["per_core"]
             and (not same or row["cell"].computes == DEFAULTS[service].computes)]  # fmt: skip
    return max(known, key=lambda row: row["per_core"])["cell"] if known else None


def factor(s: Session, service: Service, *, same: bool = True) -> dict[str, Any]:
    """How much more a processor carries at the best setting than at the default: `times` with its interval over `n` rounds.

    By allocation alone, unless another engine than the default's may be the best (not `same`).
    """
    winner = best(s, service, same=same)
    told: dict[str, Any] = dict.fromkeys(("best", "times", "lo", "hi", "n", "per_core", "default_per_core"))
    if winner is None:
        return told
    ours, theirs = (per_core(s, one) for one in (winner, DEFAULTS[service]))
    found = stats.ratio(ours, theirs)
    told |= {"best": f"{winner.name} on {winner.cpus:g}", "per_core": float(pd.Series(ours).median()), "default": DEFAULTS[service].name,
             "default_per_core": float(pd.Series(theirs).median()) if theirs else None}  # fmt: skip
    return told if found is None else {**told, "times": found.value, "lo": found.lo, "hi": found.hi, "n": found.n}


def halved(s: Session, service: Service) -> dict[str, Any]:
    """The finalist that ran in half a processor as well: what it carried there of what it carried in a whole one, with interval."""
    told: dict[str, Any] = dict.fromkeys(("half", "whole", "share", "lo", "hi", "n"))
    half = next((one for one in compared(s, service) if one.cpus == 0.5 and one.computes == DEFAULTS[service].computes), None)
    if half is None:
        return told
    ours, theirs = ([rate * one.cpus for rate in per_core(s, one)] for one in (half, replace(half, cpus=1.0)))
    found = stats.ratio(ours, theirs)
    if found is None:
        return told
    return {"half": float(pd.Series(ours).median()), "whole": float(pd.Series(theirs).median()), "share": found.value, "lo": found.lo,
            "hi": found.hi, "n": found.n, "name": half.name}  # fmt: skip


def per_core(s: Session, one: Cell) -> list[float]:
    """What a processor carried in each round, predictions a second within the SLA."""
    return [(point["facts"]["per_s"] or 0.0) / one.cpus for point in points(s.run, "cell") if cell(point) == one]


def cliff(s: Session) -> pd.DataFrame:
    """One row for each limit and number of threads: what a picture takes, ms, and how much of the time it was held back."""
    rows, processors = [], int(s.run.environment.get("threads") or 1)
    for point in points(s.run, "cliff"):
        taken_s, facts = point["samples"]["picture_s"], point["facts"]
        p50, p90 = stats.median(taken_s), stats.quantile(taken_s, 0.9)
        rows.append({
            "cpus": point["cpus"], "threads": int(point["threads"]), "spin": bool(point["spin"]), "n": len(taken_s),
            "p50": p50.value * 1e3 if p50 else None, "lo": p50.lo * 1e3 if p50 and p50.lo else None,
            "hi": p50.hi * 1e3 if p50 and p50.hi else None, "p90": p90.value * 1e3 if p90 else None,
            "throttled": _held(facts, processors), "cpu_ms": facts["cpu_s"] / len(taken_s) * 1e3,
            "who": f"{point['cpus']:g} processor{'s' * (point['cpus'] > 1)}, {'spinning' if point['spin'] else 'sleeping'}",
        })  # fmt: skip
    known = pd.DataFrame(rows, columns=["cpus", "threads", "spin", "n", "p50", "lo", "hi", "p90", "throttled", "cpu_ms", "who"])
    alone = known[(known["threads"] == 1) & ~known["spin"].astype(bool)]  # one thread never spins: it begins both lines
    doubled = alone.assign(spin=True, who=alone["who"].str.replace("sleeping", "spinning"))
    return pd.concat([known, doubled], ignore_index=True).sort_values(["cpus", "spin", "threads"]).reset_index(drop=True)


def fallen(table: pd.DataFrame, cpus: float = 1.0) -> dict[str, Any]:
    """At a limit of `cpus`: a picture with one thread and with the most, spinning and sleeping, ms; and what spinning costs."""
    told: dict[str, Any] = dict.fromkeys(("threads", "one", "spinning", "sleeping", "times", "throttled", "cpu_one", "cpu_spinning",
                                         "one_p90", "sleeping_p90"))
    at = table[table["cpus"] == cpus]
    if at.empty:
        return told
    most = int(at["threads"].max())
    one, spinning, sleeping = (at[(at["threads"] == n) & (at["spin"] == spin)] for n, spin in ((1, False), (most, True), (most, False)))
    if most == 1 or any(part.empty for part in (one, spinning, sleeping)):
        return told
    return {
        "threads": most, "one": one["p50"].iloc[0], "spinning": spinning["p50"].iloc[0], "sleeping": sleeping["p50"].iloc[0],
        "sleeping_p90": sleeping["p90"].iloc[0], "one_p90": one["p90"].iloc[0],
        "times": spinning["p50"].iloc[0] / one["p50"].iloc[0], "throttled": spinning["throttled"].iloc[0], "cpus": cpus,
        "cpu_one": one["cpu_ms"].iloc[0], "cpu_spinning": spinning["cpu_ms"].iloc[0],
    }  # fmt: skip


def edges(s: Session) -> pd.DataFrame:
    """One row a deployed setting: the smallest limit in which it started and worked, the largest in which it did not, and how it ended."""
    by: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for point in points(s.run, "memory"):
        by.setdefault((point["service"], point["facts"]["name"]), []).append(point)
    rows = []
    for (service, name), tried in by.items():
        alive = [p for p in tried if p["facts"]["survived"]]
        dead = [p for p in tried if not p["facts"]["survived"]]
        least = min(alive, key=lambda p: p["limit_mib"], default=None)
        most = max(dead, key=lambda p: p["limit_mib"], default=None)
        free = max(alive, key=lambda p: p["limit_mib"], default=None)
        rows.append({
            "service": service, "setting": name, "peak without pressure, MiB": free["facts"]["peak_bytes"] / MIB if free else None,
            "smallest limit that will do, MiB": int(least["limit_mib"]) if least else None,
            "largest that will not, MiB": int(most["limit_mib"]) if most else None, "how it ended": most["facts"]["why"] if most else None,
            "limits tried": len(tried),
        })  # fmt: skip
    return pd.DataFrame(rows)
