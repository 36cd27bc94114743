"""Service overview by the RED method, as callers see it at the gateway: rate, errors by kind, duration, and what is about to be full."""

from __future__ import annotations

from typing import Any

from lib.monitoring.dashboards.board import board
from lib.monitoring.dashboards.panel import ORANGE, RED, Ask, Built, Step, course, number

OF = '{service=~"$service"}'
BAD = (Step(0.01, ORANGE), Step(0.05, RED))  # the objective is 99 %


def _duration(service: str, worry: str, *steps: Step, runbook: tuple[str, ...]) -> Built:
    asks = [Ask(f'service:latency_seconds:{p}{{service="{service}"}}', p) for p in ("p50", "p95", "p99")]
    says = f"Time from first byte in to last byte out of requests that were answered well. {worry}"
    return course(f"Duration · {service}", "s", says, *asks, steps=steps, empty="no requests", runbook=runbook)


def services() -> dict[str, Any]:
    top = [
        number("Requests", "reqps",
               "Valid and invalid requests a second over five minutes. Worry when it falls to nothing without a reason.",
               Ask(f"service:requests:rate5m{OF}", "{{service}}"), width=7),
        number("Errors", "percentunit",
               "Share of valid requests that were not answered well, over five minutes. Above 1 % the objective is missed.",
               Ask(f"service:errors:ratio_rate5m{OF}", "{{service}}"), width=7, steps=BAD, decimals=2, empty="no requests",
               runbook=["ErrorBurst"]),
        number("p95", "s",
               "95 % of requests took no longer than this, over five minutes. Compare with Duration below.",
               Ask(f"service:latency_seconds:p95{OF}", "{{service}}"), width=7, empty="no requests"),
        number("Targets down", "none",
               "Scrape targets that do not answer: what they measure is unknown, not well. Any is worth a look.",
               Ask("count(up == 0) or vector(0)", "down"), width=3, steps=[Step(1, RED)], runbook=["TargetDown"]),
    ]  # fmt: skip
    rate = [
        course("Requests by service", "reqps",
               "Requests a second that arrived at the gateway. A step is a change of load; a fall to 0 is an outage upstream.",
               Ask(f"sum by (service) (rate(gateway_requests_total{OF}[$__rate_interval]))", "{{service}}")),
        course("Fraud decisions", "reqps",
               "Verdicts a second by what was decided. Worry when one kind vanishes while requests go on.",
               Ask("sum by (decision) (rate(fraud_decisions_total[$__rate_interval]))", "{{decision}}"), stacked=True,
               runbook=["ScoreDrift"]),
        course("Camera frames", "suffix: frames/s",
               "Frames a second by what became of them: seen by the model, gated as unmoved, dropped for a newer one, failed.",
               Ask("retail:frames:rate5m", "{{outcome}}"), stacked=True, runbook=["RetailFreshnessBudgetBurn"]),
    ]  # fmt: skip
    errors = [
        course("Errors by kind", "reqps",
               "Failed requests a second: refused (overload), timeout, unreachable (no process), server (a bug), empty (2xx without a "
               "prediction).",
               Ask(f"service:errors:rate5m{OF}", "{{service}} {{outcome}}"), runbook=["ErrorBurst", "SilentFailure"]),
        course("Share of errors", "percentunit",
               "Of valid requests, over five minutes. The lower line is what the objective allows, the upper one is an incident.",
               Ask(f"service:errors:ratio_rate5m{OF}", "{{service}}"), steps=BAD, empty="no requests", runbook=["ErrorBurst"]),
        course("Not valid", "reqps",
               "Requests a second that were the caller's fault (4xx). They burn no budget; a jump is a client's bad release.",
               Ask('sum by (service) (rate(gateway_requests_total{service=~"$service",outcome="client"}[$__rate_interval]))',
                   "{{service}}"), runbook=["ClientErrors"]),
    ]  # fmt: skip
    stages = "histogram_quantile(0.95, sum by (le, stage) (rate({}_stage_seconds_bucket[$__rate_interval])))"
    duration = [
        _duration("fraud", "Worry while p99 is above the objective, 0.1 s.", Step(0.1, RED), runbook=("FraudLatencyBudgetBurn",)),
        _duration("retail", "Still pictures; worry when it leaves its past. Cameras have their own objective: see Age of a frame.",
                  runbook=("HostCpuSaturated",)),
        _duration("llm", "Longer answers take longer: time to first token and per token have the objectives, see LLM serving.",
                  runbook=("LlmTtftBudgetBurn", "LlmTpotBudgetBurn")),
        course("Stages · fraud", "s",
               "p95 of each stage of a verdict: which one grew says where to look (window: Redis; model: the CPU).",
               Ask(stages.format("fraud"), "{{stage}}"), log=True, runbook=["FraudLatencyBudgetBurn"]),
        course("Stages · retail", "s",
               "p95 of each stage of a frame: which one grew says where to look.",
               Ask(stages.format("retail"), "{{stage}}"), log=True, runbook=["RetailFreshnessBudgetBurn"]),
        course("Age of a frame", "s",
               "p95 of a frame's age when its people were counted. Above 0.5 s the count is of the past.",
               Ask("retail:frame_age_seconds:p95", "p95"), empty="no frames", steps=[Step(0.5, RED)],
               runbook=["RetailFreshnessBudgetBurn"]),
    ]  # fmt: skip
    saturation = [
        course("In flight", "none",
               "Requests that the gateway holds open. It grows before latency does; a plateau is the bound.",
               Ask(f"gateway_in_flight{OF}", "{{service}}"), runbook=["QueueGrowing"]),
        course("Waiting", "none",
               "Requests that wait before a model takes them. Worry when it grows and does not fall.",
               Ask("fraud_queue_depth", "fraud"), Ask("sum by (engine) (llm:waiting:requests)", "{{engine}}"), runbook=["QueueGrowing"]),
        course("Cameras", "none",
               "Cameras by state. Any that is not running is a blind spot.",
               Ask("sum by (state) (retail_cameras)", "{{state}}"), runbook=["CameraDown"]),
    ]  # fmt: skip
    model = [
        course("Score shift", "percentunit",
               "Largest distance between the fraud scores of five minutes and those of the day when the model was judged, beside what "
               "chance alone makes of so many scores. Worry while the shift is above.",
               Ask("fraud:score_shift:ks", "shift"), Ask("fraud:score_shift:bound", "chance"), width=12, most=1, empty="no scores",
               runbook=["ScoreDrift"]),
        number("Fraud model", "none",
               "The version that answers. It must be what was deployed.",
               Ask("max by (version) (fraud_model_info)", "{{version}}"), width=6, height=7, names=True,
               runbook=["ModelVersionUnexpected"]),
        number("Retail model", "none",
               "The version that answers. It must be what was deployed.",
               Ask("max by (version, precision) (retail_model_info)", "{{version}} {{precision}}"), width=6, height=7, names=True,
               runbook=["ModelVersionUnexpected"]),
    ]  # fmt: skip
    return board("services", "Services", "Rate, errors and duration of each service as its callers see them, and what is about to be full.",
                 {"": top, "Rate": rate, "Errors": errors, "Duration": duration, "Saturation": saturation, "Model": model},
                 variables={"service": "gateway_requests_total"})  # fmt: skip


