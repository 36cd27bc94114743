"""llama.cpp's own server: how to start it, ask it and read it. One engine, one file, nothing about metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from lib.llm.engines.engine import Command, Spec, Unavailable, completion, installed, missing, on_gpus, scraped
from lib.llm.memory import Cache

NAME = "llama.cpp"
HEALTH = "/health"
METRICS = "/metrics"
KEEPS_ALIVE = False  # it closes after every stream, without saying so in a header
STORED = {"16-bit": "f16", "INT8": "q8_0", "INT4": "q4_0", "Q4_K_M": "q4_k_m", "Q4_1": "q4_1"}


def available() -> str | None:
    return missing("llamacpp")


def version() -> str:
    return f"llama-cpp-python {installed('llamacpp').version}"


def stored(spec: Spec) -> str:
    if spec.precision not in STORED or STORED[spec.precision] not in spec.model.family.gguf:
        there = [precision for precision, form in STORED.items() if form in spec.model.family.gguf]
        raise Unavailable(f"llama.cpp has {', '.join(there)} of {spec.model.name}, not {spec.precision}")
    return STORED[spec.precision]


def command(spec: Spec, port: int) -> Command:
    """Continuous batching over `spec.slots` slots of `spec.context` tokens each; prompts are computed, never looked up, unless asked."""
    found = installed("llamacpp")
    weights = str(spec.model.family.gguf[stored(spec)])
    return Command((str(found.tool("llama-server")), "-m", weights, "--host", "127.0.0.1", "--port", str(port),
                    "-c", str(spec.options.cache_tokens or spec.context * spec.slots), "-np", str(spec.slots),
                    "-t", str(spec.threads), "-tb", str(spec.threads), "-ngl", "99" if spec.device == "cuda" else "0", "-fa", "on",
                    "--cache-ram", "0", "--metrics", "--no-webui", *_flags(spec), *spec.extra))


def _flags(spec: Spec) -> tuple[str, ...]:
    """Its words for the options. A step holds at most `-b` tokens, of which `-ub` are computed at once."""
    asked, flags = spec.options, list[str]()
    if asked.kv == "8-bit":
        flags += ["-ctk", "q8_0", "-ctv", "q8_0"]
    if asked.chunk_tokens is not None:
        step = str(asked.chunk_tokens or spec.context)
        flags += ["-b", step, "-ub", step]
    if not asked.continuous:
        flags += ["--no-cont-batching"]
    if asked.cache_tokens is not None:
        flags += ["--kv-unified"]
    if asked.gpus > 1:
        on_gpus(NAME, spec)
        if asked.tensor_parallel > 1 and asked.pipeline_parallel > 1:
            raise Unavailable("llama.cpp splits rows over GPUs (tensor) or deals out layers (pipeline), not both")
        flags += ["--split-mode", "row" if asked.tensor_parallel > 1 else "layer", "--tensor-split", ",".join(["1"] * asked.gpus)]
    return tuple(flags)


def request(spec: Spec, prompt: list[int], tokens: int) -> tuple[str, bytes]:
    """`cache_prompt` off unless asked: a repeated prompt must cost what it costs. `timings_per_token`: each event says what it ends."""
    body = completion(prompt, tokens, cache_prompt=spec.options.prefix_cache, timings_per_token=True)
    return "/v1/completions", json.dumps(body).encode()


def tokens_in(event: Mapping[str, Any]) -> int | None:
    timings = event.get("timings")
    return None if not timings else int(timings["predicted_n"])


def counters(exposition: str) -> dict[str, float]:
    return scraped(exposition, {
        "prompt_tokens": "llamacpp:prompt_tokens_total",
        "cached_tokens": "llamacpp:prompt_tokens_cached_total",
        "prefill_s": "llamacpp:prompt_seconds_total",
        "output_tokens": "llamacpp:tokens_predicted_total",
        "decode_s": "llamacpp:tokens_predicted_seconds_total",
        "steps": "llamacpp:n_decode_total",
        "running_per_step": "llamacpp:n_busy_slots_per_decode",
        "waiting": "llamacpp:requests_deferred",
    })


TELLS: tuple[str, ...] = ("-lv", "4")
CELLS = 256  # a sequence's room is a multiple of it


def kv_cache(spec: Spec) -> Cache:
    """A share of the room for each slot, or one room for all where the cache's size is given. Q8_0: 34 bytes for 32 numbers."""
    element_bytes = 34 / 32 if spec.options.kv == "8-bit" else 2
    if (whole := spec.options.cache_tokens) is not None:
        return Cache(-(-whole // CELLS) * CELLS, spec.slots, element_bytes=element_bytes)
    return Cache(-(-spec.context // CELLS) * CELLS * spec.slots, spec.slots, divided=True, element_bytes=element_bytes)


def allocated(log: str, spec: Spec) -> dict[str, float]:
    """On a GPU its buffers there, else all. Weights that it repacks for its kernels lie in memory beside the mapped file."""
    where = r"CUDA\d+" if spec.device == "cuda" else r"CPU(?:_Mapped)?"
    buffers = {"weights_bytes": f"{where} +model", "repacked_bytes": "CPU_REPACK +model", "kv_bytes": f"{where} +KV",
               "compute_bytes": f"{where} +(?:compute|output)"}
    found = {word: re.findall(rf" {buffer} buffer size = +([\d.]+) MiB", log) for word, buffer in buffers.items()}
    said = {word: sum(map(float, sizes)) * 2**20 for word, sizes in found.items() if sizes}
    if room := re.search(r"llama_kv_cache: size = .*?\( *(\d+) cells, +\d+ layers, +\d+/(\d+) seqs\)", log):
        said["kv_tokens"] = float(room[1]) * float(room[2])
    return said
