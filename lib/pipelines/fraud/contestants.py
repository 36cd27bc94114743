"""The bake-off: one scoring task behind eight servers, each on one core, asked by our client from another.

What it decides is what a request costs besides its 5 µs of inference. Closed loop for throughput, Poisson arrivals for latency, the
process tree's CPU for the cost. Every answer is compared with the forest's own. The servers are in `servers/`; those that are not ours
run in environments of their own, and one that cannot be had is skipped with its reason.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pandas as pd
import psutil

from lib import home, install, stats
from lib.measured import Found, Skipped
from lib.pipelines import arrivals
from lib.pipelines.caller import Caller, Calls
from lib.pipelines.fraud.data import ledger
from lib.pipelines.fraud.servers import task
from lib.process import Process, running

RATE_PER_S, STREAMS, IDLE_S, ROWS = 2000, 64, 1.0, 2000


@dataclass(frozen=True, slots=True)
class Contestant:
    """How a server is started and asked. `host`: what it binds unless told (its own default, not ours)."""

    module: str
    environment: str | None  # a table of engines.toml, None for our own
    distribution: str | None  # whose version is told
    host: str
    health: str = "/readyz"
    path: str = task.PATH
    more: tuple[str, ...] = ()


CONTESTANTS = {
    "ours": Contestant("with_ours", None, None, "127.0.0.1"),
    "uvicorn": Contestant("with_uvicorn", "servers", "uvicorn", "127.0.0.1"),
    "granian RSGI": Contestant("with_granian", "servers", "granian", "127.0.0.1"),
    "granian ASGI": Contestant("with_granian", "servers", "granian", "127.0.0.1", more=("ASGI",)),
    "mosec": Contestant("with_mosec", "servers", "mosec", "0.0.0.0", health="/"),
    "FastAPI": Contestant("with_fastapi", "servers", "fastapi", "127.0.0.1"),
    "LitServe": Contestant("with_litserve", "servers", "litserve", "0.0.0.0"),
    "Triton": Contestant("with_triton", "pytriton", "nvidia_pytriton", "0.0.0.0", "/v2/models/fraud/ready", "/v2/models/fraud/infer"),
}
NAMES = tuple(CONTESTANTS)


def bake(name: str, library: Path, *, seconds: float, logs: Path, server: Sequence[int] | None, client: Sequence[int] | None,
         bodies: Sequence[bytes] | None = None, rate_per_s: float = RATE_PER_S) -> Found:
    """Measure contestant `name` with the forest in `library`, `seconds` each closed and open; `server`, `client`: processor cores.

    Facts: closed_per_s and cpu_us (process tree, a request) at 64 connections; p50_ms, p99_ms from schedule and open_cpu_us at
    `rate_per_s`, whose single calls are the series "calls"; idle_cores; memory_bytes (proportional set size) after the load; ready_s;
    version; binds: its default address; beyond_loopback: whether it listens there as started by us. `bodies` are wire-format
    transactions, by default of the ledger. Raises Skipped, process.Died, OSError.
    """
    one, python = CONTESTANTS[name], Path(sys.executable)
    version = None
    if one.environment is not None:
        found = install.find(one.environment)
        if isinstance(found, install.Missing):
            raise Skipped(found.reason)
        python = found.tool("python")
        version = _version(found.root, str(one.distribution))
    bodies = bodies or [ledger().body(i) for i in np.random.default_rng(0).permutation(len(ledger().second))[:ROWS]]
    requests = [_post(one.path, _tensors(body) if name == "Triton" else body) for body in bodies]
    argv = (str(python), "-m", f"lib.pipelines.fraud.servers.{one.module}")
    serve = running(lambda port: (*argv, str(port), str(library), *one.more), name=name, logs=logs, health=one.health, cores=server,
                    env={"PYTHONPATH": str(home.ROOT), "PYTHONNOUSERSITE": "1"})
    with serve as process, Caller(cores=client) as caller:
        first = caller.run(process.port, requests, arrivals.evenly(500, len(requests)), connections=16, keep_bodies=True)
        idle_cores = _idle(process)
        before = _cpu_s(process)
        closed = caller.closed(process.port, requests, STREAMS, seconds)
        between = _cpu_s(process)
        due = arrivals.poisson(rate_per_s, max(1, round(rate_per_s * seconds)), seed=0)
        opened = caller.run(process.port, [requests[i % len(requests)] for i in range(len(due))], due)
        after = _cpu_s(process)
        facts = {"closed_per_s": _answered(closed) / closed.wall_s, "cpu_us": (between - before) / len(closed.status) * 1e6,
                 "rate_per_s": rate_per_s, "p50_ms": _ms(opened, 0.5), "p99_ms": _ms(opened, 0.99),
                 "open_cpu_us": (after - between) / len(due) * 1e6, "idle_cores": idle_cores, "memory_bytes": _memory(process),
                 "ready_s": process.ready_s, "version": version, "binds": one.host, "beyond_loopback": _beyond_loopback(process)}
        process.check()
    lost = sum(len(calls.status) - _answered(calls) for calls in (first, closed, opened))
    checks = {"6 books": f"{lost} requests were not answered with 200" if lost else None, "7 answers": _wrong(first, bodies, library)}
    calls = pd.DataFrame({"latency_us": np.where(opened.done_ns > 0, (opened.done_ns - opened.due_ns) // 1000, -1).astype(np.int32),
                          "status": opened.status})
    return Found({}, facts, checks, {"calls": calls})


def _post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _tensors(body: bytes) -> bytes:
    """The transaction as Triton's clients send it."""
    asked = json.loads(body)
    tensor = {"name": "transaction", "datatype": "FP64", "shape": [1, 30], "data": [*asked["v"], asked["amount"], asked["time"]]}
    return json.dumps({"id": asked["id"], "inputs": [tensor]}, separators=(",", ":")).encode()


def _wrong(calls: Calls, bodies: Sequence[bytes], library: Path) -> str | None:
    """How many answers are not the forest's own probability for the transaction that was sent; None for none."""
    forest, wrong = task.Forest(str(library)), 0
    for body, status, answer in zip(bodies, calls.status, calls.bodies or (), strict=True):
        if status == 200:
            asked, told = json.loads(body), json.loads(answer)
            probability = told["outputs"][0]["data"][0] if "outputs" in told else told["probability"]
            wrong += told["id"] != asked["id"] or abs(probability - forest.probability(asked["v"], asked["amount"], asked["time"])) > 1e-12
    return f"{wrong} of {len(bodies)} answers are not the forest's" if wrong else None


def _answered(calls: Calls) -> int:
    return int((calls.status == 200).sum())


def _ms(calls: Calls, q: float) -> float | None:
    told = stats.quantile(np.where(calls.status == 200, calls.latency_s, np.inf).tolist(), q)
    return None if told is None else told.value * 1e3


def _family(process: Process) -> list[psutil.Process]:
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def _cpu_s(process: Process) -> float:
    times = [member.cpu_times() for member in _family(process)]
    return float(sum(t.user + t.system for t in times))


def _idle(process: Process) -> float:
    """Cores that it keeps busy while nobody asks anything."""
    before, began = _cpu_s(process), monotonic()
    sleep(IDLE_S)
    return (_cpu_s(process) - before) / (monotonic() - began)


def _memory(process: Process) -> int:
    return int(sum(member.memory_full_info().pss for member in _family(process)))


def _beyond_loopback(process: Process) -> bool:
    listening = [c for member in _family(process) for c in member.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    return any(not ip_address(c.laddr.ip).is_loopback for c in listening)


def _version(root: Path, distribution: str) -> str | None:
    found: Any = next(root.glob(f"lib/python3*/site-packages/{distribution}-*.dist-info"), None)
    return None if found is None else str(found.name.removesuffix(".dist-info").split("-", 1)[1])
