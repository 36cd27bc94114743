"""The allocation of processors, threads, workers and batches: every cell once, those that are compared by name in several rounds.

Each function adds the points that the run does not hold yet. Refuses to name a best from a single window: the finalists of the first round
run again, beside the default and the ladder, in turn.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from lib.measured import Found, keep, points
from lib.pipelines.cost import fraud_cell, retail_cell
from lib.pipelines.cost.cells import DEFAULTS, LADDERS, Cell, Service
from lib.pipelines.cost.plan import Plan
from lib.pipelines.cost.session import Session
from lib.progress import Progress

FINALISTS = 2  # of each service, by what a processor carries: of the default's engine, and of all


def grid(s: Session, plan: Plan) -> None:
    """Every cell once."""
    _all(s, plan, [(cell, 0) for cell in (*plan.fraud, *plan.retail)], "the grid")


def rounds(s: Session, plan: Plan) -> None:
    """The default, the ladder and the grid's finalists of each service, round after round."""
    if s.model is None:
        return
    services: tuple[Service, ...] = ("fraud", "retail")
    known = [(service, cell) for service in services for cell in compared(s, service)]
    if plan.rounds == 1:  # smoke: nothing is compared
        known = []
    _all(s, plan, [(cell, turn) for turn in range(plan.rounds) for _, cell in known], "finalists")


def compared(s: Session, service: Service) -> list[Cell]:
    """What is told apart by name: the default, the rungs of the ladder, and the finalists of the first round, each once."""
    first = [(point["facts"]["per_s"] / point["cpus"], cell(point)) for point in points(s.run, "cell")
             if point["service"] == service and point["round"] == 0 and point["facts"]["per_s"]]  # fmt: skip
    ranked, default = [one for _, one in sorted(first, key=lambda pair: -pair[0])], DEFAULTS[service]
    same = [one for one in ranked if one.computes == default.computes and one != default]
    halves = [one for one in ranked if same and one == replace(same[0], cpus=0.5)]
    rungs = (rung for _, rung in LADDERS[service])
    return list(dict.fromkeys([default, *rungs, *same[:FINALISTS], *halves, *[one for one in ranked if one not in same][:FINALISTS]]))


def cell(point: dict[str, Any]) -> Cell:
    """The cell that a point is of."""
    kinds: dict[str, Any] = {"service": str, "cpus": float, "engine": str, "threads": int, "precision": str, "spin": bool, "workers": int,
                             "batch": int, "wait_ms": float}  # fmt: skip
    return Cell(**{name: kind(point[name]) for name, kind in kinds.items()})


def _all(s: Session, plan: Plan, todo: list[tuple[Cell, int]], title: str) -> None:
    if s.model is None:
        return
    left = [(one, turn) for one, turn in todo if s.run.measured({**one.setting, "round": turn}) is None]
    with Progress(len(left), title) as progress:
        for one, turn in left:
            keep(s.run, {**one.setting, "round": turn}, partial(_measured, one, plan))
            progress.advance(f"{one.service} on {one.cpus:g}: {one.name}")


def _measured(one: Cell, plan: Plan) -> Found:
    return fraud_cell.measure(one, plan) if one.service == "fraud" else retail_cell.measure(one, plan)
