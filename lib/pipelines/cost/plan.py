"""How much a profile of the cost notebook asks of the allocation: cells, windows, rounds. The ledger and Ray bring plans of their own."""

from __future__ import annotations

from dataclasses import dataclass

from lib.pipelines.cost.cells import DEFAULTS, FRAUD, RETAIL, Cell

Throttled = tuple[float, int, bool]  # processors, threads, whether they spin


@dataclass(frozen=True, slots=True)
class Plan:
    """`rounds`: of the cells that are compared by name, interleaved; all others are measured once. Times in seconds.

    `cliff`: what pictures wait for when threads outnumber the quota. `memory`: how near the smallest limit is sought, in MiB.
    """

    fraud: tuple[Cell, ...]
    retail: tuple[Cell, ...]
    rounds: int
    closed_s: float
    window_s: float
    settle_s: float
    cameras_s: float
    cliff: tuple[Throttled, ...]
    cliff_s: float
    memory_mib: int


CLIFF = tuple((cpus, threads, spin) for cpus in (0.5, 1.0) for threads in (1, 2, 4, 8) for spin in (False, True) if threads > 1 or not spin)
PLANS = {
    "smoke": Plan((DEFAULTS["fraud"],), (DEFAULTS["retail"],), 1, 0.3, 0.3, 0.4, 0.6, CLIFF[:1], 0.5, 64),
    "quick": Plan(FRAUD, RETAIL, 3, 0.7, 1.0, 0.5, 1.5, CLIFF, 3.0, 8),
    "full": Plan(FRAUD, RETAIL, 5, 3.0, 10.0, 1.0, 10.0, CLIFF, 15.0, 4),
}
