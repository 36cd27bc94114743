"""Does the simulated server do what the real one did? Fitted to closed loops, it foretells the open ones, which it never saw.

A point is foretold twice. With the arrivals that came, what differs is the model of the server. With Poisson arrivals of its own, and each
round at the pace of some recorded round, what differs is also luck and the machine's mood: the range in which 95 % of equally long tries
lie tells how much that is. Refuses to leave out a point that missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
import pandas as pd

from lib import stats
from lib.llm import metrics, simulation, throughput
from lib.llm.pace import Numbers, Pace
from lib.llm.simulation import Asked, Served

TRIES = 40  # of the simulation, a point
AIMS = {"p50": 0.15, "p99": 0.25}
WHATS = ("TTFT", "TPOT")
KINDS = ("open", "pooled", "replay")
COLUMNS = ["contender", "load", "n", "what", "quantile", "measured_ms", "lo_ms", "hi_ms", "told_ms", "error", "within", "from_ms", "to_ms",
           "in_range"]  # fmt: skip


def foretold(cells: pd.DataFrame, paces: Mapping[str, Pace], moods: Mapping[str, Sequence[Pace]], slots: Mapping[str, int], *,
             tries: int = TRIES) -> pd.DataFrame:
    """A row for each open load of `cells` (one run), for TTFT from the schedule and TPOT, at p50 and p99. `moods`: paces of single rounds.

    `measured_ms` with its order-statistic interval (`lo_ms`–`hi_ms`, None where n cannot carry one), `told_ms` (median of the tries with
    the arrivals that came), `error` = told ÷ measured − 1, `within` its aim; `from_ms`–`to_ms`: where 95 % of the tries with Poisson
    arrivals lie. The p99 of n < 100 requests is the worst of them, in the record and in the simulation alike.
    """
    rows: list[dict[str, Any]] = []
    held = cells[cells["kind"].isin(KINDS) & cells["ok"]]
    for (contender, kind, level, work), group in held.groupby(["contender", "kind", "level", "work"], sort=False, dropna=False):
        if (name := str(contender)) in paces:
            who = {"contender": name, "load": _load(str(kind), level, str(work))}
            rows += [{**who, **row} for row in _point(group.to_dict("records"), paces[name], moods.get(name, ()), slots[name], tries)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _point(rounds: Sequence[Mapping[Any, Any]], pace: Pace, moods: Sequence[Pace], slots: int, tries: int) -> list[dict[str, Any]]:
    real = [a for cell in rounds for a in throughput.measured(cell)]
    known = {what: np.array([v for a in real if (v := of(a)) is not None])
             for what, of in (("TTFT", metrics.ttft_sched_s), ("TPOT", metrics.tpot_s))}
    loads = [(asked(cell), int(cell["warmup"])) for cell in rounds]
    same = [_served([(load, warmup, pace) for load, warmup in loads], slots, np.random.default_rng(n)) for n in range(tries)]
    rate, drawn = rounds[0]["level"], list[dict[str, Numbers]]()
    if rounds[0]["kind"] != "replay":
        for n in range(tries):
            rng = np.random.default_rng((7, n))
            drawn.append(_served([(_redrawn(load, float(rate), rng), warmup, moods[int(rng.integers(len(moods)))] if moods else pace)
                                  for load, warmup in loads], slots, rng))  # fmt: skip
    rows = []
    for what in WHATS:
        for name, q in (("p50", 0.5), ("p99", 0.99)):
            if not len(known[what]):
                continue
            measured, told = quantile(known[what], q), float(np.median([quantile(one[what], q) for one in same]))
            spread = stats.quantile(known[what].tolist(), q)
            ends = np.quantile([quantile(one[what], q) for one in drawn], (0.025, 0.975)).tolist() if drawn else []
            rows.append({"n": len(known[what]), "what": what, "quantile": name, "measured_ms": measured * 1e3,
                         "lo_ms": _ms(spread.lo if spread else None), "hi_ms": _ms(spread.hi if spread else None), "told_ms": told * 1e3,
                         "error": told / measured - 1, "within": abs(told / measured - 1) <= AIMS[name],
                         "from_ms": ends[0] * 1e3 if ends else None, "to_ms": ends[1] * 1e3 if ends else None,
                         "in_range": ends[0] <= measured <= ends[1] if ends else None})  # fmt: skip
    return rows


def asked(cell: Mapping[Any, Any]) -> Asked:
    """The requests of an open cell when they were due, warm-up and all; those that failed too, for the server was asked them."""
    answers = cell["answers"]
    prompts, outputs = ([told] * len(answers) if isinstance(told, int) else told for told in (cell["sent_tokens"], cell["asked_tokens"]))
    rows = sorted(zip((a.sent_s + a.due_s for a in answers), prompts, outputs, strict=True))
    times, sent, wanted = zip(*rows, strict=True)
    return Asked(times, sent, wanted)


def _served(loads: Sequence[tuple[Asked, int, Pace]], slots: int, rng: np.random.Generator) -> dict[str, Numbers]:
    """TTFT and TPOT of all rounds together, without their warm-up."""
    rounds: list[tuple[Served, int]] = [(simulation.serve(load, pace, slots=slots, rng=rng), warmup) for load, warmup, pace in loads]
    ttft = np.concatenate([one.ttft_s[warmup:] for one, warmup in rounds])
    tpot = np.concatenate([one.tpot_s[warmup:] for one, warmup in rounds])
    return {"TTFT": ttft, "TPOT": tpot[~np.isnan(tpot)]}


def _redrawn(load: Asked, rate_per_s: float, rng: np.random.Generator) -> Asked:
    times = np.cumsum(rng.exponential(1 / rate_per_s, len(load.arrivals_s)))
    return Asked(tuple(times.tolist()), load.prompt_tokens, load.output_tokens)


def quantile(values: Numbers, q: float) -> float:
    """stats.quantile's estimator, however few the values: only to hold equal numbers of requests against each other."""
    return float(np.sort(values)[min(len(values) - 1, max(0, ceil(round(q * len(values), 9)) - 1))])


def score(table: pd.DataFrame) -> pd.DataFrame:
    """How many rows met their aim, the median and the largest error, and how many measured values lie in the range of Poisson tries."""
    rows = []
    for (what, name), group in table.groupby(["what", "quantile"], sort=False):
        ranged = group["in_range"].dropna()
        rows.append({"what": what, "quantile": name, "points": len(group), "within": int(group["within"].sum()), "aim": AIMS[str(name)],
                     "median": float(group["error"].abs().median()), "largest": float(group["error"].abs().max()),
                     "ranged": len(ranged), "in_range": int(ranged.sum())})  # fmt: skip
    return pd.DataFrame(rows, columns=["what", "quantile", "points", "within", "aim", "median", "largest", "ranged", "in_range"])


def refitted(cells: pd.DataFrame, paces: Mapping[str, Pace], slots: Mapping[str, int], *, tries: int = TRIES) -> pd.DataFrame:
    """The loads that were fitted, foretold in turn: what even a perfect held-out test could not beat. Fixed lengths, p50 alone."""
    rows = []
    loops = cells[(cells["kind"] == "closed") & cells["ok"] & cells["asked_tokens"].map(lambda n: isinstance(n, int))]
    for (contender, level), group in loops.groupby(["contender", "level"], sort=False):
        if (name := str(contender)) not in paces:
            continue
        rounds, streams = group.to_dict("records"), int(float(str(level)))
        real = [a for cell in rounds for a in throughput.measured(cell)]
        seen = {"TTFT": [metrics.ttft_s(a) for a in real], "TPOT": [metrics.tpot_s(a) for a in real]}
        told: dict[str, list[Numbers]] = {what: [] for what in WHATS}
        for n, cell in enumerate(rounds * max(1, tries // len(rounds))):
            count = len(cell["answers"])
            load = Asked(tuple(sorted(a.sent_s for a in cell["answers"])), (int(cell["sent_tokens"]),) * count,
                         (int(cell["asked_tokens"]),) * count)  # fmt: skip
            one = simulation.serve(load, paces[name], slots=slots[name], streams=streams, rng=np.random.default_rng(n))
            told["TTFT"].append(one.ttft_s[int(cell["warmup"]):])
            told["TPOT"].append(one.tpot_s[int(cell["warmup"]):])
        for what in WHATS:
            known = np.array([v for v in seen[what] if v is not None])
            if len(known):
                measured, value = quantile(known, 0.5), quantile(np.concatenate(told[what]), 0.5)
                rows.append({"contender": name, "streams": streams, "what": what, "n": len(known), "measured_ms": measured * 1e3,
                             "told_ms": value * 1e3, "error": value / measured - 1})  # fmt: skip
    return pd.DataFrame(rows, columns=["contender", "streams", "what", "n", "measured_ms", "told_ms", "error"])


def worked_off(cells: pd.DataFrame, paces: Mapping[str, Pace], slots: Mapping[str, int], *, tries: int = TRIES) -> pd.DataFrame:
    """Overloads through a pool: requests/s from the first that was due to the last token, measured and foretold with the same arrivals.

    The wait in an overload may hide a wrong pace for seconds; the rate at which it is worked off does not.
    """
    rows = []
    for (contender, level), group in cells[(cells["kind"] == "pooled") & cells["ok"]].groupby(["contender", "level"], sort=False):
        if (name := str(contender)) not in paces:
            continue
        real, told = [], []
        for cell in group.to_dict("records"):
            load, ends = asked(cell), max(a.sent_s + a.stamps_s[-1] for a in cell["answers"])
            real.append(len(load.arrivals_s) / (ends - load.arrivals_s[0]))
            done = [simulation.serve(load, paces[name], slots=slots[name], rng=np.random.default_rng(n)).last_s.max() for n in range(tries)]
            told.append(len(load.arrivals_s) / (float(np.median(done)) - load.arrivals_s[0]))
        measured = stats.mean(real)
        if measured is not None:
            rows.append({"contender": name, "load": _load("pooled", level, ""), "rounds": len(real), "measured": measured.value,
                         "lo": measured.lo, "hi": measured.hi, "told": float(np.mean(told)),
                         "error": float(np.mean(told)) / measured.value - 1})  # fmt: skip
    return pd.DataFrame(rows, columns=["contender", "load", "rounds", "measured", "lo", "hi", "told", "error"])


def alone(requests: pd.DataFrame, paces: Mapping[str, Pace]) -> pd.DataFrame:
    """First tokens of requests that had the server to themselves, in another run of the same machine: prompts of other lengths.

    `requests` as latency.requests has them. Median TTFT by contender and prompt, measured (ms, order-statistic interval) and as the
    pace has it.
    """
    rows = []
    for (contender, prompt), group in requests[requests["name"].isin(list(paces))].groupby(["name", "prompt_tokens"], sort=True):
        found = stats.median(group["ttft_s"].dropna().astype(float).tolist())
        pace, tokens = paces[str(contender)], int(str(prompt))
        if found is not None:
            told = pace.overhead_s + pace.prompts_s(1, tokens, tokens**2)
            rows.append({"contender": str(contender), "prompt": tokens, "n": found.n, "measured_ms": found.value * 1e3,
                         "lo_ms": _ms(found.lo), "hi_ms": _ms(found.hi), "told_ms": told * 1e3,
                         "error": told / found.value - 1})  # fmt: skip
    return pd.DataFrame(rows, columns=["contender", "prompt", "n", "measured_ms", "lo_ms", "hi_ms", "told_ms", "error"])


def _load(kind: str, level: Any, work: str) -> str:
    return {"open": f"{level:.2g}/s, Poisson", "pooled": f"{level:.2g}/s, pool", "replay": f"replay of {work}"}[kind]


def _ms(seconds: Any) -> float | None:
    return None if seconds is None else float(seconds) * 1e3
