"""The conductor of a sweep: engines up together, asked in turn, a point a cell.

Each engine is started once and all are asked in turn, round by round, so that a drift of the machine meets all alike. A point is
written a cell, so that a rerun measures only what is missing. What cannot run here becomes a row with its reason. Refuses bad
settings before any engine starts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress, zip_longest
from typing import Any

import pandas as pd

from lib import record, sampler
from lib.llm import estimate, footprint, kernels
from lib.llm.cell import Bench, as_claimed, cell, held
from lib.llm.client import Client
from lib.llm.contender import Contender
from lib.llm.engines.engine import Spec, Unavailable
from lib.llm.engines.server import Server, stand_still, together
from lib.llm.load import Closed, Load, turned
from lib.llm.session import Asked, Session
from lib.llm.workload import Work, Workload, corpus
from lib.measured import DISTURBED
from lib.process import Died
from lib.progress import Progress


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of a latency sweep a profile asks for: `requests` measured ones a cell and round, after one of warm-up."""

    prompt_tokens: tuple[int, ...]
    output_tokens: int
    rounds: int
    requests: int


RIVALS = ("llamacpp", "vllm", "transformers", "trtllm", "llamacpp:Q4_1")  # of the latency sweep
LATENCY = {"smoke": Plan((32, 128), 8, 1, 2), "quick": Plan((32, 128, 512, 1024), 16, 4, 2),
           "full": Plan((32, 128, 512, 1024, 2048, 4096), 128, 10, 5)}
NOISE = {"smoke": Plan((128,), 8, 2, 2), "quick": Plan((128,), 16, 6, 4), "full": Plan((128,), 64, 10, 10)}


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting of a sweep: what is asked, and how it is sent."""

    work: Work
    load: Load

    @property
    def setting(self) -> dict[str, record.Scalar]:
        return {**self.work.setting, **self.load.setting}


def latency(s: Session, rivals: Sequence[Contender], plan: Plan) -> pd.DataFrame:
    """TTFT and TPOT of a single stream by prompt length."""
    works = [Workload(n, plan.output_tokens, (plan.requests + 1) * plan.rounds) for n in plan.prompt_tokens]
    trials = [Trial(work, Closed(streams=1, warmup=1)) for work in works]
    return sweep(s, dict.fromkeys(rivals, trials), rounds=plan.rounds)


def sweep(s: Session, trials: Mapping[Contender, Sequence[Trial]], *, rounds: int, slots: int | None = None,
          then: Callable[[], Mapping[Contender, Sequence[Trial]]] | None = None) -> pd.DataFrame:
    """Every contender's trials, `rounds` times each, as points; those already measured are kept. Engines are up together, asked in turn.

    A trial's requests are dealt out to its rounds. `slots`: sequences an engine runs at a time; else as many as its loads can hold. A
    cell that something else on the machine disturbed is tried once more at the end. `then`: trials that follow from what was measured,
    asked of the same servers. Raises ValueError, before anything is asked, for work that does not fit the context or cannot be unique.
    """
    if s.here is None or s.model is None:
        return s.frame()
    bench = held(s, s.model)
    context = -(-max(trial.work.context for each in trials.values() for trial in each) // 256) * 256
    spec = {rival: Spec(s.model, rival.precision, context=context, slots=slots or max(trial.load.in_flight for trial in each),
                        threads=s.here.threads, device=s.device, options=rival.options) for rival, each in trials.items()}
    with contextlib.ExitStack() as stack:
        client, servers = stack.enter_context(Client()), dict[Contender, Server]()
        _ask(s, bench, client, servers, stack, spec, trials, rounds)
        if then is not None:
            _ask(s, bench, client, servers, stack, spec, then(), rounds)
    return s.frame()


def _ask(s: Session, bench: Bench, client: Client, servers: dict[Contender, Server], stack: contextlib.ExitStack,
         spec: Mapping[Contender, Spec], trials: Mapping[Contender, Sequence[Trial]], rounds: int) -> None:
    """Measure what the run does not hold yet; servers that this needs and that are not up are started, and stay up as long as `stack`."""
    text = corpus(bench.model.family.hf)
    asked = {trial.work: trial.work.asks(text, context=spec[rival].context) for rival, each in trials.items() for trial in each}
    todo = [(rival, trial, turn) for turn in range(rounds) for trial, rival in _in_turn(trials)
            if s.run.measured(setting_of(rival, trial, turn)) is None]
    todo = list(compress(todo, s.choose([Asked(started(rival), setting_of(rival, trial, turn)) for rival, trial, turn in todo])))
    needed = [rival for rival in trials if rival not in servers and any(one[0] == rival for one in todo)]
    estimate.announce(s, [(trial.load, asked[trial.work], rounds) for _, trial, _ in todo], starts=len(needed))
    servers |= _start(bench, needed, spec, stack)
    queue = [(one, True) for one in todo if one[0] in servers]
    with Progress(len(queue), f"{s.run.notebook}: measuring") as progress:
        for (rival, trial, turn), once_more in queue:
            setting, share = setting_of(rival, trial, turn), len(asked[trial.work]) // rounds
            requests = asked[trial.work][turn * share:(turn + 1) * share]
            stand_still(server for other, server in servers.items() if other != rival)
            try:
                point = cell(bench, client, servers[rival], setting, requests, turned(trial.load, turn))
            except Died as death:
                point = record.Point(setting, "failed", str(death))
            s.run.add(point)
            if once_more and any(point.audit.get(check) for check in DISTURBED):
                queue.append(((rival, trial, turn), False))
                progress.total += 1
            progress.advance(f"{rival.name}, {', '.join(f'{key} {value}' for key, value in trial.setting.items())}, round {turn + 1}")


def _in_turn(trials: Mapping[Contender, Sequence[Trial]]) -> list[tuple[Trial, Contender]]:
    """Trial by trial, all contenders that have one: what a drift of the machine meets, it meets alike."""
    rows = zip_longest(*([(trial, rival) for trial in each] for rival, each in trials.items()))
    return [one for row in rows for one in row if one is not None]


def _start(b: Bench, rivals: Sequence[Contender], spec: Mapping[Contender, Spec],
           stack: contextlib.ExitStack) -> Iterator[tuple[Contender, Server]]:
    """Servers of the contenders that come up, those of one engine started together; for each a point, or a row that says why not."""
    with Progress(len(rivals), f"{b.run.notebook}: starting") as progress:
        for engine in dict.fromkeys(rival.engine for rival in rivals):
            able = []
            for rival in (one for one in rivals if one.engine is engine):
                try:
                    if reason := engine.available() or footprint.lacks(engine, spec[rival]):
                        raise Unavailable(reason)
                except Unavailable as why:
                    b.run.add(record.Point(started(rival), "skipped", str(why)))
                    progress.advance(f"{rival.name}: skipped")
                else:
                    able.append(rival)
            servers = together([(engine, spec[rival]) for rival in able], stack, logs=b.run.path / "logs")
            for rival, server in zip(able, servers, strict=True):
                if isinstance(server, Server):
                    b.run.add(came_up(b, rival, server, beside=len(able) - 1))
                    yield rival, server
                else:
                    b.run.add(record.Point(started(rival), "skipped" if isinstance(server, Unavailable) else "failed", str(server)))
                progress.advance(f"{rival.name}: started" if isinstance(server, Server) else f"{rival.name}: failed")


def started(rival: Contender) -> dict[str, record.Scalar]:
    return {"what": "start", **rival.setting}


def came_up(b: Bench, rival: Contender, server: Server, *, beside: int) -> record.Point:
    """A server that came up, `beside` others at the same time: seconds until ready, resident memory, what it stores."""
    stored = rival.engine.stored(server.spec)
    used = sampler.Tree(server.process.guard.pid).read()["tree_rss_bytes"]
    facts = {"stored": stored, "bits_per_weight": b.model.bits_per_weight(stored), "weights_bytes": b.model.weights_bytes(stored),
             "spec": _told(server.spec), "started_beside": beside, "kernels": kernels.told(server.process.log.read_text(errors="replace"))}
    samples: dict[str, list[Any]] = {"ready_s": [server.process.ready_s], "rss_bytes": [used]}
    return record.Point(started(rival), "ok", None, samples, facts, {"4 precision": as_claimed(b.model, stored)})


def _told(spec: Spec) -> dict[str, Any]:
    return {key: value for key, value in asdict(spec).items() if key != "model"}


def setting_of(rival: Contender, trial: Trial, turn: int) -> dict[str, record.Scalar]:
    return {"what": "cell", **rival.setting, **trial.setting, "round": turn}


