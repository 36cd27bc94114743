"""What a change ought to bring, written down from the profile before it is measured; then the measurement, and the miss. Pure.

Each takes the profile's account of eager ResNet-50 (or of any network) and says the milliseconds it expects and why. None is corrected
afterwards: a prediction that was wrong says something about what the profile does not tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True, slots=True)
class Account:
    """What the profile says of a pass, µs: `whole` unwatched, the ledger's `parts`, oneDNN's primitives by name (a pass each).

    `layers_us` by the module's name. `roofs`: FLOP/s by precision.
    """

    whole_us: float
    parts: Mapping[str, float]
    primitives: Mapping[str, float]
    layers_us: Mapping[str, float]
    roofs: Mapping[str, float]

    def part(self, name: str) -> float:
        return float(self.parts.get(name, 0.0))

    def primitive(self, name: str) -> float:
        return float(self.primitives.get(name, 0.0))

    @property
    def between(self) -> float:
        """Dispatch, Python, allocation: what one thread does however many there are."""
        return self.part("between operators") + self.primitive("around primitives, inside an operator")


@dataclass(frozen=True, slots=True)
class Prediction:
    """`name` of the change, as it is measured; `expects_us`: the pass with it; `because`: from which parts of the profile."""

    name: str
    expects_us: float
    because: str


def from_profile(told: Account, *, without: Sequence[str], batch: int, bf16: float) -> list[Prediction]:
    """All that are registered for a network, in one place. `without`: modules that are left out, each alone; `bf16`: its roof ÷ float32's.
    """
    conv, reorders = told.primitive("convolution"), told.primitive("reorder of activations") + told.primitive("reorder of weights")
    norm, rest = told.part("batch norm"), told.whole_us
    return [
        Prediction("folded", rest - norm, "batch norms go; a bias is added inside the convolution"),
        Prediction("channels_last", rest - reorders, "no picture and no weight is laid out anew for oneDNN; all else stays"),
        Prediction("folded, channels_last", rest - norm - reorders, "both of them: they touch different parts"),
        Prediction("inference_mode", rest, "no operator is spared; what autograd would note is not noted under no_grad either"),
        *(Prediction(f"without {name}", rest - told.layers_us[name], "its time in the profile goes, no other changes") for name in without),
        Prediction("one thread", told.between + 2 * (rest - told.between), "operators are shared by two threads, what lies between is not"),
        Prediction(f"batch {batch}", told.between + batch * (rest - told.between), "operators do as much more, what lies between does not"),
        Prediction("folded, channels_last, bf16", told.between + conv / bf16 + (rest - norm - reorders - conv - told.between) / 2,
                   "convolutions by the ratio of the two roofs, what moves memory by half, dispatch as it was"),
        Prediction("folded, channels_last, compile", conv + told.primitive("inner_product") + told.primitive("matmul"),
                   "what is not a convolution is fused into one, and nothing is dispatched"),
    ]  # fmt: skip


def judged(predictions: list[Prediction], measured_us: Mapping[str, float], whole_us: float,
           beside_us: Mapping[str, float]) -> pd.DataFrame:  # fmt: skip
    """change, expected and measured ms, eager's of the same rounds, the speed-ups, the error, why; in the order of registration.

    A machine's pace changes with the minute: where eager was measured beside a change, speed-ups are held against each other, else times.
    """
    rows = []
    for one in predictions:
        us, eager = measured_us.get(one.name), beside_us.get(one.name, whole_us)
        rows.append({"change": one.name, "expected, ms": one.expects_us / 1e3, "measured, ms": us and us / 1e3,
                     "eager beside, ms": beside_us[one.name] / 1e3 if one.name in beside_us else None,
                     "off": us and (one.expects_us / whole_us) / (us / eager) - 1, "speed-up expected": whole_us / one.expects_us,
                     "speed-up measured": us and eager / us, "because": one.because})  # fmt: skip
    return pd.DataFrame(rows)


def errors(found: pd.DataFrame) -> dict[str, Any]:
    """n judged, the median of absolute errors, the worst and whose."""
    known = found.dropna(subset=["off"])
    if known.empty:
        return dict.fromkeys(("n", "median", "worst", "whose"))
    size = known["off"].abs()
    whose = known["change"].tolist()[int(size.argmax())]
    return {"n": len(known), "median": float(size.median()), "worst": float(size.max()), "whose": whose}


