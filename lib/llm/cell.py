"""One measured point: workload → engine → client → events → metrics → audit → point, the straight way of every LLM measurement.

Refuses to drop anything: what fails or does not pass the audit is a point that says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

import numpy as np
import pandas as pd

from lib import audit, machine, record, sampler
from lib.llm import events, memory, metrics
from lib.llm.client import Client, post
from lib.llm.engines.server import Server
from lib.llm.load import Closed, Load
from lib.llm.model import Model
from lib.llm.session import Session
from lib.llm.workload import Request, digest
from lib.process import Died

LAG_BUDGET_S = 0.005
GAUGES = ("running", "waiting", "kv_usage", "running_per_step")  # engine's counters that are values, not sums


@dataclass(frozen=True, slots=True)
class Bench:
    """What a cell is measured with and held against: all of it known before the first request."""

    run: record.Run
    model: Model
    cores: int
    cache_bytes: float
    bandwidth: float
    matmul: float


def held(s: Session, model: Model) -> Bench:
    """What this session's points are held against. Raises RuntimeError where no ceiling was measured."""
    rates = s.ceilings()
    read, matmul = ([rate for name, rate in rates.items() if name.startswith(kind)] for kind in ("read", "matmul"))
    if not read or not matmul or s.here is None:
        raise RuntimeError(f"run {s.run.run_id} has no ceiling to hold its points against; start a fresh one: --fresh")
    return Bench(s.run, model, s.here.threads, float(s.here.l3_bytes or 0), max(read), max(matmul))


def cell(b: Bench, client: Client, server: Server, setting: dict[str, record.Scalar], requests: Sequence[Request],
         load: Load) -> record.Point:
    """One measured point: load, raw samples, what client, engine and host say, and the audit's word on all of it."""
    server.check()
    engine, spec = server.engine, server.spec
    messages = [post(*engine.request(spec, list(one.prompt), one.output_tokens)) for one in requests]
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
    counted = rise(before, after)
    sent = [requests[a.number] for a in answers]
    steady = metrics.steady(answers, load)
    facts = {"warmup": load.warmup, "asked_tokens": _told_once([one.output_tokens for one in sent]),
             "sent_tokens": _told_once([len(one.prompt) for one in sent]), "prompts": digest([one.prompt for one in requests]),
             "stored": engine.stored(spec), "weights_bytes": b.model.weights_bytes(engine.stored(spec)), "events": f"{name}.parquet",
             "steady_s": list(steady) if steady else None,
             "lag_p99_s": float(np.quantile(traffic.lag_s, 0.99)) if traffic.lag_s else None, "client_cpu_s": traffic.cpu_s,
             "opened_late": traffic.opened_late, "server_prefill_s": prefill_s(answers, counted),
             "server_queue_s": per_request(counted, "queue_s"), "counters": counted, "host": host}
    measured = answers[load.warmup:]
    verdicts = checks(b, measured, answers, requests, counted, host, list(traffic.lag_s), facts, load)
    if spec.options.prefix_cache:  # hits are what was asked for, and what is looked up is not computed
        verdicts = {check: why for check, why in verdicts.items() if check not in ("3 prefill", "6 prefix")}
    failures = [a.error for a in measured if a.error]
    wrong = [f"{check}: {why}" for check, why in verdicts.items() if why]
    if failures:  # medians of the survivors would flatter the engine
        wrong.append(f"{len(failures)} of {len(measured)} requests failed: {failures[0]}")
    if len(failures) == len(measured):
        ended = ended or f"every request failed: {failures[0]}"
    status: record.Status = "failed" if ended else "invalid" if wrong else "ok"
    reason = ended or "; ".join(wrong) or None
    return record.Point(setting, status, reason, metrics.samples(answers), facts, verdicts)


def rise(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What an engine's counters rose by; gauges as they are now; sequences a step over these steps alone, where it counts steps."""
    counted = {key: value if key in GAUGES else value - before.get(key, 0.0) for key, value in after.items()}
    steps = counted.get("steps")
    if not steps:
        return counted
    if "running_per_step" in after:  # the engine's mean since its start
        held = after["running_per_step"] * after["steps"] - before.get("running_per_step", 0.0) * before.get("steps", 0.0)
        return {**counted, "running_per_step": held / steps}
    return {**counted, "running_per_step": counted["output_tokens"] / steps} if "output_tokens" in counted else counted


def checks(b: Bench, measured: Sequence[events.Answer], answers: Sequence[events.Answer], requests: Sequence[Request],
           counted: dict[str, float], host: dict[str, float | str | None], lag_s: Sequence[float], facts: dict[str, Any],
           load: Load) -> dict[str, str | None]:
    """The audit of one cell (numbers as in lib/audit.py). A check whose input this engine does not give is absent."""
    verdicts: dict[str, str | None] = {}
    good = [a for a in measured if a.error is None and a.stamps_s]
    if not good:
        return verdicts
    shape = b.model.shape
    timed = [(tpot, a) for a in good if (tpot := metrics.tpot_s(a)) is not None]
    if timed:
        sums = [audit.tpot_adds_up(a.stamps_s[0], a.stamps_s[-1], a.tokens or 0, a.counts[0] if a.counts else 1, tpot) for tpot, a in timed]
        verdicts["1 tpot"] = next(filter(None, sums), None)
        floors = (audit.decode_floor(tpot, shape.decode_bytes(facts["weights_bytes"], len(requests[a.number].prompt)), b.bandwidth,
                                     cache_bytes=b.cache_bytes) for tpot, a in timed)
        verdicts["3 decode"] = next(filter(None, floors), None)
    streams = load.streams if isinstance(load, Closed) else None
    if streams and len(measured) == len(good) > streams:  # a request that fails holds its stream, for a time that is not kept
        took = [a.stamps_s[-1] for a in good]
        wall = max(a.sent_s + a.stamps_s[-1] for a in good) - min(a.sent_s for a in good)
        edges = streams / len(good) if streams > 1 else 0  # ramp and drain, when streams do not end together
        verdicts["2 little"] = audit.littles_law(streams, len(good) / wall, float(np.mean(took)), tolerance=0.1 + edges)
    floors = (audit.prefill_floor(a.stamps_s[0], shape.prefill_flops(len(requests[a.number].prompt)), b.matmul) for a in good)
    verdicts["3 prefill"] = next(filter(None, floors), None)
    verdicts["4 precision"] = as_claimed(b.model, facts["stored"])
    if "running_per_step" in counted and streams and streams > 1 and len(answers) >= 2 * streams:  # fewer are mostly ramp and drain
        verdicts["4 batch"] = audit.batch_ran(counted["running_per_step"], streams)
    verdicts["5 lag"] = audit.client_lag(lag_s, budget_s=LAG_BUDGET_S)
    verdicts["6 length"] = audit.lengths([(a.tokens, requests[a.number].output_tokens) for a in good],
                                         [(a.prompt_tokens, len(requests[a.number].prompt)) for a in good])
    if "cached_tokens" in counted and counted.get("prompt_tokens"):
        verdicts["6 prefix"] = audit.prefix_hits(counted["cached_tokens"], counted["prompt_tokens"])
    if counted.get("ttft_count") == len(answers):
        everyone = [a.stamps_s[0] for a in answers if a.stamps_s]
        verdicts["7 ttft"] = audit.ttft_agrees(float(np.mean(everyone)), counted["ttft_s"] / counted["ttft_count"])
    counter_j, power_j, wall_s = host["gpu_energy_j"], host["gpu_energy_by_power_j"], host["wall_s"]
    if isinstance(counter_j, float) and isinstance(power_j, float) and isinstance(wall_s, float):
        verdicts["9 energy"] = audit.energy_agrees(counter_j, power_j, wall_s=wall_s)
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


def as_claimed(model: Model, stored: str) -> str | None:
    """The audit's word on a form of weights: as many bytes as it implies for this shape, or bits in its band where no formula is known."""
    try:
        implied = memory.weights_bytes(model.shape, stored)
    except KeyError:
        return audit.stored_precision(model.bits_per_weight(stored), stored.upper())
    return audit.stored_bytes(model.weights_bytes(stored), implied, stored)


def _told_once(lengths: Sequence[int]) -> int | list[int]:
    return lengths[0] if len(set(lengths)) == 1 else list(lengths)


def _stamps(answers: Sequence[events.Answer]) -> pd.DataFrame:
    """Every event of a cell: which request, when (s after it was sent), tokens up to it."""
    rows = [(a.number, stamp, a.counts[i] if a.counts else None) for a in answers for i, stamp in enumerate(a.stamps_s)]
    return pd.DataFrame(rows, columns=["request", "stamp_s", "tokens"])
