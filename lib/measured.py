"""A pipeline's setting measured and kept: what the run holds already is not measured again, what cannot be is a row that says why.

Long samples go to Parquet beside the points. What breaks its audit stays, marked invalid. Refuses to swallow an error of our own
making: only what the machine, a server or the disk does becomes a row.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pandas as pd
import psutil

from lib import audit, record, sampler
from lib.process import Died

DISTURBED = ("5 lag", "8 quiet")  # checks that blame the machine's other work


class Broke(Exception):
    """What was being measured broke; the message is what the row says."""


class Skipped(Exception):
    """This cannot be measured here; the message is what the row says."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a measurement brings: raw samples, facts, the audit's word (check → why it failed, else None), long series (name → frame)."""

    samples: Mapping[str, Any]
    facts: Mapping[str, Any]
    checks: Mapping[str, str | None]
    series: Mapping[str, pd.DataFrame] | None = None


def keep(run: record.Run, setting: dict[str, Any], measure: Callable[[], Found], *, timed: bool = True) -> None:
    """Measure `setting` unless the run holds it; what cannot be is a row that says why.

    What other work disturbed is tried once more, and the first try stays in the record. `timed`: whether such work would matter.
    """
    if run.measured(setting) is not None:
        return
    first = run.add(_point(run, setting, measure, timed))
    if any(first.audit.get(check) for check in DISTURBED):
        run.add(_point(run, setting, measure, timed))


def _point(run: record.Run, setting: dict[str, Any], measure: Callable[[], Found], timed: bool) -> record.Point:
    try:
        with sampler.Sampler([sampler.Tree(os.getpid())]) as seen:
            found = measure()
    except (Skipped, ImportError) as reason:
        return record.Point(setting, "skipped", str(reason))
    except (Died, OSError, httpx.HTTPError, psutil.Error, Broke) as error:
        return record.Point(setting, "failed", f"{type(error).__name__}: {error}")
    host, checks = seen.summary(), dict(found.checks)
    if timed:
        checks["8 quiet"] = audit.undisturbed(host, cores=os.cpu_count() or 1)
    wrong = "; ".join(f"{check}: {why}" for check, why in checks.items() if why)
    named = {what: series_name(what, setting) for what in found.series or {}}
    for what, frame in (found.series or {}).items():
        run.series(named[what], frame)
    facts = {**found.facts, "host": host, "series": {what: f"{name}.parquet" for what, name in named.items()}}
    return record.Point(setting, "invalid" if wrong else "ok", wrong or None, found.samples, facts, checks)


def series_name(what: str, setting: Mapping[str, Any]) -> str:
    """The name under which a point's long series lies beside it."""
    return f"{what}-{hashlib.sha256(record.canonical(setting).encode()).hexdigest()[:12]}"


def series(run: record.Run, point: Mapping[str, Any], what: str) -> pd.DataFrame:
    """A long series of a point (a row of Session.frame)."""
    return pd.read_parquet(run.path / point["facts"]["series"][what])


def points(run: record.Run, what: str, *, status: tuple[str, ...] = ("ok",)) -> Iterator[dict[str, Any]]:
    """The points of one kind, those that may be quoted unless other `status` are asked for: setting, samples and facts side by side."""
    for row in run.frame().to_dict("records"):
        if row["what"] == what and row["status"] in status:
            yield {str(key): value for key, value in row.items()}


def unfit(run: record.Run) -> pd.DataFrame:
    """Points that may not be quoted, or could not be measured, and why."""
    fixed = {"what", "status", "reason", "samples", "facts", "audit", "machine_id", "method", "run_id", "origin"}
    rows = []
    for row in run.frame().to_dict("records"):
        if row["status"] != "ok":
            known = {key: value for key, value in row.items() if key not in fixed and not pd.isna(value)}
            setting = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in known.items())
            rows.append({"what": row["what"], "setting": setting, "status": row["status"], "why": row["reason"]})
    return pd.DataFrame(rows, columns=["what", "setting", "status", "why"])


def cores() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """One processor to serve and one to ask, far apart in the system's order, for neighbours may share a core. Raises Skipped."""
    known = sorted(os.sched_getaffinity(0))
    if len(known) < 2:
        raise Skipped("there is one processor: a server and its client would measure each other")
    return (known[0],), (known[len(known) // 2],)
