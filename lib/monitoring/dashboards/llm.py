"""LLM serving: how soon and how smoothly tokens come, how many, how full the engine is, and how much of the machine's bandwidth it uses."""

from __future__ import annotations

from typing import Any

from lib.monitoring.dashboards.board import board
from lib.monitoring.dashboards.panel import ORANGE, RED, Ask, Step, course, number

OF = '{model=~"$model"}'
TTFT, TPOT = [Step(1, RED)], [Step(0.1, RED)]  # the objectives
FULL = (Step(0.8, ORANGE), Step(0.95, RED))
PERCENTILES, KINDS = ("p50", "p95", "p99"), ("input", "cached", "output")
VLLM_ONLY = "only vLLM tells"


def llm() -> dict[str, Any]:
    top = [
        number("TTFT p95", "s",
               "95 % of answers began within this. The objective is 1 s.",
               Ask(f"llm:ttft_seconds:p95{OF}", "{{model}}"), width=4, steps=TTFT, empty="no requests", runbook=["LlmTtftBudgetBurn"]),
        number("TPOT p95", "s",
               "95 % of answers came at this time a token or better. The objective is 0.1 s, faster than anyone reads.",
               Ask(f"llm:tpot_seconds:p95{OF}", "{{model}}"), width=4, steps=TPOT, empty="no requests", runbook=["LlmTpotBudgetBurn"]),
        number("Output", "suffix: tok/s",
               "Tokens a second that the engine makes, over five minutes.",
               Ask(f"sum by (engine) (llm:output_tokens:rate5m{OF})", "{{engine}}"), width=4, decimals=1),
        number("Running", "none",
               "Requests in the engine's batch now.",
               Ask(f"sum by (engine) (llm:running:requests{OF})", "{{engine}}"), width=3),
        number("Waiting", "none",
               "Requests that wait for a place in the batch. Some for a moment is load; many for long is overload.",
               Ask(f"sum by (engine) (llm:waiting:requests{OF})", "{{engine}}"), width=3, steps=[Step(4, ORANGE), Step(16, RED)],
               runbook=["QueueGrowing"]),
        number("KV cache", "percentunit",
               "Share of the KV cache in use. Near full, requests are preempted and begin again.",
               Ask(f"max by (engine) (llm:kv_cache_usage:ratio{OF})", "{{engine}}"), width=3, steps=FULL, empty=VLLM_ONLY,
               runbook=["KvCacheFull"]),
        number("Bandwidth used", "percentunit",
               "MBU: weights read a second by decode steps ÷ the machine's measured bandwidth. Decode's limit is 100 %.",
               Ask(f"max by (engine) (llm:mbu:ratio{OF})", "{{engine}}"), width=3, decimals=0, empty="no weights told"),
    ]  # fmt: skip
    latency = [
        course("Time to first token", "s",
               "From the request's arrival to its first output token, at the gateway. Queueing and prefill are in it. Worry when p95 "
               "leaves its past or p99 crosses the objective.",
               *(Ask(f"llm:ttft_seconds:{p}{OF}", p) for p in PERCENTILES), steps=TTFT, empty="no requests",
               runbook=["LlmTtftBudgetBurn", "TtftRegression"]),
        course("Time per output token", "s",
               "Mean over each answer's tokens after the first. It grows with the batch and with a starved CPU or GPU.",
               *(Ask(f"llm:tpot_seconds:{p}{OF}", p) for p in PERCENTILES), steps=TPOT, empty="no requests", runbook=["LlmTpotBudgetBurn"]),
        course("Duration of a request", "s",
               "First byte in to last byte out. Longer answers take longer: see Tokens a request before blaming the engine.",
               *(Ask(f'service:latency_seconds:{p}{{service="llm"}}', p) for p in PERCENTILES), empty="no requests",
               runbook=["LlmAvailabilityBudgetBurn"]),
    ]  # fmt: skip
    throughput = [
        course("Tokens a second", "suffix: tok/s",
               "What the engine reads and makes. Cached input costs no compute; only vLLM counts it on its own.",
               *(Ask(f"sum by (engine) (llm:{kind}_tokens:rate5m{OF})", f"{{{{engine}}}} {kind}") for kind in KINDS),
               runbook=["EngineStalled"]),
        course("Output a running request", "suffix: tok/s",
               "Tokens a second that one reader gets. A fall at equal load is an engine that became slower.",
               Ask(f"sum by (engine) (llm:output_tokens:rate5m{OF}) / sum by (engine) (llm:running:requests{OF} > 0)", "{{engine}}"),
               empty="idle", runbook=["ThroughputDrop"]),
        course("Batch", "none",
               "Requests that one decode step serves. Near 1 the weights are read for one answer alone.",
               Ask(f"max by (engine) (llm:batch:requests{OF})", "{{engine}}"), empty="idle"),
    ]  # fmt: skip
    load = [
        course("Running and waiting", "none",
               "The engine's own account of its requests. Worry when waiting grows and does not fall.",
               Ask(f"sum by (engine) (llm:running:requests{OF})", "{{engine}} running"),
               Ask(f"sum by (engine) (llm:waiting:requests{OF})", "{{engine}} waiting"),
               Ask('gateway_in_flight{service="llm"}', "at the gateway"), runbook=["QueueGrowing", "EngineStalled"]),
        course("KV cache in use", "percentunit",
               "Above 95 % vLLM preempts requests: their work is thrown away and done again.",
               Ask(f"max by (engine) (llm:kv_cache_usage:ratio{OF})", "{{engine}}"), steps=FULL, most=1, empty=VLLM_ONLY,
               runbook=["KvCacheFull"]),
        course("Preemptions", "reqps",
               "Requests a second that lost their place in the KV cache. Any at all means that it is too small for the load.",
               Ask("sum by (model_name) (rate(vllm:num_preemptions_total[$__rate_interval]))", "{{model_name}}"), empty=VLLM_ONLY,
               runbook=["KvCacheFull"]),
    ]  # fmt: skip
    efficiency = [
        course("Memory bandwidth used", "percentunit",
               "MBU. Utilisation says that the processor was busy; this says how near decode is to what the memory allows.",
               Ask(f"max by (engine) (llm:mbu:ratio{OF})", "{{engine}}"), most=1, empty="no weights told", runbook=["ThroughputDrop"]),
        course("Tokens a request", "suffix: tokens",
               "Mean over five minutes. A jump is a change of the prompts or of the answers' bound, and goes to the bill.",
               Ask(f"llm:tokens_per_request:ratio5m{OF}", "{{type}}"), empty="no requests", runbook=["TokenCostSpike"]),
        course("Share of input from the cache", "percentunit",
               "Prompt tokens whose keys and values were still there. A fall means that prompts no longer begin alike.",
               Ask('sum by (model) (rate(gen_ai_tokens_total{model=~"$model",type="input_cached"}[$__rate_interval])) / '
                   'sum by (model) (rate(gen_ai_tokens_total{model=~"$model",type=~"input_.*"}[$__rate_interval]))', "{{model}}"), most=1,
               empty="no requests", runbook=["PrefixCacheLost"]),
    ]  # fmt: skip
    return board("llm", "LLM serving", "How soon and how smoothly tokens come, how many, and how full and how well used the engine is.",
                 {"": top, "Latency": latency, "Throughput": throughput, "Load": load, "Efficiency": efficiency},
                 variables={"model": "gen_ai_tokens_total"})  # fmt: skip
