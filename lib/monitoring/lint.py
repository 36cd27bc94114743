"""What is wrong with a dashboard or a rule although it parses: panels that mislead, alerts that cannot fire or fire at night for nothing.

Each finding names its rule; RULES says why the rule is one. The same rules judge vLLM's published dashboards. What cannot be told from
the expression (a metric that nobody listed, the unit of a product) is no finding, except that a metric has to exist.

    python -m lib.monitoring.lint
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lib import fetch, home
from lib.monitoring import dashboards, lint_query, promql
from lib.monitoring.dashboards.query import panels
from lib.monitoring.lint_query import Finding

RULES = {
    **lint_query.RULES,
    "title": "a panel without a title cannot be spoken of",
    "description": "whoever is woken needs to be told what a panel says and when to worry",
    "unit": "a number without a unit is read in the wrong one",
    "unit-of-metric": "seconds shown as milliseconds are wrong a thousandfold, a share as a percentage a hundredfold",
    "threshold": "a threshold beyond what the unit can reach never colours anything",
    "rate-interval": "a rate over less than four scrapes has gaps, over a fixed range it misses what lies between two points",
    "legend": "series that are called by all their labels cannot be told apart",
    "record-name": "level:metric:operation says what a series is grouped by and how it was made",
    "alert-complete": "an alert says how urgent it is, what happened, and where to read on",
    "alert-condition": "an alert without a condition fires as long as its series exist",
    "burn-reachable": "a share of errors never exceeds 1: above that the alert cannot fire",
    "traffic-guard": "at night one failed request of three is a third: a ratio alerts only beside a volume",
    "absence": "a ratio of what is no longer told is no ratio: beside it something has to notice `up == 0` and what is absent",
}
INPUT, THEIRS = "vllm-observability", "vLLM"
RULES_FOLDER = home.ROOT / "monitoring" / "rules"
DRAWN = {"stat", "gauge", "bargauge", "timeseries", "state-timeline", "heatmap", "histogram", "table", "barchart", "piechart"}
TELLS = {"state-timeline", "heatmap"}  # what names its series otherwise
FAMILY = {"s": "seconds", "ms": "milliseconds", "µs": "microseconds", "ns": "nanoseconds", "m": "minutes", "percentunit": "ratio",
          "percent": "percent", "bytes": "bytes", "decbytes": "bytes", "mbytes": "mebibytes", "kbytes": "kibibytes", "watt": "watts",
          "currencyUSD": "usd", "cps": "/s", "reqps": "/s", "ops": "/s", "rps": "/s", "req/s": "/s", "celsius": "celsius"}  # fmt: skip
MOST_SECONDS = 1000
SEVERITIES = {"page", "ticket", "none"}


def lint_dashboard(dashboard: Mapping[str, Any], *, recorded: Iterable[str] = ()) -> list[Finding]:
    """What is wrong with it. `recorded`: names of series that rules make."""
    found, names = [], frozenset(recorded)
    for one in panels(dashboard):
        if one["type"] in DRAWN:
            where = f"{dashboard.get('title', '')} / {one.get('title', '') or one.get('id')}"
            found += [Finding(rule, where, what) for rule, what in (*_panel(one), *_queries(one, names))]
    return found


def _panel(one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    told = one.get("fieldConfig", {}).get("defaults", {})
    named = one.get("options", {}).get("textMode") == "name"
    if not str(one.get("title") or "").strip():
        yield "title", "no title"
    if not str(one.get("description") or "").strip():
        yield "description", "no description"
    if not (shown := told.get("unit") or _axis_unit(one)) and not named:
        yield "unit", "no unit"
    yield from (("threshold", what) for what in _thresholds(one, told, shown or ""))


def _axis_unit(one: Mapping[str, Any]) -> str:
    """A heatmap says its unit at its axis."""
    return str(one.get("options", {}).get("yAxis", {}).get("unit") or "")


def _thresholds(one: Mapping[str, Any], told: Mapping[str, Any], shown: str) -> Iterator[str]:
    """Of those that are seen: Grafana keeps a threshold of 80 in every panel, whether it is drawn or not."""
    drawn = told.get("custom", {}).get("thresholdsStyle", {}).get("mode", "off") != "off"
    coloured = told.get("color", {}).get("mode") == "thresholds" and one["type"] != "timeseries"
    steps = told.get("thresholds", {})
    if not (drawn or coloured) or steps.get("mode") == "percentage":
        return
    values = [step["value"] for step in steps.get("steps", []) if step.get("value") is not None]
    if values != sorted(values):
        yield f"{values} do not rise"
    for value in values:
        if shown == "percentunit" and not 0 <= value <= 1:
            yield f"{value:g} of a share that ends at 1"
        if shown == "percent" and not (value == 0 or 1 <= value <= 100):
            yield f"{value:g} of a percentage"
        if (shown == "s" and value >= MOST_SECONDS) or (shown in ("ms", "s") and 0 < value < 1e-3):
            yield f"{value:g} {shown}"


def _queries(one: Mapping[str, Any], recorded: frozenset[str]) -> Iterator[tuple[str, str]]:
    told = one.get("fieldConfig", {}).get("defaults", {})
    for target in one.get("targets", []):
        if not (text := target.get("expr")):
            continue
        if not target.get("legendFormat") and one["type"] not in TELLS:
            yield "legend", f"{target.get('refId')}: no legend for {text}"
        try:
            expr = promql.parse(text)
        except ValueError as error:
            yield "parses", f"{text}: {error}"
            continue
        yield from lint_query.check(expr, recorded)
        yield from (("rate-interval", what) for what in _windows(expr))
        counted = promql.unit(expr)
        shown = FAMILY.get(told.get("unit") or "")
        if one["type"] in TELLS or counted is None or shown is None:
            continue
        if counted != shown and not (shown == "/s" and counted.endswith("/s")):
            yield "unit-of-metric", f"{text} is counted in {counted} and shown in {told['unit']!r}"


def _windows(expr: Any) -> Iterator[str]:
    allowed = {promql.WINDOWS["__rate_interval"], promql.WINDOWS["__range"]}
    for node in promql.walk(expr):
        if node.kind == "MatrixSelector" and (by := promql.function(node.above[0])) in promql.RATES and node.expr.range not in allowed:
            window = "$__interval" if node.expr.range == promql.WINDOWS["__interval"] else f"{node.expr.range.total_seconds():g} s"
            yield f"{by}({promql.name(node.expr.vector_selector)}[{window}])"


def lint_rules(groups: Sequence[Mapping[str, Any]], *, scrape_s: float = 15, complete: bool = True) -> list[Finding]:
    """What is wrong with them. `complete`: these are all the rules there are, so what is absent from them is missing."""
    rules = [(f"{group['name']} / {rule.get('record') or rule.get('alert')}", rule) for group in groups for rule in group["rules"]]
    recorded = frozenset(rule["record"] for _, rule in rules if "record" in rule)
    found, ratios, watched = [], [], set()
    for where, rule in rules:
        try:
            expr = promql.parse(str(rule["expr"]))
        except ValueError as error:
            found.append(Finding("parses", where, f"{rule['expr']}: {error}"))
            continue
        told = [*lint_query.check(expr, recorded, scrape_s=scrape_s)]
        if "record" in rule:
            named = lint_query.RECORD.fullmatch(rule["record"])
            told += [] if named else [("record-name", f"{rule['record']} is no level:metric:operation")]
        else:
            told += _alert(rule, expr)
            ratios += [where] if lint_query.ratios(expr) else []
            watched |= lint_query.absences(expr)
        found += [Finding(name, where, what) for name, what in told]
    if complete and ratios and (missing := {"up == 0", "absent()"} - watched):
        found.append(Finding("absence", ratios[0], f"no alert has {' or '.join(sorted(missing))}"))
    return found


def _alert(rule: Mapping[str, Any], expr: Any) -> Iterator[tuple[str, str]]:
    labels, notes = rule.get("labels", {}), rule.get("annotations", {})
    missing = [name for name in ("summary", "description", "runbook_url") if not str(notes.get(name) or "").strip()]
    if labels.get("severity") not in SEVERITIES:
        yield "alert-complete", f"severity is {labels.get('severity')!r}, not one of {', '.join(sorted(SEVERITIES))}"
    if missing:
        yield "alert-complete", f"no {', no '.join(missing)}"
    if not lint_query.conditional(expr) and labels.get("severity") != "none":
        yield "alert-condition", f"{rule['expr']} compares nothing"
    yield from (("burn-reachable", what) for what in lint_query.unreachable(expr))
    if lint_query.ratios(expr) and not lint_query.guarded(expr):
        yield "traffic-guard", f"{rule['expr']} asks for no number of events"


def recorded_names(folder: Path = RULES_FOLDER) -> frozenset[str]:
    return frozenset(rule["record"] for group in rule_groups(folder) for rule in group["rules"] if "record" in rule)


def rule_groups(folder: Path = RULES_FOLDER) -> list[Any]:
    return [group for path in sorted(folder.glob("*.yml")) for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]


def theirs() -> dict[str, Any]:
    """vLLM's published dashboards by file name, fetched once. Raises fetch.Refused."""
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(fetch.fetch(INPUT).rglob("*.json"))}


def compare() -> pd.DataFrame:
    """owner ("ours", "vLLM"), panels, rule, why, findings, example: a row for each rule and owner. Raises fetch.Refused."""
    sets = {"ours": list(dashboards.ALL), THEIRS: list(theirs().values())}
    rows = []
    for owner, boards in sets.items():
        found = [finding for board in boards for finding in lint_dashboard(board, recorded=recorded_names() if owner == "ours" else ())]
        found += lint_rules(rule_groups()) if owner == "ours" else []
        n = sum(one["type"] in DRAWN for board in boards for one in panels(board))
        for rule, why in RULES.items():
            hits = [finding for finding in found if finding.rule == rule]
            rows.append((owner, n, rule, why, len(hits), f"{hits[0].where}: {hits[0].what}" if hits else ""))
    return pd.DataFrame(rows, columns=["owner", "panels", "rule", "why", "findings", "example"])


def main() -> int:
    """Both, rule by rule; 1 where ours has a finding."""
    try:
        frame = compare()
    except fetch.Refused as reason:
        print(f"vLLM's dashboards are not to be had: {reason}", file=sys.stderr)
        return 2
    wide = frame.pivot(index="rule", columns="owner", values="findings").loc[list(RULES)]
    print(wide.to_string(), *(f"{row.owner} · {row.rule}: {row.example}" for row in frame.itertuples() if row.findings), sep="\n")
    return int(frame[frame.owner == "ours"].findings.sum() > 0)


if __name__ == "__main__":
    raise SystemExit(main())
