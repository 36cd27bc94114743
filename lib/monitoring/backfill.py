"""A recorded benchmark as the time series that its gateway would have told, so that dashboards and PromQL answer questions about old runs.

Every request of every cell that may be quoted counts where its answer ended: outcomes, first and later tokens' times in the set's own
buckets, tokens by type; one counter an engine and precision, on through all cells. Lost are single requests and the gaps between events
(only buckets are left), which cell a request was of (the load offered is a gauge beside it), what was warm-up, when a cell began exactly:
a record knows to the second when it was written, so a cell is laid to end there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from lib.monitoring.edges import FIRST_TOKEN_S, TOKEN_S
from lib.monitoring.prometheus import series
from lib.record import Point, Run

TTFT, TPOT = "gen_ai_server_time_to_first_token_seconds", "gen_ai_server_time_per_output_token_seconds"
LOADS = ("streams", "rate_per_s")
LEAST_S = 1.0  # between two cells


def samples(run: Run, *, every_s: float = 1.0) -> pd.DataFrame:
    """series, t_s, value: a scrape each `every_s` while a cell ran, in the order of the cells. Raises ValueError where there is none."""
    counted: dict[tuple[str, ...], Any] = {}
    rows: list[tuple[str, float, float]] = []
    free_s = 0.0
    for point in sorted((p for p in run.points() if p.status == "ok" and p.samples.get("sent_s")), key=lambda p: p.utc):
        requests = _requests(point)
        length_s = float(requests.ended_s.max())
        start_s = max(free_s, datetime.fromisoformat(point.utc).timestamp() - length_s)
        labels = {"engine": str(point.setting.get("engine")), "precision": str(point.setting.get("precision")), "job": "llm"}
        before = counted.setdefault(tuple(labels.values()), {})
        ticks = np.arange(int(np.ceil(length_s / every_s)) + 1) * every_s
        for name, ended in _counters(requests, labels):
            risen = before.get(name, 0.0) + np.array([ended[requests.ended_s <= tick].sum() for tick in ticks])
            before[name] = float(risen[-1])
            rows += [(name, start_s + float(tick), float(value)) for tick, value in zip(ticks, risen, strict=True)]
        for load in LOADS:
            if (offered := point.setting.get(load)) is not None:
                rows += [(series({"__name__": f"bench_{load}", **labels}), start_s + float(tick), float(offered)) for tick in ticks]
        free_s = start_s + float(ticks[-1]) + max(LEAST_S, every_s)
    if not rows:
        raise ValueError(f"{run.notebook}, run {run.run_id}: no point has requests that may be quoted")
    return pd.DataFrame(rows, columns=["series", "t_s", "value"])


def _requests(point: Point) -> pd.DataFrame:
    told = pd.DataFrame({name: point.samples[name] for name in ("sent_s", "ttft_s", "last_s", "tpot_s", "output_tokens", "prompt_tokens",
                                                                "cached_tokens", "error")})  # fmt: skip
    return told.assign(ended_s=told.sent_s.astype(float) + told.last_s.astype(float).fillna(0) - float(told.sent_s.min()))


def _counters(requests: pd.DataFrame, labels: Mapping[str, str]) -> Iterator[tuple[str, pd.Series[Any]]]:
    """A series and what each request adds to it."""
    good = requests.error.isna() & requests.last_s.notna()

    def one(name: str, **more: str) -> str:
        return series({"__name__": name, **labels, **more})

    yield one("gateway_requests_total", service="llm", outcome="ok"), good.astype(float)
    yield one("gateway_requests_total", service="llm", outcome="server"), (~good).astype(float)
    cached = requests.cached_tokens.astype(float).fillna(0)
    for kind, n in (("input_uncached", requests.prompt_tokens.astype(float) - cached), ("input_cached", cached),
                    ("output", requests.output_tokens.astype(float))):  # fmt: skip
        yield one("gen_ai_tokens_total", type=kind), n.fillna(0)
    for name, column, edges in ((TTFT, "ttft_s", FIRST_TOKEN_S), (TPOT, "tpot_s", TOKEN_S)):
        yield from _histogram(one, name, requests[column].where(good).astype(float), edges)


def _histogram(one: Any, name: str, values: pd.Series[Any], edges: Sequence[float]) -> Iterator[tuple[str, pd.Series[Any]]]:
    known = values.notna()
    for edge in edges:
        yield one(f"{name}_bucket", le=f"{edge:g}"), (values <= edge).astype(float)
    yield one(f"{name}_bucket", le="+Inf"), known.astype(float)
    yield one(f"{name}_count"), known.astype(float)
    yield one(f"{name}_sum"), values.fillna(0)
