"""One event log, scored as five tools would score it: ours, vLLM's bench, GuideLLM, AIPerf, LLMPerf. How far apart do they land?

Only definitions differ here: what starts the clock, what a token's time is divided by, over which time tokens are counted, how a
percentile is read. What each client does to the times by being slow is another matter (10_llm_latency measures it). Each tool's rules
are written down from its own source, named in its function. Refuses a log without token stamps, and fills nothing that a tool lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from lib import stats
from lib.llm import metrics
from lib.llm.events import Answer


@dataclass(frozen=True, slots=True)
class Log:
    """A cell's answers in the order of sending, how many of them were warm-up, and the window in which its load was whole.

    Every tool is told to leave the same warm-up out of its latencies, for to count it in would be a difference of settings. Their tokens/s
    are of the whole log: a run, to them, is all that was sent.
    """

    answers: Sequence[Answer]
    warmup: int = 0
    steady_s: tuple[float, float] | None = None

    @property
    def counted(self) -> Sequence[Answer]:
        return self.answers[self.warmup:]


@dataclass(frozen=True, slots=True)
class Score:
    """What a tool would report, in s and tokens/s: medians, and the p99 that it would print. None: it does not define this.

    `per_token_s`: time divided by all tokens, the first among them; `between_s`: time after the first token divided by the others;
    `gap_s`: between two events.
    """

    tool: str
    ttft_s: float | None
    ttft_p99_s: float | None
    per_token_s: float | None
    between_s: float | None
    gap_s: float | None
    tokens_per_s: float | None


Tool: TypeAlias = Callable[[Log], Score]


def ours(log: Log) -> Score:
    """lib/llm/metrics.py: TTFT from the schedule; between = (last − first) ÷ (n − k₁); tokens stamped in the steady window ÷ its length.

    Percentiles are values that were observed, none where n is too small, and a failure took for ever.
    """
    ttft = metrics.tail([metrics.ttft_sched_s(a) for a in log.counted])
    between = [v for a in log.counted if (v := metrics.tpot_s(a)) is not None]
    gaps = [gap for a in log.counted if a.error is None for gap in metrics.icl_s(a.stamps_s)]
    rate = metrics.throughput(log.answers, since_s=log.steady_s[0], until_s=log.steady_s[1]) if log.steady_s else None
    return Score("ours", _observed(ttft, 0.5), _observed(ttft, 0.99), None, _observed(between, 0.5), _observed(gaps, 0.5), rate)


def vllm_bench(log: Log) -> Score:
    """`vllm bench serve`: TTFT = first chunk that has choices, with or without text, − sending; TPOT = (last − first) ÷ (n − 1); ITL =
    gaps between chunks, pooled; output tokens of what succeeded ÷ wall time of the whole run; numpy's percentiles, whatever n.

    Waiting for a free place under --max-concurrency is kept apart (`client_queue_time`), in no latency. Source: vllm-project/vllm,
    vllm/benchmarks/lib/endpoint_request_func.py (async_request_openai_completions) and vllm/benchmarks/serve.py (calculate_metrics).
    """
    good = _succeeded(log)
    ttft, tpot = [a.stamps_s[0] for a in good], [v for a in good if (v := _between(a)) is not None]
    gaps = [gap for a in good for gap in metrics.icl_s(a.stamps_s)]
    return Score("vLLM bench", _linear(ttft, 0.5), _linear(ttft, 0.99), None, _linear(tpot, 0.5), _linear(gaps, 0.5),
                 _whole(log))  # fmt: skip


def guidellm(log: Log) -> Score:
    """GuideLLM: TTFT = first token − sending; its TPOT = (last − *sending*) ÷ n, weighted by n; its ITL = (last − first) ÷ (n − 1),
    weighted by n − 1; tokens/s = tokens ÷ (last token − *first token* of the run), for its rates span the events that they count.

    Source: vllm-project/guidellm, src/guidellm/schemas/request_stats.py (time_per_output_token_ms, inter_token_latency_ms,
    output_tokens_timings) and statistics.py (Percentiles.from_pdf: the first value at which the weights reach the share;
    rate_distribution_from_timings).
    """
    good = _succeeded(log)
    ttft = [(a.stamps_s[0], 1.0) for a in good]
    whole = [(a.stamps_s[-1] / a.tokens, float(a.tokens)) for a in good if a.tokens]
    after = [(between, a.tokens - 1.0) for a in good if a.tokens and (between := _between(a)) is not None]
    every = _succeeded(Log(log.answers))
    span = max(map(_last_s, every), default=0.0) - min((a.sent_s + a.stamps_s[0] for a in every), default=0.0)
    return Score("GuideLLM", _weighted(ttft, 0.5), _weighted(ttft, 0.99), _weighted(whole, 0.5), _weighted(after, 0.5), None,
                 sum(a.tokens or 0 for a in every) / span if span > 0 else None)  # fmt: skip


def aiperf(log: Log) -> Score:
    """AIPerf: TTFT = first response with content − request start; ITL = (request latency − TTFT) ÷ (n − 1), or − the tokens of the first
    chunk where it is told to read them (--per-chunk-usage); ICL = gaps between chunks; tokens ÷ (last response − first request).

    n is its own tokenizer's count unless it is told to trust the server; a record holds no text, so the server's stands here, and that its
    percentiles interpolate is an assumption. Source: ai-dynamo/aiperf, src/aiperf/metrics/types: ttft_metric.py,
    inter_token_latency_metric.py, inter_chunk_latency_metric.py, request_latency_metric.py, OutputTokenThroughputMetric,
    BenchmarkDurationMetric.
    """
    good = _succeeded(log)
    ttft, itl = [a.stamps_s[0] for a in good], [v for a in good if (v := _between(a)) is not None]
    gaps = [gap for a in good for gap in metrics.icl_s(a.stamps_s)]
    return Score("AIPerf", _linear(ttft, 0.5), _linear(ttft, 0.99), None, _linear(itl, 0.5), _linear(gaps, 0.5), _whole(log))


def llmperf(log: Log) -> Score:
    """LLMPerf: TTFT = first delta with content − start; its inter-token latency = the sum of all gaps, TTFT the first of them, ÷ n, one a
    request; tokens of what succeeded ÷ (end − start) of the whole run; pandas' percentiles, which interpolate. It sends closed loops only.

    n is its tokenizer's count of the text; here the server's. Source: ray-project/llmperf,
    src/llmperf/ray_clients/openai_chat_completions_client.py and token_benchmark_ray.py (metrics_summary).
    """
    good = _succeeded(log)
    ttft, whole = [a.stamps_s[0] for a in good], [a.stamps_s[-1] / a.tokens for a in good if a.tokens]
    return Score("LLMPerf", _linear(ttft, 0.5), _linear(ttft, 0.99), _linear(whole, 0.5), None, None, _whole(log))


TOOLS: tuple[Tool, ...] = (ours, vllm_bench, guidellm, aiperf, llmperf)
COLUMNS = ("ttft_s", "ttft_p99_s", "per_token_s", "between_s", "gap_s", "tokens_per_s")


def scored(log: Log) -> list[Score]:
    """The log under every definition. Raises ValueError where no answer has a token stamp."""
    if not any(a.stamps_s for a in log.counted):
        raise ValueError(f"a log of {len(log.counted)} answers without a token: nothing to score")
    return [tool(log) for tool in TOOLS]


def table(logs: Mapping[str, Sequence[Log]]) -> pd.DataFrame:
    """A row a name and tool, `log` the name: medians over its rounds of what the tool would report of each."""
    rows: list[dict[str, Any]] = []
    for name, rounds in logs.items():
        scores = [scored(log) for log in rounds]
        for nth, tool in enumerate(one.tool for one in scores[0]) if scores else ():
            row: dict[str, Any] = {"log": name, "tool": tool}
            for column in COLUMNS:
                known = [v for each in scores if (v := getattr(each[nth], column)) is not None]
                row[column] = float(np.median(known)) if len(known) == len(scores) else None
            rows.append(row)
    return pd.DataFrame(rows, columns=["log", "tool", *COLUMNS])


def apart(scores: pd.DataFrame) -> pd.DataFrame:
    """How far the tools are from each other in each log and column: lowest and highest with their tools, and the ratio."""
    rows = []
    for log, group in scores.groupby("log", sort=False):
        for column in COLUMNS:
            known = [(float(value), str(tool)) for value, tool in zip(group[column], group["tool"], strict=True) if pd.notna(value)]
            if len(known) > 1 and min(known)[0] > 0:
                (low, by), (high, of) = min(known), max(known)
                rows.append({"log": log, "what": column, "tools": len(known), "lowest": low, "by": by, "highest": high, "of": of,
                             "times": high / low})  # fmt: skip
    return pd.DataFrame(rows, columns=["log", "what", "tools", "lowest", "by", "highest", "of", "times"])


def _succeeded(log: Log) -> list[Answer]:
    return [a for a in log.counted if a.stamps_s and a.error is None]


def _between(answer: Answer) -> float | None:
    """(last − first) ÷ (n − 1), whatever the first event held."""
    n = answer.tokens or 0
    return (answer.stamps_s[-1] - answer.stamps_s[0]) / (n - 1) if n > 1 else None


def _last_s(answer: Answer) -> float:
    return answer.sent_s + (answer.stamps_s[-1] if answer.stamps_s else 0.0)


def _whole(log: Log) -> float | None:
    """Output tokens of all that succeeded ÷ from the first sending to the last token."""
    took = max(map(_last_s, log.answers), default=0.0) - min((a.sent_s for a in log.answers), default=0.0)
    return sum(a.tokens or 0 for a in _succeeded(Log(log.answers))) / took if took > 0 else None


def _observed(values: Sequence[float], q: float) -> float | None:
    found = stats.quantile(values, q)
    return None if found is None or not np.isfinite(found.value) else found.value


def _linear(values: Sequence[float], q: float) -> float | None:
    return float(np.quantile(values, q)) if values else None


def _weighted(pairs: Sequence[tuple[float, float]], q: float) -> float | None:
    """The first value at which the weights so far reach q of all: searchsorted, left."""
    if not pairs:
        return None
    values, weights = np.array(sorted(pairs)).T
    return float(values[min(len(values) - 1, int(np.searchsorted(np.cumsum(weights) / weights.sum(), q, side="left")))])
