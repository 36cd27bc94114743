"""The bake-off: one scoring task behind several servers, each on one core, asked by our client from another.

What it decides is what a request costs besides its 5 µs of inference. Closed loop for throughput, Poisson arrivals for latency, the
process tree's CPU for the cost. Every answer is compared with the forest's own. The servers are in `servers/`; those that are not ours
run in environments of their own, and one that cannot be had is skipped with its reason.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
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
COUNTED_S = 0.05  # of CPU: the kernel counts in ticks of 10 ms, and fewer than five of them tell nothing
START_S = 120  # Ray starts ten processes; on one busy core that took 40 s


@dataclass(frozen=True, slots=True)
class Contestant:
    """How a server is started and asked. `host`: what it binds unless told (its own default, not ours); `grace_s`: to end in order."""

    module: str
    environment: str | None  # a table of engines.toml, None for our own
    distribution: str | None  # whose version is told
    host: str
    health: str = "/readyz"
    path: str = task.PATH
    more: tuple[str, ...] = ()
    grace_s: float = 8


CONTESTANTS = {
    "ours": Contestant("with_ours", None, None, "127.0.0.1"),
    "uvicorn": Contestant("with_uvicorn", "servers", "uvicorn", "127.0.0.1"),
    "granian RSGI": Contestant("with_granian", "servers", "granian", "127.0.0.1"),
    "granian ASGI": Contestant("with_granian", "servers", "granian", "127.0.0.1", more=("ASGI",)),
    "mosec": Contestant("with_mosec", "servers", "mosec", "0.0.0.0", health="/"),
    "FastAPI": Contestant("with_fastapi", "servers", "fastapi", "127.0.0.1"),
    "LitServe": Contestant("with_litserve", "servers", "litserve", "0.0.0.0"),
    "Triton": Contestant("with_triton", "pytriton", "nvidia_pytriton", "0.0.0.0", "/v2/models/fraud/ready", "/v2/models/fraud/infer"),
    # Its proxy binds 127.0.0.1, its scheduler, store and replicas everything. It would drain for 5 s, and has nothing to lose.
    "Ray Serve": Contestant("with_ray", "ray", "ray", "0.0.0.0", grace_s=1),
}
NAMES = tuple(CONTESTANTS)


@dataclass(frozen=True, slots=True)
class Load:
    """How a contestant is asked: `streams` for `closed_s`, then `rate_per_s` for `open_s`; `checked` answers before (all bodies).

    `path`: another than the contestant's own. `idle_s`: how long nobody asks, before.
    """

    closed_s: float
    open_s: float
    rate_per_s: float = RATE_PER_S
    streams: int = STREAMS
    idle_s: float = IDLE_S
    checked: int | None = None
    path: str | None = None


def bake(name: str, library: Path, *, seconds: float, logs: Path, server: Sequence[int] | None, client: Sequence[int] | None,
         bodies: Sequence[bytes] | None = None, rate_per_s: float = RATE_PER_S) -> Found:
    """Start contestant `name` with the forest in `library` on cores `server`, and ask it from cores `client`, `seconds` each way.

    Facts: see `asked`. `bodies` are wire-format transactions, by default of the ledger. Raises Skipped, process.Died, OSError.
    """
    with serving(name, library, logs=logs, cores=server) as process, Caller(cores=client) as caller:
        return asked(name, process, caller, library, Load(seconds, seconds, rate_per_s), bodies=bodies)


@contextlib.contextmanager
def serving(name: str, library: Path, *more: str, logs: Path, cores: Sequence[int] | None) -> Iterator[Process]:
    """Contestant `name` on `cores`, with `more` arguments; what it writes to a temporary directory goes with it.

    Raises Skipped where its environment is not built, process.Died, OSError.
    """
    one, python = CONTESTANTS[name], _python(CONTESTANTS[name])
    argv = (str(python), "-m", f"lib.pipelines.fraud.servers.{one.module}")
    with tempfile.TemporaryDirectory(prefix="serving-", ignore_cleanup_errors=True) as scratch:
        env = {"PYTHONPATH": str(home.ROOT), "PYTHONNOUSERSITE": "1", "TMPDIR": scratch}
        with running(lambda port: (*argv, str(port), str(library), *one.more, *more), name=name, logs=logs, health=one.health, cores=cores,
                     env=env, timeout_s=START_S, grace_s=one.grace_s) as process:
            yield process


def asked(name: str, process: Process, caller: Caller, library: Path, load: Load, *, bodies: Sequence[bytes] | None = None) -> Found:
    """Measure contestant `name`, which runs as `process`.

    Facts: closed_per_s and cpu_us (process tree, a request) of the closed loop; p50_ms, p99_ms from schedule and open_cpu_us of the open
    one, whose single calls are the series "calls"; CPU that is too little to be counted is None; idle_cores; memory_bytes (proportional
    set size) after the load; ready_s; version; binds: its default address; beyond_loopback: whether it listens there as started by us.
    """
    one = CONTESTANTS[name]
    bodies = bodies or [ledger().body(i) for i in np.random.default_rng(0).permutation(len(ledger().second))[:ROWS]]
    requests = [_post(load.path or one.path, _tensors(body) if name == "Triton" else body) for body in bodies]
    compared = min(len(bodies), load.checked or len(bodies))
    first = caller.run(process.port, requests[:compared], arrivals.evenly(min(500, load.rate_per_s), compared), connections=16,
                       keep_bodies=True)
    idle_cores = _idle(process, load.idle_s)
    before = _cpu_s(process)
    closed = caller.closed(process.port, requests, load.streams, load.closed_s)
    between = _cpu_s(process)
    due = arrivals.poisson(load.rate_per_s, max(1, round(load.rate_per_s * load.open_s)), seed=0)
    opened = caller.run(process.port, [requests[i % len(requests)] for i in range(len(due))], due)
    after = _cpu_s(process)
    facts = {"closed_per_s": _answered(closed) / closed.wall_s, "cpu_us": _each_us(between - before, len(closed.status)),
             "rate_per_s": load.rate_per_s, "p50_ms": _ms(opened, 0.5), "p99_ms": _ms(opened, 0.99),
             "open_cpu_us": _each_us(after - between, len(due)), "idle_cores": idle_cores, "memory_bytes": _memory(process),
             "ready_s": process.ready_s, "version": _version(one), "binds": one.host, "beyond_loopback": _beyond_loopback(process)}
    process.check()
    lost = sum(len(calls.status) - _answered(calls) for calls in (first, closed, opened))
    checks = {"6 books": f"{lost} requests were not answered with 200" if lost else None,
              "7 answers": _wrong(first, bodies[:compared], library)}
    calls = pd.DataFrame({"latency_us": np.where(opened.done_ns > 0, (opened.done_ns - opened.due_ns) // 1000, -1).astype(np.int32),
                          "status": opened.status})
    return Found({}, facts, checks, {"calls": calls})


def _python(one: Contestant) -> Path:
    """Its interpreter. Raises Skipped."""
    if one.environment is None:
        return Path(sys.executable)
    if isinstance(found := install.find(one.environment), install.Missing):
        raise Skipped(found.reason)
    return found.tool("python")


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


def _each_us(cpu_s: float, n: int) -> float | None:
    return cpu_s / n * 1e6 if cpu_s >= COUNTED_S else None


def _idle(process: Process, seconds: float) -> float | None:
    """Cores that it keeps busy while nobody asks anything; None where nobody waited to see."""
    if not seconds:
        return None
    before, began = _cpu_s(process), monotonic()
    sleep(seconds)
    return (_cpu_s(process) - before) / (monotonic() - began)


def _memory(process: Process) -> int:
    return int(sum(member.memory_full_info().pss for member in _family(process)))


def _beyond_loopback(process: Process) -> bool:
    listening = [c for member in _family(process) for c in member.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    return any(not _loopback(c.laddr.ip) for c in listening)


def _loopback(ip: str) -> bool:
    found = ip_address(ip)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None  # ::ffff:127.0.0.1, of which Python 3.11 says no
    return (mapped or found).is_loopback


def _version(one: Contestant) -> str | None:
    """Of its distribution, where it has an environment of its own."""
    if one.environment is None or isinstance(at := install.find(one.environment), install.Missing):
        return None
    found: Any = next(at.root.glob(f"lib/python3*/site-packages/{one.distribution}-*.dist-info"), None)
    return None if found is None else str(found.name.removesuffix(".dist-info").split("-", 1)[1])
