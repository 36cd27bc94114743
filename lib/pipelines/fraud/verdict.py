"""Three verdicts by cost: approve, have somebody look, or decline; whichever costs least to expect. And why.

The costs are assumptions that a business must set; they are stated, not fitted. Reasons are what would have to be typical for the score to
fall: each feature in turn is set to its typical value and scored again. That is a counterfactual of single features, exact for what it
says; it is not SHAP, and what two features do only together it does not see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from math import exp, inf

import numpy as np
from numpy.typing import NDArray

from lib.pipelines.fraud.features import NAMES

REASONS = tuple(name.upper() for name in NAMES)


class Verdict(IntEnum):
    """In the order of severity."""

    APPROVE = 0
    REVIEW = 1
    DECLINE = 2


APPROVE, REVIEW, DECLINE = Verdict  # a look-up in an enumeration costs as much as the whole decision


@dataclass(frozen=True, slots=True)
class Costs:
    """In units of the amount. Approved fraud costs the amount and a fee, a review a person's minutes, declining the honest their trust.

    Raises ValueError for a cost that is negative or not finite, and for a review or friction of 0: what costs nothing would always be done.
    """

    chargeback_fee: float = 20.0
    review: float = 3.0
    friction: float = 30.0

    def __post_init__(self) -> None:
        if not (0 <= self.chargeback_fee < inf and 0 < self.review < inf and 0 < self.friction < inf):
            raise ValueError(f"costs are finite, the fee at least 0 and a review and friction above it, not {self}")


def decide(probability: float, amount: float, costs: Costs) -> Verdict:
    """The verdict of least expected cost; of equals the milder one. Raises ValueError for what is no probability or no amount."""
    if not (0 <= probability <= 1 and 0 <= amount < inf):  # NaN would be told apart by no comparison, and be declined
        raise ValueError(f"no verdict on a probability of {probability} and an amount of {amount}")
    approve, decline = probability * (amount + costs.chargeback_fee), (1 - probability) * costs.friction
    if approve <= costs.review:
        return APPROVE if approve <= decline else DECLINE
    return REVIEW if costs.review <= decline else DECLINE


def decide_all(probability: NDArray[np.float64], amount: NDArray[np.float64], costs: Costs) -> NDArray[np.int8]:
    """`decide` of each, shape (n,)."""
    p, units = np.asarray(probability, np.float64), np.asarray(amount, np.float64)
    if wrong := np.count_nonzero(~((p >= 0) & (p <= 1) & (units >= 0) & (units < inf))):
        raise ValueError(f"no verdict on {wrong} of {len(p)} rows: probabilities lie between 0 and 1, amounts are finite and not negative")
    expected = np.stack([p * (units + costs.chargeback_fee), np.full(len(p), costs.review), (1 - p) * costs.friction])
    cheapest: NDArray[np.int8] = expected.argmin(axis=0).astype(np.int8)  # the first of equals: the milder
    return cheapest


def turns(amount: float, costs: Costs) -> tuple[float, float]:
    """(review_at, decline_at): probabilities above which the verdict is no longer approve, and is decline.

    Equal where no review ever pays; 1 for what never comes.
    """
    exposed = amount + costs.chargeback_fee
    if not exposed:
        return 1.0, 1.0
    review_at = costs.review / exposed
    decline_at = 1 - costs.review / costs.friction
    if review_at < decline_at:
        return review_at, decline_at
    even = costs.friction / (costs.friction + exposed)
    return even, even


def calibrated(margin: float, a: float, b: float) -> float:
    """The probability of a raw log-odds, Platt's way. NaN stays NaN, and `decide` refuses it."""
    try:
        return 1 / (1 + exp(-(a * margin + b)))
    except OverflowError:  # below e^-709: a try costs nothing, a comparison would
        return 0.0


def probability(margins: NDArray[np.float64], calibration: tuple[float, float]) -> NDArray[np.float64]:
    """`calibrated` of each, shape (n,), to the last bits of an exponential."""
    a, b = calibration
    with np.errstate(over="ignore"):  # an infinite odds against is a probability of 0
        found: NDArray[np.float64] = 1 / (1 + np.exp(-(a * margins + b)))
    return found


def reasons(row: NDArray[np.float32], typical: NDArray[np.float32], margins: Callable[[NDArray[np.float32]], NDArray[np.float64]], *,
            top: int = 3) -> list[str]:
    """Up to `top` codes such as "V14_LOW": the features whose typical value would lower the log-odds most, the strongest first.

    `row` and `typical` (35,); one batch of 36 rows goes through `margins`. Empty where no single feature lowers it.
    """
    low = row < typical  # now: `row` may be the scorer's own buffer, and another row once it was called
    changed = np.repeat(row[None, :], len(row) + 1, axis=0)
    np.fill_diagonal(changed, typical)  # row i has feature i typical; the last is as it was
    scored = margins(changed)
    gains = scored[-1] - scored[:-1]
    order = np.argsort(-gains, kind="stable")[:top]
    return [f"{REASONS[i]}_{'LOW' if low[i] else 'HIGH'}" for i in order.tolist() if gains[i] > 0]
