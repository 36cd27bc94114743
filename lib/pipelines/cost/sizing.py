"""Right-sizing: what to ask of a scheduler for one replica of each service, computed from a recorded run, with the reasoning in words.

Refuses to advise where the run does not hold what the advice rests on: LookupError.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from lib.measured import points
from lib.pipelines.cost import allocation_views
from lib.pipelines.cost.advice import Advice
from lib.pipelines.cost.allocation import cell
from lib.pipelines.cost.cells import DEFAULTS, Cell, Service
from lib.pipelines.cost.session import Session

MIB = 1 << 20
HEADROOM = 1.25  # of memory over the peak that was seen
SLAS: dict[Service, str] = {"fraud": "99 % decided within 10 ms of being due", "retail": "95 % of frames told within 200 ms of being due"}


def advice(s: Session) -> dict[str, Advice]:
    """One for each service whose best setting is known. Raises LookupError where none is."""
    services: tuple[Service, ...] = ("fraud", "retail")
    found: dict[str, Advice] = {}
    for service in services:
        if (winner := allocation_views.best(s, service, same=True)) is not None:  # the engine that the images hold
            found[service] = _advice(s, service, winner)
    if not found:
        raise LookupError(f"run {s.run.run_id} holds no setting that carries anything within its SLA")
    return found


def _advice(s: Session, service: Service, winner: Cell) -> Advice:
    mine = [point for point in points(s.run, "cell") if cell(point) == winner]
    rates = sorted(point["facts"]["per_s"] or 0.0 for point in mine)
    per_s = rates[len(rates) // 2]
    busy = _busy(mine)
    peak = max((point["facts"]["peak_bytes"] or 0 for point in mine), default=0)
    edge = _edge(s, winner)
    limit = max(_up(HEADROOM * peak), _up(HEADROOM * edge) if edge else 0)
    factor = allocation_views.factor(s, service)
    unit = "processor carries" if winner.cpus <= 1 else "processors carry"
    why = {
        "cpu": f"{winner.cpus:g} {unit} {per_s:,.0f} a second within the SLA, {busy:.0%} busy then; the limit equals the "
               "request, so that a pod has what it was measured with and is not slowed by its neighbours.",
        "memory": f"The peak seen was {peak / MIB:.0f} MiB" + (f", and below {edge / MIB:.0f} MiB it does not run" if edge else "")
                  + f"; the limit leaves {HEADROOM - 1:.0%} above the peak.",
        "threads": f"{winner.name}: " + (f"{factor['times']:.1f} times what the default ({DEFAULTS[service].name}) carries per processor."
                                         if factor["times"] else "the best of the grid."),
        "replicas": f"A replica per {per_s:,.0f} predictions a second of the peak, and one more, so that one may be missing.",
    }  # fmt: skip
    return Advice(service, winner.cpus, winner.cpus, _up(peak), limit, _options(winner), per_s, SLAS[service], why)


def _options(winner: Cell) -> dict[str, str]:
    """The command line's options as name → value, "" for one that has none."""
    told: dict[str, str] = {}
    words = list(winner.options)
    while words:
        name = words.pop(0)
        told[name] = words.pop(0) if words and not words[0].startswith("--") else ""
    return told


def _busy(mine: list[dict[str, Any]]) -> float:
    """CPU seconds per second and processor in the windows at the rate that was carried."""
    shares = [window["cpu_s"] / window["wall_s"] / point["cpus"] for point in mine for window in point["samples"]["windows"]
              if window["per_s"] == point["facts"]["per_s"]]  # fmt: skip
    return sum(shares) / len(shares) if shares else float("nan")


def _edge(s: Session, winner: Cell) -> int | None:
    """The smallest memory in which it worked, bytes; None where that was not tried for its engine."""
    tried = [point["limit_mib"] for point in points(s.run, "memory") if point["facts"]["survived"]
             and (point["service"], point["engine"], point["precision"]) == (winner.service, winner.engine, winner.precision)]  # fmt: skip
    return int(min(tried)) * MIB if tried else None


def _up(size: float) -> int:
    """To whole 16 MiB."""
    return ceil(size / (16 * MIB)) * 16 * MIB
