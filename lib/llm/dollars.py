"""What a million tokens cost: the price of an hour ÷ (tokens/s × 3600) × 10⁶, at the best recorded point that kept its promise.

Input, output and blended stand apart. A machine's hour is split by the time that it spent on prompts and on answers, told from everybody's
stamps (`prompt_share`). Refuses a price that is not positive, or has no currency or unit; a rate that broke its SLO has no price; energy
that nobody metered is a row that says so, never a zero.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from math import inf
from typing import Any

import pandas as pd
from scipy import stats as scipy_stats

from lib import record, stats
from lib.llm import pace as paces
from lib.llm import published, saturation, throughput
from lib.llm.engines import transformers_
from lib.llm.events import Answer
from lib.llm.pace import Pace
from lib.pipelines.cost import money, prices
from lib.pipelines.cost.money import Tariff

HEADROOM = 1.25  # of memory over the peak that was seen, as in 03_pipeline_cost
PARTS = ("input", "output", "blended", "whole")  # whole: the hour charged to output tokens alone, as some sellers and papers do
PRICED = ("hour", "currency", "rounds", "share", *(f"{part}{end}" for part in PARTS for end in ("", "_lo", "_hi")))
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Hourly:
    """What an hour of a machine costs: `amount` in `currency` for one `unit`. Raises ValueError for what is no price."""

    amount: float
    currency: str
    unit: str
    of: str
    as_of: date
    source: str

    def __post_init__(self) -> None:
        if isinstance(self.amount, bool) or not isinstance(self.amount, int | float) or not 0 < self.amount < inf:
            raise ValueError(f"a price of {self.amount!r} is none: it must be a positive number")
        if not re.fullmatch(r"[A-Z]{3}", self.currency or ""):
            raise ValueError(f"a price of {self.amount} {self.currency!r}: in which currency? (three capital letters, USD)")
        if not (self.unit or "").strip().endswith("hour"):
            raise ValueError(f"a price of {self.amount} {self.currency} for {self.unit!r}: an hour of what? (machine-hour)")


def own(said: Mapping[str, Any]) -> Hourly:
    """The user's price from the notebook's parameters: amount, currency and unit. Raises ValueError, naming what is missing."""
    if missing := [key for key in ("amount", "currency", "unit") if not said.get(key)]:
        raise ValueError(f"a price of your own says amount, currency and unit; {', '.join(missing)} is missing")
    return Hourly(said["amount"], said["currency"], said["unit"], "your machine", date.today(), "the notebook's parameters")


def listed(environment: Mapping[str, Any], memory_bytes: float) -> Hourly:
    """The hour of a recorded machine by data/prices.csv: its GPUs by name, or else its processors and `memory_bytes` apart.

    Raises LookupError for a GPU that has no price there: then only one's own will do.
    """
    if gpus := environment["gpus"]:
        for price in prices.prices().values():
            if price.unit == "GPU-hour" and price.name.split()[0] in gpus[0]["name"]:
                return Hourly(price.usd * len(gpus), "USD", "machine-hour", f"{len(gpus)} × {price.name}", price.as_of, price.source)
        raise LookupError(f"no price of a {gpus[0]['name']} in {prices.TABLE.name}: give your own")
    cpu, memory = prices.priced(prices.VCPU), prices.priced(prices.MEMORY)
    amount = Tariff(cpu.usd, memory.usd).hour(environment["threads"], memory_bytes)
    of = f"{environment['threads']} × {cpu.name} and {memory_bytes / money.GB:.1f} GB"
    return Hourly(amount, "USD", "machine-hour", of, min(cpu.as_of, memory.as_of), cpu.source)


def hours(run: record.Run, contenders: Iterable[str], said: Mapping[str, Any] | None = None) -> dict[str, Hourly]:
    """The hour of this run's machine for each server: one'''s own price, or the listed one with the memory that the server needs."""
    return {name: own(said) if said else listed(run.environment, needs_bytes(run, name)) for name in contenders}


def needs_bytes(run: record.Run, contender: str) -> float:
    """Memory that a machine for this server is rented with: HEADROOM × the peak that its cells of `run` saw."""
    peaks = [p.facts["host"]["tree_rss_max_bytes"] or 0.0 for p in run.points() if p.setting.get("what") == "cell" and p.facts.get("host")
             and f"{p.setting['engine']} {p.setting['precision']}" == contender]  # fmt: skip
    return HEADROOM * max(peaks, default=0.0)


def prompt_share(answers: Sequence[Answer], pace: Pace | None) -> float | None:
    """The share of a cell's busy time that went to prompts; None where nothing was answered.

    Steps in which answers ran are split as the fitted pace splits them; time in which nobody had a first token yet is all for prompts.
    Without a pace no step is split: right for a server that makes static batches, where prompts never meet running answers.
    """
    seen = [a for a in answers if a.stamps_s and a.error is None]
    if not seen:
        return None
    waited_s = _covered([(a.sent_s, a.sent_s + a.stamps_s[-1]) for a in seen])
    ran_s = _covered([(a.sent_s + a.stamps_s[0], a.sent_s + a.stamps_s[-1]) for a in seen])
    mixed, whole = 0.0, 0.0
    for step in paces.steps(answers) if pace else ():
        if pace and not step.alone:
            prompts_s, running_s = pace.prompts_s(step.prompts, step.tokens, step.squares), pace.running_s(step.decoding, step.context)
            whole += step.weight * step.seconds
            mixed += step.weight * step.seconds * (prompts_s / (prompts_s + running_s) if prompts_s + running_s else 0.0)
    return (waited_s - ran_s + ran_s * (mixed / whole if whole else 0.0)) / waited_s if waited_s else None


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union."""
    covered, reached = 0.0, -inf
    for since, until in sorted(spans):
        covered += max(0.0, until - max(since, reached))
        reached = max(reached, until)
    return covered


def flows(cell: Mapping[Hashable, Any], pace: Pace | None) -> dict[str, float] | None:
    """Tokens/s that an hour is divided by, of one round: input ÷ prompts' share of the time, output ÷ the rest, both together, output.

    Without a pace, and with a server that lets prompts meet running answers, nobody can say how they share: then `blended` and `whole`.
    """
    per_s, requests, share = throughput.tokens_per_s(cell), throughput.requests_per_s(cell), prompt_share(cell["answers"], pace)
    sent = [a.prompt_tokens for a in cell["answers"] if a.prompt_tokens]
    if not per_s or not requests or not sent:
        return None
    into = requests * sum(sent) / len(sent)
    told = {"blended": into + per_s, "whole": per_s}
    if share is None or not 0 < share < 1 or (pace is None and cell["engine"] != transformers_.NAME):
        return told
    return told | {"input": into / share, "output": per_s / (1 - share), "share": share}


def million(hourly: Hourly, tokens_per_s: stats.Estimate | None, utilisation: float) -> dict[str, float | None]:
    """`value`, `lo`, `hi`: money for a million tokens; the interval of the rate, turned round. `hi` is None where the rate's reaches 0."""
    if tokens_per_s is None:
        return dict.fromkeys(("value", "lo", "hi"))
    fast, slow = tokens_per_s.hi, tokens_per_s.lo
    return {"value": money.per_million(hourly.amount, tokens_per_s.value, utilisation),
            "lo": money.per_million(hourly.amount, fast, utilisation) if fast else None,
            "hi": money.per_million(hourly.amount, slow, utilisation) if slow and slow > 0 else None}  # fmt: skip


def bills(cells: pd.DataFrame, fitted: Mapping[str, Pace], hourly: Mapping[str, Hourly], *, work: str, utilisation: float) -> pd.DataFrame:
    """A row a contender and SLO of one run: the load of most tokens/s of which CARRIED of the requests met it, and money for a million
    tokens of each of PARTS with its interval (Student's t over rounds). A row without such a load says who came how near.
    """
    loads = saturation.by_load(cells[(cells["work"] == work) & cells["kind"].isin(["closed", "open"])])
    rows: list[dict[str, Any]] = []
    for contender, group in loads.groupby("contender", sort=False):
        for slo in saturation.SLOS:
            row: dict[str, Any] = {"contender": contender, "slo": slo, "reason": None, **dict.fromkeys(PRICED)}
            kept = group[(group[f"attainment_{slo}"] >= saturation.CARRIED) & group["tok_s"].notna()]
            near = (kept if len(kept) else group).sort_values("tok_s" if len(kept) else f"attainment_{slo}").to_dict("records")[-1]
            met = round(float(near[f"attainment_{slo}"] or 0.0) * int(near["tried"]))
            row |= {"kind": near["kind"], "level": near["level"], "tried": int(near["tried"]), "met": met,
                    "at_least": at_least(met, int(near["tried"])), "tok_s": near["tok_s"]}  # fmt: skip
            if kept.empty:
                row["reason"] = f"no load kept it; the nearest met it for {met} of {int(near['tried'])} requests"
            elif contender not in hourly:
                row["reason"] = "there is no price of its hour"
            else:
                row |= _priced(cells, near, fitted.get(str(contender)), hourly[str(contender)], work, utilisation)
            rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else ["contender", "slo", "reason", *PRICED])


def _priced(cells: pd.DataFrame, at: Mapping[Hashable, Any], pace: Pace | None, hourly: Hourly, work: str,
            utilisation: float) -> dict[str, Any]:  # fmt: skip
    mine = cells[(cells["contender"] == at["contender"]) & (cells["work"] == work) & (cells["kind"] == at["kind"])
                 & (cells["level"] == at["level"]) & cells["ok"]]  # fmt: skip
    rounds = [flow for cell in mine.to_dict("records") if (flow := flows(cell, pace)) is not None]
    shared = stats.mean([one["share"] for one in rounds if "share" in one])
    told: dict[str, Any] = {"hour": hourly.amount, "currency": hourly.currency, "rounds": len(rounds),
                            "share": shared.value if shared else None}  # fmt: skip
    for part in PARTS:
        cost = million(hourly, stats.mean([one[part] for one in rounds if part in one]), utilisation)
        told |= {part: cost["value"], f"{part}_lo": cost["lo"], f"{part}_hi": cost["hi"]}
    return told


def at_least(met: int, tried: int, *, confidence: float = 0.95) -> float | None:
    """The share that so many of so many show with confidence (Clopper and Pearson, one-sided); None for nothing tried."""
    return None if not tried else float(scipy_stats.beta.ppf(1 - confidence, met, tried - met + 1)) if met else 0.0


def sensitivity(table: pd.DataFrame, *, part: str = "blended", asked: float, factors: Sequence[float] = (0.5, 1.0, 2.0),
                shares: Sequence[float] = SHARES) -> pd.DataFrame:
    """Money for a million at other prices of the hour (× `factors`) and utilisations; `asked` is the one that `table` was made with."""
    known = table[table[part].notna()]
    return pd.DataFrame([{"contender": row["contender"], "slo": row["slo"], "factor": factor, "utilisation": share,
                          **{name: row[part + end] and row[part + end] * factor * asked / share
                             for name, end in (("money", ""), ("lo", "_lo"), ("hi", "_hi"))}}
                         for row in known.to_dict("records") for factor in factors for share in shares],
                        columns=["contender", "slo", "factor", "utilisation", "money", "lo", "hi"])  # fmt: skip


def joules(run: record.Run) -> pd.DataFrame:
    """Energy a token by contender, from the energy counter over each cell that has one; where none was metered, the reason."""
    rows: dict[str, list[tuple[float, float]]] = {}
    why: dict[str, str] = {}
    for p in run.points():
        if p.setting.get("what") == "cell" and p.status == "ok":
            name, host = f"{p.setting['engine']} {p.setting['precision']}", p.facts["host"]
            rows.setdefault(name, [])
            if host.get("gpu_energy_j") is not None:
                rows[name].append((host["gpu_energy_j"], sum(n or 0 for n in p.samples["output_tokens"])))
            else:
                why[name] = f"not metered ({host.get('status') or 'the counter gave nothing'})"
    return pd.DataFrame([{"contender": name, "cells": len(spent), "reason": None if spent else why.get(name),
                          "j_token": sum(j for j, _ in spent) / sum(n for _, n in spent) if spent else None}
                         for name, spent in rows.items()], columns=["contender", "cells", "j_token", "reason"])  # fmt: skip


def hosted() -> pd.DataFrame:
    """What a million tokens of somebody else's model cost by list price, as data/prices.csv has it: not our model, not our machine."""
    return pd.DataFrame([{"price": p.name, "USD": f"{p.usd:g}", "for": p.of, "as of": p.as_of.isoformat(), "source": p.source}
                         for p in prices.prices().values() if p.unit.startswith("Mtoken")])  # fmt: skip


def elsewhere() -> pd.DataFrame:
    """Published output rates at the listed price of that GPU, the hour charged to output alone. Other models and loads, no SLO of ours."""
    rows = []
    for row in published.latency().to_dict("records"):
        rate = re.search(r"([\d,]+) output tok/s", row["result"])
        gpu = re.fullmatch(r"1 × (\w+)", row["machine"])
        for price in prices.prices().values() if rate and gpu else ():
            if price.unit == "GPU-hour" and gpu is not None and rate is not None and price.name.split()[0] == gpu[1]:
                per_s = float(rate[1].replace(",", ""))
                rows.append({**{key: row[key] for key in ("engine", "model", "load", "source")}, "gpu": price.name, "hour": price.usd,
                             "per_s": per_s, "million": money.per_million(price.usd, per_s, 1.0)})  # fmt: skip
    return pd.DataFrame(rows)
