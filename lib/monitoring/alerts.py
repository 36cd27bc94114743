"""What wakes somebody, or waits for the morning, beside the burn of an objective's budget: causes that inference has of its own.

A page is for what callers suffer from now, or what no objective sees; a cause alone is a ticket. Every threshold has its reason in `why`.
An alert over a ratio says nothing when its series vanish: that is TargetDown's to say, for targets that do not answer and for jobs that no
longer have any. Comparisons with the past week are silent until there is a past.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lib.monitoring.rules import FEWEST_ERRORS, Rule, notice

Severity = Literal["page", "ticket", "none"]
JOBS = ("gateway", "fraud", "retail", "llm", "node", "gpu", "prometheus", "alertmanager")
SERVICE = '"service", "$1", "job", "(fraud|retail|llm)"'  # a target's job as the service whose tickets it explains
FAILED_SCRAPES = "2m"  # as long as TargetDown takes to say that there is nothing to see
LOOKS = 3  # that a window has to hold before it can say "all the time"


@dataclass(frozen=True, slots=True)
class Alert:
    """`group`: the subject whose recorded series it stands on, evaluated just before it. `why`: of the threshold and of `for_`.

    `keeps`: how long it goes on when it sees nothing. What reads a gauge as it is has it: a scrape that failed takes the gauge away.
    """

    name: str
    group: str
    severity: Severity
    expr: str
    summary: str
    description: str
    why: str
    for_: str | None = None
    keeps: str | None = None
    service: str | None = None
    board: str = "services"

    @property
    def rule(self) -> Rule:
        """As Prometheus' YAML has it, in production's words."""
        return {
            "alert": self.name, "expr": self.expr, **({"for": self.for_} if self.for_ else {}),
            **({"keep_firing_for": self.keeps} if self.keeps else {}),
            "labels": {"severity": self.severity, **({"service": self.service} if self.service else {})},
            "annotations": notice(self.name, self.board, self.summary, self.description),
        }  # fmt: skip


def catalogue(jobs: Sequence[str] = JOBS) -> tuple[Alert, ...]:
    """All of them. `jobs`: those that are to be there; one that has no target any more is down."""
    return (_DOWN, _missing(jobs), *_SERVICES, *_LLM, *_MODELS, *_MACHINE, _WATCHDOG)


_DOWN = Alert(
    "TargetDown", "stack", "page", f"label_replace(up == 0, {SERVICE})",
    "{{ $labels.job }} does not answer Prometheus",
    "{{ $labels.job }} at {{ $labels.instance }} was not scraped for two minutes. What it tells is not known: alerts over it are silent.",
    "two minutes are eight scrapes: a restart and a lost scrape pass", for_="2m")  # fmt: skip


def _missing(jobs: Sequence[str]) -> Alert:
    none = " or ".join(f'absent(up{{job="{job}"}})' for job in jobs)
    return Alert(
        "TargetMissing", "stack", "page", f"label_replace({none}, {SERVICE})",
        "nothing is there to scrape for {{ $labels.job }}",
        "For twenty minutes {{ $labels.job }} has had no target at all: discovery does not know it, so it is not even down.",
        "a deployment may take a job's targets away for a while; a Prometheus that begins knows none for seconds", for_="20m")  # fmt: skip


_SERVICES = (
    Alert("ErrorBurst", "services", "page",
          'sum by (service) (service:errors:rate5m{outcome!="empty"}) / (service:valid_requests:rate5m > 0) > 0.2 '
          'and on (service) sum by (service) (increase(gateway_requests_total{outcome!~"ok|client|empty"}[5m])) '
          f">= {FEWEST_ERRORS}",
          "{{ $labels.service }} fails {{ $value | humanizePercentage }} of its requests",
          "More than a fifth of the valid requests of five minutes were refused, not reached, too late or answered with an error.",
          "a fifth is 20 times what 99 % allows; a minute longer than TargetDown, which says the cause where there is one", for_="3m"),
    Alert("SilentFailure", "services", "page",
          'service:errors:rate5m{outcome="empty"} / on (service) group_left () (service:valid_requests:rate5m > 0) > 0.05 '
          f'and on (service) sum by (service) (increase(gateway_requests_total{{outcome="empty"}}[5m])) >= {FEWEST_ERRORS}',
          "{{ $labels.service }} answers without predictions",
          "{{ $value | humanizePercentage }} of the answers of five minutes were 200 and had no prediction in them. Callers see no error.",
          "an empty answer is never right, so three of them that are a twentieth of all do not wait for the budget to burn"),
    Alert("ClientErrors", "services", "ticket",
          'sum by (service) (rate(gateway_requests_total{outcome="client"}[5m])) / (service:requests:rate5m > 0) > 0.25 '
          'and on (service) sum by (service) (increase(gateway_requests_total{outcome="client"}[5m])) >= 10',
          "{{ $value | humanizePercentage }} of what {{ $labels.service }} is asked is not valid",
          "More than a quarter of the requests of five minutes were the caller's fault. No budget burns, and somebody gets no answers.",
          "no client sends so much that it may not; readers who leave a stream count here too, and are fewer", for_="5m"),
)  # fmt: skip

_LLM = (
    Alert("EngineStalled", "llm", "page",
          'min_over_time(gateway_in_flight{service="llm"}[5m]) > 0 unless on () sum(rate(gen_ai_tokens_total{type="output"}[5m])) > 0 '
          f'and count_over_time(gateway_in_flight{{service="llm"}}[5m]) >= {LOOKS}',
          "requests wait for the language model, and no token comes",
          "For five minutes {{ $value }} or more requests were in flight all the time, and not one token came out.",
          "the gateway gives a request up long before five minutes, so some must have ended, had the engine worked",
          service="llm", board="llm"),
    Alert("QueueGrowing", "llm", "ticket",
          f"min_over_time(llm:waiting:requests[5m]) > 4 and count_over_time(llm:waiting:requests[5m]) >= {LOOKS}",
          "{{ $value }} requests and more wait for the language model",
          "For five minutes there were never fewer than five requests without a place in the batch: more arrive than are answered.",
          "more than a batch of four waits all the time; a burst that drains does not", service="llm", board="llm"),
    Alert("TtftRegression", "llm", "ticket",
          "llm:ttft_seconds:p95 > 2 * llm:ttft_seconds:p95_median1w and llm:ttft_seconds:p95 > llm:ttft_seconds:p95_median1w + 0.1 "
          "and on (model) sum by (model) (increase(gen_ai_server_time_to_first_token_seconds_count[30m])) >= 10",
          "first tokens of {{ $labels.model }} take twice as long as in the past week",
          "The 95th percentile is {{ $value | humanizeDuration }}, more than double its median over a week.",
          "twice is beyond what days differ by, 0.1 s is what a reader notices; p95 of few requests is their slowest: it has to stay",
          for_="10m", service="llm", board="llm"),
    Alert("ThroughputDrop", "llm", "ticket",
          "llm:tokens_per_running_request:rate30m < 0.5 * llm:tokens_per_running_request:rate30m_median1w "
          "and llm:output_tokens:rate5m < 1.25 * llm:output_tokens:rate5m_median1w",
          "{{ $labels.engine }} makes half as many tokens for a request as in the past week",
          "{{ $value | humanize }} tokens a second for a running request, under half its median over a week, at no more work than usual.",
          "a fuller batch slows each request, so it counts only where no more tokens come out than usual; with less to do each is quicker",
          for_="10m", service="llm", board="llm"),
    Alert("KvCacheFull", "llm", "ticket", "llm:kv_cache_usage:ratio > 0.95",
          "the KV cache of {{ $labels.engine }} is {{ $value | humanizePercentage }} full",
          "Requests are about to be preempted: what was computed for them is thrown away and done again.",
          "vLLM fills its cache on purpose and frees blocks as requests end; above 95 % for five minutes the next long one has no room",
          for_="5m", keeps=FAILED_SCRAPES, service="llm", board="llm"),
    Alert("TokenCostSpike", "llm", "ticket",
          "llm:cost_usd_per_request:ratio5m > 2 * llm:cost_usd_per_request:ratio5m_median1w "
          "and on (model) sum by (model) (increase(gen_ai_server_time_to_first_token_seconds_count[30m])) >= 10",
          "a request of {{ $labels.model }} costs twice what it did in the past week",
          "{{ $value }} USD a request on average over five minutes. More requests do not do that: prompts or answers are longer, or the "
          "prefix cache does not help any more.",
          "cost a request, not an hour: a busy day is no spike; twice is beyond the mix of a day",
          for_="5m", keeps=FAILED_SCRAPES, service="llm", board="cost"),
    Alert("PrefixCacheLost", "llm", "ticket",
          "llm:cached_input:ratio5m < 0.5 * llm:cached_input:ratio5m_median1w "
          "and llm:cached_input:ratio5m < llm:cached_input:ratio5m_median1w - 0.1 "
          "and on (model) sum by (model) (increase(gen_ai_server_time_to_first_token_seconds_count[30m])) >= 10",
          "prompts of {{ $labels.model }} no longer begin alike",
          "{{ $value | humanizePercentage }} of the prompts' tokens come from the prefix cache, under half of the past week's share. The "
          "rest is computed, and billed, anew.",
          "half is beyond the mix of a day; a tenth of all input is worth a look, a cache that never helped is not",
          for_="5m", service="llm", board="cost"),
)  # fmt: skip

_MODELS = (
    Alert("ScoreDrift", "models", "page", "fraud:score_shift:ks > fraud:score_shift:bound and fraud:score_shift:ks > 0.1",
          "the fraud model's scores are not distributed as when it was judged",
          "Kolmogorov-Smirnov distance {{ $value | humanize }} between the scores of five minutes and those of the judged model. Its "
          "decisions are wrong more often than anybody measured, and no request fails.",
          "beyond the noise of so many scores (1.95 ÷ √n: one in a thousand), and beyond 0.1, for of many scores every shift is",
          for_="5m", keeps=FAILED_SCRAPES, service="fraud"),
    Alert("ModelVersionUnexpected", "models", "ticket",
          '(label_replace(max by (version) (fraud_model_info), "service", "fraud", "", "") '
          'or label_replace(max by (version) (retail_model_info), "service", "retail", "", "")) '
          "unless on (service, version) deployment_model_info and on (service) deployment_model_info",
          "{{ $labels.service }} runs version {{ $labels.version }}, which was not to be deployed",
          "What runs is not what the deployment facts name. Nobody judged this version here, or the facts are old.",
          "a deploy runs two versions for a while; nothing is said where no version was asked for", for_="5m", keeps=FAILED_SCRAPES),
    Alert("CameraDown", "retail", "ticket", 'sum by (instance) (retail_cameras{state=~"stalled|failed|ended"}) > 0',
          "{{ $value }} cameras deliver nothing",
          "A camera's source stalled, failed or ended. Its frames are not late: there are none, so no objective sees it.",
          "a source is opened again by itself within seconds; two minutes later it is not coming back",
          for_="2m", keeps=FAILED_SCRAPES, service="retail"),
)  # fmt: skip

_MACHINE = (
    Alert("GpuThrottled", "gpu", "ticket", "gpu:throttled:ratio > 0.1",
          "GPU {{ $labels.gpu }} is throttled ({{ $labels.cause }}) {{ $value | humanizePercentage }} of the time",
          "The card lowers its clocks because of heat or its power limit: everything on it is slower at the same load.",
          "a card at its power limit for moments is normal; a tenth of five minutes is felt in TPOT", for_="5m", board="machine"),
    Alert("HostCpuSaturated", "host", "ticket",
          "host:cpu_pressure:ratio > 0.6 or (host:cpu_busy:ratio > 0.97 unless on (instance) host:cpu_pressure:ratio)",
          "somebody waits for a processor {{ $value | humanizePercentage }} of the time",
          "Runnable threads wait for a core (PSI; the busy share where the kernel does not tell). Latency of all that runs here grows.",
          "busy is not starved: a full batch keeps cores busy and lets few wait; a machine at work shows 0.3, more while something starts",
          for_="5m", keeps=FAILED_SCRAPES, board="machine"),
    Alert("HostMemoryLow", "host", "page", "host:memory_available:ratio < 0.1",
          "{{ $value | humanizePercentage }} of memory is left", "Soon the kernel ends the largest process, which is the model's.",
          "below a tenth the page cache that weights are read from is pushed out; two minutes outlast a model's loading",
          for_="2m", keeps=FAILED_SCRAPES, board="machine"),
    Alert("MemoryGrowing", "host", "ticket",
          "label_replace(job:resident_memory_bytes:max > 1.5 * job:resident_memory_bytes:max_median1w "
          f"and job:resident_memory_bytes:max > job:resident_memory_bytes:max_median1w + 2.5e8, {SERVICE})",
          "a process of {{ $labels.job }} holds {{ $value | humanize1024 }}B, half as much again as in the past week",
          "Memory that grows and is not given back ends with the kernel's choice of whom to kill, which is seldom the one that leaks.",
          "half as much again is no batch, and 0.25 GB no cache of a small process; ten minutes outlast a start and its model's loading",
          for_="10m", keeps=FAILED_SCRAPES, board="machine"),
)  # fmt: skip

_WATCHDOG = Alert(
    "Watchdog", "stack", "none", "vector(1)", "alerting works",
    "This one always fires. Whoever receives it raises the alarm when it stops: then nothing else would arrive either.",
    "no threshold: it is the heartbeat of the way to the receiver", board="slo")  # fmt: skip

ALERTS = catalogue()
