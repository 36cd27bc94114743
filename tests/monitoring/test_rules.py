"""What the rules record and when a budget's burn is told, by Prometheus' own evaluation of made-up counters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import promql_parser as promql
import pytest
import yaml

from lib.install import Missing
from lib.monitoring import config, promtool, rules, spec, tools, vocabulary
from lib.monitoring.slo import PAIRS
from lib.monitoring.timing import DRILL, PRODUCTION, Timing

SLOS = spec.load(config.HOME / "slo")
needs_promtool = pytest.mark.skipif(isinstance(tools.find("promtool"), Missing), reason="promtool is not on this machine")
OK, BAD, NEVER = (f'gateway_requests_total{{service="fraud",outcome="{outcome}"}}' for outcome in ("ok", "timeout", "server"))
PAGES = 'count by (window) (ALERTS{alertname="FraudAvailabilityBudgetBurn",alertstate="firing"})'
FASTEST = 'count(ALERTS{alertname="FraudAvailabilityBudgetBurn",window="1h",alertstate="firing"})'
HOUR, SHORT = ('slo:sli_error:ratio_rate' + window + '{service="fraud",slo="availability"}' for window in ("1h", "5m"))
LABELS = '{service="fraud",slo="availability"}'
Answer = Mapping[str, float]  # labels, as PromQL has them → value


def evaluated(tmp_path: Path, rules: str, series: Mapping[str, str], asks: Mapping[tuple[str, str], Answer | float]) -> None:
    """Samples a minute, in promtool's shorthand; (expression, at) → what has to come of it, a number where it has no labels.

    `rules`: the files' names; promtool takes its time for each rule.
    """
    made = config.files(PRODUCTION)
    files = {f"{name}.yml": made[f"rules/{name}.yml"] for name in rules.split()}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    told = [{"expr": expr, "eval_time": at, "exp_samples": [
        {"labels": labels, "value": value} for labels, value in (answer if isinstance(answer, Mapping) else {"{}": answer}).items()]}
        for (expr, at), answer in asks.items()]  # fmt: skip
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({
        "rule_files": [*files], "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "promql_expr_test": told, "input_series": inputs}]}))  # fmt: skip
    assert (wrong := promtool.test_rules([tmp_path / "test.yml"])) is None, wrong


@needs_promtool
def test_an_outage_pages_when_the_formula_says_and_ends_with_its_short_window(tmp_path: Path) -> None:
    # 14.4 × 1 % of an hour is 8.64 minutes of nothing but errors. The hour before is clean; it lasts 20 minutes.
    evaluated(tmp_path, "slo", {OK: "0+2400x60 144000x20 144000+2400x60", BAD: "0x61 2400+2400x19 48000x60"}, {
        (FASTEST, "60m"): {}, (FASTEST, "69m"): {}, (FASTEST, "70m"): 1, (FASTEST, "85m"): 1, (FASTEST, "87m"): {},
        (f'{PAGES} and on (window) ALERTS{{severity="page"}}', "80m"): {'{window="1h"}': 1, '{window="6h"}': 1},
    })  # fmt: skip


@needs_promtool
def test_two_failures_of_three_requests_at_night_wake_nobody_and_a_third_does(tmp_path: Path) -> None:
    night = {OK: "0x30 1x90", NEVER: "0x120"}
    evaluated(tmp_path, "slo", {**night, BAD: "0x30 1x1 2x90"}, {(PAGES, "33m"): {}, (f"round({SHORT}, 0.01)", "33m"): {LABELS: 0.67}})
    evaluated(tmp_path, "slo", {**night, BAD: "0x30 2x1 4x90"}, {
        (PAGES, "33m"): {f'{{window="{long}"}}': 1 for long in ("1h", "6h", "1d", "3d")}})  # fmt: skip


@needs_promtool
def test_an_idle_service_has_failed_nothing_and_one_without_counters_says_nothing(tmp_path: Path) -> None:
    evaluated(tmp_path, "slo services", {OK: "7x90", BAD: "3x90"}, {
        (HOUR, "80m"): {HOUR: 0}, ('slo:error_budget_left:ratio{slo="availability"}', "80m"):
            {'slo:error_budget_left:ratio{service="fraud",slo="availability"}': 1},
        ('slo:sli_error:ratio_rate1h{service="llm"}', "80m"): {}, ('service:latency_seconds:p95', "80m"): {},
        ("service:errors:ratio_rate5m", "80m"): {'service:errors:ratio_rate5m{service="fraud"}': 0},
    })  # fmt: skip


@needs_promtool
def test_counters_that_begin_anew_are_no_errors(tmp_path: Path) -> None:
    evaluated(tmp_path, "slo services", {OK: "0+2400x60 0+2400x60", BAD: "0+2x60 0+2x60"}, {
        ("ALERTS{alertname=~'.+BudgetBurn|ErrorBurst'}", "62m"): {},
        (f"round({HOUR}, 0.0001)", "62m"): {LABELS: 0.0008}, (f"round({SHORT}, 0.0001)", "62m"): {LABELS: 0.0008},
    })  # fmt: skip


@needs_promtool
def test_the_budget_is_of_events_and_not_of_minutes(tmp_path: Path) -> None:
    # An hour of 100 a minute without error, then one of 1 a minute of which half fail: 30 of 6060, not a quarter.
    evaluated(tmp_path, "slo", {OK: "0+100x60 6000+0.5x60 6030x10", BAD: "0x60 0+0.5x60 30x10"},
              {('round(slo:error_budget_left:ratio{slo="availability"}, 0.02)', "130m"): {'{service="fraud",slo="availability"}': 0.5}})


@needs_promtool
def test_latency_counts_what_was_late_and_nothing_else(tmp_path: Path) -> None:
    def bucket(le: str) -> str:
        return f'gateway_request_seconds_bucket{{service="fraud",le="{le}"}}'

    evaluated(tmp_path, "slo services", {bucket("0.082"): "0+80x20", bucket("0.1"): "0+90x20", bucket("+Inf"): "0+100x20",
                         'gateway_request_seconds_count{service="fraud"}': "0+100x20"}, {
        ('round(slo:sli_error:ratio_rate5m{service="fraud"}, 0.001)', "15m"): {'{service="fraud",slo="latency"}': 0.1},
        ("round(service:latency_seconds:p50, 0.001)", "15m"): {'{service="fraud"}': 0.051},
    })  # fmt: skip


@needs_promtool
def test_both_engines_speak_one_language(tmp_path: Path) -> None:
    vllm = 'job="llm",engine="vLLM",exported_engine="0",model="m",model_name="m"'
    evaluated(tmp_path, "llm", {
        f"vllm:prompt_tokens_total{{{vllm}}}": "0+600x20", f"vllm:prefix_cache_hits_total{{{vllm}}}": "0+240x20",
        f"vllm:generation_tokens_total{{{vllm}}}": "0+960x20", f"vllm:iteration_tokens_total_count{{{vllm}}}": "0+120x20",
        f"vllm:num_requests_waiting{{{vllm}}}": "3x20", 'deployment_weights_bytes{engine="vLLM"}': "1000000000x20",
        'machine_bandwidth_bytes_per_second{job="node"}': "10000000000x20",
        'llamacpp:prompt_tokens_total{job="llm",engine="llama.cpp",model="s"}': "0+60x20",
        'llamacpp:prompt_tokens_cached_total{job="llm",engine="llama.cpp",model="s"}': "0+120x20",
    }, {
        ("llm:input_tokens:rate5m + 0", "15m"): {'{engine="vLLM",model="m"}': 6, '{engine="llama.cpp",model="s"}': 1},
        ("llm:cached_tokens:rate5m + 0", "15m"): {'{engine="vLLM",model="m"}': 4, '{engine="llama.cpp",model="s"}': 2},
        ("llm:output_tokens:rate5m + 0", "15m"): {'{engine="vLLM",model="m"}': 16},
        ("llm:batch:requests + 0", "15m"): {'{engine="vLLM",model="m"}': 8},
        ("llm:waiting:requests + 0", "15m"): {'{engine="vLLM",model="m"}': 3},
        ("llm:mbu:ratio + 0", "15m"): {'{engine="vLLM",model="m"}': 0.2},
    })  # fmt: skip


@needs_promtool
def test_an_hour_and_a_request_are_priced_by_kind(tmp_path: Path) -> None:
    evaluated(tmp_path, "llm", {
        'gen_ai_tokens_total{model="m",type="output"}': "0+6000x20", 'gen_ai_tokens_total{model="m",type="input_cached"}': "0+60000x20",
        'token_price_usd{model="m",type="output"}': "0.00001x20", 'token_price_usd{model="m",type="input_cached"}': "0.000001x20",
        'gen_ai_server_time_to_first_token_seconds_count{model="m"}': "0+60x20",
    }, {
        ("round(llm:cost_usd_per_hour, 0.0001)", "15m"): {'{model="m",type="output"}': 3.6, '{model="m",type="input_cached"}': 3.6},
        ("round(llm:cost_usd_per_request:ratio5m, 0.0001)", "15m"): {'{model="m"}': 0.002},
        ("round(llm:tokens_per_request:ratio5m, 0.01)", "15m"): {'{model="m",type="output"}': 100, '{model="m",type="input_cached"}': 1000},
    })  # fmt: skip


@needs_promtool
def test_scores_are_compared_where_the_two_distributions_lie_furthest_apart(tmp_path: Path) -> None:
    def both(le: str, share: float, seen: int) -> dict[str, str]:
        return {f'fraud_probability_bucket{{le="{le}"}}': f"0+{seen}x20", f'deployment_score_cdf{{le="{le}"}}': f"{share}x20"}

    seen = {**both("0.1", 0.5, 20), **both("0.5", 0.9, 90), **both("+Inf", 1, 100), "fraud_probability_count": "0+100x20"}
    evaluated(tmp_path, "models", seen, {
        ("round(fraud:score_shift:ks, 0.0001)", "15m"): 0.3, ("round(fraud:score_shift:bound, 0.0001)", "15m"): 0.0872,
        ("ALERTS{alertname='ScoreDrift'}", "12m"):
            {'ALERTS{alertname="ScoreDrift",alertstate="firing",service="fraud",severity="page"}': 1},
    })  # fmt: skip


@needs_promtool
def test_pressure_counts_where_the_kernel_tells_it_and_business_where_not(tmp_path: Path) -> None:
    idle = {f'node_cpu_seconds_total{{cpu="{cpu}",mode="idle",instance="n"}}': "0+0.6x20" for cpu in (0, 1)}
    fires = 'count(ALERTS{alertname="HostCpuSaturated",alertstate="firing"})'
    evaluated(tmp_path, "host", idle, {("round(host:cpu_busy:ratio, 0.001)", "15m"): {'{instance="n"}': 0.99}, (fires, "15m"): 1})
    pressure = 'node_pressure_cpu_waiting_seconds_total{instance="n"}'
    evaluated(tmp_path, "host", {**idle, pressure: "0+18x20"}, {(fires, "15m"): {}})
    evaluated(tmp_path, "host", {**idle, pressure: "0+42x20"}, {(fires, "15m"): 1})


def test_every_pair_of_every_objective_alerts_with_a_guard_against_few_failures() -> None:
    told = [rule for group in rules.groups(SLOS, PRODUCTION) for rule in group["rules"] if "alert" in rule]
    assert len(told) == len(SLOS) * len(PAIRS) == 24
    assert {f"{rule['labels']['window']} {rule['labels']['severity']}" for rule in told} == {"1h page", "6h page", "1d ticket", "3d ticket"}
    assert all(f"slo:errors:increase{rule['labels']['window']}{{" in rule["expr"] and ">= 3" in rule["expr"] for rule in told)
    assert not any("for" in rule for rule in told)


def test_a_drill_changes_durations_and_nothing_else() -> None:
    def shape(timing: Timing) -> list[tuple[str, ...]]:
        return [(group["name"], str(rule.get("record") or rule["alert"]), str(rule.get("labels"))) for group in config.groups(timing)
                for rule in group["rules"]]  # fmt: skip

    assert shape(DRILL) == shape(PRODUCTION)
    drilled = [rule["expr"] for group in config.groups(DRILL) for rule in group["rules"]]
    assert not any(f"[{told}" in expr for told in ("5m", "30m", "1h", "1d", "1w", "30d") for expr in drilled)
    assert any("[4032s:24s]" in expr for expr in drilled) and any("[2s]" in expr for expr in drilled)
    assert all(promql.parse(expr) for expr in drilled)


def test_a_window_too_short_for_the_scrapes_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 4 scrapes"):
        vocabulary.groups(Timing(0.5, 0.5, 300))


def test_what_is_read_is_exposed_or_recorded_before_it_in_the_same_group() -> None:
    """Else an alert sees what another group recorded an evaluation ago."""
    groups = config.groups(PRODUCTION)
    recorded = {rule["record"]: group["name"] for group in groups for rule in group["rules"] if "record" in rule}
    for group in groups:
        here: set[str] = set()
        for rule in group["rules"]:
            read = spec.series(rule["expr"])
            assert spec.unknown(rule["expr"], list(recorded)) is None
            if group["name"] != "slo-budget":  # sums of thirty days
                assert {name for name in read if name in recorded} <= here, (group["name"], rule)
            here |= {rule["record"]} if "record" in rule else set()
