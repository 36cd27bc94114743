"""The week that a drill begins with: what long windows read, straight on from where the counters are."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from pytest import approx

from lib.install import Missing
from lib.monitoring import tools, week
from lib.monitoring.timing import DRILL, Timing
from lib.monitoring.week import Line


def test_only_what_is_read_over_long_ranges_is_needed() -> None:
    groups = [{"rules": [
        {"expr": 'sum by (service) (rate(errors_total{code=~"5.."}[6h])) / sum by (service) (rate(requests_total[5m]))'},
        {"expr": "ttft:p95 > 1.5 * quantile_over_time(0.5, ttft:p95[1w]) and on () sum(increase(errors_total{code=~\"5..\"}[1h])) > 3"},
        {"expr": "max_over_time((a:b / c:d)[1d:5m]) > 1"},
    ]}]  # fmt: skip
    assert week.needed(groups) == {'errors_total{code=~"5.."}': True, "ttft:p95": False, "a:b": False, "c:d": False}


def samples(lines: list[Line], timing: Timing) -> pd.DataFrame:
    rows = [line.rsplit(" ", 2) for line in week.openmetrics(lines, until_s=10_000, timing=timing) if not line.startswith("#")]
    return pd.DataFrame([(series, float(value), float(t)) for series, value, t in rows], columns=["series", "value", "t_s"])


def test_counters_end_where_they_are_and_rise_as_they_did() -> None:
    told = samples([Line({"__name__": "n_total", "job": "a"}, 1234.0, 40.0), Line({"__name__": "level"}, 7.0)], DRILL)
    counter, gauge = (told[told["series"] == name] for name in ('n_total{job="a"}', "level"))
    assert counter["value"].iloc[-1] == 1234 and counter["t_s"].iloc[-1] == 10_000
    assert counter["value"].diff().dropna().tolist() == approx([40.0 * week.STEP_SCRAPES * DRILL.scrape_s] * (len(counter) - 1))
    assert counter["t_s"].iloc[0] == approx(10_000 - 604_800 / 150, abs=2) and set(gauge["value"]) == {7.0}


def test_prometheus_takes_it_and_rates_it(tmp_path: Path) -> None:
    if isinstance(missing := tools.find("promtool"), Missing):
        pytest.skip(missing.reason)
    from lib.monitoring import tsdb

    told = samples([Line({"__name__": "n_total", "job": "a"}, 1234.0, 40.0)], DRILL)
    with tsdb.rebuilt(tsdb.packed(told), tmp_path / "tsdb") as client:
        assert client.instant("rate(n_total[24s])", 10_000)["value"].tolist() == approx([40.0])
        assert client.instant("resets(n_total[1h])", 10_000)["value"].tolist() == [0], "the line below zero is no reset"


class Asked:
    """A client that knows two series."""

    def range(self, selector: str, *_: float) -> pd.DataFrame:
        labels = {"__name__": "n_total", "instance": "old"}
        return pd.DataFrame({"series": "n", "labels": [labels] * 3, "t_s": [0.0, 5.0, 10.0], "value": [100.0, 150.0, 200.0]})

    def instant(self, selector: str) -> pd.DataFrame:
        return pd.DataFrame([{"__name__": "n_total", "instance": "new", "value": 3.0}])


def test_a_replaced_instance_has_the_history_of_the_one_before() -> None:
    client, selectors = Asked(), {"n_total": True}
    lines = week.measured(client, selectors, at_s=10, over_s=10)  # type: ignore[arg-type]
    assert lines == [Line({"__name__": "n_total", "instance": "old"}, 200.0, 10.0)]
    assert week.continued(client, selectors, lines) == [Line({"__name__": "n_total", "instance": "new"}, 3.0, 10.0)]  # type: ignore[arg-type]
