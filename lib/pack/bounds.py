"""What a GPU can do at most for a load: its bytes take their time to be read and its multiply-adds to be done, whichever is longer.

Pure arithmetic of a model's shape and of a device's rates, measured ones or those of its data sheet, so it is known before anything runs.
It is a bound, no forecast: nothing is said of launches, attention kernels or schedulers. Refuses to guess a rate that nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lib import machine
from lib.home import PUBLISHED
from lib.llm import memory, synthetic
from lib.llm.model import Shape
from lib.llm.session import Session

MODEL = synthetic.shape("8b")
WHOLE = ("bf16", "f16")  # forms that are multiplied at 16 bits; others may be at 8
CARDS = {"H200": memory.CARDS["141 GB"], "H100 80GB HBM3": memory.CARDS["80 GB"]}


@dataclass(frozen=True, slots=True)
class Rates:
    """A device's limits: B/s, and FLOP/s at 16 bits and at the fastest of fewer. `source`: a data sheet, or a run."""

    device: str
    bandwidth: float
    flops: float
    fast_flops: float
    source: str


def sheet(device: str = "H200") -> Rates:
    """As published. Raises KeyError for a device of which nobody wrote down all of it."""
    told = machine.peak(device)
    if told is None or not told["fp8_flop_per_s"]:
        raise KeyError(f"no published rates of {device!r}")
    bandwidth, flops, fast = (float(told[f"{what}_per_s"]) for what in ("bandwidth_bytes", "bf16_flop", "fp8_flop"))
    return Rates(device, bandwidth, flops, fast, told["source"])


def measured(s: Session) -> Rates | None:
    """As the run measured them itself; None where it lacks one."""
    found = {**s.ceilings(), **{f"matmul {p.setting['form']}": float(p.facts["rate"]) for p in s.run.points()
                                if p.setting.get("form") == "float8" and p.status == "ok"}}  # fmt: skip
    read = [rate for name, rate in found.items() if name.startswith("read")]
    whole = [rate for name, rate in found.items() if name in ("matmul bfloat16", "matmul float16")]
    if not read or not whole:
        return None
    fast = [rate for name, rate in found.items() if name.startswith("matmul")]
    return Rates(s.run.environment["gpus"][0]["name"], max(read), max(whole), max(fast), f"measured in run {s.run.run_id}")


def read_bytes(of: Shape, form: str, weights_bytes: float) -> float:
    """What a step reads of weights in `form`: all but an input embedding of its own, which is only looked into."""
    if of.tied:
        return weights_bytes
    uniform = form in synthetic.GGUF
    return weights_bytes - (weights_bytes * of.vocab * of.hidden / of.parameters if uniform else 2 * of.vocab * of.hidden)


def decode_flops(of: Shape, context: float) -> float:
    """Of one token after `context` others. Multiply-adds count 2."""
    return 2 * (of.layers * of.layer_parameters + of.vocab * of.hidden) + 4 * of.layers * of.heads * of.head_dim * context


def tokens_per_s(rates: Rates, lengths: Sequence[tuple[int, int]], *, users: float, form: str, of: Shape = MODEL,
                 weights_bytes: float | None = None, kv_element_bytes: float = 2) -> float:
    """Output tokens/s of `users` at a time that no server exceeds: `lengths` are the requests' prompts and answers in tokens."""
    weights_s, cache_s, flops_s = _times_s(rates, lengths, form, of, weights_bytes, kv_element_bytes)
    return 1 / max(weights_s / users + cache_s, flops_s)


def balance(rates: Rates, lengths: Sequence[tuple[int, int]], *, form: str, of: Shape = MODEL) -> float | None:
    """Users from which on arithmetic binds and no longer memory; None where it never does, for caches take as long to read."""
    weights_s, cache_s, flops_s = _times_s(rates, lengths, form, of, None, 2)
    return weights_s / (flops_s - cache_s) if flops_s > cache_s else None


def _times_s(rates: Rates, lengths: Sequence[tuple[int, int]], form: str, of: Shape, weights_bytes: float | None,
             kv_element_bytes: float) -> tuple[float, float, float]:
    """Seconds an output token: its weights if they are read for it alone, its cache, its multiply-adds with a share of the prompt's."""
    tokens = sum(output for _, output in lengths)
    kept = sum(output * (prompt + output / 2) for prompt, output in lengths) * of.kv_bytes_per_token(element_bytes=kv_element_bytes)
    flops = sum(of.prefill_flops(prompt) + (output - 1) * decode_flops(of, prompt + output / 2) for prompt, output in lengths)
    weights = read_bytes(of, form, weights_bytes or synthetic.needed_bytes(of, form))
    rate = rates.flops if form in WHOLE else rates.fast_flops
    return weights / rates.bandwidth, kept / tokens / rates.bandwidth, flops / tokens / rate


def first_token_s(rates: Rates, prompt: int, *, form: str, of: Shape = MODEL, weights_bytes: float | None = None) -> float:
    """The least that a prompt takes, alone: its multiply-adds, or the weights read once."""
    weights = read_bytes(of, form, weights_bytes or synthetic.needed_bytes(of, form))
    return max(weights / rates.bandwidth, of.prefill_flops(prompt) / (rates.flops if form in WHOLE else rates.fast_flops))


def token_s(rates: Rates, context: float, *, form: str, of: Shape = MODEL, weights_bytes: float | None = None,
            kv_element_bytes: float = 2) -> float:
    """The least that the next token takes after `context` others, alone: weights and their cache read once."""
    weights = read_bytes(of, form, weights_bytes or synthetic.needed_bytes(of, form))
    return of.decode_bytes(weights, context, kv_element_bytes=kv_element_bytes) / rates.bandwidth


def kv_tokens(weights_bytes: float, memory_bytes: float, *, of: Shape = MODEL, kv_element_bytes: float = 2) -> int:
    """Tokens of cache beside the weights, a tenth of the card left free (lib/llm/memory.py)."""
    return int((memory_bytes * (1 - memory.OVERHEAD) - weights_bytes) // of.kv_bytes_per_token(element_bytes=kv_element_bytes))


def published() -> pd.DataFrame:
    """Others' offline rates of this shape, each with the bound of its own device for as many users as its memory holds (8-bit cache)."""
    rows = []
    for row in pd.read_csv(PUBLISHED / "throughput.csv").to_dict("records"):
        each = (int(row["prompt_tokens"]), int(row["output_tokens"]))
        users = kv_tokens(synthetic.needed_bytes(MODEL, "fp8"), CARDS[row["device"]], kv_element_bytes=1) / sum(each)
        bound = tokens_per_s(sheet(row["device"]), [each], users=users, form="fp8", kv_element_bytes=1)
        rows.append({**row, "users": users, "bound": bound, "share": row["tok_s"] / bound})
    return pd.DataFrame(rows)
