"""How long a server's steps take, by what they compute: fitted to the token stamps of recorded closed loops.

A server that batches continuously advances in steps. Each writes one token of every answer that runs, and computes the prompts that
came in meanwhile. So the gap between two tokens of one answer is a step, and what it held is known from everybody's stamps. Costs are
found by least squares, none below zero. Refuses to fit loads without stamps, and is never shown the loads that it is judged by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from lib.llm.events import Answer

Numbers: TypeAlias = npt.NDArray[np.float64]
KNOTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TURNS = 8  # of reweighting; the fit stands still after four or five
HUBER = 1.345  # in units of the residuals' deviation: 95 % as sharp as least squares where they are normal, deaf to stalls
QUANTILES = 199  # of the residuals kept: enough for the tail that 31 steps of an answer can still show
FEWEST = 50  # steps; fewer tell nothing of a dozen costs


class TooFew(ValueError):
    """There are not enough steps to fit; the message says how many there were."""


class Step(NamedTuple):
    """One step as it was seen: how long, and what it held.

    `decoding` answers with `context` tokens in their caches together; `prompts` of `tokens` altogether, `squares` the sum of their
    squares. `alone`: not a gap but a first token whose request had the server to itself, with all that comes before and after the step.
    `weight`: a step that b answers saw counts once.
    """

    seconds: float
    decoding: int
    context: float
    prompts: int
    tokens: int
    squares: float
    alone: bool
    weight: float


@dataclass(frozen=True, slots=True)
class Pace:
    """The costs, in seconds: `decode_s` of a step at each of the `knots` (answers that run), linear between them; `context_s` a cached
    token, `prompt_s` a prompt, `token_s` a token of it, `square_s` a token of it squared; `overhead_s` what a request waits for besides
    steps (transport, tokenising). `wobble`, `prompt_wobble`: quantiles of seen ÷ fitted, of steps without and with a prompt.
    """

    knots: tuple[int, ...]
    decode_s: tuple[float, ...]
    context_s: float
    prompt_s: float
    token_s: float
    square_s: float
    overhead_s: float
    wobble: tuple[float, ...] = (1.0,)
    prompt_wobble: tuple[float, ...] = (1.0,)
    steps: int = 0

    def running_s(self, decoding: int, context: float) -> float:
        """A step of answers alone."""
        return float(np.interp(decoding, self.knots, self.decode_s)) + self.context_s * context if decoding else 0.0

    def prompts_s(self, prompts: int, tokens: float, squares: float) -> float:
        """What prompts add to a step."""
        return self.prompt_s * prompts + self.token_s * tokens + self.square_s * squares

    @property
    def spread(self) -> float:
        """Half of the steps without a prompt lie within this share of the fit."""
        return float(np.median(np.abs(np.asarray(self.wobble) - 1)))


def steps(answers: Sequence[Answer]) -> list[Step]:
    """Every gap of one token in a cell, and every first token of a request that was alone. Gaps of several tokens are left out."""
    served = [a for a in answers if a.stamps_s and a.error is None and a.prompt_tokens]
    if not served:
        return []
    times = [np.asarray(a.stamps_s) + a.sent_s for a in served]
    told = [np.asarray(a.counts or range(1, len(a.stamps_s) + 1)) for a in served]
    seen = _Seen(served, times, told)
    found: list[Step] = []
    for number, (answer, mine, counts) in enumerate(zip(served, times, told, strict=True)):
        if seen.alone(number):
            prompt = answer.prompt_tokens or 0
            found.append(Step(answer.stamps_s[0], 0, 0.0, 1, prompt, float(prompt) ** 2, True, 1.0))
        if len(mine) < 2:
            continue
        middles = (mine[1:] + mine[:-1]) / 2
        running, context = seen.running(middles)
        prompts, tokens, squares = seen.joined(number)
        found += [Step(float(mine[i + 1] - mine[i]), int(running[i]), float(context[i]), int(prompts[i]), int(tokens[i]),
                       float(squares[i]), False, 1.0 / float(running[i])) for i in np.flatnonzero((np.diff(counts) == 1) & (running > 0))]
    return found


class _Seen:
    """A cell's stamps, sorted so that what went on at any moment is two look-ups away."""

    def __init__(self, served: Sequence[Answer], times: Sequence[Numbers], told: Sequence[npt.NDArray[Any]]) -> None:
        self._times = times
        self._prompts = np.array([a.prompt_tokens or 0 for a in served], dtype=float)
        self._sent = np.array([a.sent_s for a in served])
        self._first, self._last = (np.array([one[end] for one in times]) for end in (0, -1))
        self._started, self._ended = np.argsort(self._first), np.argsort(self._last)
        whole = self._prompts + np.array([one[-1] for one in told], dtype=float)
        self._began = np.concatenate(([0.0], np.cumsum(self._prompts[self._started])))
        self._left = np.concatenate(([0.0], np.cumsum(whole[self._ended])))
        every = np.concatenate(times)
        order = np.argsort(every, kind="stable")
        self._every = every[order]
        added = np.concatenate([np.diff(one, prepend=0) for one in told]).astype(float)
        self._written = np.concatenate(([0.0], np.cumsum(added[order])))

    def alone(self, number: int) -> bool:
        """Nobody else was on the way while this request waited for its first token."""
        overlap = (self._sent < self._first[number]) & (self._last > self._sent[number])
        return int(overlap.sum()) == 1

    def running(self, at: Numbers) -> tuple[npt.NDArray[Any], Numbers]:
        """Answers between their first and last token at these moments, and the tokens in their caches together."""
        begun = np.searchsorted(self._first[self._started], at, side="right")
        ended = np.searchsorted(self._last[self._ended], at, side="left")
        written = np.searchsorted(self._every, at, side="right")
        return begun - ended, self._began[begun] - self._left[ended] + self._written[written]

    def joined(self, number: int) -> tuple[Numbers, Numbers, Numbers]:
        """For each gap of one answer the prompts of others that were computed in it: those whose first token came with its end."""
        mine = self._times[number]
        count, tokens, squares = (np.zeros(len(mine) - 1) for _ in range(3))
        others = np.flatnonzero((self._first > mine[0]) & (self._first < mine[-1] + (mine[-1] - mine[-2]) / 4))
        others = others[others != number]
        right = np.clip(np.searchsorted(mine, self._first[others]), 1, len(mine) - 1)
        nearest = np.where(self._first[others] - mine[right - 1] < mine[right] - self._first[others], right - 1, right)
        for other, at in zip(others, nearest, strict=True):
            if at >= 1:  # with its own first token: the step was none of its gaps
                count[at - 1] += 1
                tokens[at - 1] += self._prompts[other]
                squares[at - 1] += self._prompts[other] ** 2
        return count, tokens, squares


def fit(seen: Sequence[Step]) -> Pace:
    """The costs under which the seen steps are likeliest. Relative errors count, and stalls count less. Raises TooFew.

    A stall is no cost of what the step computed, but it is part of what users see: it stays in the quantiles of seen ÷ fitted.
    """
    gaps = sum(not step.alone for step in seen)
    if gaps < FEWEST:
        raise TooFew(f"{gaps} steps were recorded; a fit wants {FEWEST}")
    most = max(step.decoding for step in seen)
    knots = (*(k for k in KNOTS if k < most), most)
    y = np.array([step.seconds for step in seen])
    design = np.column_stack([_hats([step.decoding for step in seen], knots), [step.context for step in seen],
                              [step.prompts for step in seen], [step.tokens for step in seen], [step.squares for step in seen],
                              [float(step.alone) for step in seen]])  # fmt: skip
    scale = np.where((top := design.max(axis=0)) > 0, top, 1.0)
    shares = np.array([step.weight for step in seen])
    costs, fitted = np.zeros(design.shape[1]), np.full(len(y), float(np.median(y)))  # a gap may be 0: two tokens in one read
    for _ in range(TURNS):
        weights = np.sqrt(shares * _heard(y / fitted - 1)) / fitted
        costs = nnls(design / scale * weights[:, None], y * weights)[0] / scale
        fitted = np.maximum(design @ costs, 1e-6)
    ratio, prompts, alone = y / fitted, np.array([step.prompts > 0 for step in seen]), np.array([step.alone for step in seen])
    decode_s = tuple(float(cost) for cost in costs[:len(knots)])
    context_s, prompt_s, token_s, square_s, overhead_s = (float(cost) for cost in costs[len(knots):])
    return Pace(knots, decode_s, context_s, prompt_s, token_s, square_s, overhead_s,
                wobble=_quantiles(ratio[~alone & ~prompts], shares[~alone & ~prompts]),
                prompt_wobble=_quantiles(ratio[~alone & prompts], shares[~alone & prompts]), steps=gaps)  # fmt: skip


def _hats(values: Sequence[int], knots: Sequence[int]) -> Numbers:
    """The place of each value between its two knots, as shares of both; all zero for 0, which is no running answer."""
    rows = np.zeros((len(values), len(knots)))
    for column in range(len(knots)):
        one = np.zeros(len(knots))
        one[column] = 1.0
        rows[:, column] = np.where(np.asarray(values) > 0, np.interp(values, knots, one), 0.0)
    return rows


def _heard(off: Numbers) -> Numbers:
    """Huber's weights: 1 near the fit, less the further off."""
    deviation = 1.4826 * float(np.median(np.abs(off))) or 1e-9
    return np.minimum(1.0, HUBER * deviation / np.maximum(np.abs(off), 1e-12))


def _quantiles(ratios: Numbers, weights: Numbers) -> tuple[float, ...]:
    """Evenly spaced quantiles, each ratio counted by its weight; the mean is kept, for sums of steps are what a user waits for."""
    if not len(ratios):
        return (1.0,)
    order = np.argsort(ratios)
    at = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
    drawn = np.interp((np.arange(QUANTILES) + 0.5) / QUANTILES, at, ratios[order])
    return tuple(float(v) for v in drawn * (np.average(ratios, weights=weights) / drawn.mean()))
