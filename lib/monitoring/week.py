"""The clean week that each scenario of a drill begins with, so that every fault meets the history that it would meet in production.

A Prometheus that has just begun judges three days by seconds: every long window would burn at once, and tickets would come before pages.
So what the rules read over long windows is measured for a while under the usual load, then told to a new database as if it had gone on
like that all week: counters as straight lines, recorded series as constants. It is a fixture, and nothing of it is a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import promql_parser as ast

from lib.monitoring import promql
from lib.monitoring.prometheus import Client, series
from lib.monitoring.timing import Timing

SHORT = timedelta(minutes=5)  # what is read over no more than this fills itself while a scenario is calm
STEP_SCRAPES = 3  # a sample for so many scrapes is enough for windows of half an hour and more


@dataclass(frozen=True, slots=True)
class Line:
    """A series as it went: its labels, its value at the end, and its rise per second; 0 for what is no counter."""

    labels: Mapping[str, str]
    value: float
    rise_per_s: float = 0.0


def needed(groups: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Selectors that rules (of production's timing) read over long ranges → whether `rate` or `increase` reads them: a counter."""
    found: dict[str, bool] = {}
    for group in groups:
        for rule in group["rules"]:
            for inside, selector in _long(promql.parse(rule["expr"])):
                found[selector] = found.get(selector, False) or inside in promql.RATES
    return found


def _long(expr: Any) -> Iterator[tuple[str, str]]:
    """The function around each long range, and what it selects."""
    for node in promql.walk(expr):
        if node.kind in ("MatrixSelector", "SubqueryExpr") and node.expr.range and node.expr.range > SHORT:
            yield from ((promql.function(node.under(ast.Call)), inner.expr.prettify()) for inner in promql.selectors(node.expr))


def measured(client: Client, selectors: Mapping[str, bool], *, at_s: float, over_s: float) -> list[Line]:
    """How each selected series went in the last `over_s`."""
    lines = {}
    for selector, counts in selectors.items():
        for told, rows in client.range(selector, at_s - over_s, at_s, over_s / 16).groupby("series", sort=False):
            value, t_s = rows["value"], rows["t_s"]
            spent_s = float(t_s.iloc[-1] - t_s.iloc[0])
            rise = max(0.0, float(value.iloc[-1] - value.iloc[0])) / spent_s if counts and spent_s else 0.0
            lines[told] = Line(rows["labels"].iloc[0], float(value.iloc[-1] if counts else value.median()), rise)
    return list(lines.values())


def continued(client: Client, selectors: Mapping[str, bool], lines: Sequence[Line]) -> list[Line]:
    """The lines as they would end now. Counters go on from where they are, for a jump would look like a burst of events.

    An instance that was replaced has the history of the one before it.
    """
    rises = {_anonymous(line.labels): line.rise_per_s for line in lines}
    counters = {}
    for selector in (selector for selector, counts in selectors.items() if counts):
        for row in client.instant(selector).to_dict("records"):
            labels = {str(key): str(value) for key, value in row.items() if key != "value" and isinstance(value, str)}
            counters[series(labels)] = Line(labels, float(row["value"]), rises.get(_anonymous(labels), 0.0))
    counted = {line.labels["__name__"] for line in counters.values()}
    return [*counters.values(), *(line for line in lines if line.labels["__name__"] not in counted)]


def _anonymous(labels: Mapping[str, str]) -> str:
    return series({name: value for name, value in labels.items() if name != "instance"})


def openmetrics(lines: Sequence[Line], *, until_s: float, timing: Timing) -> Iterator[str]:
    """The week before `until_s` in OpenMetrics text, a metric after another."""
    step_s = STEP_SCRAPES * timing.scrape_s
    before_s = [step_s * n for n in range(int(timing.seconds("1w") / step_s), -1, -1)]
    by_name: dict[str, list[Line]] = {}
    for line in lines:
        by_name.setdefault(line.labels["__name__"], []).append(line)
    for name, alike in by_name.items():
        yield f"# TYPE {name} unknown\n"
        for line in alike:
            told = series(line.labels)
            for ago_s in before_s:
                yield f"{told} {line.value - line.rise_per_s * ago_s:.12g} {until_s - ago_s:.3f}\n"
    yield "# EOF\n"
