"""How much a profile of the retail notebook asks for."""

from __future__ import annotations

from dataclasses import dataclass

from lib.pipelines.retail import ladder
from lib.pipelines.retail.ladder import Variant


@dataclass(frozen=True, slots=True)
class Plan:
    """How much a profile asks for. `ways_frames`: of the clip, in each round but the first, which walks `whole`."""

    variants: tuple[Variant, ...]
    infers: int
    rounds: int
    whole: int
    ways_frames: int
    predict_frames: int
    sweep_s: float
    sample_s: float
    most_streams: int
    batches_s: float
    soak_s: float


PLANS = {
    "smoke": Plan(tuple(v for v in ladder.VARIANTS if v.torch is None), 5, 1, 60, 60, 10, 0.1, 0.02, 2, 1.0, 5.0),
    "quick": Plan(ladder.VARIANTS, 60, 3, 795, 150, 60, 1.0, 0.1, 16, 8.0, 60.0),
    "full": Plan(ladder.VARIANTS, 300, 5, 795, 795, 300, 5.0, 1.0, 24, 60.0, 600.0),
}
