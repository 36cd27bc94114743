"""What is measured through the service's door: the load client's own floor, other servers, loads up to and past saturation, a replay of the
two days, and a kill in the middle of it.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from lib import record
from lib.home import logs
from lib.measured import Found, Skipped, cores, keep
from lib.pipelines import arrivals, calibration
from lib.pipelines.caller import Caller
from lib.pipelines.fraud import bench, contestants
from lib.pipelines.fraud.bench import Plan, poisson, serving
from lib.pipelines.fraud.data import ledger
from lib.pipelines.fraud.replay import Replay
from lib.pipelines.fraud.session import Session
from lib.process import Process
from lib.progress import Progress

Step = dict[str, Any]
TARGET_PER_S = 10_000
CLIENT_RATES = (2_000.0, 10_000.0, 20_000.0, 40_000.0)
STREAMS = 64


def able(s: Session) -> bool:
    """Whether anything is measured here through a door: with a model, and with a processor for each side. The latter's lack is a row."""
    if s.model is None:
        return False
    try:
        cores()
    except Skipped as reason:
        s.run.add(record.Point({"what": "door"}, "skipped", str(reason)))
        return False
    return True


def client(s: Session, plan: Plan) -> None:
    """The load client against a server that does nothing: the floor below which no latency of ours can be seen."""
    setting = {"what": "client"}
    if not able(s) or s.run.measured(setting):
        return

    def measured() -> Found:
        table = calibration.calibrate(CLIENT_RATES, logs=logs(), seconds=min(2.0, plan.load_s), server=cores()[0], client=cores()[1])
        lost = int(table["unanswered"].sum())
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        return Found({}, {"table": rows}, {"6 books": f"{lost} requests were not answered" if lost else None})

    keep(s.run, setting, measured)


def servers(s: Session, plan: Plan) -> None:
    """The same scoring task behind each server, one after another on one core."""
    if not able(s):
        return
    with Progress(len(plan.servers), "serving with others") as progress:
        for name in plan.servers:
            keep(s.run, {"what": "server", "server": name}, partial(_server, s, plan, name))
            progress.advance(name)


def loads(s: Session, plan: Plan) -> None:
    """Throughput of a closed loop, then Poisson arrivals at shares of it and at the target rate; too much also with polite clients."""
    if not able(s):
        return
    closed, traced = (Step({"what": what, "streams": STREAMS}) for what in ("closed", "traced"))
    todo = [step for step in (closed, traced, *_steps(plan)) if s.run.measured(step) is None]
    if not todo:
        return
    stream = Replay(ledger(), f"load-{s.run.run_id}")
    with serving() as server, Caller(cores=cores()[1]) as caller, Progress(len(todo), "asking the service") as progress:
        caller.closed(server.port, stream.requests(5_000), 16, 0.5)  # first touch of code, caches and sockets
        for step in todo:
            if step in (closed, traced):
                requests = stream.requests(round(60_000 * plan.load_s), traced=step is traced)  # more than it can answer: none twice
                keep(s.run, step, partial(bench.loaded, server, partial(caller.closed, server.port, requests, STREAMS, plan.load_s)))
            else:
                keep(s.run, step, partial(_load, s, caller, server, stream, step, plan))
            progress.advance(", ".join(f"{key} {value}" for key, value in step.items() if key != "what"))


def _steps(plan: Plan) -> list[Step]:
    """The offered loads, round after round, so that no rate has a quiet minute of its own."""
    steps: list[Step] = []
    for turn in range(plan.rounds):
        steps += [{"what": "load", "share": share, "throttle": False, "round": turn} for share in plan.shares]
        steps += [{"what": "load", "share": share, "throttle": True, "round": turn} for share in plan.shares if share >= 1]
        steps += [{"what": "target", "rate": TARGET_PER_S, "round": turn}]
    return steps


def _load(s: Session, caller: Caller, server: Process, stream: Replay, step: Step, plan: Plan) -> Found:
    closed = s.facts(what="closed", streams=STREAMS)
    rate = float(step["rate"]) if "rate" in step else step["share"] * closed["answered"] / closed["wall_s"]
    ask = partial(poisson, caller, server, stream.requests, rate, plan.load_s, seed=step["round"], throttle=step.get("throttle", False))
    found = bench.loaded(server, ask)
    return Found(found.samples, {**found.facts, "rate_per_s": rate}, found.checks, found.series)


def waits(s: Session, plan: Plan) -> None:
    """Does it pay to wait for a batch? Never waiting beside 2 ms, at a low load and at the target."""
    if not able(s):
        return
    stream = Replay(ledger(), f"wait-{s.run.run_id}")
    for wait_ms in (0, 2):
        steps: list[Step] = [{"what": "wait", "wait_ms": wait_ms, "rate": rate} for rate in (500, TARGET_PER_S)]
        todo = [step for step in steps if s.run.measured(step) is None]
        if todo:
            with serving("--batch-wait-ms", str(wait_ms)) as server, Caller(cores=cores()[1]) as caller:
                caller.closed(server.port, stream.requests(5_000), 16, 0.5)
                for step in todo:
                    ask = partial(poisson, caller, server, stream.requests, float(step["rate"]), plan.load_s, seed=0)
                    keep(s.run, step, partial(bench.loaded, server, ask))


def replayed(s: Session, plan: Plan) -> None:
    """The two days as they were, `speed` times as fast, with the embedded windows and with Redis."""
    if not able(s):
        return
    for store in ("embedded", "redis"):
        keep(s.run, {"what": "replay", "windows": store, "speed": plan.speed}, partial(_replayed, plan, store))


def killed(s: Session, plan: Plan) -> None:
    """kill -9 in the middle of a load, a restart on the same log, and every request once more."""
    if able(s):
        keep(s.run, {"what": "kill"}, partial(_killed, 2_000, max(1.0, min(3.0, plan.load_s))), timed=False)


def _server(s: Session, plan: Plan, name: str) -> Found:
    assert s.model is not None
    return contestants.bake(name, s.model.root / "forest.so", seconds=plan.servers_s, logs=logs(), server=cores()[0], client=cores()[1])


def _replayed(plan: Plan, store: str) -> Found:
    whole = ledger()
    seconds = whole.second[: plan.replayed]
    requests = Replay(whole, "replay").requests(len(seconds))
    due_ns = arrivals.replay(seconds, speed=plan.speed, seed=0)

    def asked(server: Process) -> Found:
        with Caller(cores=cores()[1]) as caller:
            return bench.loaded(server, lambda: caller.run(server.port, requests, due_ns, timeout_s=2))

    if store == "embedded":
        with serving() as server:
            return asked(server)
    with bench.redis() as url, serving("--redis-url", url) as server:
        return asked(server)


def _killed(rate: int, seconds: float) -> Found:
    requests = Replay(ledger(), "kill").requests(round(rate * seconds))
    due_ns = arrivals.poisson(rate, len(requests), seed=0)
    with tempfile.TemporaryDirectory(prefix="fraud-kill-") as scratch, Caller(cores=cores()[1]) as caller:
        log = Path(scratch) / "decisions.sqlite"
        with serving(journal=log) as server:
            strike = threading.Timer(seconds / 2, lambda: server.signal(signal.SIGKILL))
            strike.start()
            first = caller.run(server.port, requests, due_ns, timeout_s=0.5, keep_bodies=True)
            strike.join()
        assert first.bodies is not None
        told = {
            answer["id"]: answer for answer in map(json.loads, (b for b, ok in zip(first.bodies, first.status, strict=True) if ok == 200))
        }
        kept = _logged(log)
        with serving(journal=log) as server:
            with httpx.Client(base_url=server.url, trust_env=False) as http:
                again = [http.post("/v1/score", content=request.partition(b"\r\n\r\n")[2]) for request in requests]
            ready_s = server.ready_s
        repeated = {answer["id"]: answer for answer in (reply.json() for reply in again if reply.status_code == 200)}
        log_after = _logged(log)
    lost = [id_ for id_ in told if id_ not in kept]
    changed = [id_ for id_, answer in told.items() if repeated.get(id_) != answer]
    checks = {"6 books": audit_kill(len(requests), len(told), lost, changed, log_after)}
    facts = {
        "sent": len(requests),
        "acknowledged": len(told),
        "logged_at_kill": len(kept),
        "lost": len(lost),
        "changed": len(changed),
        "logged_after": len(log_after),
        "distinct_after": len(set(log_after)),
        "ready_again_s": ready_s,
    }
    return Found({}, facts, checks)


def audit_kill(sent: int, told: int, lost: list[str], changed: list[str], log: list[str]) -> str | None:
    """Nothing acknowledged is lost or told otherwise later, nothing is logged twice, and in the end all is logged."""
    if not 0 < told < sent:
        return f"{told} of {sent} were acknowledged: the kill was not in the middle"
    if lost or changed:
        return f"{len(lost)} acknowledged decisions are not in the log, {len(changed)} were told otherwise afterwards"
    return None if len(log) == len(set(log)) == sent else f"{sent} sent, {len(log)} logged, {len(set(log))} of them different"


def _logged(log: Path) -> list[str]:
    with sqlite3.connect(f"file:{log}?mode=ro", uri=True) as reader:
        return [id_ for (id_,) in reader.execute("select id from decisions")]
