"""What predictions cost, pure: from a rate that meets its SLA and the price of what carries it to dollars, machines and nines.

A rate at peak, SLA or not, prices nothing here: every function takes the SLA-feasible one and a utilisation, which is the share of that
rate that is really asked for, averaged over the time that is paid. Unknown rates give None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, comb, log10

HOURS_A_YEAR = 8766.0
GB = 1e9


@dataclass(frozen=True, slots=True)
class Tariff:
    """Dollars for an hour: of one processor, and of one GB (10⁹ bytes) of memory."""

    vcpu_h: float
    gb_h: float

    def hour(self, cpus: float, memory_bytes: float) -> float:
        """What a replica costs an hour."""
        return cpus * self.vcpu_h + memory_bytes / GB * self.gb_h


def per_million(usd_hour: float, per_s: float | None, utilisation: float) -> float | None:
    """Dollars for a million predictions; None where nothing is carried within the SLA. Raises ValueError unless 0 < utilisation ≤ 1."""
    if not 0 < utilisation <= 1:
        raise ValueError(f"a utilisation of {utilisation}: it is a share of the SLA-feasible rate, above 0 and up to 1")
    if not per_s:
        return None
    return usd_hour / (per_s * utilisation * 3600) * 1e6


def break_even_per_s(usd_per_million: float | None, gpu_usd_hour: float, utilisation: float) -> float | None:
    """The SLA-feasible predictions a second that a GPU must carry, at the same utilisation, to cost as much a prediction."""
    if not usd_per_million:
        return None
    return gpu_usd_hour * 1e6 / (usd_per_million * 3600 * utilisation)


def replicas(peak_per_s: float, per_s: float | None) -> int | None:
    """So many carry the peak within the SLA."""
    return ceil(peak_per_s / per_s) if per_s else None


def available(needed: int, running: int, each: float) -> float:
    """The probability that at least `needed` of `running` replicas are up, each up with probability `each`, independently of the others."""
    return sum(comb(running, up) * each**up * (1 - each) ** (running - up) for up in range(needed, running + 1))


def nines(availability: float) -> float:
    """0.999 is 3."""
    return -log10(1 - availability) if availability < 1 else float("inf")


@dataclass(frozen=True, slots=True)
class Step:
    """One more spare replica: what it brings and costs."""

    spare: int
    replicas: int
    availability: float
    usd_year: float


def spares(needed: int, each: float, usd_hour: float, *, most: int = 3) -> list[Step]:
    """N, N+1, … N+`most` replicas."""
    return [Step(spare, needed + spare, available(needed, needed + spare, each), (needed + spare) * usd_hour * HOURS_A_YEAR)
            for spare in range(most + 1)]
