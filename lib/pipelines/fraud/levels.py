"""The service's levels over the replay of two days: what was promised, what was kept, what is left of the budget; and drift of the scores.

Availability and latency count requests from schedule. Drift compares the scores of each slice of the stream with those of the time the
model was calibrated on; it needs no labels, which come weeks later. Objectives are per replay: two days are their window.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.measured import series
from lib.monitoring import slo
from lib.monitoring.slo import Objective
from lib.pipelines.fraud.bench import SLA_S
from lib.pipelines.fraud.replay import PERIOD_S
from lib.pipelines.fraud.session import Session
from lib.pipelines.fraud.views import points

AVAILABLE = Objective("available: answered with a decision", 0.999, PERIOD_S)
IN_TIME = Objective(f"in time: decided within {SLA_S * 1e3:.0f} ms", 0.99, PERIOD_S)
SLICE_S = 7200


def drift(scores: NDArray[np.float64], second: NDArray[np.int64], reference: slice) -> list[dict[str, float]]:
    """PSI of each two hours' scores against those of `reference`, with what chance alone would give; slices too small are left out."""
    known = slo.Reference.of(scores[reference])
    told = []
    for number in range(int(second.max()) // SLICE_S + 1):
        found = known.drift(scores[second // SLICE_S == number])
        if found is not None:
            told.append({"hour": number * SLICE_S / 3600, "psi": found.psi, "expected": found.expected, "bound": found.bound, "n": found.n})
    return told


def table(s: Session) -> pd.DataFrame:
    """One row an objective: target, measured, budget and what is left of it, alerts that its burn rates would have raised."""
    rows = []
    for point in points(s, "replay"):
        calls = series(s.run, point, "calls")
        at_s, status = calls["due_ms"] / 1e3 * point["speed"], calls["status"]
        latency_s = np.where(calls["latency_us"] >= 0, calls["latency_us"] / 1e6, np.inf)
        for objective, outcomes in ((AVAILABLE, slo.available(at_s, status)), (IN_TIME, slo.within(SLA_S, at_s, status, latency_s))):
            budget, share = slo.budget(outcomes, objective), outcomes.share
            rows.append(
                {
                    "objective": objective.name,
                    "windows": point["windows"],
                    "target": f"{objective.target:.1%}",
                    "measured": None if share is None else f"{share:.4%}",
                    "may fail": round(budget.allowed),
                    "failed": budget.spent,
                    "budget left": None if budget.share_left is None else f"{budget.share_left:.1%}",
                    "alerts": len(slo.alerts(outcomes, objective)),
                }
            )
    return pd.DataFrame(rows)


def drifts(s: Session) -> pd.DataFrame:
    """The drift of each two hours."""
    return pd.DataFrame(s.facts(what="model")["drift"])


def drifted(table_: pd.DataFrame) -> dict[str, float]:
    """How many slices are beyond chance, and the largest."""
    worst = table_.sort_values("psi").iloc[-1]
    beyond = int((table_["psi"] > table_["bound"]).sum())
    return {"slices": len(table_), "beyond": beyond, "worst": float(worst["psi"]), "hour": float(worst["hour"])}
