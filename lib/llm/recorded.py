"""What the notebook of dollars reads: the throughput run of this machine, or else a recorded one. It measures nothing and starts nothing.

Refuses to mix machines or methods: what is said of a run is fitted to that run's own points. In mode "auto" this machine's newest run
of the same profile speaks if there is one, in "live" there must be one, in "recorded" only data/reference does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

import pandas as pd

from lib import machine, record
from lib.home import REFERENCE, RUNS
from lib.llm import latency, pace
from lib.llm.engines import transformers_
from lib.llm.pace import Pace, Step
from lib.llm.session import Session
from lib.session import NothingRecorded, Opened, checked, latest

NOTEBOOK = "11_llm_throughput"
FIT = "closed"  # the loads that a pace is fitted to; all others are held out
ALL = -1  # rounds
TRIES = {"smoke": 5, "quick": 40, "full": 40}  # of the simulation, a held-out point
REQUESTS = {"smoke": 1000, "quick": 4000, "full": 10_000}  # simulated at each rate that is tried


def session(*, profile: str, mode: str) -> Session:
    """The run that speaks. Raises ValueError, and NothingRecorded in mode "live" without a run."""
    checked(profile, mode)
    recorded = latest([run for run in record.runs(NOTEBOOK, roots=(REFERENCE,)) if run.method == record.METHOD])
    if mode != "recorded":
        here = machine.here()
        mine = [run for run in record.runs(NOTEBOOK, roots=(RUNS,)) if run.machine_id == here.machine_id and run.method == record.METHOD
                and run.parameters.get("profile") == profile and any(p.setting.get("what") == "capacity" and p.status == "ok"
                                                                     for p in run.points())]  # fmt: skip
        if mine:
            return Session(Opened(mine[-1], (), here), None)
        if mode == "live":
            raise NothingRecorded(f"this machine has no {profile} run of {NOTEBOOK} to compute from: measure that notebook first")
    if not recorded:
        raise NothingRecorded(f"no recorded run of {NOTEBOOK} with method {record.METHOD}; ./run_all.sh measures one")
    lacks = f"this machine has no {profile} run of {NOTEBOOK}"
    note = None if mode == "recorded" else f"Nothing is computed from this machine: {lacks}. What follows was recorded elsewhere."
    return Session(Opened(recorded[-1], (), None, note), None)


def lone(s: Session) -> pd.DataFrame:
    """The requests of the newest run of 10_llm_latency on the machine that speaks, recorded or its own; none where there is no such run."""
    runs = [run for run in record.runs("10_llm_latency", roots=(REFERENCE, RUNS))
            if run.machine_id == s.run.machine_id and run.method == s.run.method]  # fmt: skip
    return latency.requests(runs[-1].frame().assign(origin="recorded") if runs else pd.DataFrame(columns=["what", "status"]))


def slots(s: Session, contenders: Iterable[str]) -> dict[str, int]:
    """How many answers each server ran at a time, as its start says. Raises LookupError for one that did not start."""
    known = {_name(dict(point.setting)): int(point.facts["spec"]["slots"]) for point in s.run.points()
             if point.setting.get("what") == "start" and point.status == "ok"}
    if missing := [one for one in contenders if one not in known]:
        raise LookupError(f"run {s.run.run_id} did not start {', '.join(missing)}")
    return {one: known[one] for one in contenders}


def paces(cells: pd.DataFrame) -> dict[tuple[str, int], Pace]:
    """The pace of each contender that batches continuously, from the closed loops of `cells`: of every round alone, and of ALL together.

    One that has no steps enough is absent.
    """
    found: dict[tuple[str, int], Pace] = {}
    loops = cells[(cells["kind"] == FIT) & cells["ok"] & (cells["engine"] != transformers_.NAME)]
    for contender, group in loops.groupby("contender", sort=False):
        seen: dict[int, list[Step]] = {}
        for cell in group.to_dict("records"):
            seen.setdefault(int(cell["round"]), []).extend(pace.steps(cell["answers"]))
        for turn, mine in [(ALL, [step for each in seen.values() for step in each]), *seen.items()]:
            with suppress(pace.TooFew):
                found[str(contender), turn] = pace.fit(mine)
    return found


def _name(setting: dict[str, record.Scalar]) -> str:
    return f"{setting.get('engine')} {setting.get('precision')}"


def together(paces: Mapping[tuple[str, int], Pace]) -> dict[str, Pace]:
    """The paces of all rounds together, by contender."""
    return {contender: found for (contender, turn), found in paces.items() if turn == ALL}


def apart(paces: Mapping[tuple[str, int], Pace]) -> dict[str, list[Pace]]:
    """The paces of single rounds, by contender: the machine's moods."""
    return {name: [found for (contender, turn), found in paces.items() if contender == name and turn != ALL] for name in together(paces)}
