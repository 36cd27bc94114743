"""TensorRT-LLM's `trtllm-serve` (PyTorch backend). Needs an NVIDIA GPU; without one it is a row that says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lib.llm.engines.engine import Command, Spec, Unavailable, completion, installed, missing, scraped, usage_so_far

NAME = "TensorRT-LLM"
HEALTH = "/health"
METRICS = "/prometheus/metrics"
KEEPS_ALIVE = True


def available() -> str | None:
    return missing("trtllm")


def version() -> str:
    return installed("trtllm").version


def stored(spec: Spec) -> str:
    if spec.precision != "16-bit":
        raise Unavailable(f"TensorRT-LLM serves {spec.model.name} at 16 bit here, not {spec.precision}")
    return "bf16"


def command(spec: Spec, port: int) -> Command:
    """Block reuse (its prefix cache) is off through the extra options file, for a repeated prompt must cost what it costs."""
    found = installed("trtllm")
    stored(spec)
    options = found.root / "serve.yaml"
    options.write_text("kv_cache_config:\n  enable_block_reuse: false\nreturn_perf_metrics: true\n")
    return Command((str(found.tool("trtllm-serve")), str(spec.model.family.hf), "--host", "127.0.0.1", "--port", str(port),
                    "--backend", "pytorch", "--max_batch_size", str(spec.slots), "--max_seq_len", str(spec.context),
                    "--extra_llm_api_options", str(options), *spec.extra), {"HF_HUB_OFFLINE": "1"})


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
