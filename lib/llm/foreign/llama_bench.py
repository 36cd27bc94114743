"""The JSON of llama-bench: a test is a prompt, or tokens generated at a depth, and the nanoseconds of each repetition.

Of a llama.cpp server with a single stream, a first token is a prompt test and the rest of the answer a generation test at the prompt's
depth; ours hold HTTP and scheduling too. Its files name a commit and no version: the fields are the schema. Refuses files with other
fields, and runs without such a cell, for it knows one engine and one stream.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from lib import record
from lib.llm.engines import llamacpp
from lib.llm.foreign.benchmark import Benchmark, Inexpressible, OtherVersion, length
from lib.llm.model import Shape

VERSION = "llama-cpp-python 0.3.36"  # whose vendored llama.cpp has these fields
FIELDS = ("build_commit", "build_number", "cpu_info", "gpu_info", "backends", "model_filename", "model_type", "model_size",
          "model_n_params", "n_batch", "n_ubatch", "n_threads", "cpu_mask", "cpu_strict", "poll", "type_k", "type_v", "n_gpu_layers",
          "n_cpu_moe", "split_mode", "main_gpu", "no_kv_offload", "flash_attn", "devices", "tensor_split", "tensor_buft_overrides",
          "load_mode", "lazy_mode", "embeddings", "no_op_offload", "no_host", "repack", "fit_target", "fit_min_ctx", "n_prompt", "n_gen",
          "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts")  # fmt: skip
DEFAULTS = {"cpu_mask": "0x0", "cpu_strict": False, "poll": 50, "n_cpu_moe": 0, "split_mode": "layer", "main_gpu": 0,
            "no_kv_offload": False, "flash_attn": 1, "devices": "auto", "tensor_split": "0.00", "tensor_buft_overrides": "none",
            "load_mode": "auto", "lazy_mode": "auto", "embeddings": False, "no_op_offload": 0, "no_host": False, "repack": True,
            "fit_target": 0, "fit_min_ctx": 0}  # fmt: skip
Test: TypeAlias = tuple[str, int, int, int]  # the setting but for its round; tokens of the prompt, generated, at which depth


@dataclass(frozen=True, slots=True)
class Phase:
    """One test as it is read: tokens of the prompt or generated, after how many others, and the seconds of each repetition."""

    model: str
    build: str
    threads: int
    prompt_tokens: int
    output_tokens: int
    depth: int
    samples_s: tuple[float, ...]

    @property
    def tokens_per_s(self) -> list[float]:
        return [(self.prompt_tokens + self.output_tokens) / s for s in self.samples_s]


def written(run: record.Run, cells: Sequence[Benchmark]) -> list[dict[str, Any]]:
    """Its tests, two a setting; rounds are further repetitions. Raises Inexpressible where no cell is llama.cpp's with a single stream."""
    samples_ns: dict[Test, list[int]] = {}
    first: dict[Test, Benchmark] = {}
    for b in (one for one in cells if one.setting.get("engine") == llamacpp.NAME and one.streams == 1):
        who = record.canonical({key: value for key, value in b.setting.items() if key != "round"})
        for a in b.good:
            prompt, after = a.prompt_tokens or 0, length(a) - (a.counts[0] if a.counts else 1)
            tests: list[tuple[Test, float]] = [((who, prompt, 0, 0), a.stamps_s[0])]
            tests += [((who, 0, after, prompt), a.stamps_s[-1] - a.stamps_s[0])] if after else []
            for test, seconds in tests:
                samples_ns.setdefault(test, []).append(round(seconds * 1e9))
                first.setdefault(test, b)
    if not samples_ns:
        raise Inexpressible("llama-bench knows llama.cpp and a single stream: there is no such cell that may be quoted")
    return [_test(run, first[test], test, each) for test, each in samples_ns.items()]


def read(text: str) -> list[Phase]:
    """The tests of a file of `llama-bench -o json`. Raises OtherVersion, and ValueError for what is no such file or does not add up."""
    tests = json.loads(text)
    if not isinstance(tests, list) or not all(isinstance(test, dict) and "samples_ns" in test for test in tests):
        raise ValueError("this is no output of llama-bench -o json")
    return [_phase(test) for test in tests]


def _phase(test: Mapping[str, Any]) -> Phase:
    build = f"{test.get('build_commit')} ({test.get('build_number')})"
    lacks, more = [name for name in FIELDS if name not in test], [name for name in test if name not in FIELDS]
    if lacks or more:
        differs = [f"it lacks {', '.join(lacks)}"] * bool(lacks) + [f"it has {', '.join(more)}"] * bool(more)
        raise OtherVersion(f"build {build} is not the llama-bench of {VERSION}: {'; '.join(differs)}")
    if not test["samples_ns"] or abs(float(np.mean(test["samples_ns"])) - test["avg_ns"]) > 1:
        raise ValueError(f"{len(test['samples_ns'])} repetitions of build {build} do not have the mean of {test['avg_ns']} ns")
    return Phase(test["model_type"], build, test["n_threads"], test["n_prompt"], test["n_gen"], test["n_depth"],
                 tuple(ns / 1e9 for ns in test["samples_ns"]))


def _test(run: record.Run, b: Benchmark, test: Test, samples_ns: list[int]) -> dict[str, Any]:
    """One test in its own order of fields; what our server was not told is its default, which is llama-bench's too."""
    _, n_prompt, n_gen, n_depth = test
    here, stored = run.environment, str(b.facts["stored"])
    shape = next((Shape(**p.facts["shape"]) for p in run.points() if p.setting.get("what") == "model"), None)
    step, cache = b.setting.get("chunk_tokens"), "q8_0" if b.setting.get("kv") == "8-bit" else "f16"
    rates = [1e9 * (n_prompt + n_gen) / ns for ns in samples_ns]
    values = {
        **DEFAULTS, "build_commit": here["packages"].get(llamacpp.NAME, "unknown"), "build_number": 0, "cpu_info": here["cpu"],
        "gpu_info": ", ".join(gpu["name"] for gpu in here["gpus"]), "backends": "CUDA" if here["gpus"] else "CPU",
        "model_filename": f"{b.model}.{stored}.gguf", "model_type": f"{b.model} {stored.upper()}", "model_size": b.facts["weights_bytes"],
        "model_n_params": shape.parameters if shape else 0, "n_batch": step or 2048, "n_ubatch": step or 512, "n_threads": here["threads"],
        "type_k": cache, "type_v": cache, "n_gpu_layers": 99 if here["gpus"] else 0, "n_prompt": n_prompt, "n_gen": n_gen,
        "n_depth": n_depth, "test_time": b.utc, "avg_ns": int(np.mean(samples_ns)), "stddev_ns": int(_deviation(samples_ns)),
        "avg_ts": round(float(np.mean(rates)), 6), "stddev_ts": round(_deviation(rates), 6), "samples_ns": samples_ns,
        "samples_ts": [float(f"{rate:.6g}") for rate in rates],
    }  # fmt: skip
    return {name: values[name] for name in FIELDS}


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
