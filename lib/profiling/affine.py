"""latency(b) = a + c·b: what a pass costs with however few pictures, and what each adds; fitted on some batches, tried on others.

Pure. Fitted so that relative errors count alike (an error of 1 ms is much at batch 1 and nothing at 64). Each round of measurements gives a
fit of its own; from those come the intervals. A line speaks of the range that it was fitted on: the largest size is always in it.
Refuses fewer than two sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lib import stats
from lib.stats import Estimate

HELD_OUT = (4, 12, 16, 48)  # sizes that no fit sees, where others lie on both sides of them


@dataclass(frozen=True, slots=True)
class Affine:
    """`fixed_s`: of a pass; `each_s`: of a picture."""

    fixed_s: float
    each_s: float

    def seconds(self, batch: float) -> float:
        """Of a pass with so many pictures."""
        return self.fixed_s + self.each_s * batch

    @property
    def most_per_s(self) -> float:
        """Pictures a second that no batch exceeds."""
        return 1 / self.each_s

    def knee(self, share: float = 0.9) -> float:
        """The batch that reaches this share of `most_per_s`: where the fixed cost is small beside the rest."""
        return share / (1 - share) * max(0.0, self.fixed_s) / self.each_s

    def within(self, slo_s: float) -> int:
        """The largest batch whose pass ends within `slo_s`; 0 where none does."""
        return max(0, int((slo_s - self.fixed_s) / self.each_s + 1e-9)) if self.seconds(1) <= slo_s * (1 + 1e-9) else 0


def fit(seconds: Mapping[int, float]) -> Affine:
    """Least squares of relative errors over batch → seconds. Raises ValueError for fewer than two sizes."""
    if len(seconds) < 2:
        raise ValueError(f"{len(seconds)} batch sizes do not make a line")
    batch, took = np.array(list(seconds), float), np.array(list(seconds.values()), float)
    (fixed, each), *_ = np.linalg.lstsq(np.column_stack([1 / took, batch / took]), np.ones(len(took)), rcond=None)
    return Affine(float(fixed), float(each))


def held_out(batches: Collection[int]) -> list[int]:
    """Those of HELD_OUT that have other sizes on both sides."""
    return [batch for batch in HELD_OUT if batch in batches and min(batches) < batch < max(batches)]


def fits(rounds: Mapping[int, Sequence[Sequence[float]]]) -> list[Affine]:
    """One fit for each round of medians, without the sizes held out. Raises ValueError."""
    apart = held_out(rounds)
    used = {batch: [float(np.median(taken)) for taken in each] for batch, each in rounds.items() if batch not in apart}
    number = min((len(each) for each in used.values()), default=0)
    return [fit({batch: each[turn] for batch, each in used.items()}) for turn in range(number)]


def parameters(found: Sequence[Affine]) -> tuple[Estimate | None, Estimate | None]:
    """a and c, s, with Student's intervals over rounds."""
    return stats.mean([one.fixed_s for one in found]), stats.mean([one.each_s for one in found])


def errors(found: Sequence[Affine], rounds: Mapping[int, Sequence[Sequence[float]]]) -> dict[int, float]:
    """Batch held out → predicted ÷ measured − 1, the median over rounds: each round's fit against what was measured in that round."""
    off = {batch: [line.seconds(batch) / float(np.median(taken)) - 1 for line, taken in zip(found, rounds[batch], strict=False)]
           for batch in held_out(rounds)}  # fmt: skip
    return {batch: float(np.median(each)) for batch, each in off.items()}
