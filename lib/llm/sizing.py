"""How many machines carry a load within what users were promised: one server simulated, then as many as it takes.

A server's capacity is the highest Poisson rate of which 99 % of the requests meet the whole SLO in the simulation (simulation.py, at a
pace that was fitted and held against measured points: heldout.py). A fleet splits a Poisson stream by lot, so each server meets a thinner
Poisson stream of its own. Refuses loads that are none, days that do not add up, and to promise what no server keeps even when idle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, cos, isfinite, pi
from typing import Any

import numpy as np
import pandas as pd

from lib.llm import simulation
from lib.llm.metrics import Slo
from lib.llm.pace import Pace
from lib.llm.saturation import CARRIED
from lib.llm.simulation import Served

SETTLED = 0.1  # of the simulated requests come before those that count
LONG = 20  # times the promised first token: so long the arrivals of a tried rate last at least
CLOSE = 0.02  # rates are told apart to this share
FLOOR = 0.02  # of what a server would do one request at a time: a promise that is broken there is never kept
HOURS = 24
WAYS: dict[str, dict[str, Any]] = {"the busiest hour's, all day, N+1": {"scaled": False}, "by the hour, N+1": {},
                                   "by the hour, one of three zones may fail": {"zones": 3}}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Work:
    """What each request asks: tokens of its prompt and of its answer."""

    prompt_tokens: int
    output_tokens: int


def attained(rate_per_s: float, pace: Pace, work: Work, slo: Slo, *, slots: int, requests: int, seed: int = 0) -> float:
    """The share of simulated Poisson arrivals that met the SLO. The same seed brings the same luck to every rate.

    `requests`, or more where those would be over before a queue could grow as long as the promise allows.
    """
    enough = max(requests, int(LONG * slo.ttft_s * rate_per_s))
    served = _served(rate_per_s, pace, work, slots=slots, requests=enough, seed=seed)
    return float(served.good(slo)[int(SETTLED * enough):].mean())


def _served(rate_per_s: float, pace: Pace, work: Work, *, slots: int, requests: int, seed: int = 0) -> Served:
    load = simulation.poisson(rate_per_s, requests, prompt_tokens=work.prompt_tokens, output_tokens=work.output_tokens, seed=seed)
    return simulation.serve(load, pace, slots=slots, rng=np.random.default_rng(seed))


def capacity(pace: Pace, work: Work, slo: Slo, *, slots: int, requests: int, share: float = CARRIED) -> float | None:
    """The highest rate, requests/s, of which `share` met the SLO; None where not even a server that is nearly idle keeps it."""
    def kept(rate_per_s: float) -> bool:
        return attained(rate_per_s, pace, work, slo, slots=slots, requests=requests) >= share

    low = FLOOR / alone_s(pace, work)
    if not kept(low):
        return None
    while kept(high := 2 * low):
        low = high
    while high / low > 1 + CLOSE:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if kept(middle) else (low, middle)
    return low


def alone_s(pace: Pace, work: Work) -> float:
    """From sending to the last token of a request that has the server to itself."""
    context = work.prompt_tokens + work.output_tokens / 2
    first = pace.overhead_s + pace.prompts_s(1, work.prompt_tokens, work.prompt_tokens**2)
    return first + (work.output_tokens - 1) * pace.running_s(1, context)


def foretold(rates_per_s: Sequence[float], pace: Pace, work: Work, *, slots: int, requests: int) -> pd.DataFrame:
    """p50 and p99 of TTFT and TPOT (ms) at each Poisson rate, and the share of the time that the server is busy."""
    rows = []
    for rate in rates_per_s:
        served = _served(rate, pace, work, slots=slots, requests=requests)
        counted = slice(int(SETTLED * requests), None)
        row: dict[str, float] = {"rate_per_s": rate, "busy": served.busy_s / float(served.last_s.max())}
        for what, values in (("ttft", served.ttft_s[counted]), ("tpot", served.tpot_s[counted])):
            row |= {f"{what}_p50_ms": float(np.median(values)) * 1e3, f"{what}_p99_ms": float(np.quantile(values, 0.99)) * 1e3}
        rows.append(row)
    return pd.DataFrame(rows)


def machines(load_per_s: float, each_per_s: float | None) -> int | None:
    """So many carry the load; None where one carries nothing. Raises ValueError for a load that is none."""
    if not (isfinite(load_per_s) and load_per_s >= 0):
        raise ValueError(f"a load of {load_per_s} requests a second is none")
    return None if each_per_s is None else max(1, ceil(load_per_s / each_per_s - 1e-9))


@dataclass(frozen=True, slots=True)
class Day:
    """Users a day, requests of each, and how the day goes: a wave whose busiest hour has `peak` times the mean, at `busiest` o'clock."""

    users: float
    requests_each: float
    peak: float
    busiest: int = 20

    def __post_init__(self) -> None:
        if not (self.users > 0 and self.requests_each > 0 and isfinite(self.users * self.requests_each)):
            raise ValueError(f"{self.users} users of {self.requests_each} requests each: both must be positive")
        if not 1 <= self.peak <= 2:
            raise ValueError(f"a peak of {self.peak} times the mean: a wave has between 1 and 2")

    def per_s(self) -> list[float]:
        """Requests a second of each hour; over the day they add up to users × requests."""
        mean = self.users * self.requests_each / (HOURS * 3600)
        return [mean * (1 + (self.peak - 1) * cos(2 * pi * (hour - self.busiest) / HOURS)) for hour in range(HOURS)]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Machines by the hour for a day's load: so many are needed, so many run."""

    needed: tuple[int, ...]
    running: tuple[int, ...]
    requests: float
    utilisation: float  # of what the running machines could carry within the SLO

    @property
    def machine_hours(self) -> int:
        return sum(self.running)


def fleet(day: Day, each_per_s: float, *, zones: int = 1, scaled: bool = True) -> Fleet:
    """One machine more than needed (N+1), for one may be missing or be replaced; with `zones` > 1 as many as any whole zone may take away.

    `scaled`: machines follow the load by the hour; else the busiest hour's run all day. Raises ValueError without a zone or a capacity.
    """
    if zones < 1 or not each_per_s > 0:
        raise ValueError(f"{zones} zones of machines that carry {each_per_s} a second: at least one zone, and they carry something")
    hourly = day.per_s()
    needed = [machines(rate, each_per_s) or 0 for rate in hourly]
    held = needed if scaled else [max(needed)] * len(needed)
    running = [zones * (ceil(n / (zones - 1)) if zones > 1 else n + 1) for n in held]
    return Fleet(tuple(needed), tuple(running), sum(hourly) * 3600, sum(hourly) / (sum(running) * each_per_s))


def plans(day: Day, each_per_s: Mapping[str, float | None], usd_hour: Mapping[str, float], work: Work) -> pd.DataFrame:
    """A row for each contender and way of running its fleet: machines, what they carry unused, money a day and a million tokens."""
    rows = []
    for contender, each in each_per_s.items():
        for way, how in WAYS.items():
            unknown = dict.fromkeys(("most", "least", "machine_hours", "utilisation", "day", "million"))
            row: dict[str, Any] = {"contender": contender, "way": way, "each_per_s": each, **unknown}
            if each is not None:
                told = fleet(day, each, **how)
                money = told.machine_hours * usd_hour[contender]
                row |= {"most": max(told.running), "least": min(told.running), "machine_hours": told.machine_hours,
                        "utilisation": told.utilisation, "day": money,
                        "million": money / (told.requests * (work.prompt_tokens + work.output_tokens)) * 1e6}  # fmt: skip
            rows.append(row)
    return pd.DataFrame(rows)


def capacities(paces: Mapping[tuple[str, int], Pace], slots: Mapping[str, int], work: Work, slos: Mapping[str, Slo], *, whole: int,
               requests: int) -> pd.DataFrame:
    """A row a contender and SLO: what one machine carries, requests/s, by the pace of all rounds (its key ends in `whole`).

    `lo`, `hi`: the least and the most that the paces of single rounds give, with the same arrivals: how far the measurement's own
    unrest reaches; 0 where the promise is not kept even by an idle machine, and then `per_s` is None. `breaks`: which promise breaks first.
    """
    rows = []
    for contender in dict.fromkeys(name for name, _ in paces):
        for name, slo in slos.items():
            each = {turn: capacity(pace, work, slo, slots=slots[contender], requests=requests)
                    for (who, turn), pace in paces.items() if who == contender}  # fmt: skip
            rounds, rate = [found or 0.0 for turn, found in each.items() if turn != whole], each.get(whole)
            pace = paces[contender, whole]
            past = (1 + 5 * CLOSE) * rate if rate else FLOOR / alone_s(pace, work)
            rows.append({"contender": contender, "slo": name, "per_s": rate, "lo": min(rounds, default=None),
                         "hi": max(rounds, default=None), "rounds": len(rounds),
                         "breaks": breaks(past, pace, work, slo, slots=slots[contender], requests=requests)})  # fmt: skip
    return pd.DataFrame(rows, columns=["contender", "slo", "per_s", "lo", "hi", "rounds", "breaks"])


def breaks(rate_per_s: float, pace: Pace, work: Work, slo: Slo, *, slots: int, requests: int) -> str:
    """Which promise most requests miss at this rate: "TTFT" or "TPOT"."""
    served = _served(rate_per_s, pace, work, slots=slots, requests=requests)
    return "TTFT" if (served.ttft_s > slo.ttft_s).sum() >= (served.tpot_s > slo.tpot_s).sum() else "TPOT"
