"""What a container's limits do: pictures that wait for a quota which threads have used up, and the memory below which nothing runs.

The cliff: a picture after another from one client, at a CPU limit, with ever more threads. The edge: a service that starts and works, or
is killed, in ever narrower memory; file pages count, as they do in a container. Refuses to guess: each limit between is tried.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from time import sleep
from typing import Any

import httpx

from lib.measured import Broke, Found, keep
from lib.pipelines.caller import Caller
from lib.pipelines.cost import fraud_cell, retail_cell
from lib.pipelines.cost.boxes import Meter, serving, within
from lib.pipelines.cost.cells import Cell
from lib.pipelines.cost.plan import Plan, Throttled
from lib.pipelines.cost.session import Session
from lib.process import Died
from lib.progress import Progress

MIB = 1 << 20
START_S = 25.0  # who has not started by then does not start
# What is deployed: the settings whose memory is sought.
EDGES = (
    Cell("fraud", 1.0, "compiled", 1),
    Cell("fraud", 1.0, "onnx", 1),
    Cell("fraud", 1.0, "native", 1),
    Cell("retail", 1.0, "openvino", 1, "int8"),
    Cell("retail", 1.0, "onnxruntime", 1, "int8"),
)


def cliff(s: Session, plan: Plan) -> None:
    """Still pictures one after another, ONNX Runtime INT8, at each of the plan's limits and threads."""
    if s.model is None:
        return
    with Progress(len(plan.cliff), "threads against a quota") as progress:
        for one in plan.cliff:
            cpus, threads, spin = one
            keep(s.run, {"what": "cliff", "cpus": cpus, "threads": threads, "spin": spin}, partial(_cliff, one, plan))
            progress.advance(f"{cpus:g} processors, {threads} threads")


def _cliff(one: Throttled, plan: Plan) -> Found:
    cpus, threads, spin = one
    cell = Cell("retail", cpus, "onnxruntime", threads, "int8", spin=spin)
    with serving("retail", (*cell.options, *retail_cell.SIZE), cpus=cpus) as (box, (process,)), retail_cell.client(process.port) as client:
        retail_cell.pictures(client, 0.3)
        meter = Meter(box)
        taken_s = retail_cell.pictures(client, plan.cliff_s, warm=0)
        spent = meter.spent()
    return Found({"picture_s": taken_s}, {"name": cell.name, **spent.facts}, {"9 quota": within(spent, cpus)})


def edges(s: Session, plan: Plan) -> None:
    """The smallest memory in which each deployed setting starts and works, to the plan's resolution. Each try is a point."""
    if s.model is None:
        return
    cells = EDGES if plan.memory_mib < 64 else EDGES[:1]
    with Progress(len(cells), "memory limits") as progress:
        for cell in cells:
            narrow(partial(_tried, s, cell), step=plan.memory_mib, first=1024)
            progress.advance(cell.name)


def narrow(survives: Callable[[int], bool | None], *, step: int, first: int) -> int | None:
    """The smallest multiple of `step` (MiB) that `survives`, by bisection below `first`; None where `first` does not, or nothing is known.

    Assumes that what survives in a limit survives in a larger one.
    """
    low, high = 0, first // step
    if not survives(high * step):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if (alive := survives(middle * step)) is None:
            return None
        low, high = (low, middle) if alive else (middle, high)
    return high * step


def _tried(s: Session, cell: Cell, limit_mib: int) -> bool | None:
    setting = {"what": "memory", "service": cell.service, "engine": cell.engine, "precision": cell.precision, "limit_mib": limit_mib}
    keep(s.run, setting, partial(_survives, cell, limit_mib), timed=False)
    point = s.run.measured(setting)
    return None if point is None else bool(point.facts["survived"])


def _survives(cell: Cell, limit_mib: int) -> Found:
    """Whether the setting starts and works for a second; the kernel's word on its peak and on whom it killed."""
    facts: dict[str, Any] = {"survived": False, "why": None, "peak_bytes": None, "oom_kills": 0, "name": cell.name}
    options = cell.options if cell.service == "fraud" else (*cell.options, *retail_cell.SIZE)
    try:
        with serving(cell.service, options, cpus=None, memory_bytes=limit_mib * MIB, timeout_s=START_S) as (box, made):
            try:
                _work(cell, made[0].port)
                made[0].check()
                facts["survived"] = True
            finally:
                sleep(0.2)  # the kernel's count follows its deed
                usage = box.usage()
                facts |= {"peak_bytes": usage.peak_bytes, "oom_kills": usage.oom_kills}
    except (Died, Broke, httpx.HTTPError, OSError) as error:
        killed = facts["oom_kills"] or f"status {128 + signal.SIGKILL}" in str(error)
        facts["why"] = "killed by the kernel" if killed else f"{type(error).__name__}: {error}"
    facts["survived"] = facts["survived"] and not facts["oom_kills"]
    unseen = None if facts["survived"] or facts["why"] else "something was killed in the box, and nobody missed it"
    return Found({}, facts, {"6 books": unseen})


def _work(cell: Cell, port: int) -> None:
    """A second of its work, all that it can take. Raises Broke where it does not answer."""
    if cell.service == "fraud":
        with Caller(cores=fraud_cell.split(cell.cpus)[1]) as caller:
            calls = caller.closed(port, fraud_cell.requests(60_000), 64, 1.0)
        if not (calls.status == 200).any():
            raise Broke("no transaction was decided")
        return
    with retail_cell.client(port) as client, retail_cell.playing(client, 20):
        retail_cell.pictures(client, 1.0)
