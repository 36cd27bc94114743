"""One vocabulary for what all services and engines tell: recorded series that dashboards and alerts ask for, whoever runs below.

Counters are rated before they are summed, buckets are summed by `le` before a quantile, and no quantile is averaged. What divides by
nothing is absent, never NaN; a ratio of errors is 0 where nothing was asked. The engines' words end here: llama.cpp and vLLM are joined
under one name with labels `engine` and `model`, which their targets carry (a scrape's own `engine` becomes `exported_engine`).
"""

from __future__ import annotations

from collections.abc import Iterator

from lib.monitoring.rules import Group, timed
from lib.monitoring.timing import Timing

QUANTILES = {"p50": "0.5", "p95": "0.95", "p99": "0.99"}
ENGINE, TOKENS, ANY = "by (engine, model)", "gen_ai_tokens_total", "gateway_requests_total"
CARD = "by (gpu, UUID, modelName)"  # who exports a card does not matter: ours or dcgm-exporter
TTFT, TPOT = "gen_ai_server_time_to_first_token_seconds", "gen_ai_server_time_per_output_token_seconds"
ENOUGH = 6  # hours of the past week in which there was something: of less history no alarm is made


def groups(timing: Timing) -> list[Group]:
    """A group a subject; what depends on what stands in one, in order."""
    return [{"name": name, "rules": [timed({"record": record, "expr": expr}, timing) for record, expr in rules]}
            for name, rules in (("services", _services()), ("llm", _llm()), ("models", _models()), ("retail", _retail()),
                                ("host", _host()), ("gpu", _gpu()))]  # fmt: skip


Recorded = Iterator[tuple[str, str]]


def _services() -> Recorded:
    yield "service:requests:rate5m", f"sum by (service) (rate({ANY}[5m]))"
    yield "service:valid_requests:rate5m", f'sum by (service) (rate({ANY}{{outcome!="client"}}[5m]))'
    yield "service:errors:rate5m", f'sum by (service, outcome) (rate({ANY}{{outcome!~"ok|client"}}[5m]))'
    yield "service:errors:ratio_rate5m", ("sum by (service) (service:errors:rate5m) / (service:valid_requests:rate5m > 0)"
                                         " or 0 * service:valid_requests:rate5m")
    yield from _quantiles("service:latency_seconds", "gateway_request_seconds", "service")


def _llm() -> Recorded:
    yield from _quantiles("llm:ttft_seconds", TTFT, "model")
    yield from _quantiles("llm:tpot_seconds", TPOT, "model")
    # Input is what was computed. vLLM counts a prompt's cached tokens among it; llama.cpp does not.
    hits = _rate("vllm:prefix_cache_hits_total")
    yield "llm:input_tokens:rate5m", (f"{_rate('llamacpp:prompt_tokens_total')}"
                                      f" or clamp_min({_rate('vllm:prompt_tokens_total')} - {hits}, 0)")
    yield "llm:cached_tokens:rate5m", f"{_rate('llamacpp:prompt_tokens_cached_total')} or {hits}"
    yield "llm:output_tokens:rate5m", f"{_rate('llamacpp:tokens_predicted_total')} or {_rate('vllm:generation_tokens_total')}"
    yield "llm:running:requests", f"sum {ENGINE} (llamacpp:requests_processing) or sum {ENGINE} (vllm:num_requests_running)"
    yield "llm:waiting:requests", f"sum {ENGINE} (llamacpp:requests_deferred) or sum {ENGINE} (vllm:num_requests_waiting)"
    yield "llm:kv_cache_usage:ratio", f"max {ENGINE} (vllm:kv_cache_usage_perc)"
    yield "llm:decode_steps:rate5m", f"{_rate('llamacpp:n_decode_total')} or {_rate('vllm:iteration_tokens_total_count')}"
    yield "llm:batch:requests", "llm:output_tokens:rate5m / (llm:decode_steps:rate5m > 0)"
    yield "llm:mbu:ratio", ("llm:decode_steps:rate5m * on (engine) group_left () max by (engine) (deployment_weights_bytes)"
                            " / on () group_left () max(machine_bandwidth_bytes_per_second)")
    begun = f"sum by (model) (rate({TTFT}_count[5m]))"
    yield "llm:tokens_per_request:ratio5m", f"sum by (model, type) (rate({TOKENS}[5m])) / on (model) group_left () ({begun} > 0)"
    yield "llm:cost_usd_per_hour", (f"sum by (model, type) (rate({TOKENS}[5m])) * on (model, type) max by (model, type) (token_price_usd)"
                                    " * 3600")
    yield "llm:cost_usd_per_request:ratio5m", f"sum by (model) (llm:cost_usd_per_hour) / 3600 / ({begun} > 0)"
    yield "llm:cached_input:ratio5m", (f'sum by (model) (rate({TOKENS}{{type="input_cached"}}[5m]))'
                                       f' / (sum by (model) (rate({TOKENS}{{type=~"input_.*"}}[5m])) > 0)')
    yield "machine:cost_usd_per_hour", "sum(machine_price_usd_per_hour)"
    # At work only: an engine without requests has no speed.
    yield "llm:tokens_per_running_request:rate30m", ("avg_over_time(llm:output_tokens:rate5m[30m])"
                                                     " / (avg_over_time(llm:running:requests[30m]) > 0.1)")
    for series in ("llm:ttft_seconds:p95", "llm:tokens_per_running_request:rate30m", "llm:output_tokens:rate5m",
                   "llm:cost_usd_per_request:ratio5m", "llm:cached_input:ratio5m"):
        yield f"{series}_median1w", _median(series)


def _models() -> Recorded:
    scores = "rate(fraud_probability_bucket[5m])"
    now = f"sum by (le) ({scores}) / on () group_left () (sum(rate(fraud_probability_count[5m])) > 0)"
    yield "fraud:score_shift:ks", f"max(abs({now} - on (le) max by (le) (deployment_score_cdf)))"
    yield "fraud:score_shift:bound", "1.95 / sqrt(sum(increase(fraud_probability_count[5m])) > 0)"


def _retail() -> Recorded:
    yield "retail:frames:rate5m", "sum by (outcome) (rate(retail_frames_total[5m]))"
    yield "retail:frame_age_seconds:p95", _quantile("0.95", "retail_frame_age_seconds", "")


def _host() -> Recorded:
    idle = 'sum by (instance) (rate(node_cpu_seconds_total{mode=~"idle|iowait"}[5m]))'
    yield "host:cpu_busy:ratio", f'1 - {idle} / count by (instance) (node_cpu_seconds_total{{mode="idle"}})'
    yield "host:cpu_pressure:ratio", "sum by (instance) (rate(node_pressure_cpu_waiting_seconds_total[5m]))"
    yield "host:memory_available:ratio", ("sum by (instance) (node_memory_MemAvailable_bytes)"
                                          " / sum by (instance) (node_memory_MemTotal_bytes)")
    # The largest instance of a job: while one replaces the other there are two.
    yield "job:resident_memory_bytes:max", "max by (job) (process_resident_memory_bytes)"
    yield "job:resident_memory_bytes:max_median1w", _median("job:resident_memory_bytes:max")


def _gpu() -> Recorded:
    yield "gpu:utilisation:ratio", f"max {CARD} (DCGM_FI_DEV_GPU_UTIL) / 100"
    used = f"max {CARD} (DCGM_FI_DEV_FB_USED)"
    yield "gpu:memory_used:ratio", f"{used} / ({used} + max {CARD} (DCGM_FI_DEV_FB_FREE))"
    yield "gpu:power_watts", f"max {CARD} (DCGM_FI_DEV_POWER_USAGE)"
    yield "gpu:tensor_active:ratio", f"max {CARD} (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE)"
    yield "gpu:dram_active:ratio", f"max {CARD} (DCGM_FI_PROF_DRAM_ACTIVE)"
    yield "gpu:throttled:ratio", " or ".join(
        f'label_replace(max {CARD} (rate(DCGM_FI_DEV_{cause.upper()}_VIOLATION[5m])) / 1e9, "cause", "{cause}", "", "")'
        for cause in ("thermal", "power"))


def _quantiles(name: str, histogram: str, by: str) -> Recorded:
    yield from ((f"{name}:{p}", _quantile(q, histogram, by)) for p, q in QUANTILES.items())


def _quantile(q: str, histogram: str, by: str) -> str:
    """Absent where nothing was observed: `>= 0` drops the NaN, which would poison every median over it."""
    return f"histogram_quantile({q}, sum by ({f'{by}, ' if by else ''}le) (rate({histogram}_bucket[5m]))) >= 0"


def _rate(counter: str) -> str:
    return f"sum {ENGINE} (rate({counter}[5m]))"


def _median(series: str) -> str:
    """Of the past week, where there was enough of it: a fresh installation has nothing to compare with."""
    return f"quantile_over_time(0.5, {series}[1w]) and count_over_time({series}[1w:1h]) >= {ENOUGH}"
