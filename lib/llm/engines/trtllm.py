"""TensorRT-LLM's `trtllm-serve` (PyTorch backend). Needs an NVIDIA GPU; without one it is a row that says so."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from lib.llm.engines.engine import Command, Spec, Unavailable, completion, installed, missing, on_gpus, scraped, usage_so_far
from lib.llm.memory import Cache

NAME = "TensorRT-LLM"
HEALTH = "/health"
METRICS = "/prometheus/metrics"
KEEPS_ALIVE = True
STORED = {"16-bit": "bf16", "FP8": "modelopt-fp8", "INT4": "modelopt-w4a16-awq"}


def available() -> str | None:
    return missing("trtllm")


def version() -> str:
    return installed("trtllm").version


def stored(spec: Spec) -> str:
    """Quantised weights are ModelOpt's, made on a GPU and laid beside the family's other forms; INT8 is no way of its PyTorch backend."""
    if spec.precision == "INT8":
        raise Unavailable("TensorRT-LLM's PyTorch backend has FP8 where others have INT8; SmoothQuant wants an engine of trtllm-build")
    form = STORED.get(spec.precision)
    if form is None or (form != "bf16" and form not in spec.model.family.compressed):
        raise Unavailable(f"TensorRT-LLM serves {spec.model.name} at 16 bit here, not {spec.precision}: that needs ModelOpt's checkpoint")
    return form


def command(spec: Spec, port: int) -> Command:
    """Block reuse (its prefix cache) is off unless asked, for a repeated prompt must cost what it costs; options go into a file."""
    found, form = installed("trtllm"), stored(spec)
    options = found.root / f"serve-{port}.yaml"
    options.write_text(_options(spec))
    asked = spec.options
    on_gpus(NAME, spec)
    split = ("--tp_size", str(asked.tensor_parallel), "--pp_size", str(asked.pipeline_parallel)) if asked.gpus > 1 else ()
    step = () if asked.chunk_tokens is None else ("--max_num_tokens", str(asked.chunk_tokens or max(spec.context, 8192)))
    weights = spec.model.family.compressed.get(form, spec.model.family.hf)
    return Command((str(found.tool("trtllm-serve")), str(weights), "--host", "127.0.0.1", "--port", str(port), "--backend", "pytorch",
                    "--max_batch_size", str(spec.slots), "--max_seq_len", str(spec.context), *step, *split,
                    "--extra_llm_api_options", str(options), *spec.extra), {"HF_HUB_OFFLINE": "1"})


def _options(spec: Spec) -> str:
    """What the command line has no words for, as YAML."""
    asked = spec.options
    if not asked.continuous:
        raise Unavailable("trtllm-serve has no other way than in-flight batching")
    cache = [f"  enable_block_reuse: {str(asked.prefix_cache).lower()}"]
    if asked.kv == "8-bit":
        cache += ["  dtype: fp8"]
    if asked.cache_tokens is not None:
        cache += [f"  max_tokens: {asked.cache_tokens}"]
    chunked = [] if asked.chunk_tokens is None else [f"enable_chunked_prefill: {str(asked.chunk_tokens > 0).lower()}"]
    return "\n".join(["kv_cache_config:", *cache, *chunked, "return_perf_metrics: true", ""])


def request(spec: Spec, prompt: list[int], tokens: int) -> tuple[str, bytes]:
    body = completion(prompt, tokens, model=spec.model.family.hf.name)
    body["stream_options"]["continuous_usage_stats"] = True
    return "/v1/completions", json.dumps(body).encode()


def tokens_in(event: Mapping[str, Any]) -> int | None:
    return usage_so_far(event)


def counters(exposition: str) -> dict[str, float]:
    return scraped(exposition, {
        "requests": "trtllm_request_success_total",
        "queue_s": "trtllm_request_queue_time_seconds_sum",
        "ttft_s": "trtllm_time_to_first_token_seconds_sum",
        "ttft_count": "trtllm_time_to_first_token_seconds_count",
    })


TELLS: tuple[str, ...] = ()
BLOCK = 32  # tokens, its default


def kv_cache(spec: Spec) -> Cache | None:
    """Blocks; without a size it takes its share of what memory is left."""
    if (tokens := spec.options.cache_tokens) is None:
        return None
    return Cache(-(-tokens // BLOCK) * BLOCK, spec.slots, block=BLOCK, element_bytes=1 if spec.options.kv == "8-bit" else 2)


def allocated(log: str, spec: Spec) -> dict[str, float]:
    room = re.search(r"Allocated ([\d.]+) GiB for max tokens in paged KV cache \((\d+)\)", log)
    return {"kv_bytes": float(room[1]) * 2**30, "kv_tokens": float(room[2])} if room else {}
