"""Hugging Face transformers as the static-batching baseline, served by our own thin server so that one client measures all.

Its `generate` loop is what most people run first. `transformers serve` does not fit here: it refuses `ignore_eos`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version as installed
from typing import Any

from lib.home import ROOT
from lib.llm.engines.engine import Command, Spec, Unavailable, completion, usage_so_far

NAME = "transformers"
HEALTH = "/health"
METRICS = ""
KEEPS_ALIVE = True


def available() -> str | None:
    return None


def version() -> str:
    return installed("transformers")


def stored(spec: Spec) -> str:
    if spec.precision != "16-bit":
        raise Unavailable(f"transformers serves {spec.model.name} at 16 bit here, not {spec.precision}")
    return "bf16"


def command(spec: Spec, port: int) -> Command:
    stored(spec)
    return Command((sys.executable, "-m", "lib.llm.engines.transformers_server", str(spec.model.family.hf), str(port), spec.device,
                    str(spec.threads), *spec.extra),
                   {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(spec.threads)})


def request(spec: Spec, prompt: list[int], tokens: int) -> tuple[str, bytes]:
    return "/v1/completions", json.dumps(completion(prompt, tokens)).encode()


def tokens_in(event: Mapping[str, Any]) -> int | None:
    return usage_so_far(event)


def counters(exposition: str) -> dict[str, float]:
    return {}
