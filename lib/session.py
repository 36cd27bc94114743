"""Which run a notebook speaks of: the one this machine measures and continues, or one that was recorded.

Refuses unknown profiles and modes before anything starts, and never shows a recorded run as if it were this machine's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pandas as pd

from lib import machine, record
from lib.home import REFERENCE, RUNS

PROFILES = ("smoke", "quick", "full")
MODES = ("auto", "live", "recorded")
M = TypeVar("M")


class NothingRecorded(LookupError):
    """There is no recorded run to show."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The run that speaks here, and recorded runs of other machines beside it.

    `here` is None where nothing is measured: then `run` is a recorded one, and `note` says why unless that was asked for.
    """

    run: record.Run
    beside: tuple[record.Run, ...]
    here: machine.Machine | None
    note: str | None = None


@dataclass(frozen=True)  # no slots: an alias like Session[Model], when it is called, notes itself on the instance
class Session(Generic[M]):
    """A notebook's run and the model that it measures, which is None where nothing is measured."""

    opened: Opened
    model: M | None

    @property
    def run(self) -> record.Run:
        return self.opened.run

    @property
    def note(self) -> str | None:
        return self.opened.note

    def frame(self) -> pd.DataFrame:
        """All points of this run, one row each."""
        return self.opened.run.frame()

    def each(self) -> list[Session[M]]:
        """The run that speaks, then those of other machines beside it: each by itself, nothing measured."""
        return [Session(Opened(run, (), None), None) for run in (self.run, *self.opened.beside)]

    def facts(self, **setting: Any) -> dict[str, Any]:
        """What the run knows of one setting; LookupError where it was not measured."""
        found = next((p for p in self.run.points() if p.key == record.canonical(setting)), None)
        if found is None:
            raise LookupError(f"run {self.run.run_id} has no point {setting}")
        return dict(found.facts)


def checked(profile: str, mode: str) -> None:
    """Raises ValueError, naming the valid ones, for an unknown profile or mode."""
    for what, value, valid in (("profile", profile, PROFILES), ("mode", mode, MODES)):
        if value not in valid:
            raise ValueError(f"unknown {what} {value!r}; there are {', '.join(valid)}")


def opened(notebook: str, *, mode: str, lacks: str | None, parameters: Mapping[str, Any], versions: Mapping[str, str],
           fresh: bool = False) -> Opened:
    """The run of `notebook` that this machine continues, or the newest recorded one: in mode "recorded" and where it `lacks` something.

    `versions`: software outside of this environment that takes part, name → version. Raises NothingRecorded.
    """
    recorded = latest([run for run in record.runs(notebook, roots=(REFERENCE,)) if run.method == record.METHOD])
    if mode != "recorded" and lacks is None:
        here = machine.here()
        run = record.begin(notebook, parameters=parameters, root=RUNS, fresh=fresh, environment=here.environment(**versions))
        same = [r for r in record.runs(notebook, roots=(RUNS,)) if record.canonical(r.parameters) == record.canonical(run.parameters)]
        others = latest([*recorded, *(r for r in same if r.method == record.METHOD)])  # nodes of a cluster may be other machines
        return Opened(run, tuple(r for r in others if r.machine_id != run.machine_id), here)
    if not recorded:
        raise NothingRecorded(f"no recorded run of {notebook} with method {record.METHOD}; ./run_all.sh measures one")
    note = None if mode == "recorded" else f"Nothing is measured here: {lacks}. What follows was recorded elsewhere."
    return Opened(recorded[-1], tuple(recorded[:-1]), None, note)


def latest(runs: Sequence[record.Run]) -> list[record.Run]:
    """The newest run of each machine; last, for it speaks, the newest of those in full, or of all where none is."""
    return sorted({run.machine_id: run for run in runs}.values(), key=lambda run: (run.parameters.get("profile") == "full", run.utc))
