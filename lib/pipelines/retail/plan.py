"""How much a profile of the retail notebook asks for."""

from __future__ import annotations

from dataclasses import dataclass

from lib.pipelines.retail import ladder
from lib.pipelines.retail.ladder import Variant


@dataclass(frozen=True, slots=True)
class Setup:
    """How a fleet looks: by which variant, in batches up to `batch`, `lanes` at a time; `gated`: still frames are passed over.

    `way`: the walk through the same footage whose counts a fleet is held against, for it looks at every frame.
    """

    variant: str
    way: str
    batch: int = 4
    lanes: int = 2
    gated: bool = False
    view: str = "whole"

    @property
    def name(self) -> str:
        return f"{self.variant}{', gated' if self.gated else ''}{', quiet view' if self.view == 'quiet' else ''}"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much a profile asks for. `ways_frames`: of the clip, in each round but the first, which walks `whole`.

    `grid`: variants whose threads and batches are swept; `setups`: whose stream density is sought, in windows of samples of `sample_s`.
    """

    variants: tuple[Variant, ...]
    infers: int
    rounds: int
    whole: int
    ways_frames: int
    predict_frames: int
    grid: tuple[str, ...]
    grid_s: float
    setups: tuple[Setup, ...]
    sample_s: float
    most_streams: int
    batches: tuple[int, ...]
    batches_s: float
    soak_s: float


GRID = ("OpenVINO f32", "OpenVINO INT8", "OpenVINO INT8 512×384")
SMALL = Setup("OpenVINO INT8 512×384", "INT8, smaller")
SETUPS = (Setup("OpenVINO f32", "overlapped"), Setup("OpenVINO bf16", "bf16"), Setup("OpenVINO INT8", "INT8"), SMALL,
          Setup("OpenVINO INT8 512×384", "quiet, all", gated=True, view="quiet"))  # fmt: skip
FEW = tuple(v for v in ladder.VARIANTS if v.engine == "ONNX Runtime" or v.name in ("OpenVINO f32", "OpenVINO INT8 512×384"))
PLANS = {
    "smoke": Plan(FEW, 5, 1, 60, 60, 10, GRID[2:], 0.1, (SMALL,), 0.02, 2, (1, 4), 0.5, 5.0),
    "quick": Plan(ladder.VARIANTS, 60, 3, 795, 150, 60, GRID, 1.0, SETUPS, 0.1, 12, (1, 2, 4, 8), 8.0, 60.0),
    "full": Plan(ladder.VARIANTS, 300, 5, 795, 795, 300, GRID, 5.0, SETUPS, 1.0, 24, (1, 2, 4, 8), 60.0, 600.0),
}
