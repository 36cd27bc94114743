"""A roofline (Williams, Waterman, Patterson 2009) with several memories: how fast a layer could be, how fast it was, what holds it back.

Pure. The roof of a precision is the best rate that any kernel reached here, a layer's own included, so no point can lie above it unless a
measurement is wrong; one that does is told, not clipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

COLUMNS = ["layer", "stage", "shape", "flop", "us", "intensity", "rate", "bound", "limit", "share"]
SLACK = 0.02  # of the roof: a maximum is a measurement too


@dataclass(frozen=True, slots=True)
class Roof:
    """`rate` in FLOP/s and `by` whom; `bandwidths` in B/s by the memory's name, the nearest first; `holds` bytes of each."""

    rate: float
    by: str
    bandwidths: Mapping[str, float]
    holds: Mapping[str, int]

    def memory(self, moved: float) -> str:
        """The nearest memory that holds what a layer moves."""
        return next((name for name, size in self.holds.items() if moved <= size), list(self.bandwidths)[-1])

    def bound(self, flop: float, moved: float) -> tuple[float, str]:
        """The most FLOP/s of a layer, and by what: "compute", or the memory that it reads from."""
        name = self.memory(moved)
        from_memory = flop / moved * self.bandwidths[name]
        return (self.rate, "compute") if from_memory >= self.rate else (from_memory, name)


def placed(layers: pd.DataFrame, us: str, roof: Roof) -> pd.DataFrame:
    """layer, stage, shape, flop, us, intensity, rate, bound, limit, share: of the layers whose time `us` is known."""
    known = layers.dropna(subset=[us])
    rows = []
    for one in known.to_dict("records"):
        rate = one["flop"] / (one[us] / 1e6)
        bound, limit = roof.bound(one["flop"], one["bytes"])
        rows.append([one["layer"], one["stage"], one["shape"], one["flop"], one[us], one["flop"] / one["bytes"], rate, bound, limit,
                     rate / bound])  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def above(points: pd.DataFrame, roof: Roof) -> str | None:
    """Why points cannot be: those faster than the roof's rate allows, beyond SLACK. None where all lie below.

    Only the flat roof is a law here: bytes are the least that has to be moved, but what a layer reads may still be in a nearer memory.
    """
    high = points[points["rate"] > roof.rate * (1 + SLACK)]
    return None if high.empty else f"{len(high)} layers are above the roof of {roof.rate / 1e9:.0f} GFLOP/s: {', '.join(high['layer'][:3])}"
