"""Static or continuous batching: the same requests of mixed lengths, served in every way that there is. What came of it: `ways.py`.

All requests are there from the start. A client that keeps k of them in flight stands for a server that is allowed k at a time, so that
one start serves all sizes. Not so where the server makes the batches: what a client sends when a batch has ended misses the next one
(our padded server, which waits a moment, apart), so there all requests wait in the server. Then long prompts arrive among running
answers, cut into pieces or not. Refuses nothing by itself: what an engine cannot do is a row with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import pandas as pd

from lib import record
from lib.llm import bench, ways
from lib.llm.bench import Trial
from lib.llm.contender import Contender
from lib.llm.engines.engine import Options
from lib.llm.load import Closed, Load, Open, Replay, Waves
from lib.llm.mix import CONVERSATION, Mix
from lib.llm.session import Session
from lib.llm.workload import Request, cut


@dataclass(frozen=True, slots=True)
class Interruption:
    """`streams` short questions with long answers, and `newcomers` of long prompts that arrive among them; every one `rounds` times."""

    streams: int
    newcomers: int
    prompt_tokens: int
    rounds: int
    stream_tokens: tuple[int, int]  # prompt, answer
    answer_tokens: int = 8
    seed: int = 0

    @property
    def context(self) -> int:
        return max(sum(self.stream_tokens), self.prompt_tokens + self.answer_tokens)

    @property
    def setting(self) -> dict[str, record.Scalar]:
        return {"streams": self.streams, "newcomers": self.newcomers, "prompt_tokens": self.prompt_tokens}

    def asks(self, corpus: tuple[int, ...], *, context: int | None = None) -> list[Request]:
        """Streams first, in every round. Raises ValueError when they do not fit `context` or cannot be unique."""
        if context is not None and self.context > context:
            raise ValueError(f"{self} does not fit a context of {context}")
        shape = [self.stream_tokens] * self.streams + [(self.prompt_tokens, self.answer_tokens)] * self.newcomers
        prompts = cut(corpus, [prompt for prompt, _ in shape] * self.rounds, seed=(self.seed, self.prompt_tokens))
        return [Request(tuple(prompt), shape[i % len(shape)][1]) for i, prompt in enumerate(prompts)]

    def load(self, *, first_s: float, every_s: float) -> Replay:
        """Streams at once; the first newcomer after `first_s`, when they are decoding, the others `every_s` apart."""
        times_s = (0.0,) * self.streams + tuple(first_s + i * every_s for i in range(self.newcomers))
        return Replay(times_s, ways.ARRIVING, connections=len(times_s))


@dataclass(frozen=True, slots=True)
class Plan:
    """`sizes`: how many at a time; `requests` a cell, of lengths times `scale`; `chunk_tokens`: a step that cuts long prompts."""

    sizes: tuple[int, ...]
    requests: int
    rounds: int
    scale: float
    interruption: Interruption
    chunk_tokens: int
    newcomer_s: tuple[float, float]  # the first, then one every
    arrivals: int = 0  # requests of a Poisson stream a cell, 0: none

    def mix(self, requests: int) -> Mix:
        """Lengths as published, scaled; no answer under 4 tokens, for it would not show who was served with whom."""
        mix = CONVERSATION.scaled(self.scale).of(requests * self.rounds)
        return replace(mix, output=replace(mix.output, lo=max(4, mix.output.lo)))


PLANS = {
    "smoke": Plan((4,), 8, 1, 0.04, Interruption(2, 1, 256, 1, (16, 24), 4), 64, (0.1, 0.3)),
    "quick": Plan((4, 8), 24, 3, 0.06, Interruption(3, 1, 1024, 3, (32, 64)), 128, (0.5, 1.0)),
    "full": Plan((8, 32, 128), 512, 5, 1.0, Interruption(16, 4, 6144, 5, (64, 1024)), 512, (1.0, 1.0), arrivals=128),
}


def backlog(s: Session, rivals: Sequence[Contender], plan: Plan) -> pd.DataFrame:
    """The mix by every way and size, and long prompts among running answers, whole and cut: all engines up together."""
    return bench.sweep(s, trials(rivals, plan), rounds=plan.rounds, slots=max(plan.sizes))


def trials(rivals: Sequence[Contender], plan: Plan) -> dict[Contender, list[Trial]]:
    """What each contender is asked. llama.cpp runs a second time without continuous batching, and whoever can cut prompts with them cut."""
    asked: dict[Contender, list[Trial]] = {}
    interrupted = Trial(plan.interruption, plan.interruption.load(first_s=plan.newcomer_s[0], every_s=plan.newcomer_s[1]))
    mix = plan.mix(plan.requests)
    at_once = [Trial(mix, Closed(size)) for size in plan.sizes]
    waves = Trial(mix, Waves(max(plan.sizes)))
    all_there = Trial(mix, Replay((0.0,) * plan.requests, ways.BACKLOG, connections=plan.requests))  # as many at a time as there are slots
    for rival in rivals:
        padded = rival.engine.NAME == "transformers"
        asked[rival] = [*at_once[:-1], all_there] if padded else [*at_once, waves, interrupted]
        if rival.engine.NAME == "llama.cpp":
            asked[with_options(rival, Options(continuous=False))] = [all_there]
        if not padded:
            asked[with_options(rival, Options(chunk_tokens=plan.chunk_tokens))] = [interrupted]
    return asked


def with_options(rival: Contender, options: Options) -> Contender:
    """The same on as many GPUs, with other options."""
    spread = rival.options
    return replace(rival, options=replace(options, tensor_parallel=spread.tensor_parallel, pipeline_parallel=spread.pipeline_parallel))


def arrivals(s: Session, rivals: Sequence[Contender], plan: Plan) -> pd.DataFrame:
    """Poisson arrivals at llama.cpp with and without continuous batching, at a rate that one of them should carry and the other not.

    The rate is the geometric mean of what both finished a second of the backlog. Nothing where the plan has no arrivals, or no backlog
    was measured to take the rate from.
    """
    frame = s.frame()
    speeds = ways.served(frame[frame["machine_id"] == s.run.machine_id]) if plan.arrivals and len(frame) else pd.DataFrame()
    asked: dict[Contender, list[Trial]] = {}
    for rival in rivals:
        both = [Options(), Options(continuous=False)]
        mine = speeds[(speeds["engine"] == rival.engine.NAME) & (speeds["size"] == max(plan.sizes))] if len(speeds) else speeds
        capacity = {way: float(group["requests_per_s"].mean()) for way, group in mine.groupby("way")} if len(mine) else {}
        if {"static", "continuous"} <= set(capacity):
            rate = round(sqrt(capacity["static"] * capacity["continuous"]), 3)
            load: Load = Open(rate, connections=max(plan.sizes))
            asked |= {with_options(rival, options): [Trial(plan.mix(plan.arrivals), load)] for options in both}
    return bench.sweep(s, asked, rounds=plan.rounds, slots=max(plan.sizes)) if asked else frame
