"""What changed beyond the noise between two recorded runs of one machine and one method, and by how much.

A repeat is a round, or a block of consecutive samples where a point was measured in one go; it counts by the logarithm of its median, for
noise multiplies. Rounds are few, and three on each side allow a permutation test no p-value under 0.1: so each quantity has a t-test whose
variance borrows from others of its kind, and Holm's procedure keeps any false alarm in a whole comparison rare (moderated.py). Rounds do
not know what a machine does otherwise on another day: the limits that a run measures of its machine (points "ceiling") do, and what they
shifted is noise for all others. A comparison without them says so. `calibrate` and `untouched` measure on recorded samples whether all
this holds. Refuses runs of different machines, methods or notebooks; what cannot be tested is a row that says why.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import log1p
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from lib import record, stats
from lib.home import REFERENCE, RUNS
from lib.moderated import STILL, Drift, Floats, Mask, Shifts, Tests, drift, judged, shifts

ALPHA = 0.02  # of any false alarm in one comparison, were noise normal; it is not, and what happens stays under PROMISED
PROMISED = 0.05
LEAST = 0.01  # a smaller change is no news, however certain
FEW = 3  # repeats on each side: two may agree by luck
BLOCKS = 8  # what was measured in one go is cut into as many blocks: neighbouring samples resemble each other
LIMITS = 3  # limits of the machine that both runs must have to tell its drift
PLANTED = (0.03, 0.05, 0.10)
NOISE = (0.02, 0.05, 0.10, np.inf)  # how far apart the repeats of a quantity are at most (stats.noise_floor), by class
UNITS = ("_s", "_ms", "_us", "_ns", "_bytes")  # of what is timed or weighed; "_per_s" are rates
NO_QUANTITY = {"sent_s", "due_s",  # when, not how long
               "last_s", "icl_max_s",  # TTFT and TPOT say it; the largest of all
               "server_late_s", "server_first_late_s"}  # how late the null server was  # fmt: skip
WORSE = ("slower", "more")
COLUMNS = ["point", "what", "before", "after", "change", "lo", "hi", "seen_from", "noise", "repeats", "p", "p_holm", "verdict", "why"]
LIMIT = "a limit of the machine itself: what it shifted is noise for all others"
Key: TypeAlias = tuple[str, str]  # a setting but for its round, as record.canonical spells it; the name of its samples


def repeats(run: record.Run) -> dict[Key, tuple[float, ...]]:
    """One value a repeat for each timed or weighed quantity of the points that may be quoted, in its own unit; warm-up is left out."""
    found: dict[Key, list[float]] = {}
    for point in run.points():
        for what, raw in point.samples.items() if point.status == "ok" else ():
            if what in NO_QUANTITY or not (what in ("s", "seconds") or what.endswith(UNITS)):
                continue
            warmup = point.facts.get("warmup")
            values = [float(v) for v in raw[warmup if isinstance(warmup, int) else 0:] if isinstance(v, int | float)]
            blocks = [values] if "round" in point.setting else np.array_split(values, min(BLOCKS, len(values)) or 1)
            found.setdefault((_setting(point.setting), what), []).extend(float(np.median(block)) for block in blocks if len(block))
    return {key: tuple(values) for key, values in found.items() if values}


def compare(before: record.Run, after: record.Run, *, alpha: float = ALPHA, least: float = LEAST) -> pd.DataFrame:
    """One row a quantity that either run has: medians of the repeats, change with its 95 % interval, p-values, verdict.

    `change`, `lo` and `hi` are shares (0.05: five per cent more) of this quantity alone; `p_holm` and the verdict hold for all together,
    and from `seen_from` on a change would be called one. `verdict` is "slower", "faster", "more", "less", "same" or, where nothing was
    tested, None with the reason in `why`. `attrs["drift"]` is the standard deviation of the machine's drift between the runs, a share, or
    None where they lack its limits. Raises NotComparable for two machines, methods or notebooks, ValueError for a run and itself.
    """
    record.comparable(*({"machine_id": run.machine_id, "method": run.method} for run in (before, after)))
    if before.notebook != after.notebook:
        raise record.NotComparable(f"{before.notebook} and {after.notebook} measure different things")
    if before.run_id == after.run_id:
        raise ValueError(f"{before.run_id} was to be compared with itself")
    first, second = repeats(before), repeats(after)
    able = [key for key in first if not _unable(first[key], second.get(key, ()))]
    limits = _limits(able)
    moved = shifts([np.log(first[key]) for key in able], [np.log(second[key]) for key in able], _kinds(able))
    drifted = _drift(moved, limits)
    tests = judged(moved.of(~limits), drifted or STILL)
    half = scipy_stats.t.ppf(0.975, tests.dof) * tests.error
    seen = np.maximum(least, np.expm1(scipy_stats.t.isf(alpha / 2 / max(1, len(tests.p)), tests.dof) * tests.error))
    tried = [key for key, limit in zip(able, limits, strict=True) if not limit]
    rows = [{**_both(key, first, second), "change": np.expm1(shift), "lo": np.expm1(shift - h), "hi": np.expm1(shift + h), "seen_from": s,
             "p": p, "p_holm": together, "verdict": word(key[1], shift) if new else "same", "why": None}
            for key, shift, h, s, p, together, new in zip(tried, tests.shift, half, seen, tests.p, tests.p_holm, news(tests, alpha, least),
                                                          strict=True)]  # fmt: skip
    rows += [{**_both(key, first, second), "change": np.expm1(shift), "verdict": None, "why": LIMIT}
             for key, shift, limit in zip(able, moved.shift, limits, strict=True) if limit]  # fmt: skip
    lacking = ((before, _reasons(before), first), (after, _reasons(after), second))
    for key in (key for key in dict.fromkeys([*first, *second]) if key not in set(able)):
        absent = [said.get(key[0], f"not in {run.run_id}") for run, said, has in lacking if key not in has]
        why = absent[0] if absent else _unable(first[key], second[key])
        rows.append({**_both(key, first, second), "verdict": None, "why": why})
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"verdict": object, "why": object})
    table[["verdict", "why"]] = table[["verdict", "why"]].where(table[["verdict", "why"]].notna(), None)
    table.attrs["drift"] = None if drifted is None else float(np.expm1(drifted.size))
    return table


def news(tests: Tests, alpha: float, least: float) -> list[bool]:
    """Which tests are called a change: certain enough for all together, and large enough to matter."""
    return [bool(p <= alpha and abs(np.expm1(shift)) >= least) for p, shift in zip(tests.p_holm, tests.shift, strict=True)]


def newest_other(run: record.Run, *, roots: Sequence[Path] = (RUNS, REFERENCE)) -> record.Run | None:
    """The newest other run of this notebook on this machine; None where the history has but this one."""
    history = [one for one in record.runs(run.notebook, roots=roots) if one.machine_id == run.machine_id and one.run_id != run.run_id]
    return history[-1] if history else None


def calibrate(runs: Iterable[record.Run], *, trials: int = 200, planted: Sequence[float] = PLANTED, alpha: float = ALPHA,
              least: float = LEAST, seed: int = 0) -> pd.DataFrame:
    """What `compare` says where the truth is known: two runs made of the recorded repeats of one, as often as there are `trials`.

    A row a run and question. `dealt` "halves": the repeats of each quantity at random into two halves, exchangeable and so a true A/A, of
    runs with half the rounds; "drawn": two runs as large as the recorded one, drawn with replacement. Each quantity by itself: tests that
    do not hang together leave Holm's procedure nothing to spare. `planted` 0: the share `found` of the trials in which any of the `tests`
    was called changed. Else the share in which a slow-down of that size, planted in one quantity drawn at random, was found in it, by how
    far apart its recorded repeats are at most (`noise`, see NOISE). `lo` and `hi`: exact 95 % intervals for these recorded samples.
    Quantities of fewer than six repeats are left out: drawing would repeat single values, and look like no noise.
    """
    rows: list[dict[str, Any]] = []
    for run in runs:
        known = {key: np.log(values) for key, values in repeats(run).items() if len(values) >= 2 * FEW and min(values) > 0}
        limits, kinds = _limits(list(known)), _kinds(list(known))
        spread = np.array([np.expm1(np.ptp(values)) for values in known.values()])
        classes = [(top, np.flatnonzero(~limits & (low < spread) & (spread <= top)))
                   for low, top in zip((-1.0, *NOISE), NOISE, strict=False)]  # fmt: skip
        for dealt in ("halves", "drawn") if not limits.all() else ():
            rng = np.random.default_rng(seed)
            found: dict[tuple[float, float], list[bool]] = {}
            for _ in range(trials):
                moved = shifts(*_deal(list(known.values()), dealt, rng), kinds)
                drifted = _drift(moved, limits) or STILL
                found.setdefault((0.0, np.inf), []).append(any(news(judged(moved.of(~limits), drifted), alpha, least)))
                for top, members in classes:
                    for share in planted if len(members) else ():
                        at = np.arange(len(known)) == rng.choice(members)
                        tests = judged(moved.by(log1p(share) * at).of(~limits), drifted)
                        mine = int(np.flatnonzero(at[~limits])[0])
                        found.setdefault((share, top), []).append(news(tests, alpha, least)[mine] and bool(tests.shift[mine] > 0))
            rows += [{"notebook": run.notebook, "run_id": run.run_id, "dealt": dealt, "tests": int((~limits).sum()), "planted": share,
                      "noise": top, **_share(hits)} for (share, top), hits in sorted(found.items())]  # fmt: skip
    return pd.DataFrame(rows, columns=["notebook", "run_id", "dealt", "tests", "planted", "noise", "trials", "found", "lo", "hi"])


def pooled(calibration: pd.DataFrame) -> pd.DataFrame:
    """`calibrate` over all its runs: every trial counts alike."""
    rows = []
    for (dealt, share, top), group in calibration.groupby(["dealt", "planted", "noise"], sort=True):
        trials = int(group["trials"].sum())
        hits = round(float((group["found"] * group["trials"]).sum()))
        told = _share([True] * hits + [False] * (trials - hits))
        rows.append({"dealt": dealt, "planted": share, "noise": top, "runs": len(group), **told})
    return pd.DataFrame(rows, columns=["dealt", "planted", "noise", "runs", "trials", "found", "lo", "hi"])


def untouched(runs: Iterable[record.Run], *, alpha: float = ALPHA, least: float = LEAST) -> pd.DataFrame:
    """A true A/A between runs: the limits of one machine, which nobody changed, in every pair of its runs (of one method, any notebooks).

    A row a pair: `largest` shift; whether any was called changed by its repeats alone (`by_repeats`), and with the drift that the other
    limits tell taken for noise (`with_drift`).
    """
    rows = []
    held = [(run, {key: np.log(v) for key, v in repeats(run).items() if is_limit(key) and len(v) >= FEW and min(v) > 0}) for run in runs]
    for (one, first), (other, second) in combinations(held, 2):
        both = [key for key in first if key in second]
        if (one.machine_id, one.method) != (other.machine_id, other.method) or len(both) <= LIMITS:
            continue
        moved = shifts([first[key] for key in both], [second[key] for key in both], _kinds(both))
        each = [judged(moved.of(mine), drift(moved.of(~mine))) for mine in np.eye(len(both), dtype=bool)]
        joined = Shifts(moved.shift, np.array([t.error[0] for t in each]), np.array([t.dof[0] for t in each]))
        rows.append({"before": one.run_id, "after": other.run_id, "tests": len(both),
                     "largest": float(np.expm1(np.abs(moved.shift).max())), "by_repeats": any(news(judged(moved), alpha, least)),
                     "with_drift": any(news(judged(joined), alpha, least))})  # fmt: skip
    return pd.DataFrame(rows, columns=["before", "after", "tests", "largest", "by_repeats", "with_drift"])


def unlike(before: record.Run, after: record.Run) -> list[str]:
    """What the runs say of themselves that is not the same: parameters, system, software, commit. A change may be due to it."""
    sides = [(dict(run.parameters), _software(run)) for run in (before, after)]
    return [f"{key} {old.get(key)} → {new.get(key)}" for old, new in zip(*sides, strict=True) for key in dict.fromkeys([*old, *new])
            if old.get(key) != new.get(key)]  # fmt: skip


def told(before: record.Run, after: record.Run, table: pd.DataFrame) -> str:
    """A comparison as lines for a terminal: what changed, the worst first, then what was not tested and why."""
    able, lacking = table[table["verdict"].notna()], table[table["verdict"].isna()]
    changed = able[able["verdict"] != "same"].sort_values("change", ascending=False)
    lines = [f"{before.notebook} on {before.machine_id}: {before.run_id} → {after.run_id}",
             f"{len(changed)} of {len(able)} quantities changed beyond the noise (any false alarm: in under {PROMISED:.0%} of comparisons)"]
    lines += [f"  {row['verdict']}: {row['change']:+.1%} ({row['lo']:+.1%} to {row['hi']:+.1%}), {row['what']} "
              f"{amount(row['what'], row['before'])} → {amount(row['what'], row['after'])}, {row['point']}"
              for row in changed.to_dict("records")]  # fmt: skip
    if len(able):
        lines += [f"all together: {able['change'].median():+.1%} in the median; in half of them a change is seen from "
                  f"{able['seen_from'].median():.0%} on"]  # fmt: skip
        lines += ["no run tells how the machine drifts: one that is slower today looks like a change"
                  if table.attrs["drift"] is None else f"the machine's own limits drifted by {table.attrs['drift']:.1%}: taken for noise"]
    lines += [f"not tested: {len(group)}, for {why}" for why, group in lacking.groupby("why", sort=False)]
    return "\n".join([*lines, *(f"unlike: {one}" for one in unlike(before, after))])


def _deal(known: Sequence[Floats], dealt: str, rng: np.random.Generator) -> tuple[list[Floats], list[Floats]]:
    if dealt == "drawn":
        return [rng.choice(values, len(values)) for values in known], [rng.choice(values, len(values)) for values in known]
    mixed = [rng.permutation(values) for values in known]
    return [values[:len(values) // 2] for values in mixed], [values[len(values) // 2:] for values in mixed]


def _drift(moved: Shifts, limits: Mask) -> Drift | None:
    return drift(moved.of(limits)) if limits.sum() >= LIMITS else None


def is_limit(key: Key) -> bool:
    """Whether this is what the machine itself can do, not what was made of it."""
    return bool(json.loads(key[0]).get("what") == "ceiling")


def _limits(keys: Sequence[Key]) -> Mask:
    return np.array([is_limit(key) for key in keys], dtype=bool)


def _kinds(keys: Sequence[Key]) -> list[str]:
    """Who borrows from whom: samples of one name, the limits among themselves."""
    return [f"limit {what}" if is_limit((setting, what)) else what for setting, what in keys]


def _unable(before: Sequence[float], after: Sequence[float]) -> str | None:
    """Why a quantity cannot be tested, if it cannot."""
    if (fewest := min(len(before), len(after))) < FEW:
        return f"too few repeats to tell their noise: {fewest} of {FEW}"
    return "values of zero or below have no ratio" if min(*before, *after) <= 0 else None


def _both(key: Key, first: Mapping[Key, Sequence[float]], second: Mapping[Key, Sequence[float]]) -> dict[str, Any]:
    sides = [first.get(key, ()), second.get(key, ())]
    medians = [median(side) if side else None for side in sides]
    floors = [floor for side in sides if (floor := stats.noise_floor([[value] for value in side])) is not None]
    return {"point": named(key[0]), "what": key[1], "before": medians[0], "after": medians[1], "noise": max(floors, default=None),
            "repeats": f"{len(sides[0])}, {len(sides[1])}"}


def _reasons(run: record.Run) -> dict[str, str]:
    return {_setting(p.setting): f"{p.status} in {run.run_id}: {p.reason}" for p in run.points() if p.status != "ok"}


def _setting(setting: Mapping[str, Any]) -> str:
    return record.canonical({key: value for key, value in setting.items() if key != "round"})


def named(setting: str) -> str:
    """A setting as one reads it: what it is, then what is known of it."""
    known = {key: value for key, value in json.loads(setting).items() if value not in (None, "")}
    return ", ".join([str(known.pop("what", "point")), *(f"{key} {value}" for key, value in known.items())])


def word(what: str, shift: float) -> str:
    """What a quantity that grew (`shift` > 0) or shrank got."""
    if what.endswith("_bytes"):
        return "more" if shift > 0 else "less"
    return "slower" if (shift > 0) != what.endswith("_per_s") else "faster"


def amount(what: str, value: float) -> str:
    """A value with the unit that its name carries."""
    if what.endswith("_bytes"):
        return f"{value / 1e6:.4g} MB"
    if what.endswith("_per_s"):
        return f"{value:.4g}/s"
    unit = what.rpartition("_")[2] if what not in ("s", "seconds") else "s"
    return f"{value * 1e3:.4g} ms" if unit == "s" and value < 1 else f"{value:.4g} {unit}"


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    found = stats.share(sum(hits), len(hits))
    return {"trials": found.n, "found": found.value, "lo": found.lo, "hi": found.hi}


def _software(run: record.Run) -> dict[str, Any]:
    known = {key: run.environment.get(key) for key in ("system", "python", "governor")}
    return {**known, **run.environment.get("packages", {}), "commit": str(run.git.get("sha"))[:9]}
