"""vLLM's OpenAI server, CUDA build or CPU build alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import ceil
from typing import Any

from lib.llm.engines.engine import Command, Spec, Unavailable, completion, installed, missing, scraped, usage_so_far

NAME = "vLLM"
HEALTH = "/health"
METRICS = "/metrics"
KEEPS_ALIVE = True
DTYPE = {"cpu": "bfloat16", "cuda": "float16"}


def available() -> str | None:
    return missing("vllm")


def version() -> str:
    return installed("vllm").version


def stored(spec: Spec) -> str:
    if spec.precision != "16-bit":
        raise Unavailable(f"vLLM serves {spec.model.name} at 16 bit here, not {spec.precision}")
    return "bf16"


def command(spec: Spec, port: int) -> Command:
    """Prefix caching off: a repeated prompt must cost what it costs. On the CPU the cache's size is whole GiB and must be said."""
    found = installed("vllm")
    stored(spec)
    cache_bytes = 1.25 * spec.slots * spec.context * spec.model.shape.kv_bytes_per_token()
    env = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CACHE_ROOT": str(found.root / "cache")}
    if spec.device == "cpu":
        env |= {"VLLM_CPU_KVCACHE_SPACE": str(max(1, ceil(cache_bytes / 2**30))), "VLLM_CPU_OMP_THREADS_BIND": f"0-{spec.threads - 1}"}
        if (openmp := found.root / "lib" / "libiomp5.so").exists():  # what vLLM asks for in its log
            env["LD_PRELOAD"] = str(openmp)
    # In a trial (six requests, not recorded) this small a model decoded no faster compiled, and started later.
    eager = ("--enforce-eager",) if spec.device == "cpu" else ()
    return Command((str(found.tool("vllm")), "serve", str(spec.model.family.hf), "--served-model-name", spec.model.name,
                    "--host", "127.0.0.1", "--port", str(port), "--dtype", DTYPE[spec.device], "--max-model-len", str(spec.context),
                    "--max-num-seqs", str(spec.slots), "--no-enable-prefix-caching", "--disable-uvicorn-access-log", *eager,
                    *spec.extra), env)


def request(spec: Spec, prompt: list[int], tokens: int) -> tuple[str, bytes]:
    body = completion(prompt, tokens, model=spec.model.name)
    body["stream_options"]["continuous_usage_stats"] = True  # every chunk says how many tokens it ends
    return "/v1/completions", json.dumps(body).encode()


def tokens_in(event: Mapping[str, Any]) -> int | None:
    return usage_so_far(event)


def counters(exposition: str) -> dict[str, float]:
    return scraped(exposition, {
        "prompt_tokens": "vllm:prompt_tokens_total",
        "cached_tokens": "vllm:prefix_cache_hits_total",
        "output_tokens": "vllm:generation_tokens_total",
        "requests": "vllm:request_prefill_time_seconds_count",
        "queue_s": "vllm:request_queue_time_seconds_sum",
        "prefill_s": "vllm:request_prefill_time_seconds_sum",
        "decode_s": "vllm:request_decode_time_seconds_sum",
        "ttft_s": "vllm:time_to_first_token_seconds_sum",
        "ttft_count": "vllm:time_to_first_token_seconds_count",
        "running": "vllm:num_requests_running",
        "kv_usage": "vllm:kv_cache_usage_perc",
        "preemptions": "vllm:num_preemptions_total",
    })
