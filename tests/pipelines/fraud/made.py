"""A pipeline without a forest: the margin of a row is its first component, so a test says beforehand what will be decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.pipelines.fraud.features import NAMES
from lib.pipelines.fraud.journal import Journal
from lib.pipelines.fraud.model import Model
from lib.pipelines.fraud.pipeline import Pipeline
from lib.pipelines.fraud.windows import Embedded

MODEL = Model("made-1", Path(), (1.0, 0.0), np.zeros(len(NAMES), np.float32), {}, {})


class First:
    """The first component is the margin. Keeps what it was given."""

    name = "first component"

    def __init__(self) -> None:
        self.seen: list[NDArray[np.float32]] = []

    def margins(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        self.seen.append(rows.copy())
        return rows[:, 0].astype(np.float64)


def pipeline(place: Path, **options: Any) -> Pipeline:
    """With embedded windows and a real log in `place`."""
    made: dict[str, Any] = {"model": MODEL, "scorer": First(), "windows": Embedded.resumed, **options}
    return Pipeline(journal=made.pop("journal", None) or Journal(place / "decisions.sqlite"), **made)


def body(id_: str, *, time: float = 0, amount: float = 10.0, margin: float = -9.0, **more: Any) -> bytes:
    """One to post. −9 is approved, 1 is looked at, 9 is declined."""
    return json.dumps({"id": id_, "time": time, "amount": amount, "v": [margin] + [0.0] * 27, **more}).encode()
