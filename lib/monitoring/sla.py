"""What was promised and what was kept, a row a day and service, from the counters of a Prometheus.

Everything is a count of events, added up and divided once: never an average of ratios, nor a percentile of percentiles. A counter that
began anew is counted on; what it rose by between its last scrape and its end is lost, as it is for Prometheus. A day without events has no
ratio. In a drill a day is as short as `day_s` says, and an hour its 24th part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import numpy as np
import pandas as pd

from lib.monitoring import tsdb
from lib.monitoring.prometheus import Client


@dataclass(frozen=True, slots=True)
class Promise:
    """`available` of a service's valid requests are answered, `within` of `histogram`'s events last no longer than `bound_s`."""

    service: str
    available: float
    histogram: str
    bound_s: float
    within: float


PROMISES = (Promise("fraud", 0.99, "gateway_request_seconds", 0.1, 0.99),
            Promise("llm", 0.99, "gen_ai_server_time_to_first_token_seconds", 1.0, 0.99),
            Promise("retail", 0.99, "retail_frame_age_seconds", 0.5, 0.975))
REQUESTS, TOKENS, PRICE = "gateway_requests_total", "gen_ai_tokens_total", "token_price_usd"
NOT_VALID, GOOD = "client", "ok"
HOURS = 24


def samples(client: Client, start_s: float, end_s: float, *, promises: Sequence[Promise] = PROMISES) -> pd.DataFrame:
    """What `report` reads, as it was scraped: series, t_s, value. Raises Unanswered."""
    names = (REQUESTS, TOKENS, PRICE, *dict.fromkeys(f"{promise.histogram}_bucket" for promise in promises))
    return pd.concat([client.raw(name, start_s, end_s) for name in names], ignore_index=True).drop(columns="labels")


def report(told: pd.DataFrame, *, start_s: float, end_s: float, day_s: float = 86_400,
           promises: Sequence[Promise] = PROMISES) -> pd.DataFrame:
    """One row a day (from 1) and service. `told`: samples (series, t_s, value), also from before `start_s`, where there are any.

    requests (valid ones), available (share) and its target, p95_s, p99_s, bound_s, within (share) and its target; budget_burnt and
    slow_budget_burnt (1: as much as the day's requests allow), worst_hour (1 to 24) and its share of failures, top_error and its requests;
    for the LLM input_uncached, input_cached, output (tokens) and cost_usd. Raises ValueError for a day that does not last.
    """
    if not (day_s > 0 and end_s > start_s):
        raise ValueError(f"no days of {day_s} s from {start_s} to {end_s}")
    moved = _moved(told)
    moved = moved[(moved.t_s > start_s) & (moved.t_s <= end_s)]
    hours = np.ceil((moved.t_s - start_s) / day_s * HOURS).astype(int) - 1  # what a scrape brings happened before it
    moved = moved.assign(day=hours // HOURS + 1, hour=hours % HOURS + 1)
    days = range(1, int(np.ceil((end_s - start_s) / day_s)) + 1)
    of_day = dict(list(moved.groupby("day")))
    prices = _prices(told)
    return pd.DataFrame([{"day": day, "service": promise.service, **_row(of_day.get(day, moved[:0]), promise, prices)}
                         for day in days for promise in promises])


def quantile(q: float, buckets: Mapping[float, float]) -> float | None:
    """As Prometheus' histogram_quantile, of cumulative counts by upper bound (+Inf included); None where nothing was counted."""
    bounds = sorted(buckets)
    if not bounds or not (total := buckets[bounds[-1]]):
        return None
    rank, lower, below = q * total, 0.0, 0.0
    for bound in bounds:
        if (count := buckets[bound]) >= rank:
            return lower if bound == inf else lower + (bound - lower) * (rank - below) / (count - below) if count > below else bound
        lower, below = bound, count
    return None


def _row(day: pd.DataFrame, promise: Promise, prices: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    asked = day[(day.name == REQUESTS) & (day.service == promise.service) & (day.outcome != NOT_VALID)]
    valid, bad = asked.rise.sum(), asked[asked.outcome != GOOD]
    row: dict[str, Any] = {"requests": valid, "available": 1 - bad.rise.sum() / valid if valid else None, "target": promise.available}
    row |= _latency(day, promise)
    row["budget_burnt"] = _burnt(row["available"], promise.available)
    row["slow_budget_burnt"] = _burnt(row["within"], promise.within)
    hours = pd.DataFrame({"valid": asked.groupby("hour").rise.sum(), "bad": bad.groupby("hour").rise.sum()}).fillna(0)
    failed = (hours.bad / hours.valid.where(hours.valid > 0)).dropna()
    row |= {"worst_hour": failed.idxmax() if failed.max() > 0 else None, "worst_hour_failed": failed.max() if len(failed) else None}
    kinds = bad.groupby("outcome").rise.sum()
    row |= {"top_error": kinds.idxmax() if kinds.max() > 0 else None, "top_error_requests": kinds.max() if kinds.max() > 0 else None}
    return row | (_tokens(day, prices) if promise.service == "llm" else {})


def _latency(day: pd.DataFrame, promise: Promise) -> dict[str, Any]:
    of = day[(day.name == f"{promise.histogram}_bucket") & day.service.isin(["", promise.service])]
    buckets = {float(str(le)): count for le, count in of.groupby("le").rise.sum().items()}
    total = buckets.get(inf, 0)
    within = buckets[promise.bound_s] / total if total and promise.bound_s in buckets else None
    return {"p95_s": quantile(0.95, buckets), "p99_s": quantile(0.99, buckets), "bound_s": promise.bound_s, "within": within,
            "within_target": promise.within}


def _tokens(day: pd.DataFrame, prices: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    of = day[day.name == TOKENS].groupby(["model", "type"]).rise.sum()
    bill = [count * prices[key] for key, count in zip(of.index.to_flat_index(), of, strict=True) if key in prices]
    return {**{kind: of[of.index.get_level_values("type") == kind].sum() for kind in ("input_uncached", "input_cached", "output")},
            "cost_usd": sum(bill) if len(bill) == len(of) > 0 else None}


def _burnt(share: float | None, target: float) -> float | None:
    return None if share is None else (1 - share) / (1 - target)


def _moved(told: pd.DataFrame) -> pd.DataFrame:
    """What every counter rose by, sample by sample, with the labels that matter as columns."""
    frame: pd.DataFrame = told.astype({"t_s": float, "value": float}).sort_values(["series", "t_s"], kind="stable", ignore_index=True)
    rise = frame.value - frame.groupby("series", observed=True).value.shift()
    frame["rise"] = rise.where(~(rise < 0), frame.value)  # it began anew: what it shows is what it rose by
    frame = frame[np.isfinite(frame.rise)]
    named = {text: tsdb.labels(text) for text in frame.series.unique()}
    for column, label in COLUMNS.items():
        frame[column] = pd.Series([named[text].get(label, "") for text in frame.series], index=frame.index, dtype="object")
    return frame


COLUMNS = {"name": "__name__", **{label: label for label in ("service", "outcome", "le", "model", "type")}}


def _prices(told: pd.DataFrame) -> Mapping[tuple[str, str], float]:
    """USD a token by model and type: the last that was told."""
    of = told[told.series.str.startswith(f"{PRICE}{{") & told.value.map(isfinite)].sort_values("t_s")
    return {(found["model"], found["type"]): value
            for text, value in zip(of.series, of.value, strict=True) if "model" in (found := tsdb.labels(text))}
