"""A day's promises from counters: added up and divided once, whatever the counters went through."""

from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.install import Missing
from lib.monitoring import sla, tools, tsdb

T0, DAY_S = 1_795_900_000.0, 2400.0  # an hour is 100 s
PROMISES = (sla.Promise("fraud", 0.99, "gateway_request_seconds", 0.1, 0.9), sla.Promise("llm", 0.9, "ttft_seconds", 1.0, 0.9))


def requests(service: str, outcome: str) -> str:
    return f'gateway_requests_total{{instance="g",job="gateway",outcome="{outcome}",service="{service}"}}'


def told(**series: list[tuple[float, float]]) -> pd.DataFrame:
    rows = [(text, T0 + t, value) for text, points in series.items() for t, value in points]
    return pd.DataFrame(rows, columns=["series", "t_s", "value"])


def rising(*stretches: tuple[float, float], until_s: float = 2 * DAY_S) -> list[tuple[float, float]]:
    """A sample each 10 s of a counter that rises at a rate until a time, then at the next."""
    ends, rates = [0, *(end for end, _ in stretches)], [rate for _, rate in stretches]
    return [(t, float(sum(rate * max(0, min(t, end) - start) for start, end, rate in zip(ends, ends[1:], rates, strict=False))))
            for t in np.arange(0, until_s + 1, 10)]  # fmt: skip


def report(frame: pd.DataFrame, days: int = 2) -> pd.DataFrame:
    return sla.report(frame, start_s=T0, end_s=T0 + days * DAY_S, day_s=DAY_S, promises=PROMISES).set_index(["day", "service"])


def test_a_day_is_what_its_counters_say() -> None:
    found = report(told(**{
        requests("fraud", "ok"): rising((2 * DAY_S, 10)), requests("fraud", "client"): rising((2 * DAY_S, 5)),
        requests("fraud", "timeout"): rising((300, 0), (400, 3), (2 * DAY_S, 0)), requests("fraud", "server"): rising((700, 0), (800, 1)),
    }))  # fmt: skip
    first, second = found.loc[(1, "fraud")], found.loc[(2, "fraud")]
    assert first.requests == 24_400, "a caller's fault is no valid request"
    assert first.available == pytest.approx(1 - 400 / 24_400) and first.budget_burnt == pytest.approx(400 / 244)
    assert (first.top_error, first.top_error_requests) == ("timeout", 300)
    assert first.worst_hour == 4 and first.worst_hour_failed == pytest.approx(300 / 1300, rel=0.05)
    assert second.available == 1 and second.budget_burnt == 0 and pd.isna(second.top_error) and pd.isna(second.worst_hour)


def test_days_are_never_averaged() -> None:
    """An hour of few requests that all fail weighs what they weigh."""
    frame = told(**{requests("fraud", "ok"): rising((2000, 100), (DAY_S, 0)), requests("fraud", "refused"): rising((2000, 0), (DAY_S, 1))})
    assert report(frame).loc[(1, "fraud")].available == pytest.approx(200_000 / 200_400)


def test_a_counter_that_began_anew_is_counted_on() -> None:
    whole = rising((DAY_S, 10))
    anew = [(t, value if t < 1000 else value - 9_900) for t, value in whole]
    assert report(told(**{requests("fraud", "ok"): anew}), 1).loc[(1, "fraud")].requests == report(
        told(**{requests("fraud", "ok"): whole}), 1).loc[(1, "fraud")].requests  # fmt: skip


def test_without_events_there_is_no_ratio() -> None:
    for frame in (told(), told(**{requests("fraud", "ok"): rising((2 * DAY_S, 0))})):
        found = report(frame)
        assert len(found) == 4 and found[["available", "budget_burnt", "p95_s", "within", "worst_hour", "top_error"]].isna().all(axis=None)


def test_latency_is_read_from_the_days_own_buckets() -> None:
    def bucket(le: str) -> str:
        return f'gateway_request_seconds_bucket{{le="{le}",service="fraud"}}'

    frame = told(**{bucket("0.05"): rising((DAY_S, 9), (2 * DAY_S, 0)), bucket("0.1"): rising((DAY_S, 9.5), (2 * DAY_S, 5)),
                    bucket("+Inf"): rising((DAY_S, 10), (2 * DAY_S, 10))})
    first, second = report(frame).loc[(1, "fraud")], report(frame).loc[(2, "fraud")]
    assert first.within == pytest.approx(0.95) and first.slow_budget_burnt == pytest.approx(0.5) and first.p95_s == pytest.approx(0.1)
    assert second.within == pytest.approx(0.5) and second.slow_budget_burnt == pytest.approx(5)


def test_tokens_and_their_cost() -> None:
    def tokens(kind: str) -> str:
        return f'gen_ai_tokens_total{{model="m",type="{kind}"}}'

    prices = {f'token_price_usd{{model="m",type="{kind}"}}': [(0, price)] for kind, price in (("input_uncached", 2e-6), ("output", 8e-6))}
    frame = told(**{tokens("input_uncached"): rising((DAY_S, 100)), tokens("output"): rising((DAY_S, 10))}, **prices)
    llm = report(frame, 1).loc[(1, "llm")]
    assert llm.cost_usd == pytest.approx(DAY_S * (100 * 2e-6 + 10 * 8e-6)) and llm.output == 24_000
    unpriced = report(pd.concat([frame, told(**{tokens("input_cached"): rising((DAY_S, 1))})]), 1).loc[(1, "llm")]
    assert unpriced.input_cached == DAY_S and pd.isna(unpriced.cost_usd), "what has no price makes no bill"


@pytest.mark.parametrize(("end_s", "day_s"), [(T0, 10), (T0 + 10, 0)])
def test_no_days_are_refused(end_s: float, day_s: float) -> None:
    with pytest.raises(ValueError, match="no days"):
        sla.report(told(), start_s=T0, end_s=end_s, day_s=day_s)


COUNTS = st.lists(st.tuples(st.floats(1e-3, 10), st.integers(0, 50)), min_size=1, max_size=8, unique_by=lambda pair: pair[0])


@given(COUNTS, st.floats(0.01, 0.99))
def test_a_quantile_lies_in_the_bucket_that_holds_it(told: list[tuple[float, int]], q: float) -> None:
    bounds, counts = [bound for bound, _ in sorted(told)], [count for _, count in sorted(told)]
    found = sla.quantile(q, {**dict(zip(bounds, np.cumsum(counts).tolist(), strict=True)), inf: sum(counts)})
    if not sum(counts):
        assert found is None
        return
    k = int(np.searchsorted(np.cumsum(counts), q * sum(counts) * (1 - 1e-12)))
    assert found is not None and ([0.0, *bounds][k] - 1e-9 <= found <= bounds[k] + 1e-9)


@pytest.mark.skipif(isinstance(tools.find("prometheus"), Missing), reason="Prometheus is not on this machine")
def test_prometheus_counts_the_same(tmp_path: Path) -> None:
    anew = [(t, value if t < 1000 else value - 9_900) for t, value in rising((DAY_S, 10))]
    buckets = {f'gateway_request_seconds_bucket{{le="{le}",service="fraud"}}': rising((DAY_S, rate))
               for le, rate in (("0.05", 4.0), ("0.1", 8.0), ("+Inf", 10.0))}
    frame = told(**{requests("fraud", "ok"): anew, requests("fraud", "server"): rising((1000, 0), (1200, 1))}, **buckets)
    with tsdb.rebuilt(tsdb.packed(frame), tmp_path) as client:
        ours = report(sla.samples(client, T0, T0 + DAY_S, promises=PROMISES), 1).loc[(1, "fraud")]
        at, whole = T0 + DAY_S, f"[{DAY_S:.0f}s]"
        bad, valid, p95 = (client.instant(expr, at).value.iloc[0] for expr in (
            f'sum(increase(gateway_requests_total{{outcome="server"}}{whole}))', f"sum(increase(gateway_requests_total{whole}))",
            f"histogram_quantile(0.95, sum by (le) (increase(gateway_request_seconds_bucket{whole})))"))
    assert ours.requests == pytest.approx(valid, rel=0.01) and 1 - ours.available == pytest.approx(bad / valid, rel=0.02)
    assert ours.p95_s == pytest.approx(p95)
