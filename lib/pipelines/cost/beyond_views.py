"""What the points say of the way beyond one machine: servers side by side, and what a request pays for it. Pure.

What is compared is compared round by round, for a machine's mood lasts longer than a round. Refuses an interval to what a single round
says: it has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lib import stats
from lib.measured import points, series
from lib.pipelines.cost.beyond import FOREST, OURS, RAY, SERVERS, SLOW
from lib.pipelines.cost.session import Session
from lib.pipelines.fraud.servers import task
from lib.stats import Estimate

SHARE = 0.05  # of the work: below it nobody looks at the way any more
MEDIANS = {
    "closed loop, 1/s": ("closed_per_s", 1.0), "CPU, µs a request": ("cpu_us", 1.0), "memory, MB": ("memory_bytes", 1e-6),
    "ready, s": ("ready_s", 1.0), "idle, cores": ("idle_cores", 1.0),
}  # fmt: skip
COLUMNS = ("server", "replicas", "task", "closed loop, 1/s", "CPU, µs a request", "at, 1/s", "p50, ms", "p95, ms", "p99, ms",
           "memory, MB", "ready, s", "idle, cores", "beyond loopback", "version", "rounds", "why not")


def table(s: Session) -> pd.DataFrame:
    """One row for each server, number of replicas and task: medians over rounds, quantiles over all calls of all rounds."""
    rows = []
    frame = s.frame()
    told: list[dict[Any, Any]] = frame[frame["what"] == "beyond"].to_dict("records") if len(frame) else []
    for name in (FOREST, SLOW):
        for server, replicas in SERVERS:
            of = [row for row in told if (row["server"], row["replicas"], row["task"]) == (server, replicas, name)]
            if of:
                rows.append({"server": server, "replicas": replicas, "task": name} | _row(s, of))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(s: Session, of: list[dict[Any, Any]]) -> dict[str, Any]:
    good = [row for row in of if row["status"] == "ok"]
    if not good:
        return {"rounds": 0, "why not": of[-1]["reason"]}
    calls = pd.concat([series(s.run, row, "calls") for row in good])
    latency_ms = np.where(calls["status"] == 200, calls["latency_us"] / 1e3, np.inf).tolist()
    facts = [row["facts"] for row in good]
    return {
        **{column: _median([one[key] for one in facts], scale) for column, (key, scale) in MEDIANS.items()},
        **{f"p{q * 100:.0f}, ms": _value(stats.quantile(latency_ms, q)) for q in (0.5, 0.95, 0.99)}, "at, 1/s": facts[0]["rate_per_s"],
        "beyond loopback": any(one["beyond_loopback"] for one in facts), "version": facts[0]["version"], "rounds": len(good),
    }  # fmt: skip


def overhead(s: Session, *, replicas: int = 1) -> dict[str, Any]:
    """What Ray Serve with `replicas` adds to a request, for claims; what is not known is None.

    added_us, lo, hi: CPU a request, forest, closed loop, mean of rounds with Student's t; times: its CPU ÷ ours; added_ms, added_ms_lo,
    added_ms_hi: median latency at the open loop's rate; slow_added_ms …: the same of the slow task, slow_share: as a part of it;
    share, even_ms, even_ms_lo, even_ms_hi: how long a request must compute for the CPU that is added to be less than `share` of it;
    even_latency_ms: the same for latency; rounds; version; memory_times; ready_s.
    """
    forest, slow = _rounds(s, FOREST, replicas), _rounds(s, SLOW, replicas)
    cpu, latency, slower = _added(forest, "cpu_us"), _added(forest, "p50_ms"), _added(slow, "p50_ms")
    times, memory = _times(forest, "cpu_us"), _times(forest, "memory_bytes")
    return {
        **_told("added_us", cpu), **_told("added_ms", latency), **_told("slow_added_ms", slower), **_told("times", times),
        "slow_share": None if slower is None else slower.value / (task.SLOW_S * 1e3), "slow_ms": task.SLOW_S * 1e3,
        "share": SHARE, **{name.replace("even", "even_ms"): None if us is None else us / 1e3 / SHARE
                           for name, us in _told("even", cpu).items()},
        "even_latency_ms": None if latency is None else latency.value / SHARE,
        "memory_times": _value(memory), "ready_s": _median([ray["ready_s"] for _, ray in forest], 1.0),
        "ours_us": _median([ours["cpu_us"] for ours, _ in forest], 1.0), "ray_us": _median([ray["cpu_us"] for _, ray in forest], 1.0),
        "replicas": replicas, "rounds": len(forest), "version": forest[0][1]["version"] if forest else None,
    }  # fmt: skip


def scaling(s: Session) -> dict[str, Any]:
    """What a second replica brings to the slow task, for claims: one, two: answers a second in the closed loop; times, lo, hi."""
    known = {replicas: [ray["closed_per_s"] for _, ray in _rounds(s, SLOW, replicas)] for replicas in (1, 2)}
    return {
        "one": _median(known[1], 1.0), "two": _median(known[2], 1.0), **_told("times", stats.ratio(known[2], known[1])),
        "most": 1 / task.SLOW_S, "rounds": min(map(len, known.values())),
    }  # fmt: skip


def _rounds(s: Session, name: str, replicas: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Facts of ours and of Ray's, of every round in which both may be quoted."""
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for point in points(s.run, "beyond"):
        if point["task"] == name and (point["server"], point["replicas"]) in ((OURS, 1), (RAY, replicas)):
            found.setdefault(int(point["round"]), {})[point["server"]] = point["facts"]
    return [(both[OURS], both[RAY]) for _, both in sorted(found.items()) if len(both) == 2]


def _known(rounds: list[tuple[dict[str, Any], dict[str, Any]]], key: str) -> list[tuple[float, float]]:
    return [(ours[key], ray[key]) for ours, ray in rounds if ours[key] is not None and ray[key] is not None]


def _added(rounds: list[tuple[dict[str, Any], dict[str, Any]]], key: str) -> Estimate | None:
    return stats.mean([ray - ours for ours, ray in _known(rounds, key)])


def _times(rounds: list[tuple[dict[str, Any], dict[str, Any]]], key: str) -> Estimate | None:
    known = _known(rounds, key)
    return stats.ratio([ray for _, ray in known], [ours for ours, _ in known])


def _told(name: str, found: Estimate | None) -> dict[str, float | None]:
    """A value and its interval as fields: NAME, NAME_lo, NAME_hi."""
    return {name: None, f"{name}_lo": None, f"{name}_hi": None} if found is None else {
        name: found.value, f"{name}_lo": found.lo, f"{name}_hi": found.hi}  # fmt: skip


def _value(found: Estimate | None) -> float | None:
    return None if found is None else found.value


def _median(values: list[float | None], scale: float) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) * scale if known else None
