"""What is wrong with a PromQL expression although it parses. Pure: a tree in, (rule, what) out; each rule with its reason in RULES."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import promql_parser as ast

from lib.monitoring import known, promql
from lib.monitoring.promql import Node
from lib.monitoring.timing import FEWEST_SCRAPES

RULES = {
    "parses": "what Prometheus refuses shows nothing",
    "metric-exists": "a misspelt metric is an empty panel, and an alert that never fires",
    "label-exists": "a matcher for a value that cannot be matches nothing; grouping by a label that is not there groups nothing",
    "counter-rated": "the height of a counter says only how long ago its process began",
    "gauge-not-rated": "a rate takes every fall of a gauge for a restart",
    "rate-of-sum": "a sum hides the restart of one of its counters; the rate of it jumps",
    "sum-per-count": "the rate of a histogram's sum grows with the traffic; an average is that sum over its count",
    "quantile-keeps-le": "histogram_quantile without `le` has no buckets to read",
    "quantile-of-rates": "a quantile of counts since the start answers for all time, not for now",
    "percentile-averaged": "the mean of percentiles is the percentile of nothing",
    "range-scrapes": "in a range of fewer than four scrapes one missing makes the rate jump or vanish",
    "comparison-unit": "seconds beside thousands, or a share beside more than 1: the wrong unit",
}
RECORD = re.compile(r"[a-z_]+:[a-z0-9_]+(:[a-z0-9_]+|_(watts|bytes|seconds|usd_per_hour))")  # without an operation the unit ends it
BUILT_IN = {"ALERTS", "ALERTS_FOR_STATE", "up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_series_added"}
TARGET_LABELS = {"job", "instance", "le", "quantile", "engine", "model", "__name__"}
PRESENCE = {"absent", "absent_over_time", "present_over_time", "count_over_time", "timestamp", "changes", "resets"}
LONGEST_S, SHORTEST_S = 1000.0, 1e-3


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` breaks `rule`, `where`."""

    rule: str
    where: str
    what: str


def check(expr: Any, recorded: frozenset[str], *, scrape_s: float = 15) -> Iterator[tuple[str, str]]:
    """(rule, what) for all that is wrong in `expr`."""
    for node in promql.walk(expr):
        if node.kind == "VectorSelector":
            yield from _selector(node, recorded)
        elif node.kind == "Call":
            yield from _call(node)
        elif node.kind == "AggregateExpr":
            yield from _aggregate(node.expr)
        elif node.kind == "MatrixSelector" and (range_s := node.expr.range.total_seconds()) < FEWEST_SCRAPES * scrape_s:
            yield "range-scrapes", f"{promql.name(node.expr.vector_selector)}[{range_s:g}s] at scrapes of {scrape_s:g} s"
        elif node.kind == "BinaryExpr" and promql.operator(node.expr) in promql.COMPARISONS:
            yield from _comparison(node.expr)


def _selector(node: Node, recorded: frozenset[str]) -> Iterator[tuple[str, str]]:
    metric, family = promql.name(node.expr), known.find(promql.name(node.expr))
    if metric in recorded or metric in BUILT_IN:
        return
    if family is None:
        near = get_close_matches(metric, [*recorded, *(series for one in known.metrics().values() for series in one.series)], n=1)
        yield "metric-exists", f"{metric or 'a selector without a name'}" + (f"; did you mean {near[0]}?" if near else "")
        return
    yield from (("label-exists", what) for what in _matchers(node.expr, family))
    rated = node.under(ast.Call, ast.AggregateExpr)
    window = isinstance(node.above[0] if node.above else None, ast.MatrixSelector)
    counter = family.type == "counter" or (metric not in (family.name,) and family.type in ("histogram", "summary"))
    by = promql.function(rated) or promql.operator(rated)
    if counter and by not in promql.RATES | PRESENCE | {"count", "group"}:
        yield "counter-rated", f"{metric} is a counter" + (f" under {by}" if by else "")
    if not counter and window and by in promql.RATES:
        yield "gauge-not-rated", f"{by}({metric})"


def _matchers(selector: Any, family: known.Metric) -> Iterator[str]:
    for one in selector.matchers.matchers:
        if one.name not in family.labels:
            if one.name not in TARGET_LABELS:
                yield f"{family.name} has no label {one.name}"
        elif (values := family.labels[one.name]) and "$" not in one.value:
            pattern = one.op in (ast.MatchOp.Re, ast.MatchOp.NotRe)
            parts = one.value.split("|") if pattern else [one.value]
            if wrong := [part for part in parts if not any(re.fullmatch(part, value) if pattern else part == value for value in values)]:
                yield f"{family.name}{{{one.name}}} is one of {', '.join(values)}, never {', '.join(wrong) or 'empty'}"


def _call(node: Node) -> Iterator[tuple[str, str]]:
    word, expr = promql.function(node.expr), node.expr
    inner = promql.bare(expr.args[0]) if word in promql.RATES else None
    if isinstance(inner, ast.SubqueryExpr) and any(isinstance(below.expr, ast.AggregateExpr) for below in promql.walk(inner)):
        yield "rate-of-sum", f"{word}({inner.expr})"
    if word in promql.RATES and isinstance(expr.args[0], ast.MatrixSelector):
        metric = promql.name(expr.args[0].vector_selector)
        divided = any(isinstance(one, ast.BinaryExpr) and promql.operator(one) == "/" for one in node.above)
        if metric.endswith("_sum") and (family := known.find(metric)) and family.type == "histogram" and not divided:
            yield "sum-per-count", f"{word}({metric})"
    if word == "histogram_quantile":
        yield from _quantile(expr)
    if word.endswith("avg_over_time") and _percentile(expr.args[0]):
        yield "percentile-averaged", f"{word} of {expr.args[0]}"


def _quantile(expr: Any) -> Iterator[tuple[str, str]]:
    phi, inner = promql.constant(expr.args[0]), promql.bare(expr.args[1])
    if phi is not None and not 0 <= phi <= 1:
        yield "comparison-unit", f"quantile {phi:g}: it lies between 0 and 1"
    for node in promql.walk(inner):
        if isinstance(node.expr, ast.AggregateExpr):
            keeps, labels = promql.grouped(node.expr)
            if keeps != ("le" in labels):
                yield "quantile-keeps-le", f"{promql.operator(node.expr)} without le under histogram_quantile"
        if node.kind == "VectorSelector" and promql.function(node.under(ast.Call)) not in promql.RATES:
            yield "quantile-of-rates", f"{promql.name(node.expr)} under histogram_quantile"


def _aggregate(expr: Any) -> Iterator[tuple[str, str]]:
    if promql.operator(expr) in ("avg", "sum", "stddev") and _percentile(expr.expr):
        yield "percentile-averaged", f"{promql.operator(expr)} of {expr.expr}"
    below = [node.expr for node in promql.walk(expr.expr)]
    families = [known.find(promql.name(one)) for one in below if isinstance(one, ast.VectorSelector)]
    made = any(promql.function(one).startswith("label_") or isinstance(one, ast.BinaryExpr) for one in below)
    keeps, labels = promql.grouped(expr)
    if keeps and families and all(families) and not made:
        there = TARGET_LABELS.union(*(family.labels for family in families if family))
        if wrong := [label for label in labels if label not in there]:
            yield "label-exists", f"by ({', '.join(wrong)}): {', '.join(sorted({f.name for f in families if f}))} has no such label"


def _percentile(expr: Any) -> bool:
    """Whether it is one already: recorded as such, or made by histogram_quantile."""
    expr = promql.bare(expr)
    if isinstance(expr, ast.MatrixSelector | ast.SubqueryExpr):
        expr = expr.vector_selector if isinstance(expr, ast.MatrixSelector) else promql.bare(expr.expr)
    if isinstance(expr, ast.VectorSelector):
        return bool(promql.QUANTILE.fullmatch(promql.name(expr).rpartition(":")[2].partition("_")[0]))
    return promql.function(expr) == "histogram_quantile"


def _comparison(expr: Any) -> Iterator[tuple[str, str]]:
    value, unit = promql.constant(expr.rhs), promql.unit(expr.lhs)
    if value is None or unit is None:
        return
    if unit == "seconds" and (abs(value) >= LONGEST_S or 0 < abs(value) < SHORTEST_S):
        yield "comparison-unit", f"{expr.lhs} in seconds {promql.operator(expr)} {value:g}"
    if unit == "ratio" and abs(value) > 1:
        yield "comparison-unit", f"{expr.lhs}, a share, {promql.operator(expr)} {value:g}"


def conditional(expr: Any) -> bool:
    """Whether it can be false while its series exist."""
    words = {promql.operator(node.expr) for node in promql.walk(expr)} | {promql.function(node.expr) for node in promql.walk(expr)}
    return bool(words & (promql.COMPARISONS | PRESENCE | {"unless"}))


def ratios(expr: Any) -> list[Any]:
    """Comparisons of a share of events with a number: what few events make jump."""
    return [node.expr for node in promql.walk(expr) if promql.operator(node.expr) in (">", ">=", "<", "<=") and _of_events(node.expr.lhs)
            and promql.constant(node.expr.rhs) not in (None, 0.0)]  # fmt: skip


def _of_events(expr: Any) -> bool:
    """A recorded share of requests or of an objective's events, or a quotient of two rates of them."""
    expr = promql.bare(expr)
    names = [promql.name(node.expr) for node in promql.selectors(expr)]
    if isinstance(expr, ast.VectorSelector):
        return names[0].startswith(("slo:", "service:")) and ":ratio" in names[0] and "budget" not in names[0]
    if not (isinstance(expr, ast.BinaryExpr) and promql.operator(expr) == "/"):
        return False
    counted = [name for name in names if name.startswith(("slo:", "service:")) or ((found := known.find(name)) and "request" in found.unit)]
    return len(counted) == len(names) > 1


def guarded(expr: Any) -> bool:
    """Whether it also asks for a number of events, one or more."""
    for node in promql.walk(expr):
        if promql.operator(node.expr) in (">", ">=") and (value := promql.constant(node.expr.rhs)) is not None and value >= 1:
            inside = [below.expr for below in promql.walk(node.expr.lhs)]
            counts = any(promql.function(one) in ("increase", "count_over_time") for one in inside)
            if counts or any(isinstance(one, ast.VectorSelector) and ":increase" in promql.name(one) for one in inside):
                return True
    return False


def unreachable(expr: Any) -> Iterator[str]:
    for one in ratios(expr):
        if promql.operator(one).startswith(">") and (value := promql.constant(one.rhs)) is not None and value >= 1:
            yield f"{one.lhs} {promql.operator(one)} {value:g}"


def absences(expr: Any) -> set[str]:
    """Which of the two ways to notice silence it has."""
    found = set()
    for node in promql.walk(expr):
        if promql.function(node.expr) in ("absent", "absent_over_time"):
            found.add("absent()")
        if promql.operator(node.expr) == "==" and "up" in map(promql.name, (one.expr for one in promql.selectors(node.expr.lhs))):
            found |= {"up == 0"} if promql.constant(node.expr.rhs) == 0 else set()
    return found
