"""Change points of many series through Apache Otava, which has an environment of its own: one process for all of them.

Otava is Hunter (M. Fleming et al., ICPE 2023): E-divisive means propose where to cut, Student's t-test says whether. Its p is that of the
best of all cuts, and its standard deviations divide by n, not n − 1: p says less than it seems to, the more so the longer a series.
lib/alarms.py measures how much. Refuses a series with a gap, a NaN or a value of zero or below: Otava fills the first with its neighbour
and finds nothing at all beside the second.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from lib import child, install
from lib.measured import Broke, Skipped

WORKER = Path(__file__).with_name("otava_worker.py")
LEAST = 0.01  # as in compare.py: a smaller change is no news
TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Step:
    """A change: the index of the first value after it, the means on both sides up to the next step, Otava's p."""

    at: int
    before: float
    after: float
    p: float

    @property
    def change(self) -> float:
        return self.after / self.before - 1


def steps(series: Sequence[Sequence[float | None]], p: Sequence[float], *, least: float = LEAST) -> list[tuple[Step, ...]]:
    """What Otava calls a change in each series at its `p`, in order. Raises Skipped without its environment, ValueError, Broke."""
    told = _asked(series, [[one] for one in p], least)
    return [tuple(Step(**point) for point in rungs[0]) if rungs else () for rungs in told]


def rungs(series: Sequence[Sequence[float | None]], ladder: Sequence[float], *, least: float = LEAST) -> list[int]:
    """Of each series how many rungs of `ladder` (p from lenient to strict) Otava goes down and still alarms. Raises as `steps` does."""
    return [len(told) for told in _asked(series, [ladder] * len(series), least)]


def _asked(series: Sequence[Sequence[float | None]], ladders: Sequence[Sequence[float]], least: float) -> list[list[list[dict[str, Any]]]]:
    job = [{"values": _checked(values), "ladder": list(ladder)} for values, ladder in zip(series, ladders, strict=True)]
    if not job:
        return []
    if isinstance(found := install.find("otava"), install.Missing):
        raise Skipped(found.reason)
    with tempfile.TemporaryDirectory() as scratch:
        asked, answer = Path(scratch) / "job.json", Path(scratch) / "answer.json"
        asked.write_text(json.dumps({"least": least, "series": job}))
        try:
            child.run((found.tool("python"), "-I", WORKER, asked, answer), what="Apache Otava", log=Path(scratch) / "log",
                      say=lambda _: None, timeout_s=TIMEOUT_S)  # fmt: skip
        except child.Failed as failed:
            raise Broke(str(failed)) from failed
        told: list[list[list[dict[str, Any]]]] = json.loads(answer.read_text())
    return told


def _checked(values: Sequence[float | None]) -> list[float]:
    known = [float(value) for value in values if value is not None and isfinite(value) and value > 0]
    if len(known) < len(values) or not known:
        raise ValueError(f"Otava wants a positive number for each run, not {list(values)}: leave out a run that did not measure this")
    return known
