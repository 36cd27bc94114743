"""What the ledger's models are asked, and how far a form's answers are from the framework's float32.

The forest: transactions it has not seen, by probability and verdict. YOLOv8n: frames of the clip, the boxes of people kept for the views
to compare. Classifiers: crops of photographs, against what PyTorch answered when they were made; ResNet-50's weights are random, so for it
this is fidelity, not accuracy. Refuses answers of another shape, and those that are not numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.pipelines.cost.ledger_forms import FOREST, NET_HW, NETWORKS, YOLO, Form
from lib.pipelines.cost.session import Priced
from lib.pipelines.fraud import forest, parity
from lib.pipelines.retail import variants
from lib.vision import head, letterbox, photographs
from lib.vision.coco import PERSON


@dataclass(frozen=True, slots=True)
class Judged:
    """`facts` and `series` of a point, and why the answers cannot be right, if so."""

    facts: Mapping[str, Any]
    wrong: str | None = None
    series: Mapping[str, pd.DataFrame] | None = None


def shown(priced: Priced, model: str, *, rows: int, crops_every: int, frames_every: int) -> tuple[NDArray[np.float32], tuple[Any, ...]]:
    """What the model is judged on, as it takes it, and what each is: nothing for transactions, a frame's number, a photograph's name."""
    if model == FOREST:
        unseen = priced.forest.rows()[-priced.forest.facts["judged_on"]:]
        chosen = np.sort(np.random.default_rng(0).permutation(len(unseen))[:rows])
        return np.ascontiguousarray(unseen[chosen]), ()
    if model == YOLO:
        numbers, canvases = variants.canvases(priced.shop, NET_HW[YOLO], every=frames_every)
        return photographs.tensor(canvases[..., ::-1]), tuple(numbers)
    crops = priced.classifiers.judged()
    return photographs.tensor(crops.images[::crops_every]), crops.of[::crops_every]


def judged(priced: Priced, form: Form, answers: NDArray[Any], of: Sequence[Any], asked: Path) -> Judged:
    """How far `answers` are from the framework's."""
    if not np.isfinite(answers).all():
        return Judged({}, f"{np.count_nonzero(~np.isfinite(answers))} of {answers.size} numbers in the answers are none")
    if form.model == FOREST:
        rows = np.load(asked)
        return transactions(priced, rows, answers) if answers.shape == (len(rows),) else _shape(answers, (len(rows),))
    if form.model == YOLO:
        return people(priced, answers, of)
    reference = priced.classifiers.reference(NETWORKS[form.model])
    every = -(-len(reference) // len(of))
    return classes(reference[::every], answers, of)


def transactions(priced: Priced, rows: NDArray[np.float32], margins: NDArray[np.float64]) -> Judged:
    """Largest difference of probability, and verdicts that are others, against LightGBM's own predict."""

    class Told:
        name = "told"

        def margins(self, _: NDArray[np.float32]) -> NDArray[np.float64]:
            return margins

    return Judged({"judged": parity.compared(priced.forest, rows, forest.Native(priced.forest), Told())})


def people(priced: Priced, raws: NDArray[np.float32], numbers: Sequence[int]) -> Judged:
    """Boxes of people in each frame, for the views to hold against the framework's."""
    fit = letterbox.fit(priced.shop.floor.frame_hw, NET_HW[YOLO])
    try:
        found = [head.boxes(raw, fit, labels=(PERSON,), score=variants.LEAST_SCORE) for raw in raws]
    except head.BadHead as reason:
        return Judged({}, str(reason))
    return Judged({"frames": list(numbers)}, None, {"boxes": variants.table(numbers, found)})


def classes(reference: NDArray[np.float32], logits: NDArray[np.float32], of: Sequence[str]) -> Judged:
    """Whether the first class is the reference's, and the largest difference of a logit as a share of how much that tells pictures apart:
    the deviation, over the pictures, of a logit. `sure`: the reference's probability of its first class. One entry a picture."""
    if logits.shape != reference.shape:
        return _shape(logits, reference.shape)
    spread = float(reference.std(axis=0).mean())
    off = np.abs(logits - reference).max(axis=1) / spread
    agrees = logits.argmax(axis=1) == reference.argmax(axis=1)
    odds = np.exp(reference - reference.max(axis=1, keepdims=True), dtype=np.float64)
    facts = {"photographs": list(of), "sure": (1 / odds.sum(axis=1)).round(4).tolist(),
             "agrees": agrees.astype(int).tolist(), "logit_off": off.astype(float).round(7).tolist(),
             "classes": len(set(reference.argmax(axis=1).tolist()))}  # fmt: skip
    return Judged({"judged": facts})


def _shape(answers: NDArray[Any], wanted: tuple[int, ...]) -> Judged:
    return Judged({}, f"answers of {answers.shape}, {wanted} were wanted")
