"""Beyond one machine: the plain server beside Ray Serve, which can place replicas on any, with the same task, client and processor.

All on one machine, so what is seen is the price of the way, not its gain: a proxy, a router and a call into another process for each
request. It is paid once a request, whatever the request takes, so it is asked for twice: with the forest's 5 µs and with a task of 30 ms.
Refuses to time what shares the client's processor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lib.home import logs
from lib.measured import Found, cores, keep
from lib.pipelines.caller import Caller
from lib.pipelines.cost.session import Session
from lib.pipelines.fraud import contestants
from lib.pipelines.fraud.contestants import Load
from lib.pipelines.fraud.servers import task
from lib.process import Process
from lib.progress import Progress

Setting = dict[str, Any]
RAY, OURS = "Ray Serve", "ours"
SERVERS = ((OURS, 1), (RAY, 1), (RAY, 2))  # server, replicas
FOREST, SLOW = "forest", f"{task.SLOW_S * 1e3:.0f} ms"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much a profile asks for; `tasks`: name → how it is asked. The open loops' rates are such that every server takes them."""

    servers: tuple[tuple[str, int], ...]
    rounds: int
    tasks: dict[str, Load]


def _tasks(closed_s: float, open_s: float, slow_closed_s: float, slow_open_s: float) -> dict[str, Load]:
    return {
        FOREST: Load(closed_s, open_s, 40, idle_s=0.5, checked=20),
        SLOW: Load(slow_closed_s, slow_open_s, 8, streams=8, idle_s=0, checked=4, path=task.SLOW_PATH),
    }


PLANS = {
    "smoke": Plan(SERVERS[:2], 1, _tasks(0.5, 0.5, 0.5, 0.5)),
    "quick": Plan(SERVERS, 3, _tasks(0.8, 2.0, 0.8, 1.25)),
    "full": Plan(SERVERS, 7, _tasks(10.0, 10.0, 10.0, 20.0)),  # 7 × 10 s × 40/s: enough for a p99
}


def beyond(s: Session, plan: Plan) -> None:
    """Every server in every round, with each task; the first of a round is another one each time."""
    if s.model is None:
        return
    library = s.model.forest.root / "forest.so"
    turns = [(number, server) for number in range(plan.rounds) for server in _turned(plan.servers, number)]
    with Progress(len(turns), "beyond one machine") as progress:
        for number, (server, replicas) in turns:
            steps = [_setting(server, replicas, name, number) for name in plan.tasks]
            todo = [step for step in steps if s.run.measured(step) is None]
            with _servers(server, replicas, library) as servers:
                for step in todo:
                    keep(s.run, step, partial(servers.asked, step, plan))
            progress.advance(f"{server}, replicas {replicas}, round {number + 1}")


def _setting(server: str, replicas: int, name: str, number: int) -> Setting:
    return {"what": "beyond", "server": server, "replicas": replicas, "task": name, "round": number}


def _turned(servers: tuple[tuple[str, int], ...], number: int) -> tuple[tuple[str, int], ...]:
    first = number % len(servers)
    return servers[first:] + servers[:first]


@dataclass(slots=True)
class _Servers:
    """A server of a turn, started when it is first asked: Ray's takes ten seconds and serves both tasks, ours is one for each."""

    server: str
    replicas: int
    library: Path
    open: contextlib.ExitStack
    started: dict[str, Process]
    caller: Caller | None = None

    def asked(self, step: Setting, plan: Plan) -> Found:
        """Raises Skipped, Died, OSError."""
        on, client = cores()
        process = self._process(step["task"], on)
        self.caller = self.caller or self.open.enter_context(Caller(cores=client))
        return contestants.asked(self.server, process, self.caller, self.library, plan.tasks[step["task"]])

    def _process(self, name: str, on: tuple[int, ...]) -> Process:
        known = RAY if self.server == RAY else name
        if known not in self.started:
            more = (str(self.replicas),) if self.server == RAY else (("slow",) if name == SLOW else ())
            opened = contestants.serving(self.server, self.library, *more, logs=logs(), cores=on)
            self.started[known] = self.open.enter_context(opened)
        return self.started[known]


@contextlib.contextmanager
def _servers(server: str, replicas: int, library: Path) -> Iterator[_Servers]:
    with contextlib.ExitStack() as opened:
        yield _Servers(server, replicas, library, opened, {})
