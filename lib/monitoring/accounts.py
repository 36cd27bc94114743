"""What numbers from Prometheus are worth, held against the log of every request: percentiles from buckets, a bill from counters. Pure."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lib.measured import points, series
from lib.monitoring import percentiles, tokens
from lib.monitoring.session import Session
from lib.monitoring.steady import HISTOGRAMS, QUANTILES

COLUMN = dict(zip(HISTOGRAMS, ("duration_s", "ttft_s", "tpot_s"), strict=True))  # of the request log
WORDS = dict(zip(HISTOGRAMS, ("a request's duration", "time to the first token", "time per output token"), strict=True))


def steady(s: Session, engine: str = "llamacpp") -> dict[str, Any] | None:
    """The stretch with this engine, if it may be quoted."""
    return next((point for point in points(s.run, "steady") if point["engine"] == engine), None)


def told(s: Session, engine: str = "llamacpp") -> pd.DataFrame:
    """of, whose, q, n, exact_s (from the log), prometheus_s (as it answered), error: a row a percentile. Empty where not measured."""
    if (point := steady(s, engine)) is None:
        return pd.DataFrame(columns=["of", "whose", "q", "n", "exact_s", "prometheus_s", "error"])
    log, rows = series(s.run, point, "log"), []
    for name, by in HISTOGRAMS.items():
        for q in QUANTILES:
            for row in point["facts"]["quantiles"][f"{name} {q}"]:
                if row.get("value") is None:  # of nothing there is no percentile
                    continue
                whose = row[by] if by == "service" else "llm"
                samples = log.loc[(log["service"] == whose) & (log["outcome"] == "ok"), COLUMN[name]].dropna()
                if not len(samples):
                    continue
                true = percentiles.exact(samples, q)
                rows.append({"of": WORDS[name], "whose": whose, "q": q, "n": len(samples), "exact_s": true, "prometheus_s": row["value"],
                             "error": row["value"] / true - 1})  # fmt: skip
    return pd.DataFrame(rows)


def edges(s: Session, engine: str = "llamacpp") -> pd.DataFrame:
    """The first tokens of that stretch, counted in the buckets of others: percentiles.compare."""
    point = steady(s, engine)
    if point is None:
        return pd.DataFrame(columns=["edges", "buckets", "q", "exact_s", "bucket_s", "error", "bound"])
    return percentiles.compare(series(s.run, point, "log")["ttft_s"].dropna())


def off(found: pd.DataFrame) -> pd.DataFrame:
    """name (of the edges), p50, p99: how far each set of edges is off, in %."""
    rows = [{"name": name, **{f"p{q * 100:g}": 100 * abs(error) for q, error in zip(one["q"], one["error"], strict=True)}}
            for name, one in found.groupby("edges", sort=False)]  # fmt: skip
    return pd.DataFrame(rows, columns=["name", "p50", "p99"])


def worst(found: pd.DataFrame, by: str | None = None) -> dict[str, Any]:
    """The largest error of all, and with `by` the largest of each."""
    if not len(found):
        return dict.fromkeys(("worst", "n"))
    largest = found["error"].abs()
    each = {} if by is None else {f"worst_{name}": float(rows.abs().max()) for name, rows in found.groupby(by)["error"]}
    return {"worst": float(largest.max()), "n": len(found), **each}


def bill(s: Session, engine: str = "llamacpp") -> pd.DataFrame:
    """way, USD, off (share of the log's): the same minute billed from the log and from counters, and in two ways that are wrong."""
    point = steady(s, engine)
    if point is None:
        return pd.DataFrame(columns=["way", "usd", "off"])
    log = series(s.run, point, "log")
    written = {kind: float(log[kind].sum()) for kind in tokens.TYPES}
    grown = {row["type"]: row["value"] for row in point["facts"]["increase"]}
    card = tokens.card()
    exact = tokens.reconcile(written, point["facts"]["counted"], card)
    stretched = tokens.reconcile(written, {kind: grown.get(kind, 0.0) for kind in tokens.TYPES}, card)
    ways = {"the request log, token by token": exact.log_usd, "counters: last sample less first": exact.counters_usd,
            "increase() over the same time": stretched.counters_usd, "naive: cached tokens at both prices": exact.naive_usd,
            "without a price for cached tokens": exact.plain_usd}  # fmt: skip
    return pd.DataFrame([{"way": way, "usd": usd, "off": usd / exact.log_usd - 1 if exact.log_usd else None} for way, usd in ways.items()])


def billed(found: pd.DataFrame) -> dict[str, Any]:
    """Shares by which each way is off."""
    names = ("log", "counters", "increase", "naive", "plain")
    return dict.fromkeys(names) if not len(found) else dict(zip(names, found["off"], strict=True))
