"""How wrong a percentile from a histogram is: as Prometheus computes it from buckets, beside the exact one from the samples. Pure.

Inside a bucket Prometheus draws a straight line, so it errs by less than the bucket is wide: at most `upper ÷ lower − 1` of the true value,
whatever the samples are. Beyond the last edge it answers that edge, and below the first it knows nothing: there no bound holds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil, inf

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from prometheus_client import Histogram

from lib.monitoring import edges as ours
from lib.pipelines.fraud import instruments as fraud
from lib.pipelines.meters import Buckets
from lib.pipelines.retail import instruments as retail

# vLLM's of vllm:time_to_first_token_seconds (vllm/v1/metrics); OpenTelemetry's advice for gen_ai.server.time_to_first_token
# (semantic conventions, development); prometheus_client's where none are given.
VLLM_TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
               2560.0)
OTEL_TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
DEFAULT_S = tuple(edge for edge in Histogram.DEFAULT_BUCKETS if edge < inf)
OF_TTFT: Mapping[str, Sequence[float]] = {
    "ours": ours.FIRST_TOKEN_S, "vLLM": VLLM_TTFT_S, "OpenTelemetry": OTEL_TTFT_S, "prometheus_client": DEFAULT_S,
}


# Where percentiles are told, the edges behind them: the gateway's, then what services say of their own stages and frames.
EDGES: Mapping[str, Sequence[float]] = {
    "gateway_request_seconds": ours.REQUEST_S, "gen_ai_server_time_to_first_token_seconds": ours.FIRST_TOKEN_S,
    "gen_ai_server_time_per_output_token_seconds": ours.TOKEN_S, "fraud_stage_seconds": fraud.SECONDS,
    "retail_stage_seconds": retail.SHORT, "retail_frame_age_seconds": retail.SECONDS,
}  # fmt: skip


def exact(samples: ArrayLike, q: float) -> float:
    """The smallest sample that at least a share `q` of them do not exceed. Raises ValueError for none, NaN or no share."""
    known: NDArray[np.float64] = np.sort(np.asarray(samples, float))
    if not len(known) or np.isnan(known).any() or not 0 <= q <= 1:
        raise ValueError(f"no quantile {q} of {len(known)} samples, {np.isnan(known).sum()} of them NaN")
    return float(known[max(0, ceil(q * len(known)) - 1)])


def from_buckets(samples: ArrayLike, q: float, edges: Sequence[float]) -> float:
    """What histogram_quantile answers where the same samples were counted in buckets. Raises ValueError for no samples."""
    counted = Buckets(edges)
    for sample in np.asarray(samples, float).tolist():
        counted.observe(sample)
    if (found := counted.quantile(q)) is None:
        raise ValueError(f"no quantile {q} of no samples")
    return found


def bound(value: float, edges: Sequence[float]) -> float | None:
    """The largest error, as a share of `value`, of a quantile that is truly `value`; None outside of the edges."""
    place = bisect_left(edges, value)
    return edges[place] / edges[place - 1] - 1 if 0 < place < len(edges) else None


def bounds() -> pd.DataFrame:
    """histogram, buckets, `within` (1 ms to 1 s) and `beyond`: the most by which a percentile in them can be off, as a share of it."""
    rows = []
    for name, known in EDGES.items():
        steps = [(below, above / below - 1) for below, above in pairwise(known)]
        inside = [step for below, step in steps if 1e-3 <= below < 1.0]
        outside = [step for below, step in steps if not 1e-3 <= below < 1.0]
        rows.append({"histogram": name, "buckets": len(known) + 1, "within": max(inside), "beyond": max(outside, default=None)})
    return pd.DataFrame(rows)


def compare(samples_s: ArrayLike, edges: Mapping[str, Sequence[float]] = OF_TTFT, q: Sequence[float] = (0.5, 0.95, 0.99)) -> pd.DataFrame:
    """A row for each set of edges and quantile: exact and from buckets (s), `error` and the `bound` on it, as shares of the exact one."""
    rows = []
    for name, known in edges.items():
        for share in q:
            true, told = exact(samples_s, share), from_buckets(samples_s, share, known)
            rows.append({"edges": name, "buckets": len(known) + 1, "q": share, "exact_s": true, "bucket_s": told,
                         "error": told / true - 1 if true else None, "bound": bound(true, known)})
    return pd.DataFrame(rows)
