"""A recorded run as time series: what is counted is what was recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lib import record
from lib.home import REFERENCE
from lib.install import Missing
from lib.monitoring import backfill, tools, tsdb

RUNS = sorted((REFERENCE / "11_llm_throughput").glob("*/*/run.json"))


@pytest.fixture(scope="module")
def run() -> record.Run:
    return record.load(RUNS[-1].parent)


def test_every_request_that_may_be_quoted_is_counted_once(run: record.Run) -> None:
    frame = backfill.samples(run)
    last = frame.groupby("series").value.last()
    ok = [p for p in run.points() if p.status == "ok" and p.samples.get("sent_s")]
    told = last[last.index.str.startswith("gateway_requests_total")]
    assert told.sum() == sum(len(p.samples["sent_s"]) for p in ok) > 100
    output = last[last.index.str.contains('gen_ai_tokens_total.*type="output"')]
    assert output.sum() == sum(sum(n or 0 for n in p.samples["output_tokens"]) for p in ok)
    for _, one in frame[frame.series.str.contains("_total|_bucket|_count")].groupby("series"):
        assert (np.diff(one.t_s) > 0).all() and (np.diff(one.value) >= 0).all()
    pairs = last[last.index.str.contains("time_to_first_token_seconds_count")].sum(), last[
        last.index.str.contains('time_to_first_token_seconds_bucket.*le="\\+Inf"')].sum()  # fmt: skip
    assert pairs[0] == pairs[1] == told[told.index.str.contains('"ok"')].sum()


@pytest.mark.skipif(isinstance(tools.find("prometheus"), Missing), reason="Prometheus is not on this machine")
def test_prometheus_tells_the_median_of_the_record(run: record.Run, tmp_path: Path) -> None:
    frame = backfill.samples(run)
    engine = "llama.cpp"
    of = f'{{engine="{engine}",precision="16-bit"}}'
    start, end = frame.t_s.min(), frame.t_s.max()
    with tsdb.rebuilt(tsdb.packed(frame), tmp_path, lookback="1m") as client:
        told = client.instant(f"histogram_quantile(0.5, sum by (le) (increase(gen_ai_server_time_to_first_token_seconds_bucket{of}"
                              f"[{end - start + 1:.0f}s])))", end).value.iloc[0]  # fmt: skip
    exact = np.median([ttft for p in run.points() if p.status == "ok" and p.setting.get("engine") == engine
                       and p.setting.get("precision") == "16-bit" for ttft in p.samples.get("ttft_s", []) if ttft is not None])  # fmt: skip
    assert told == pytest.approx(exact, rel=0.15)


def test_a_run_without_requests_is_refused(tmp_path: Path) -> None:
    empty = record.begin("11_llm_throughput", parameters={}, environment={"machine_id": "m"}, root=tmp_path)
    with pytest.raises(ValueError, match="no point has requests"):
        backfill.samples(empty)
