"""The conductor of a measurement: workload → engine → client → events → metrics → audit → point, one straight way.

Each engine is started once and all are asked in turn, round by round, so that a drift of the machine meets all alike. A point is
written a cell, so that a rerun measures only what is missing. What cannot run here becomes a row with its reason. Refuses bad
settings before any engine starts.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from time import monotonic, sleep
from typing import Any

import numpy as np
import pandas as pd

from lib import audit, machine, record, sampler
from lib.llm import events, metrics
from lib.llm.client import Client, post
from lib.llm.contender import Contender
from lib.llm.engines.engine import Spec, Unavailable
from lib.llm.engines.server import Server, serving
from lib.llm.load import Closed, Open
from lib.llm.model import Model
from lib.llm.session import Session
from lib.llm.workload import Workload, corpus, digest
from lib.process import Died
from lib.progress import Progress

LAG_BUDGET_S = 0.005
GAUGES = ("running", "kv_usage", "running_per_step")  # engine's counters that are values, not sums
DISTURBED = ("5 lag", "8 quiet")  # checks that blame the machine's other work, not the engine


@dataclass(frozen=True, slots=True)
class Bench:
    """What a cell is measured with and held against: all of it known before the first request."""

    run: record.Run
    model: Model
    cores: int
    cache_bytes: float
    bandwidth: float
    matmul: float


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of a latency sweep a profile asks for: `requests` measured ones a cell and round, after one of warm-up."""

    prompt_tokens: tuple[int, ...]
    output_tokens: int
    rounds: int
    requests: int


LATENCY = {"smoke": Plan((32, 128), 8, 1, 2), "quick": Plan((32, 128, 512, 1024), 16, 4, 2),
           "full": Plan((32, 128, 512, 1024, 2048, 4096), 128, 10, 5)}
NOISE = {"smoke": Plan((128,), 8, 2, 2), "quick": Plan((128,), 16, 6, 4), "full": Plan((128,), 64, 10, 10)}


def latency(s: Session, rivals: Sequence[Contender], plan: Plan) -> pd.DataFrame:
    """TTFT and TPOT of a single stream by prompt length."""
    works = {n: Workload(n, plan.output_tokens, (plan.requests + 1) * plan.rounds) for n in plan.prompt_tokens}
    return sweep(s, rivals, works, Closed(streams=1, warmup=1), rounds=plan.rounds)


def sweep(s: Session, rivals: Sequence[Contender], works: dict[int, Workload], load: Closed | Open, *, rounds: int) -> pd.DataFrame:
    """Every contender × workload × round as a point; those already measured are kept. Engines are up together, asked in turn.

    A cell that something else on the machine disturbed is tried once more at the end. Raises ValueError, before anything starts,
    for workloads that do not fit the model's context or cannot be unique.
    """
    if s.here is None or s.model is None:
        return s.frame()
    rates = s.ceilings()
    read, matmul = ([rate for name, rate in rates.items() if name.startswith(kind)] for kind in ("read", "matmul"))
    if not read or not matmul:
        raise RuntimeError(f"run {s.run.run_id} has no ceiling to hold its points against; start a fresh one: --fresh")
    bench = Bench(s.run, s.model, s.here.threads, float(s.here.l3_bytes or 0), max(read), max(matmul))
    context = -(-max(work.context for work in works.values()) // 256) * 256
    spec = {r: Spec(s.model, r.precision, context=context, slots=in_flight(load), threads=s.here.threads, device=s.device) for r in rivals}
    prompts = {n: work.prompts(corpus(s.model.family.hf), context=context) for n, work in works.items()}
    todo = [(r, n, turn) for turn in range(rounds) for n in works for r in rivals
            if s.run.measured(_setting(r, n, turn, works, load)) is None]
    with contextlib.ExitStack() as stack:
        servers = dict(_start(bench, [r for r in rivals if any(one[0] == r for one in todo)], spec, stack))
        queue = [(one, True) for one in todo if one[0] in servers]
        client = stack.enter_context(Client())
        with Progress(len(queue), f"{s.run.notebook}: measuring") as progress:
            for (rival, n, turn), once_more in queue:
                setting, share = _setting(rival, n, turn, works, load), len(prompts[n]) // rounds
                try:
                    point = cell(bench, client, servers[rival], setting, prompts[n][turn * share:(turn + 1) * share], works[n], load)
                except Died as death:
                    point = record.Point(setting, "failed", str(death))
                s.run.add(point)
                if once_more and any(point.audit.get(check) for check in DISTURBED):
                    queue.append(((rival, n, turn), False))
                    progress.total += 1
                progress.advance(f"{rival.name}, {n} tokens, round {turn + 1}")
    return s.frame()


def cell(b: Bench, client: Client, server: Server, setting: dict[str, record.Scalar], prompts: list[list[int]], work: Workload,
         load: Closed | Open) -> record.Point:
    """One measured point: load, raw samples, what client, engine and host say, and the audit's word on all of it."""
    server.check()
    engine, spec = server.engine, server.spec
    messages = [post(*engine.request(spec, prompt, work.output_tokens)) for prompt in prompts]
    before, governed = server.counters(), machine.governor()
    with sampler.Sampler([sampler.Tree(server.process.guard.pid), sampler.gpu(sampler.family(server.process.pid))]) as seen:
        traffic = client.run(server.port, messages, load, reuse=engine.KEEPS_ALIVE)
    ended = None
    try:
        server.check()
        after = settled(server, before, len(messages))
    except Died as death:  # what arrived before is kept
        ended, after = f"incomplete: {death}", {}
    answers = [events.answer(e, engine.tokens_in, start_ns=traffic.exchanges[0].sent_ns) for e in traffic.exchanges]
    name = "events-" + hashlib.sha256(record.canonical(setting).encode()).hexdigest()[:12]
    b.run.series(name, _stamps(answers))
    host = seen.summary()
    host["governor_change"] = f"{governed} → {now}" if (now := machine.governor()) != governed else None
    if isinstance(other := host["other_cpu_s"], float):
        host["other_cpu_s"] = max(0.0, other - traffic.cpu_s)  # our own client is no stranger
    counted = {key: value if key in GAUGES else value - before.get(key, 0.0) for key, value in after.items()}
    facts = {"warmup": load.warmup, "asked_tokens": work.output_tokens, "sent_tokens": work.prompt_tokens, "prompts": digest(prompts),
             "stored": engine.stored(spec), "weights_bytes": b.model.weights_bytes(engine.stored(spec)), "events": f"{name}.parquet",
             "lag_p99_s": float(np.quantile(traffic.lag_s, 0.99)) if traffic.lag_s else None, "client_cpu_s": traffic.cpu_s,
             "opened_late": traffic.opened_late, "server_prefill_s": prefill_s(answers, counted),
             "server_queue_s": per_request(counted, "queue_s"), "counters": counted, "host": host}
    measured = answers[load.warmup:]
    verdicts = checks(b, measured, answers, work, counted, host, list(traffic.lag_s), facts, streams=in_flight(load))
    failures = [a.error for a in measured if a.error]
    wrong = [f"{check}: {why}" for check, why in verdicts.items() if why]
    if failures:  # medians of the survivors would flatter the engine
        wrong.append(f"{len(failures)} of {len(measured)} requests failed: {failures[0]}")
    if len(failures) == len(measured):
        ended = ended or f"every request failed: {failures[0]}"
    status: record.Status = "failed" if ended else "invalid" if wrong else "ok"
    reason = ended or "; ".join(wrong) or None
    return record.Point(setting, status, reason, metrics.samples(answers), facts, verdicts)


def checks(b: Bench, measured: Sequence[events.Answer], answers: Sequence[events.Answer], work: Workload, counted: dict[str, float],
           host: dict[str, float | str | None], lag_s: Sequence[float], facts: dict[str, Any], *, streams: int) -> dict[str, str | None]:
    """The audit of one cell (numbers as in lib/audit.py). A check whose input this engine does not give is absent."""
    verdicts: dict[str, str | None] = {}
    good = [a for a in measured if a.error is None and a.stamps_s]
    if not good:
        return verdicts
    ttfts, shape = [a.stamps_s[0] for a in good], b.model.shape
    timed = [(tpot, a) for a in good if (tpot := metrics.tpot_s(a)) is not None]
    if timed:
        sums = [audit.tpot_adds_up(a.stamps_s[0], a.stamps_s[-1], a.tokens or 0, a.counts[0] if a.counts else 1, tpot) for tpot, a in timed]
        verdicts["1 tpot"] = next(filter(None, sums), None)
        reads = shape.decode_bytes(facts["weights_bytes"], work.prompt_tokens)
        verdicts["3 decode"] = audit.decode_floor(min(tpot for tpot, _ in timed), reads, b.bandwidth, cache_bytes=b.cache_bytes)
    if len(good) > streams:
        took = [a.stamps_s[-1] for a in good]
        wall = max(a.sent_s + a.stamps_s[-1] for a in good) - min(a.sent_s for a in good)
        edges = streams / len(good) if streams > 1 else 0  # ramp and drain, when streams do not end together
        verdicts["2 little"] = audit.littles_law(streams, len(good) / wall, float(np.mean(took)), tolerance=0.1 + edges)
    verdicts["3 prefill"] = audit.prefill_floor(min(ttfts), shape.prefill_flops(work.prompt_tokens), b.matmul)
    verdicts["4 precision"] = audit.stored_precision(b.model.bits_per_weight(facts["stored"]), _claimed(facts["stored"]))
    if "running_per_step" in counted and streams > 1:
        verdicts["4 batch"] = audit.batch_ran(counted["running_per_step"], streams)
    verdicts["5 lag"] = audit.client_lag(lag_s, budget_s=LAG_BUDGET_S)
    verdicts["6 length"] = audit.lengths([a.tokens for a in good], work.output_tokens, [a.prompt_tokens for a in good], work.prompt_tokens)
    if "cached_tokens" in counted and counted.get("prompt_tokens"):
        verdicts["6 prefix"] = audit.prefix_hits(counted["cached_tokens"], counted["prompt_tokens"])
    if counted.get("ttft_count") == len(answers):
        everyone = [a.stamps_s[0] for a in answers if a.stamps_s]
        verdicts["7 ttft"] = audit.ttft_agrees(float(np.mean(everyone)), counted["ttft_s"] / counted["ttft_count"])
    counter_j, power_j = host["gpu_energy_j"], host["gpu_energy_by_power_j"]
    if isinstance(counter_j, float) and isinstance(power_j, float):
        verdicts["9 energy"] = audit.energy_agrees(counter_j, power_j)
    verdicts["8 quiet"] = audit.undisturbed(host, cores=b.cores)
    return verdicts


def settled(server: Server, before: dict[str, float], requests: int, *, patience_s: float = 2.0) -> dict[str, float]:
    """The engine's counters once they include all `requests`: some engines publish a moment after the last token."""
    until = monotonic() + patience_s
    while True:
        now = server.counters()
        missing = "ttft_count" in now and now["ttft_count"] - before.get("ttft_count", 0) < requests
        if not missing or monotonic() > until:
            return now
        sleep(0.05)


def prefill_s(answers: Sequence[events.Answer], counted: dict[str, float]) -> float | None:
    """The engine's own mean time of a prefill: from the answers' timings where it sends them, else from its counters."""
    said = [a.server["prompt_ms"] / 1e3 for a in answers if "prompt_ms" in a.server]
    return float(np.mean(said)) if said else per_request(counted, "prefill_s")


def per_request(counted: dict[str, float], what: str) -> float | None:
    return counted[what] / counted["requests"] if counted.get("requests") and what in counted else None


def _start(b: Bench, rivals: Sequence[Contender], spec: dict[Contender, Spec],
           stack: contextlib.ExitStack) -> Iterator[tuple[Contender, Server]]:
    """Servers of the contenders that come up; for each a point about its start, or a row that says why there is none."""
    with Progress(len(rivals), f"{b.run.notebook}: starting") as progress:
        for rival in rivals:
            setting = {"what": "start", **rival.setting}
            try:
                if reason := rival.engine.available():
                    raise Unavailable(reason)
                stored = rival.engine.stored(spec[rival])
                server = stack.enter_context(serving(rival.engine, spec[rival], logs=b.run.path / "logs"))
            except Unavailable as why:
                b.run.add(record.Point(setting, "skipped", str(why)))
                progress.advance(f"{rival.name}: skipped")
                continue
            except Died as death:
                b.run.add(record.Point(setting, "failed", str(death)))
                progress.advance(f"{rival.name}: failed")
                continue
            used = sampler.Tree(server.process.guard.pid).read()["tree_rss_bytes"]
            bits, weights_bytes = b.model.bits_per_weight(stored), b.model.weights_bytes(stored)
            b.run.add(record.Point(setting, "ok", None, {"ready_s": [server.process.ready_s], "rss_bytes": [used]},
                                   {"stored": stored, "bits_per_weight": bits, "weights_bytes": weights_bytes, "spec": _told(spec[rival])},
                                   {"4 precision": audit.stored_precision(bits, _claimed(stored))}))
            progress.advance(f"{rival.name}: ready after {server.process.ready_s:.0f} s")
            yield rival, server


def _claimed(stored: str) -> str:
    return {"bf16": "16-bit", "f16": "16-bit", "q8_0": "INT8", "q4_0": "INT4", "q4_1": "Q4_1", "q4_k_m": "Q4_K_M"}[stored]


def _told(spec: Spec) -> dict[str, Any]:
    return {key: value for key, value in asdict(spec).items() if key != "model"}


def _setting(rival: Contender, n: int, turn: int, works: dict[int, Workload], load: Closed | Open) -> dict[str, record.Scalar]:
    return {"what": "cell", **rival.setting, "prompt_tokens": n, "output_tokens": works[n].output_tokens, "round": turn,
            **{key: value for key, value in asdict(load).items() if key in ("streams", "rate_per_s")}}


def in_flight(load: Closed | Open) -> int:
    return load.streams if isinstance(load, Closed) else load.connections


def _stamps(answers: Sequence[events.Answer]) -> pd.DataFrame:
    """Every event of a cell: which request, when (s after it was sent), tokens up to it."""
    rows = [(a.number, stamp, a.counts[i] if a.counts else None) for a in answers for i, stamp in enumerate(a.stamps_s)]
    return pd.DataFrame(rows, columns=["request", "stamp_s", "tokens"])
