"""Every rule of the lint has what it refuses and what it lets pass; ours has no finding."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from lib.monitoring import dashboards, known, lint, lint_query, promql
from lib.monitoring.lint import Finding, lint_dashboard, lint_rules

GUARD = ' and sum by (service) (increase(gateway_requests_total{outcome!="client"}[5m])) >= 3'
EXPRESSIONS = {  # rule: what it refuses, what it does not
    "parses": (["sum(rate(", "up =="], ["up == 1"]),
    "metric-exists": (["gateway_request_total", "sum(rate(gatewey_requests_total[5m]))"],
                      ["up", 'ALERTS{alertstate="firing"}', "sum(rate(gateway_requests_total[5m]))", "a:b:c"]),
    "label-exists": (['rate(gateway_requests_total{outcome="fine"}[5m])', 'rate(gateway_requests_total{outcome!="clients"}[5m])',
                      'rate(gateway_requests_total{kind="ok"}[5m])', 'rate(gateway_requests_total{outcome!~"ok|klient"}[5m])',
                      "sum by (servce) (rate(gateway_requests_total[5m]))"],
                     ['rate(gateway_requests_total{outcome!~"ok|client"}[5m])', 'rate(gateway_requests_total{service="$service"}[5m])',
                      "sum by (service, instance) (rate(gateway_requests_total[5m]))", 'retail_people{camera="any"}',
                      "sum by (x) (label_replace(gateway_in_flight, 'x', '$1', 'service', '(.*)'))"]),
    "counter-rated": (["gateway_requests_total", "sum(gateway_requests_total) > 5", "gateway_request_seconds_count",
                       "max_over_time(gateway_requests_total[5m])"],
                      ["rate(gateway_requests_total[5m])", "absent(gateway_requests_total)", "count(gateway_requests_total)",
                       "increase(gateway_request_seconds_count[5m])", "gateway_in_flight"]),
    "gauge-not-rated": (["rate(gateway_in_flight[5m])", "increase(retail_people[5m])"],
                        ["max_over_time(gateway_in_flight[5m])", "deriv(gateway_in_flight[5m])"]),
    "rate-of-sum": (["rate(sum(gateway_requests_total)[5m:15s])"],
                    ["sum(rate(gateway_requests_total[5m]))", "max_over_time(sum(rate(gateway_requests_total[5m]))[1h:1m])"]),
    "sum-per-count": (["rate(gateway_request_seconds_sum[5m])"],
                      ["sum(rate(gateway_request_seconds_sum[5m])) / sum(rate(gateway_request_seconds_count[5m]))"]),
    "quantile-keeps-le": (["histogram_quantile(0.9, sum by (service) (rate(gateway_request_seconds_bucket[5m])))",
                           "histogram_quantile(0.9, sum(rate(gateway_request_seconds_bucket[5m])))",
                           "histogram_quantile(0.9, sum without (le) (rate(gateway_request_seconds_bucket[5m])))"],
                          ["histogram_quantile(0.9, sum by (le, service) (rate(gateway_request_seconds_bucket[5m])))",
                           "histogram_quantile(0.9, sum without (instance) (rate(gateway_request_seconds_bucket[5m])))",
                           "histogram_quantile(0.9, rate(gateway_request_seconds_bucket[5m]))"]),
    "quantile-of-rates": (["histogram_quantile(0.9, sum by (le) (gateway_request_seconds_bucket))"],
                          ["histogram_quantile(0.9, sum by (le) (increase(gateway_request_seconds_bucket[5m])))"]),
    "percentile-averaged": (["avg(service:latency_seconds:p95)", "avg_over_time(llm:ttft_seconds:p95[1h])",
                             "sum(histogram_quantile(0.9, rate(gateway_request_seconds_bucket[5m])))"],
                            ["max(service:latency_seconds:p95)", "quantile_over_time(0.5, llm:ttft_seconds:p95[1h])",
                             "avg(host:cpu_busy:ratio)"]),
    "range-scrapes": (["rate(gateway_requests_total[45s])"], ["rate(gateway_requests_total[1m])"]),
    "comparison-unit": (["service:latency_seconds:p95 > 2000", "llm:ttft_seconds:p95 > 0.0001", "service:errors:ratio_rate5m > 20",
                         "histogram_quantile(95, rate(gateway_request_seconds_bucket[5m]))"],
                        ["service:latency_seconds:p95 > 2", "service:errors:ratio_rate5m > 0.2", "llm:ttft_seconds:p95 > 0",
                         "vector(1) > 2000"]),
}  # fmt: skip
RECORDED = frozenset({"a:b:c", "service:latency_seconds:p95", "llm:ttft_seconds:p95", "service:errors:ratio_rate5m", "host:cpu_busy:ratio",
                      "slo:sli_error:ratio_rate1h", "slo:errors:increase1h"})  # fmt: skip


def rules(text: str) -> set[str]:
    try:
        return {rule for rule, _ in lint_query.check(promql.parse(text), RECORDED)}
    except ValueError:
        return {"parses"}


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, (bad, _) in EXPRESSIONS.items() for text in bad])
def test_what_misleads_is_found(rule: str, text: str) -> None:
    assert rule in rules(text)


@pytest.mark.parametrize("text", [text for _, good in EXPRESSIONS.values() for text in good])
def test_what_is_right_passes(text: str) -> None:
    assert rules(text) == set()


def test_every_rule_is_tried() -> None:
    assert set(EXPRESSIONS) == set(lint_query.RULES)
    assert set(PANELS) | set(ALERTS) | set(lint_query.RULES) | {"record-name", "absence"} == set(lint.RULES)


def panel(**changes: Any) -> dict[str, Any]:
    """A dashboard of one good panel; `changes`: to its field's defaults where they are one's, else to the panel or its query."""
    (one,) = (copy.deepcopy(one) for one in dashboards.query.panels(dashboards.ALL[0]) if one["title"] == "Duration · fraud")
    one["targets"] = one["targets"][:1]
    for name, value in changes.items():
        for there in (one["fieldConfig"]["defaults"], one["targets"][0], one):
            if name in there:
                there[name] = value
                break
    return {"title": "T", "panels": [one]}


def steps(*values: float) -> dict[str, Any]:
    return {"mode": "absolute", "steps": [{"value": None, "color": "green"}, *({"value": value, "color": "red"} for value in values)]}


RATE = 'sum(rate(gateway_requests_total{service="fraud"}[%s]))'
PANELS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "title": ([{"title": " "}], [{"title": "x"}]),
    "description": ([{"description": ""}], [{"description": "x"}]),
    "unit": ([{"unit": ""}], [{"unit": "s"}]),
    "unit-of-metric": ([{"unit": "ms"}, {"unit": "percentunit"}, {"unit": "reqps"}],
                       [{"unit": "s"}, {"unit": "reqps", "expr": RATE % "$__rate_interval"}, {"unit": "suffix: x"}]),
    "threshold": ([{"thresholds": steps(2000)}, {"thresholds": steps(0.0001)}, {"thresholds": steps(1, 0.1)},
                   {"unit": "percentunit", "expr": "service:errors:ratio_rate5m", "thresholds": steps(5)}],
                  [{"thresholds": steps(0.1, 1)}, {"thresholds": {**steps(2000), "mode": "percentage"}}]),
    "rate-interval": ([{"unit": "reqps", "expr": RATE % "5m"}, {"unit": "reqps", "expr": RATE % "$__interval"}],
                      [{"unit": "reqps", "expr": RATE % "$__range"}, {"unit": "reqps", "expr": RATE % "${__rate_interval}"}]),
    "legend": ([{"legendFormat": ""}], [{"legendFormat": "__auto"}]),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "changes"), [(rule, one) for rule, (bad, _) in PANELS.items() for one in bad])
def test_a_panel_that_misleads_is_found(rule: str, changes: dict[str, Any]) -> None:
    assert rule in {finding.rule for finding in lint_dashboard(panel(**changes), recorded=RECORDED | lint.recorded_names())}


@pytest.mark.parametrize("changes", [one for _, good in PANELS.values() for one in good])
def test_a_panel_that_is_right_passes(changes: dict[str, Any]) -> None:
    assert lint_dashboard(panel(**changes), recorded=lint.recorded_names()) == []


def alert(expr: str, **changes: Any) -> dict[str, Any]:
    return {"alert": "A", "expr": expr, "labels": {"severity": "page"},
            "annotations": {"summary": "s", "description": "d", "runbook_url": "r"}, **changes}  # fmt: skip


BURN = "slo:sli_error:ratio_rate1h > {} * {} and slo:errors:increase1h >= 3"
SHARE = ("sum by (service) (rate(gateway_requests_total{outcome=\"timeout\"}[5m])) / sum by (service) (rate(gateway_requests_total[5m])) "
         "> 0.2")  # fmt: skip
ALERTS = {
    "alert-complete": ([alert("up == 0", labels={}), alert("up == 0", labels={"severity": "urgent"}), alert("up == 0", annotations={}),
                        alert("up == 0", annotations={"summary": "s", "description": "d"})], [alert("up == 0")]),
    "alert-condition": ([alert("gateway_in_flight")],
                        [alert("absent(gateway_in_flight)"), alert("vector(1)", labels={"severity": "none"})]),
    "burn-reachable": ([alert(BURN.format(14.4, 0.07)), alert(BURN.format(6, 0.2))], [alert(BURN.format(14.4, 0.01))]),
    "traffic-guard": ([alert("service:errors:ratio_rate5m > 0.2"), alert(SHARE), alert(BURN.split(" and ")[0].format(6, 0.01))],
                      [alert(f"service:errors:ratio_rate5m > 0.2{GUARD}"), alert(SHARE + GUARD), alert("host:cpu_busy:ratio > 0.9")]),
}  # fmt: skip


def groups(*made: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "g", "rules": [*({"record": name, "expr": "vector(0)"} for name in sorted(RECORDED)), *made]}]


@pytest.mark.parametrize(("rule", "made"), [(rule, one) for rule, (bad, _) in ALERTS.items() for one in bad])
def test_an_alert_that_misleads_is_found(rule: str, made: dict[str, Any]) -> None:
    assert rule in {finding.rule for finding in lint_rules(groups(made), complete=False)}


@pytest.mark.parametrize("made", [one for _, good in ALERTS.values() for one in good])
def test_an_alert_that_is_right_passes(made: dict[str, Any]) -> None:
    assert lint_rules(groups(made), complete=False) == []


def test_beside_a_ratio_silence_is_noticed() -> None:
    ratio = alert(f"service:errors:ratio_rate5m > 0.2{GUARD}")
    assert lint_rules(groups(ratio)) == [Finding("absence", "g / A", "no alert has absent() or up == 0")]
    assert [finding.what for finding in lint_rules(groups(ratio, alert("up == 0")))] == ["no alert has absent()"]
    assert lint_rules(groups(ratio, alert('up{job="x"} == 0 or absent(up)'))) == []


def test_a_recorded_name_says_level_metric_and_operation() -> None:
    bad, good = ("errors", "Job:x:y", "a:b"), ("gpu:power_watts", "a:b:c")
    found = lint_rules([{"name": "g", "rules": [{"record": name, "expr": "vector(0)"} for name in (*bad, *good)]}])
    assert [(finding.rule, finding.where) for finding in found] == [("record-name", f"g / {name}") for name in bad]


@pytest.mark.parametrize("board", dashboards.ALL, ids=lambda board: board["uid"])
def test_our_dashboards_have_no_finding(board: dict[str, Any]) -> None:
    assert lint_dashboard(board, recorded=lint.recorded_names()) == []


def test_our_rules_have_no_finding() -> None:
    assert lint_rules(lint.rule_groups()) == []


@pytest.mark.parametrize(("text", "unit"), [
    ("gateway_in_flight", "requests"), ("sum(rate(gen_ai_tokens_total[5m]))", "tokens/s"), ("service:latency_seconds:p95 > 0", "seconds"),
    ("rate(process_cpu_seconds_total[5m])", "ratio"), ("increase(gen_ai_tokens_total[5m])", "tokens"), ("gateway_in_flight * 2", None),
    ("sum(rate(gateway_request_seconds_sum[5m])) / sum(rate(gateway_request_seconds_count[5m]))", "seconds"), ("vector(1)", None),
    ("histogram_quantile(0.9, sum by (le) (rate(fraud_stage_seconds_bucket[5m])))", "seconds"), ("(gpu:power_watts)", "watts"),
])  # fmt: skip
def test_units_are_known(text: str, unit: str | None) -> None:
    assert promql.unit(promql.parse(text)) == unit


def test_the_table_of_metrics_is_what_the_lint_reads() -> None:
    assert known.find("gateway_requests_total") and not known.find("gateway_requests")
