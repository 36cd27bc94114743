"""The conductor of the fraud notebook: what is measured, in which order, and what is kept of it.

Each function adds the points that the run does not hold yet, and measures nothing where nothing can be measured. Refuses to serve and
to ask on the same core.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import httpx
import numpy as np
import pandas as pd
import psutil

from lib import audit, process
from lib.home import logs
from lib.measured import Found, Skipped, cores
from lib.pipelines import arrivals
from lib.pipelines.caller import Caller, Calls
from lib.process import Process, running

SLA_S = 0.010
LAG_BUDGET_S = 0.0005  # a twentieth of the SLA


@dataclass(frozen=True, slots=True)
class Plan:
    """How much a profile asks for. `shares` are offered loads as parts of the closed loop's throughput."""

    rows: int
    cold: int
    batch_s: float
    shipped: int
    servers: tuple[str, ...]
    servers_s: float
    load_s: float
    rounds: int
    shares: tuple[float, ...]
    speed: float
    replayed: int | None
    scenario_s: float


SERVERS = ("ours", "uvicorn", "granian RSGI", "granian ASGI", "mosec", "FastAPI", "LitServe", "Triton")
SHARES = (0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0)
PLANS = {
    "smoke": Plan(2_000, 20, 0.05, 5, ("ours", "uvicorn"), 0.5, 0.5, 1, (0.5, 2.0), 20_000, 20_000, 0.5),
    "quick": Plan(20_000, 300, 0.5, 300, SERVERS, 2.0, 1.0, 3, SHARES, 6_000, None, 1.0),
    "full": Plan(100_000, 2_000, 2.0, 2_000, SERVERS, 10.0, 10.0, 5, (*SHARES, 3.0), 3_000, None, 30.0),
}


# --- the service under load ---


@contextlib.contextmanager
def serving(*options: str, journal: Path | None = None) -> Iterator[Process]:
    """The service as a user would start it, on its own core, with a log that is thrown away unless `journal` says where it stays."""
    with tempfile.TemporaryDirectory(prefix="fraud-") as scratch:
        log = journal or Path(scratch) / "decisions.sqlite"
        command = (sys.executable, "-m", "lib.pipelines.fraud.service", "--journal", str(log), *options)
        with running(lambda port: (*command, "--port", str(port)), name="fraud service", logs=logs(), cores=cores()[0]) as process_:
            yield process_


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """A Redis of our own on a Unix socket, without persistence; yields its URL. Raises Skipped where there is none."""
    if shutil.which("redis-server") is None:
        raise Skipped("redis-server is not installed on this machine")
    with tempfile.TemporaryDirectory(prefix="redis-") as scratch:
        socket = Path(scratch) / "socket"
        command = ("redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", scratch)
        with process.guarded(command, {}, Path(scratch) / "log", 2):
            while not socket.exists():
                sleep(0.01)
            yield f"unix://{socket}?db=0"


def counters(server: Process) -> dict[str, float]:
    """The service's own counts, summed over labels but for responses, which keep their status."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(server.url + "/metrics", timeout=10, trust_env=False).text):
        for sample in family.samples:
            name = f"{sample.name} {sample.labels['status']}" if "status" in sample.labels else sample.name
            if not name.endswith("_bucket"):
                found[name] = found.get(name, 0.0) + sample.value
    return found


def loaded(server: Process, ask: Callable[[], Calls]) -> Found:
    """One load: latencies from schedule in µs, statuses, the service's own counts and CPU, and whether the books agree."""
    tree, before = psutil.Process(server.pid), counters(server)
    cpu = tree.cpu_times()
    calls = ask()
    spent = tree.cpu_times()
    sleep(0.05)  # what was in flight when the client stopped waiting
    after = counters(server)
    made = after.get("fraud_decisions_total", 0.0) - before.get("fraud_decisions_total", 0.0)
    sent = int((calls.sent_ns > 0).sum())
    ok = int((calls.status == 200).sum())
    unanswered = int((calls.status == 0).sum())
    latency_us = np.where(calls.done_ns > 0, (calls.done_ns - calls.due_ns) // 1000, -1).astype(np.int32)
    due_ms = ((calls.due_ns - calls.due_ns[0]) // 1_000_000).astype(np.int32)  # exact times follow from rate and seed
    frame = pd.DataFrame({"latency_us": latency_us, "status": calls.status, "due_ms": due_ms})
    lag_s = calls.lag_s
    checks = {"5 lag": audit.client_lag(lag_s.tolist(), budget_s=LAG_BUDGET_S), "6 books": books(ok, made, unanswered)}
    facts = {
        "sent": sent,
        "answered": ok,
        "decided": made,
        "unanswered": unanswered,
        "wall_s": calls.wall_s,
        "window_s": float(calls.due_ns[-1] - calls.due_ns[0]) / 1e9,
        "client_cpu_s": calls.cpu_s,
        "server_cpu_s": spent.user + spent.system - cpu.user - cpu.system,
        "waited": int(calls.waited.sum()),
        "lag_p99_s": float(np.quantile(lag_s, 0.99)) if len(lag_s) else None,
        "rss_bytes": tree.memory_info().rss,
        "counted": {name: after[name] - before.get(name, 0.0) for name in after},
    }
    return Found({}, facts, checks, {"calls": frame})


def books(answered: int, decided: float, unanswered: int) -> str | None:
    """Decisions that a client has seen = decisions made, but for those whose answer did not arrive."""
    if answered <= decided <= answered + unanswered:
        return None
    return f"{answered} answers with a decision and {unanswered} without any, but {decided:.0f} decisions were made"


def poisson(
    caller: Caller,
    server: Process,
    requests: Callable[[int], list[bytes]],
    rate: float,
    seconds: float,
    *,
    seed: int,
    throttle: bool = False,
) -> Calls:
    """Poisson arrivals at `rate`, from schedule."""
    n = max(200, round(rate * seconds))
    return caller.run(
        server.port, requests(n), arrivals.poisson(rate, n, seed=seed), connections=1024, throttle=throttle, timeout_s=2, seed=seed
    )
