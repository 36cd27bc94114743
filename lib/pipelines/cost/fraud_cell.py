"""The fraud service in a container's limits: the rate of Poisson arrivals that it carries within its SLA, 99 % decided within 10 ms.

The service has its processors, the load client one that is not among them. A rate that fails is tried once more, for a pause of the host is
no fault of a setting; both windows are kept.
"""

from __future__ import annotations

import os
from functools import cache
from math import ceil
from typing import Any

import numpy as np

from lib import audit
from lib.measured import Found, Skipped
from lib.pipelines import arrivals
from lib.pipelines.caller import Caller, Calls
from lib.pipelines.cost.boxes import Meter, serving, within
from lib.pipelines.cost.cells import Cell, search
from lib.pipelines.cost.plan import Plan
from lib.pipelines.fraud import bench
from lib.pipelines.fraud.data import ledger
from lib.pipelines.fraud.replay import Replay

SLA_S, ATTAINED = bench.SLA_S, 0.99
STREAMS, CONNECTIONS = 64, 256
LAG_BUDGET_S = SLA_S / 10  # of the client, at the rate that is said to be carried: its lag can only make a service look worse
BEGIN = 0.7  # of the closed loop's rate: where the search begins


def split(cpus: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Processors for the service and one for the client. Raises Skipped where there are too few."""
    known, needed = sorted(os.sched_getaffinity(0)), ceil(cpus)
    if len(known) <= needed:
        raise Skipped(f"{needed} processors for the service and one for its client: this machine has {len(known)}")
    return tuple(known[:needed]), (known[-1],)


@cache
def _stream() -> Replay:
    return Replay(ledger(), "cell")  # one for all: it remembers what it has put into words


def requests(n: int) -> list[bytes]:
    """The next `n` transactions as HTTP messages; none comes twice."""
    return _stream().requests(n)


def measure(cell: Cell, plan: Plan) -> Found:
    """The point of one cell. Samples: "windows", one row for each rate that was tried. Raises Skipped, Died, OSError."""
    server, client = split(cell.cpus)
    windows = list[dict[str, Any]]()
    with serving("fraud", cell.options, cpus=cell.cpus, replicas=cell.workers, cores=server) as (box, made), Caller(cores=client) as caller:
        ports = [process.port for process in made]
        caller.closed(ports, requests(2_000), 16, 0.3)  # first touch of code, caches and sockets
        before, meter = _decided(made), Meter(box)
        closed = caller.closed(ports, requests(round(60_000 * cell.workers * plan.closed_s)), STREAMS, plan.closed_s)
        closed_per_s = float((closed.status == 200).sum()) / closed.wall_s
        answered, silent = _answers(closed)

        def carries(rate: float) -> bool:
            nonlocal answered, silent
            for _ in range(2):
                n = max(200, round(rate * plan.window_s))
                asked, looked = requests(n), Meter(box)
                calls = caller.run(ports, asked, arrivals.poisson(rate, n, seed=len(windows)), connections=CONNECTIONS, timeout_s=2)
                windows.append({"per_s": rate, **_window(calls), **looked.spent().facts})
                answered, silent = answered + _answers(calls)[0], silent + _answers(calls)[1]
                if windows[-1]["good"] >= ATTAINED * windows[-1]["due"]:
                    return True
            return False

        per_s = search(carries, BEGIN * closed_per_s) if closed_per_s else None
        spent, peak = meter.spent(), box.usage().peak_bytes
        decided = _decided(made) - before
    facts = {"per_s": per_s, "closed_per_s": closed_per_s, "ready_s": made[0].ready_s, "peak_bytes": peak, "name": cell.name, **spent.facts}
    checks = {
        "5 lag": audit.client_lag([window["lag_p99_s"] for window in windows if window["per_s"] == per_s][-1:], budget_s=LAG_BUDGET_S)
        if per_s else None,
        "6 books": bench.books(answered, decided, silent),
        "9 quota": within(spent, cell.cpus),
    }
    return Found({"windows": windows}, facts, checks)


def _window(calls: Calls) -> dict[str, Any]:
    """What became of the requests of one window; latencies in ms from schedule, of what was answered 200."""
    ok = calls.status == 200
    latency_s = calls.latency_s
    quantiles = np.quantile(latency_s[ok], [0.5, 0.9, 0.99]).tolist() if ok.any() else [None] * 3
    return {
        "due": len(ok), "good": int((ok & (latency_s <= SLA_S)).sum()), "answered": int(ok.sum()),
        "refused": int((calls.status == 503).sum()), "lag_p99_s": float(np.quantile(calls.lag_s, 0.99)) if len(calls.lag_s) else None,
        **dict(zip(("p50_s", "p90_s", "p99_s"), quantiles, strict=True)),
    }  # fmt: skip


def _answers(calls: Calls) -> tuple[int, int]:
    """Answers with a decision, and requests without any answer."""
    return int((calls.status == 200).sum()), int((calls.status == 0).sum())


def _decided(made: Any) -> float:
    return sum(bench.counters(process).get("fraud_decisions_total", 0.0) for process in made)
