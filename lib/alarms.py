"""How often Otava cries wolf over a history in which nothing changed, and what it misses: outcomes on noise whose truth is known.

A history is a notebook's worth of series, so what counts is any alarm in all of them together. Noise is drawn: from what our own recorded
repeats vary about their middle ("ours"), normal, heavy-tailed, and clinging to its last value ("drifting"), which no history shorter than
a year could be told to lack. Beside it stand recorded repeats in the order in which they were measured. Changes are planted, and so
labelled. It is arithmetic on seeds: which machine it ran on does not matter. alarm_views.py says what follows from the outcomes.

    python -m lib.alarms [PROFILE]
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import sqrt
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from lib import compare, install, otava, record, thresholds
from lib.home import REFERENCE
from lib.measured import Found, keep
from lib.moderated import Floats
from lib.session import Opened, checked, opened
from lib.thresholds import LADDER, NOTEBOOK

SHIPPED = 0.001  # Otava's p unless told otherwise
LENGTHS = (6, 8, 10, 15, 20, 40)  # runs in a history; Otava looks at 50 at a time
FAMILY = 50  # series in a notebook's history
NOISE = 0.04  # of a drawn series, a share: so much that otava.LEAST hardly hides an alarm
OURS, SHAPES = "ours", ("normal", "heavy", "drifting")
CLINGS = 0.5  # how much of its last deviation the next run of a drifting machine keeps
HELD = ((3, 3), (5, 1), (4, 4), (7, 1), (5, 5), (9, 1), (10, 5), (17, 3), (20, 20), (37, 3), (39, 1))  # runs before and after a step
NOISES, STEPS = (0.01, 0.02, 0.04), compare.PLANTED
SHUFFLES = 10
Setting = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """Series drawn to calibrate, to check that, of each other shape, and series with each planted step; `lengths` of the histories."""

    calibrate: int
    check: int
    other: int
    planted: int
    lengths: tuple[int, ...] = LENGTHS


PLANS = {"smoke": Plan(200, 200, 100, 10, (6, 10)), "quick": Plan(6400, 5000, 1000, 100), "full": Plan(12_800, 10_000, 2500, 200)}


def session(*, profile: str, mode: str, fresh: bool = False) -> Opened:
    """The run that holds the outcomes, measured here (minutes) or recorded. Raises ValueError, NothingRecorded."""
    checked(profile, mode)
    lacks = there.reason if isinstance(there := install.find("otava"), install.Missing) else None
    versions = {"otava": install.pinned("otava")}
    told = opened(NOTEBOOK, mode=mode, lacks=lacks, parameters={"profile": profile}, versions=versions, fresh=fresh)
    if told.here is not None:
        measure(told.run, PLANS[profile])
    return told


def measure(run: record.Run, plan: Plan) -> None:
    """Everything that the run does not hold yet; each point keeps its outcomes as a series beside it."""
    recorded = references()
    scatter = deviations(recorded)
    for length in plan.lengths:
        for use, many in (("calibrate", plan.calibrate), ("check", plan.check)):
            _noise_only(run, {"what": "noise only", "shape": OURS, "runs": length, "use": use, "series": many}, scatter)
        for shape in SHAPES:
            _noise_only(run, {"what": "noise only", "shape": shape, "runs": length, "use": "check", "series": plan.other}, scatter)
    keep(run, {"what": "recorded order"}, lambda: _recorded_order(recorded), timed=False)
    for before, after in HELD:
        if before + after <= max(plan.lengths):
            setting = {"what": "planted", "before": before, "after": after, "series": plan.planted}
            keep(run, setting, partial(_planted, setting, scatter, calibrated=_calibrated(run, before + after)), timed=False)


def references() -> list[record.Run]:
    """Every recorded run of measurements, the oldest first."""
    found = [record.load(path.parent) for path in REFERENCE.glob("*/*/*/run.json")]
    return sorted((run for run in found if run.notebook != NOTEBOOK), key=lambda run: (run.utc, run.run_id))


def deviations(runs: Iterable[record.Run], *, fewest: int = 6) -> Floats:
    """(n,): by how many standard deviations recorded repeats lie off the mean of theirs, all quantities pooled; logarithms.

    Scaled so that they vary by one, which those of a handful about their own mean do not.
    """
    logs = [np.log(values) for run in runs for values in compare.repeats(run).values() if len(values) >= fewest and min(values) > 0]
    scaled = [(v - v.mean()) / v.std(ddof=1) * sqrt(len(v) / (len(v) - 1)) for v in logs if v.std() > 0]
    return np.concatenate(scaled) if scaled else np.array([])


def drawn(rng: np.random.Generator, shape: str, *, series: int, runs: int, scatter: Floats) -> Floats:
    """(series, runs): deviations of variance one in which nothing changes. Raises ValueError for an unknown shape, or ours without any."""
    if shape == "normal":
        return rng.normal(size=(series, runs))
    if shape == "heavy":
        return rng.standard_t(3, size=(series, runs)) / sqrt(3)
    if shape not in (OURS, "drifting"):
        raise ValueError(f"no noise is shaped {shape!r}; there are: {', '.join((OURS, *SHAPES))}")
    if not len(scatter):
        raise ValueError("there are no recorded repeats to draw noise from")
    fresh = rng.choice(scatter, size=(series, runs))
    for nth in range(1, runs) if shape == "drifting" else ():
        fresh[:, nth] = CLINGS * fresh[:, nth - 1] + sqrt(1 - CLINGS**2) * fresh[:, nth]
    return fresh


def _noise_only(run: record.Run, setting: Setting, scatter: Floats) -> None:
    def found() -> Found:
        rng = _rng(setting)
        noise = drawn(rng, setting["shape"], series=setting["series"], runs=setting["runs"], scatter=scatter)
        kept = _kept(pd.DataFrame({"rungs": otava.rungs(np.exp(NOISE * noise).tolist(), LADDER)}), expected=len(noise))
        return replace(kept, facts={**kept.facts, "deviations": len(scatter)})

    keep(run, setting, found, timed=False)


def _recorded_order(runs: Sequence[record.Run]) -> Found:
    """Repeats of one run, during which nobody changed anything, as they came and shuffled."""
    rng = np.random.default_rng(0)
    known = [(run.run_id, v) for run in runs for v in compare.repeats(run).values() if len(v) >= min(LENGTHS) and min(v) > 0]
    rows = [(run_id, turn > 0, rng.permutation(values).tolist() if turn else list(values))
            for turn in range(1 + SHUFFLES) for run_id, values in known]  # fmt: skip
    table = pd.DataFrame([row[:2] for row in rows], columns=["run_id", "shuffled"])
    table["rungs"] = otava.rungs([row[2] for row in rows], LADDER)
    return _kept(table, expected=len(rows))


def _planted(setting: Setting, scatter: Floats, *, calibrated: float | None) -> Found:
    """A slow-down after `before` runs: whether Otava finds one there, give or take a run, at its own p and at the calibrated one."""
    rng, before, after, many = _rng(setting), setting["before"], setting["after"], setting["series"]
    ways = {"as shipped": SHIPPED, **({"calibrated": calibrated} if calibrated else {})}
    frame = pd.DataFrame(product(NOISES, STEPS, range(many)), columns=["noise", "step", "nth"])
    deviations = frame[["noise"]].to_numpy() * drawn(rng, OURS, series=len(frame), runs=before + after, scatter=scatter)
    deviations[:, before:] += np.log1p(frame[["step"]].to_numpy())
    for way, p in ways.items():
        told = otava.steps(np.exp(deviations).tolist(), [p] * len(frame))
        frame[way] = [any(abs(one.at - before) <= 1 and one.change > 0 for one in found) for found in told]
    kept = _kept(frame.drop(columns="nth"), expected=many * len(NOISES) * len(STEPS))
    return replace(kept, facts={**kept.facts, "p": ways, "family": FAMILY})


def _calibrated(run: record.Run, runs: int) -> float | None:
    return thresholds.threshold(thresholds.rates(run), runs=runs, series=FAMILY)


def _kept(outcome: pd.DataFrame, *, expected: int) -> Found:
    lacking = None if len(outcome) == expected else f"{len(outcome)} outcomes of {expected}"
    facts = {"ladder": list(LADDER), "otava": install.pinned("otava"), "least": otava.LEAST, "noise": NOISE}
    return Found({}, facts, {"9 complete": lacking}, {"outcome": outcome})


def _rng(setting: Setting) -> np.random.Generator:
    """A stream of its own for each setting, the same one every time."""
    return np.random.default_rng(crc32(record.canonical(setting).encode()))


if __name__ == "__main__":
    print(session(profile=sys.argv[1] if len(sys.argv) > 1 else "quick", mode="live").run.path)
