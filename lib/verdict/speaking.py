"""Which runs speak in the verdict: the newest of each machine, recorded, and in mode "auto" this clone's own as well.

Opens them for the functions that read them; refuses to begin, continue or measure one, and to show a run of another method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lib import record
from lib.home import REFERENCE, RUNS
from lib.llm.session import Session
from lib.session import NothingRecorded, Opened, checked, latest
from lib.session import Session as SessionOf

LACKS = {"40_gpu": "no recorded run of a GPU: it needs an NVIDIA one, and there python -m lib.pack record"}  # not the main job's


@dataclass(frozen=True, slots=True)
class Speaking:
    """How much is asked: of data/reference alone (`mode` "recorded"), or also (auto, live) of what this clone measured with `profile`."""

    profile: str = "quick"
    mode: str = "recorded"

    def __post_init__(self) -> None:
        checked(self.profile, self.mode)

    def runs(self, notebook: str) -> list[record.Run]:
        """The newest run of each machine that holds anything, the newest of all last."""
        found = record.runs(notebook, roots=(REFERENCE,))
        if self.mode != "recorded":
            found += [run for run in record.runs(notebook, roots=(RUNS,)) if run.parameters.get("profile") == self.profile]
        return latest(sorted((run for run in found if run.method == record.METHOD and run.points()), key=lambda run: run.utc))

    def newest(self, notebook: str) -> record.Run:
        """The newest of them. Raises NothingRecorded."""
        if not (found := self.runs(notebook)):
            why = f"no recorded run of {notebook} with method {record.METHOD}; ./run_all.sh measures one"
            raise NothingRecorded(LACKS.get(notebook, why))
        return found[-1]


def alone(run: record.Run) -> Session:
    """A run of a language model's notebook, opened by itself: nothing is measured, nothing stands beside it."""
    return Session(Opened(run, (), None), None)


def piped(run: record.Run) -> SessionOf[Any]:
    """The same for the notebooks of pipelines, monitoring and profiling."""
    return SessionOf(Opened(run, (), None), None)
