"""The result of `vllm bench serve --save-detailed`: one JSON object a load, several on lines of their own (--append-result).

Their itl is our gap between events and their tpot takes the first event for one token; how many it held they do not keep. Texts are not in
our records and stay empty. A file does not say its version: what we write does, in a key as --metadata makes them, and all others are known
by their fields. Refuses results of another version, of pooling models, without details, and such as do not add up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lib import record
from lib.llm import metrics
from lib.llm.events import Answer
from lib.llm.foreign.benchmark import Benchmark, OtherVersion, gaps_s, length, steps_s

VERSION = "0.32.0"
PERCENTILES = (50, 90, 99)
DETAIL = ("input_lens", "output_lens", "start_times", "ttfts", "itls", "generated_texts", "errors")
FIELDS = ("date", "backend", "label", "model_id", "tokenizer_id", "num_prompts", "request_rate", "burstiness", "max_concurrency",
          "duration", "completed", "failed", "total_input_tokens", "total_output_tokens", "request_throughput", "request_goodput",
          "output_throughput", "total_token_throughput", "latencies", "queue_times", "max_output_tokens_per_s", "max_concurrent_requests",
          "rtfx")  # fmt: skip


def written(b: Benchmark) -> dict[str, Any]:
    """The result, with --percentile-metrics ttft,tpot,itl,e2el. Raises Inexpressible for lengths that nobody knows or no answer at all."""
    good, lengths, wall_s = b.good, [length(a) for a in b.answers], b.wall_s
    read, wrote = sum(a.prompt_tokens or 0 for a in good), sum(lengths)
    busiest, fullest = _peaks(good)
    told = {"vllm_version": VERSION, "run_id": b.run_id or "", "setting": record.canonical(b.setting)}
    return {
        "date": _date(b.utc), "endpoint_type": "openai", "backend": "openai", "label": None, "model_id": b.model, "tokenizer_id": b.model,
        "num_prompts": len(b.answers), **told,
        "request_rate": b.rate_per_s or "inf", "burstiness": 1.0, "max_concurrency": b.streams,
        "duration": wall_s, "completed": len(good), "failed": len(b.answers) - len(good),
        "total_input_tokens": read, "total_output_tokens": wrote, "request_throughput": len(good) / wall_s, "request_goodput": None,
        "output_throughput": wrote / wall_s, "total_token_throughput": (read + wrote) / wall_s,
        "input_lens": [a.prompt_tokens or 0 for a in b.answers], "output_lens": lengths,
        "ttfts": [a.stamps_s[0] if a.stamps_s else 0.0 for a in b.answers], "itls": [metrics.icl_s(a.stamps_s) for a in b.answers],
        "latencies": [metrics.e2e_s(a) or 0.0 for a in b.answers], "start_times": [a.sent_s for a in b.answers],
        "queue_times": [-a.due_s for a in b.answers], "generated_texts": [a.text for a in b.answers],
        "errors": [a.error or "" for a in b.answers],
        "max_output_tokens_per_s": busiest, "max_concurrent_requests": fullest, "rtfx": 0.0,
        **_ms("ttft", [a.stamps_s[0] for a in good]), **_ms("tpot", steps_s(good)), **_ms("itl", gaps_s(good)),
        **_ms("e2el", [a.stamps_s[-1] for a in good]),
    }  # fmt: skip


def read(text: str) -> list[Benchmark]:
    """The loads in a file, one or several. Raises OtherVersion, and ValueError for what is no such file or not whole."""
    return [_benchmark(document) for document in _documents(text)]


def _benchmark(said: Any) -> Benchmark:
    if not isinstance(said, dict) or not {"duration", "completed"} <= set(said):
        raise ValueError("this is no result of vllm bench serve")
    if (version := said.get("vllm_version", VERSION)) != VERSION:
        raise OtherVersion(f"a result of vLLM {version}; those of {VERSION} are read here")
    if "total_input_sequences" in said:
        raise ValueError("a pooling model writes no tokens")
    if not {"ttfts", "itls"} & set(said):
        raise ValueError("the result was saved without --save-detailed")
    if lacks := [name for name in (*FIELDS, *DETAIL) if name not in said]:
        raise OtherVersion(f"a result of another vLLM than {VERSION}: it lacks {', '.join(lacks)}")
    answers = tuple(_answers(said))
    failed = sum(a.error is not None for a in answers)
    if (done := len(answers) - failed, failed) != (said["completed"], said["failed"]):
        raise ValueError(f"{done} answers and {failed} failures are not the {said['completed']} and {said['failed']} that it says")
    rate = None if said["request_rate"] == "inf" else float(said["request_rate"])
    return Benchmark(said["model_id"], said["max_concurrency"], rate, said["date"], answers, json.loads(said.get("setting", "{}")), {},
                     said.get("run_id"))


def _answers(said: Mapping[str, Any]) -> Iterator[Answer]:
    """A failure is known by its error, or by a first token that never came."""
    columns = ("start_times", "queue_times", "ttfts", "itls", "input_lens", "output_lens", "generated_texts", "errors")
    began = min(said["start_times"], default=0.0)
    for number, (start, queued, ttft, gaps, prompt, tokens, text, error) in enumerate(zip(*(said[c] for c in columns), strict=True)):
        failed = error or (None if ttft else "failed, and did not say why")
        stamps = tuple(float(t) for t in np.cumsum([ttft, *gaps])) if ttft else ()
        yield Answer(number, -queued, start - began, stamps, (), text, None if failed else tokens, None, prompt, None, {}, failed)


def _ms(name: str, values_s: Sequence[float]) -> dict[str, float]:
    ms = np.asarray(values_s or [0.0]) * 1e3
    return {f"mean_{name}_ms": float(ms.mean()), f"median_{name}_ms": float(np.median(ms)), f"std_{name}_ms": float(ms.std()),
            **{f"p{p}_{name}_ms": float(np.percentile(ms, p)) for p in PERCENTILES}}  # fmt: skip


def _peaks(good: Sequence[Answer]) -> tuple[float, int]:
    """Events in the busiest second and requests in the fullest, seconds counted from the first sending."""
    began = min(a.sent_s for a in good)
    events, requests = np.zeros((2, int(max(a.sent_s + a.stamps_s[-1] for a in good) - began) + 1))
    for a in good:
        np.add.at(events, [int(a.sent_s + t - began) for t in a.stamps_s], 1)
        requests[int(a.sent_s - began):int(a.sent_s + a.stamps_s[-1] - began) + 1] += 1
    return float(events.max()), int(requests.max())


def _date(utc: str) -> str:
    """2026-11-23T19:18:21Z as their %Y%m%d-%H%M%S."""
    return utc.replace("-", "").replace(":", "").replace("T", "-").rstrip("Z")


def _documents(text: str) -> Iterator[Any]:
    rest, decoder = text.strip(), json.JSONDecoder()
    while rest:
        document, end = decoder.raw_decode(rest)
        yield document
        rest = rest[end:].lstrip()
