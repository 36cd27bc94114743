"""vLLM's OpenAI server, CUDA build or CPU build alike."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

from lib.llm.engines.engine import Command, Spec, Unavailable, completion, installed, missing, on_gpus, scraped, usage_so_far
from lib.llm.memory import Cache

NAME = "vLLM"
HEALTH = "/health"
METRICS = "/metrics"
KEEPS_ALIVE = True
DTYPE = {"cpu": "bfloat16", "cuda": "float16"}
STORED = {"16-bit": "bf16", "INT8": "w8a8", "INT4": "w4a16"}
BLOCK = {"cpu": 128, "cuda": 16}  # tokens: the least that a sequence takes of the cache, vLLM's defaults


def available() -> str | None:
    return missing("vllm")


def version() -> str:
    return installed("vllm").version


def stored(spec: Spec) -> str:
    """"fp8" is made of the 16-bit form while it is loaded; only GPUs multiply it."""
    there = [precision for precision, form in STORED.items() if form == "bf16" or form in spec.model.family.compressed]
    if spec.precision == "FP8":
        if spec.device == "cpu":
            raise Unavailable("FP8 needs a GPU that multiplies it (sm_89 or newer)")
        return "fp8"
    if spec.precision not in there:
        why = f": {spec.model.family.lacks}" if spec.precision in STORED and spec.model.family.lacks else ""
        forms = ", ".join(there).replace("16-bit", "16 bit")
        raise Unavailable(f"vLLM serves {spec.model.name} at {forms} here, not {spec.precision}{why}")
    return STORED[spec.precision]


def weights(spec: Spec) -> Path:
    """The directory it loads. Raises Unavailable."""
    return spec.model.family.compressed.get(stored(spec), spec.model.family.hf)


def command(spec: Spec, port: int) -> Command:
    """Prefix caching off unless asked: a repeated prompt must cost what it costs. On the CPU the cache's size is whole GiB, and said."""
    found, path = installed("vllm"), weights(spec)
    cache_bytes = 1.25 * spec.slots * spec.context * spec.model.shape.kv_bytes_per_token()
    env = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CACHE_ROOT": str(found.root / "cache")}
    if spec.device == "cpu":
        env |= {"VLLM_CPU_KVCACHE_SPACE": str(max(1, ceil(cache_bytes / 2**30))), "VLLM_CPU_OMP_THREADS_BIND": f"0-{spec.threads - 1}"}
        if (openmp := found.root / "lib" / "libiomp5.so").exists():  # what vLLM asks for in its log
            env["LD_PRELOAD"] = str(openmp)
    # In a trial (six requests, not recorded) this small a model decoded no faster compiled, and started later.
    eager = ("--enforce-eager",) if spec.device == "cpu" else ()
    return Command((str(found.tool("vllm")), "serve", str(path), "--served-model-name", spec.model.name,
                    "--host", "127.0.0.1", "--port", str(port), "--dtype", DTYPE[spec.device], "--max-model-len", str(spec.context),
                    "--max-num-seqs", str(spec.slots), "--disable-uvicorn-access-log", *eager, *_flags(spec), *spec.extra), env)


def _flags(spec: Spec) -> tuple[str, ...]:
    """Its words for the options. Without chunked prefill a step must have room for the longest prompt."""
    asked = spec.options
    if not asked.continuous:
        raise Unavailable("vLLM has no other way than continuous batching")
    flags = ["--enable-prefix-caching" if asked.prefix_cache else "--no-enable-prefix-caching"]
    if asked.kv == "8-bit":
        flags += ["--kv-cache-dtype", "fp8"]
    if asked.chunk_tokens:
        flags += ["--enable-chunked-prefill", "--max-num-batched-tokens", str(asked.chunk_tokens)]
    elif asked.chunk_tokens == 0:
        flags += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(max(spec.context, 2048))]
    if asked.cache_tokens is not None:
        block = BLOCK[spec.device]
        flags += ["--block-size", str(block), "--num-gpu-blocks-override", str(asked.cache_tokens // block)]
    if asked.gpus > 1:
        on_gpus(NAME, spec)
        flags += ["--tensor-parallel-size", str(asked.tensor_parallel), "--pipeline-parallel-size", str(asked.pipeline_parallel)]
    if spec.precision == "FP8":
        flags += ["--quantization", "fp8"]
    return tuple(flags)


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
        "steps": "vllm:iteration_tokens_total_count",
        "step_tokens": "vllm:iteration_tokens_total_sum",
    })


TELLS: tuple[str, ...] = ()


def kv_cache(spec: Spec) -> Cache | None:
    """Blocks, of which one is kept for what nobody reads. A GPU gives whatever memory is left, so there its size must be asked for."""
    block, element_bytes = BLOCK[spec.device], 1 if spec.options.kv == "8-bit" else 2
    if (tokens := spec.options.cache_tokens) is None:
        if spec.device != "cpu":
            return None
        space = int(command(spec, 0).env["VLLM_CPU_KVCACHE_SPACE"]) * 2**30
        tokens = int(space // spec.model.shape.kv_bytes_per_token(element_bytes=element_bytes))
    return Cache(tokens // block * block, spec.slots, block=block, kept=block, element_bytes=element_bytes)


def allocated(log: str, spec: Spec) -> dict[str, float]:
    """On a CPU it speaks of the weights' files and of the room that the cache may take: with its size given, of the size alone."""
    said = {}
    if weights := re.search(r"Model loading took ([\d.]+) GiB|Checkpoint size: ([\d.]+) GiB", log):
        said["weights_bytes"] = float(weights[1] or weights[2]) * 2**30
    if spec.options.cache_tokens is None and (
            room := re.search(r"Available KV cache memory: ([\d.]+) GiB|Explicitly set \(([\d.]+)/", log)):
        said["kv_bytes"] = float(room[1] or room[2]) * 2**30
    if tokens := re.search(r"KV cache size: ([\d,]+) tokens", log):
        said["kv_tokens"] = float(tokens[1].replace(",", ""))
    return said
