"""One server of a language model, simulated step by step: continuous batching over so many slots, at a pace that was fitted.

Requests wait in the order in which they came. A free slot takes the next one; a step computes the prompts that have a slot, as far as
its budget of tokens goes, and one token of every answer that runs. Refuses loads that no server could be asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt

from lib.llm.metrics import Slo
from lib.llm.pace import Numbers, Pace

BUDGET = 2048  # tokens a step holds at most: what vLLM and llama.cpp take unless told otherwise


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests in the order of their arrival, times in s."""

    arrivals_s: tuple[float, ...]
    prompt_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.arrivals_s) == len(self.prompt_tokens) == len(self.output_tokens) > 0:
            raise ValueError("a load has as many arrivals as prompts and answers, and at least one")
        if min(self.prompt_tokens) < 1 or min(self.output_tokens) < 1:
            raise ValueError("prompts and answers have at least one token")
        if any(b < a for a, b in zip(self.arrivals_s, self.arrivals_s[1:], strict=False)):
            raise ValueError("arrivals are in the order of time")


@dataclass(frozen=True, slots=True)
class Served:
    """When each request was due, got its first token and its last, s; and how long the server was busy."""

    due_s: Numbers
    first_s: Numbers
    last_s: Numbers
    output_tokens: npt.NDArray[np.int64]
    busy_s: float

    @property
    def ttft_s(self) -> Numbers:
        return self.first_s - self.due_s

    @property
    def tpot_s(self) -> Numbers:
        """Seconds a token after the first; NaN for answers of one token."""
        after = self.output_tokens - 1
        return np.where(after > 0, (self.last_s - self.first_s) / np.maximum(after, 1), np.nan)

    def good(self, slo: Slo) -> npt.NDArray[np.bool_]:
        """Which requests met the promise; an answer of one token has but a first."""
        tpot = self.tpot_s
        return np.asarray((self.ttft_s <= slo.ttft_s) & (np.isnan(tpot) | (tpot <= slo.tpot_s)))


def poisson(rate_per_s: float, requests: int, *, prompt_tokens: int, output_tokens: int, seed: int = 0) -> Asked:
    """Requests of one length at exponential gaps; the same seed gives the same gaps at every rate, stretched. Raises ValueError."""
    if not 0 < rate_per_s < float("inf"):
        raise ValueError(f"an arrival rate of {rate_per_s} a second is none")
    gaps = np.random.default_rng(seed).exponential(1.0, requests)
    times = (np.cumsum(gaps) - gaps[0]) / rate_per_s
    return Asked(tuple(times.tolist()), (prompt_tokens,) * requests, (output_tokens,) * requests)


def serve(asked: Asked, pace: Pace, *, slots: int, budget: int = BUDGET, streams: int | None = None,
          rng: np.random.Generator | None = None) -> Served:
    """What happens to each request. `streams`: so many users each ask when they are answered; only the arrivals of their first count.

    `rng`: steps wobble as the recorded ones did; without it each takes what was fitted. Raises ValueError without slots or budget.
    """
    if slots < 1 or budget < slots:
        raise ValueError(f"{slots} slots and steps of {budget} tokens: at least one slot, and a token of a step for each")
    n = len(asked.prompt_tokens)
    due, first, last = np.zeros(n), np.zeros(n), np.zeros(n)
    decode_s = [pace.running_s(running, 0.0) for running in range(slots + 1)]
    plain, mixed = _drawn(pace.wobble, rng), _drawn(pace.prompt_wobble, rng)
    coming = deque(zip(asked.arrivals_s, range(min(streams or n, n)), strict=False))
    unasked = iter(range(len(coming), n))
    waiting: deque[int] = deque()
    prefilling: deque[list[int]] = deque()  # request, tokens of its prompt that were computed
    ending: dict[int, list[int]] = {}  # step -> answers whose last token it writes
    now, step, running, context, free, busy = 0.0, 0, 0, 0.0, slots, 0.0
    while coming or waiting or prefilling or running:
        if not (waiting or prefilling or running):
            now = max(now, coming[0][0] + pace.overhead_s)
        while coming and coming[0][0] + pace.overhead_s <= now:
            at, request = coming.popleft()
            due[request] = at
            waiting.append(request)
        while free and waiting:
            free -= 1
            prefilling.append([waiting.popleft(), 0])
        ready, (prompts, tokens, squares) = _prefill(prefilling, asked.prompt_tokens, budget - running)
        took = decode_s[running] + pace.context_s * context
        took = (took + pace.prompts_s(prompts, tokens, squares)) * next(mixed) if prompts else took * next(plain)
        now, step, busy, context = now + took, step + 1, busy + took, context + running
        done = ending.pop(step, [])
        running -= len(done)
        for request in ready:
            first[request] = now
            ends = step + asked.output_tokens[request] - 1
            if ends == step:
                done.append(request)
                context += asked.prompt_tokens[request] + 1  # leaves again below
            else:
                ending.setdefault(ends, []).append(request)
                running, context = running + 1, context + asked.prompt_tokens[request] + 1
        for request in done:
            last[request] = now
            free, context = free + 1, context - asked.prompt_tokens[request] - asked.output_tokens[request]
            if streams and (following := next(unasked, None)) is not None:
                coming.append((now, following))
    return Served(due, first, last, np.asarray(asked.output_tokens), busy)


def _prefill(prefilling: deque[list[int]], lengths: Sequence[int], room: int) -> tuple[list[int], tuple[int, int, float]]:
    """Compute prompts in turn as far as `room` tokens go: those that are whole now, and what it was (prompts, tokens, squares)."""
    ready: list[int] = []
    prompts, tokens, squares = 0, 0, 0.0
    while prefilling and room > 0:
        request, computed = prefilling[0]
        part = min(room, lengths[request] - computed)
        prompts, tokens, room = prompts + 1, tokens + part, room - part
        squares += float((computed + part) ** 2 - computed**2)  # each token looks at all before it
        if computed + part == lengths[request]:
            ready.append(request)
            prefilling.popleft()
        else:
            prefilling[0][1] = computed + part
    return ready, (prompts, tokens, squares)


def _drawn(values: Sequence[float], rng: np.random.Generator | None) -> Iterator[float]:
    if rng is None or len(values) == 1:
        yield from repeat(values[0] if len(values) == 1 else 1.0)
    while rng is not None:
        yield from rng.choice(np.asarray(values), 4096).tolist()
