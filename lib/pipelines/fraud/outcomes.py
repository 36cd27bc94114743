"""What a policy costs: verdicts held against what was fraud, in money under stated assumptions. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lib.pipelines.fraud.verdict import Costs, Verdict, decide_all


def policies(probability: NDArray[np.float64], amount: NDArray[np.float64], costs: Costs) -> Mapping[str, NDArray[np.int8]]:
    """Verdicts of each transaction (n,) under each policy."""
    n = len(probability)
    return {
        "approve everything": np.full(n, Verdict.APPROVE, np.int8),
        "decline above 50 %": np.where(probability > 0.5, Verdict.DECLINE, Verdict.APPROVE).astype(np.int8),
        "the cheapest of three": decide_all(probability, amount, costs),
    }


def outcome(verdict: NDArray[np.int8], amount: NDArray[np.float64], fraud: NDArray[np.bool_], costs: Costs) -> dict[str, float]:
    """Counts, and the cost in units of the amount: fraud approved costs it and a fee, a review its price, honesty declined its friction."""
    approved, reviewed, declined = (verdict == one for one in Verdict)
    missed = approved & fraud
    return {
        "transactions": len(verdict),
        "frauds": int(fraud.sum()),
        "reviewed": int(reviewed.sum()),
        "declined": int(declined.sum()),
        "honest_declined": int((declined & ~fraud).sum()),
        "frauds_missed": int(missed.sum()),
        "cost": float(
            (amount[missed] + costs.chargeback_fee).sum() + costs.review * reviewed.sum() + costs.friction * (declined & ~fraud).sum()
        ),
    }
