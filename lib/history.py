"""The history of a machine: the median of every quantity over its recorded runs, and where it changed for good.

A history knows how much a machine varies from one day to the next, which the rounds of two runs (compare.py) do not; in return it wants
many runs. Apache Otava looks for the changes, at a p so strict that any false alarm over all series together is rare (thresholds.py).
Refuses to join runs of different machines, methods or notebooks, and to call a history of few runs unchanged: that is a row which says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lib import compare, otava, record, stats, thresholds
from lib.compare import Key
from lib.home import REFERENCE, RUNS
from lib.measured import Broke, Skipped

LONGEST = 40  # runs that Otava is given at most, the newest: it was tried on no more (alarms.py)
ALONE = "one run: there is nothing to compare it with"
UNTRIED = "Otava was not tried on noise here: no p can be trusted (python -m lib.alarms)"
COLUMNS = ["point", "what", "runs", "first", "last", "spread", "changed_at", "change", "p", "verdict", "why"]


@dataclass(frozen=True, slots=True)
class History:
    """One quantity, oldest first: where it was measured (`at`), the medians in its unit, their 95 % intervals where repeats carry one."""

    key: Key
    at: tuple[str, ...]
    medians: tuple[float, ...]
    lo: tuple[float | None, ...]
    hi: tuple[float | None, ...]

    @property
    def point(self) -> str:
        return compare.named(self.key[0])


def history(runs: Sequence[record.Run]) -> list[History]:
    """Of one notebook on one machine; a quantity's history leaves out runs that do not have it. Raises NotComparable."""
    if len(notebooks := sorted({run.notebook for run in runs})) > 1:
        raise record.NotComparable(f"{' and '.join(notebooks)} measure different things")
    return _joined(runs, limits_only=False)


def limits(runs: Sequence[record.Run]) -> list[History]:
    """Of what one machine can do, which many notebooks measure alike, in all their runs. Raises NotComparable."""
    return _joined(runs, limits_only=True)


def repeats(run: record.Run) -> list[History]:
    """Within one run: its rounds, or blocks of what it measured in one go, in the order in which they were measured."""
    found = []
    for key, values in compare.repeats(run).items():
        unknown = (None,) * len(values)
        found.append(History(key, tuple(f"repeat {nth}" for nth in range(1, len(values) + 1)), values, unknown, unknown))
    return found


def machines(notebook: str | None = None, *, roots: Sequence[Path] = (RUNS, REFERENCE)) -> dict[tuple[str, str, int], list[record.Run]]:
    """All runs, oldest first, by notebook, machine and method; one that was promoted counts once."""
    names = sorted({path.name for root in roots if root.is_dir() for path in root.iterdir() if path.is_dir()})
    found: dict[tuple[str, str, int], dict[str, record.Run]] = defaultdict(dict)
    for run in (run for name in names if notebook in (None, name) for run in record.runs(name, roots=roots)):
        found[run.notebook, run.machine_id, run.method][run.run_id] = run
    return {group: list(runs.values()) for group, runs in found.items()}


def longest(runs: Iterable[record.Run]) -> list[record.Run]:
    """Those of the machine and method whose limits were measured in most runs."""
    found: dict[tuple[str, int], list[record.Run]] = defaultdict(list)
    for run in runs:
        found[run.machine_id, run.method].append(run)
    return max(found.values(), key=lambda mine: max((len(one.at) for one in limits(mine)), default=0), default=[])


def frame(histories: Iterable[History]) -> pd.DataFrame:
    """A row a quantity and run: `median`, `lo` and `hi` as shares of the first run's median, so that all are seen on one scale.

    `panel` is what tells the quantity from the others: its point without the words with which all of them begin.
    """
    known = list(histories)
    panel = _panels(known)
    rows = [{"panel": panel[one.key], "point": one.point, "what": one.key[1], "nth": nth + 1, "at": at,
             **{name: _of(values[nth], one) for name, values in (("median", one.medians), ("lo", one.lo), ("hi", one.hi))}}
            for one in known for nth, at in enumerate(one.at)]  # fmt: skip
    return pd.DataFrame(rows, columns=["panel", "point", "what", "nth", "at", "median", "lo", "hi"]).astype({"lo": float, "hi": float})


def changes(histories: Sequence[History], rates: pd.DataFrame, *, p: float | None = None) -> pd.DataFrame:
    """A row a history: its last change (a share) and the run it came with, the `p` that was asked of Otava, the verdict.

    `rates`: thresholds.rates, from which each history's p is taken; `p` asks for that one instead, whatever it is worth. `spread` is the
    largest difference between any two runs, a share. `verdict` is one of compare.py's words, or None where nothing was tested, with the
    reason in `why`. `attrs["steps"]` has every change: `panel` and `nth` as in `frame` (the first run after it), `change`, `text`.
    """
    able = [one for one in histories if len(one.at) >= (2 if p else _fewest(rates)) and min(one.medians) > 0]
    asked = {one.key: p or thresholds.threshold(rates, runs=len(one.at), series=len(able)) for one in able}
    tried = [one for one in able if asked[one.key] is not None]
    steps: Mapping[Key, tuple[otava.Step, ...]] = {}
    lacks = None
    try:
        told = otava.steps([one.medians[-LONGEST:] for one in tried], [asked[one.key] or 0.0 for one in tried])
        steps = {one.key: found for one, found in zip(tried, told, strict=True)}
    except (Skipped, Broke) as reason:
        lacks = str(reason)
    rows = [_row(one, steps.get(one.key), asked.get(one.key), lacks if one in tried else _untested(one, rates)) for one in histories]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"verdict": object, "why": object, "changed_at": object})
    for column in ("verdict", "why", "changed_at"):
        table[column] = table[column].where(table[column].notna(), None)
    panel = _panels(histories)
    marks = [{"panel": panel[one.key], "nth": step.at + 1 + _skipped(one), "change": step.change, "text": f"{step.change:+.0%}"}
             for one in tried for step in steps.get(one.key, ())]  # fmt: skip
    table.attrs["steps"] = marks
    return table


def verdict(table: pd.DataFrame) -> dict[str, Any]:
    """`changes` in numbers, fields for a claim: quantities tested, of how many runs, how many changed; the largest spread between runs."""
    tested = table[table["verdict"].notna()]
    some = len(tested) > 0
    return {"n": len(tested) or None, "runs": int(tested["runs"].max()) if some else None,
            "changed": int((tested["verdict"] != "same").sum()) if some else None,
            "spread": float(tested["spread"].max()) if some else None}  # fmt: skip


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """`changes` to read, those that were tested first."""
    rows = [{"setting": row["point"], "what": row["what"], "runs": row["runs"], "last": compare.amount(row["what"], row["last"]),
             "runs lie apart": "–" if pd.isna(row["spread"]) else f"{row['spread']:.1%}", "verdict": row["verdict"] or "not tested",
             "since, or why": f"{row['change']:+.1%} since {row['changed_at']}" if row["changed_at"] else row["why"] or ""}
            for row in table.sort_values("verdict", na_position="last", kind="stable").to_dict("records")]  # fmt: skip
    return pd.DataFrame(rows, columns=["setting", "what", "runs", "last", "runs lie apart", "verdict", "since, or why"])


def told(title: str, table: pd.DataFrame) -> str:
    """A table of `changes` as lines for a terminal: what changed, the largest first, what did not, what was not tested and why."""
    tested, lacking = table[table["verdict"].notna()], table[table["verdict"].isna()]
    changed = f"{(tested['verdict'] != 'same').sum()} of {len(tested)} quantities changed for good over "
    lines = [f"{title}: {changed + _counted(tested['runs']) if len(tested) else 'no history can be judged'}"]
    for row in tested.sort_values("change", key=abs, ascending=False, na_position="last").to_dict("records"):
        since = f"{row['change']:+.1%} since {row['changed_at']}" if row["changed_at"] else f"within {row['spread']:.1%}"
        value = compare.amount(row["what"], row["last"])
        lines.append(f"  {row['verdict']:<6}  {since:<32}  {row['runs']:>3} runs, last {value:<12}  {row['what']}, {row['point']}")
    return "\n".join([*lines, *(f"  not tested: {len(group)}, for {why}" for why, group in lacking.groupby("why", sort=False))])


def _joined(runs: Sequence[record.Run], *, limits_only: bool) -> list[History]:
    record.comparable(*({"machine_id": run.machine_id, "method": run.method} for run in runs))
    found: dict[Key, list[tuple[str, stats.Estimate]]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.utc, run.run_id)):
        for key, values in compare.repeats(run).items():
            if (middle := stats.median(values)) is not None and (compare.is_limit(key) or not limits_only):
                found[key].append((run.run_id, middle))
    return [History(key, tuple(at for at, _ in known), tuple(one.value for _, one in known), tuple(one.lo for _, one in known),
                    tuple(one.hi for _, one in known)) for key, known in found.items()]  # fmt: skip


def _row(one: History, steps: Sequence[otava.Step] | None, p: float | None, why: str | None) -> dict[str, Any]:
    row = {"point": one.point, "what": one.key[1], "runs": len(one.at), "first": one.medians[0], "last": one.medians[-1], "p": p,
           "spread": stats.noise_floor([[median] for median in one.medians])}  # fmt: skip
    if steps is None:
        return {**row, "verdict": None, "why": why}
    if not steps:
        return {**row, "verdict": "same", "why": None}
    last = steps[-1]
    at = one.at[last.at + _skipped(one)]
    return {**row, "changed_at": at, "change": last.change, "verdict": compare.word(one.key[1], last.change), "why": None}


def _fewest(rates: pd.DataFrame) -> int:
    """Runs of the shortest history that Otava was tried on."""
    return 2 if rates.empty else int(rates["runs"].min())


def _skipped(one: History) -> int:
    """How many runs Otava is not given."""
    return max(0, len(one.at) - LONGEST)


def _panels(histories: Sequence[History]) -> dict[Key, str]:
    words = [one.point.split(", ") for one in histories]
    shared = next((nth for nth, column in enumerate(zip(*words, strict=False)) if len(set(column)) > 1), 0)
    several = len({one.key[1] for one in histories}) > 1
    return {one.key: ", ".join(spoken[shared:] + [one.key[1]] * several).removeprefix("name ")
            for one, spoken in zip(histories, words, strict=True)}  # fmt: skip


def _untested(one: History, rates: pd.DataFrame) -> str | None:
    if len(one.at) < 2:
        return ALONE
    if min(one.medians) <= 0:
        return "values of zero or below have no ratio"
    if rates.empty:
        return UNTRIED
    if len(one.at) < (fewest := _fewest(rates)):
        return f"{len(one.at)} runs are too few to see a change in their order: it takes {fewest}; compare tells two runs apart"
    return "more series than Otava was tried on"


def _of(value: float | None, one: History) -> float | None:
    return None if value is None or one.medians[0] <= 0 else value / one.medians[0]


def _counted(runs: pd.Series[int]) -> str:
    low, high = int(runs.min()), int(runs.max())
    return f"{high} runs" if low == high else f"{low} to {high} runs"
