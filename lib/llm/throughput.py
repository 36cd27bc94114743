"""How much a machine serves: closed loops of ever more streams, mixed lengths, and open loops around the capacity that these showed.

Rates of the open loops are shares of each engine's own best closed-loop rate, kept as a point, so that a rerun asks for the same ones.
Read back, a cell is its answers: what is said of them (capacity.py) goes through the same definitions as when it was measured.
Refuses nothing that was measured; what was not has a row that says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import record, stats
from lib.llm import bench, metrics, mix, trace
from lib.llm.bench import Trial
from lib.llm.contender import Contender
from lib.llm.engines import transformers_
from lib.llm.load import Closed, Open
from lib.llm.session import Session
from lib.llm.workload import Workload

RIVALS = ("llamacpp", "vllm", "transformers", "trtllm")
STATIC = f"{transformers_.NAME} makes static batches, one at a time: more streams would only wait longer"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of the question a profile asks. `requests`: measured ones a stream, cell and round, after one a stream of warm-up.

    `static_streams`: of the engine that cannot let requests join a running batch. `shares`: arrival rates of the open loop, of the
    best closed-loop rate; the last, above 1, goes through a pool of as many connections as there were streams. `mixed`: the mix of
    lengths and the streams that ask it. `replayed`: how many requests of the trace, scaled like the mix, and over how many times
    the time they took.
    """

    prompt_tokens: int
    output_tokens: int
    streams: tuple[int, ...]
    static_streams: tuple[int, ...]
    requests: int
    mixed: mix.Mix
    mixed_streams: tuple[int, ...]
    shares: tuple[float, ...]
    arrivals_s: float
    replayed: tuple[int, float]
    rounds: int

    @property
    def most(self) -> int:
        return max(self.streams)


LEAST = 4  # measured requests of a cell, however few its streams
_SMALL = mix.CONVERSATION.scaled(1 / 8)
PLANS = {
    "smoke": Plan(32, 8, (1, 2, 4), (1,), 2, _SMALL.of(1), (2,), (0.5, 1.5), 1.0, (0, 1.0), 1),
    "quick": Plan(128, 32, (1, 2, 4, 8, 16), (1, 2, 4), 1, _SMALL.of(1), (4,), (0.5, 0.9, 1.5), 3.0, (12, 1 / 4), 3),
    "full": Plan(512, 256, (1, 2, 4, 8, 16, 32, 64, 128, 256), (1, 2, 4, 8), 4, mix.CONVERSATION, (8, 32, 128),
                 (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.5), 60.0, (429, 1.0), 5),
}  # fmt: skip


def measure(s: Session, rivals: Sequence[Contender], plan: Plan) -> pd.DataFrame:
    """Closed loops first, then the open ones at rates that follow from them; one row a cell (`cells`). What the run holds is kept."""
    def then() -> dict[Contender, list[Trial]]:
        loops = [rival for rival in rivals if rival.engine.NAME != transformers_.NAME]
        return {rival: opened(plan, rate) for rival in loops if (rate := capacity(s, rival, plan))}

    if s.here is not None:
        for rival in (r for r in rivals if r.engine.NAME == transformers_.NAME):
            _excuse(s, rival, plan)
        bench.sweep(s, {rival: closed(plan, rival) for rival in rivals}, rounds=plan.rounds, slots=plan.most, then=then)
    return cells(s)


def closed(plan: Plan, rival: Contender) -> list[Trial]:
    """Fixed lengths by streams, and the mix. Every stream has one request of warm-up and `plan.requests` measured ones, LEAST in all."""
    static = rival.engine.NAME == transformers_.NAME
    each = [(n, (n + max(LEAST, n * plan.requests)) * plan.rounds) for n in (plan.static_streams if static else plan.streams)]
    fixed = [Trial(Workload(plan.prompt_tokens, plan.output_tokens, total), Closed(n, warmup=n)) for n, total in each]
    mixed = [] if static else [(n, n * (4 + plan.requests) * plan.rounds) for n in plan.mixed_streams]  # their streams end at odd times
    return fixed + [Trial(plan.mixed.of(total), Closed(n, warmup=n)) for n, total in mixed]


def opened(plan: Plan, best_per_s: float) -> list[Trial]:
    """Poisson arrivals at shares of `best_per_s`, for `plan.arrivals_s` each; the last through a pool. And the trace, as it came."""
    trials = []
    for nth, share in enumerate(plan.shares, start=1):
        rate = float(f"{share * best_per_s:.3g}")
        asked = max(4, round(rate * plan.arrivals_s))
        pooled = share > 1 and nth == len(plan.shares)
        load = Open(rate, warmup=asked // 4, connections=plan.most if pooled else 64, pooled=pooled)
        trials.append(Trial(Workload(plan.prompt_tokens, plan.output_tokens, asked * plan.rounds), load))
    requests, stretch = plan.replayed
    if requests:
        recorded = trace.read().first(requests).scaled(plan.mixed.scale).stretched(stretch).repeated(plan.rounds)
        trials.append(Trial(recorded, recorded.replay()))
    return trials


def capacity(s: Session, rival: Contender, plan: Plan) -> float | None:
    """Requests/s of the best closed loop of fixed lengths, mean of the rounds; kept in the run once all rounds of it are valid.

    None, and a row that says why, where no closed loop was valid: then there is no open one.
    """
    setting = {"what": "capacity", **rival.setting}
    if (kept := s.run.measured(setting)) is not None:
        return float(kept.facts["requests_per_s"])
    mine = cells(s)
    mine = mine[(mine["run_id"] == s.run.run_id) & (mine["contender"] == rival.name) & (mine["kind"] == "closed") & mine["ok"]
                & (mine["work"] == fixed(plan.prompt_tokens, plan.output_tokens))]  # fmt: skip
    rates: dict[float, list[float]] = {float(streams): [] for streams in mine["level"]}
    for cell in mine.to_dict("records"):
        rates[cell["level"]] += [rate] if (rate := requests_per_s(cell)) else []
    best, found = max(rates.items(), key=lambda one: float(np.mean(one[1])) if one[1] else 0.0, default=(0.0, []))
    if (told := stats.mean(found)) is None:
        s.run.add(record.Point(setting, "skipped", "no closed loop was valid, so there are no rates for an open one"))
        return None
    wrong = None if len(found) >= plan.rounds else f"{len(found)} of {plan.rounds} rounds at {best:g} streams are valid"
    s.run.add(record.Point(setting, "invalid" if wrong else "ok", wrong, {"requests_per_s": found},
                           {"requests_per_s": told.value, "streams": best}, {"rounds": wrong}))  # fmt: skip
    return told.value


def _excuse(s: Session, rival: Contender, plan: Plan) -> None:
    """A row for each load that a static batcher is not asked for."""
    known = {point.key for point in s.run.points()}
    for streams in plan.streams:
        work = Workload(plan.prompt_tokens, plan.output_tokens, 1).setting
        setting: dict[str, record.Scalar] = {"what": "cell", **rival.setting, **work, "streams": streams, "round": 0}
        if streams > max(plan.static_streams) and record.canonical(setting) not in known:
            s.run.add(record.Point(setting, "skipped", STATIC))


def cells(s: Session) -> pd.DataFrame:
    """One row a cell of the run that speaks: who, what was asked (`work`), how (`kind`, `level`), its answers.

    `level` is streams, requests a wave, or requests/s. `ok`: may be quoted. `judged`: may at least be held against an SLO, for all
    that is wrong with it is that requests failed. `steady_s`: the window in which the load was whole, or None.
    """
    tried = (row for row in s.frame().to_dict("records") if row["what"] == "cell" and row["status"] != "skipped")
    rows = [_cell(row, s.run.path) for row in tried]
    return pd.DataFrame(rows, columns=None if rows else COLUMNS)


def one(run: record.Run, point: record.Point) -> dict[str, Any]:
    """The cell of one point, as `cells` has it."""
    whose = {"origin": "recorded", "machine_id": run.machine_id, "method": run.method, "run_id": run.run_id}
    found = {key: getattr(point, key) for key in ("status", "reason", "samples", "facts", "audit")}
    return _cell({**point.setting, **whose, **found}, run.path)


COLUMNS = ["origin", "machine_id", "method", "run_id", "contender", "engine", "precision", "work", "kind", "level", "round", "status",
           "reason", "ok", "judged", "warmup", "steady_s", "answers", "stored", "weights_bytes", "asked_tokens", "sent_tokens"]  # fmt: skip


def _cell(row: Mapping[Any, Any], run: Path) -> dict[str, Any]:
    kind, level = _load(row)
    facts, samples, clean = row["facts"], row["samples"], not any(row["audit"].values())
    answers = metrics.recorded(samples, _stamps(run / facts["events"])) if samples else []
    return {**{key: row[key] for key in ("origin", "machine_id", "method", "run_id", "engine", "precision", "round", "status", "reason")},
            "contender": f"{row['engine']} {row['precision']}", "work": _work(row), "kind": kind, "level": level,
            "ok": row["status"] == "ok", "judged": row["status"] == "ok" or (clean and bool(answers)), "answers": answers,
            "warmup": facts.get("warmup"), "steady_s": facts.get("steady_s"),
            **{key: facts.get(key) for key in ("stored", "weights_bytes", "asked_tokens", "sent_tokens")}}  # fmt: skip


def fixed(prompt_tokens: int, output_tokens: int) -> str:
    return f"{prompt_tokens} → {output_tokens}"


def _work(row: Mapping[Any, Any]) -> str:
    for what in ("mix", "trace"):
        if isinstance(named := row.get(what), str):
            return named if pd.isna(scale := row.get("scale")) else f"{named} × {scale:g}"
    return fixed(int(row["prompt_tokens"]), int(row["output_tokens"]))


def _load(row: Mapping[Any, Any]) -> tuple[str, float | None]:
    for column, kind in (("streams", "closed"), ("wave", "waves"), ("rate_per_s", "open")):
        if pd.notna(row.get(column)):
            return ("pooled" if kind == "open" and pd.notna(row.get("pool")) else kind), float(row[column])
    return "replay", None


def _stamps(path: Path) -> dict[int, list[tuple[float, float | None]]]:
    """A cell's events by request: stamp, and tokens up to it where the server counts."""
    table = pd.read_parquet(path).astype({"tokens": float})
    told = [None if np.isnan(tokens) else tokens for tokens in table["tokens"]]
    rows = zip(table["request"].tolist(), table["stamp_s"].tolist(), told, strict=True)
    return {number: [(stamp, tokens) for _, stamp, tokens in mine] for number, mine in groupby(rows, key=itemgetter(0))}


def measured(cell: Mapping[Any, Any]) -> list[Any]:
    """The answers of a cell that count: all but those of the warm-up."""
    return list(cell["answers"][cell["warmup"]:])


def window(cell: Mapping[Any, Any]) -> tuple[float, float] | None:
    """What a cell's rates are read over, s: closed loops and waves while their load was whole; open ones from the first arrival that
    counts to the last token, for what an overloaded server answers after the last arrival is part of its answer. None where there is none.
    """
    if cell["steady_s"] is None:
        return None
    since, until = cell["steady_s"]
    if cell["kind"] in ("closed", "waves"):
        return since, until
    return since, float(np.nextafter(max(a.sent_s + a.stamps_s[-1] for a in measured(cell) if a.stamps_s), np.inf))


def tokens_per_s(cell: Mapping[Any, Any]) -> float | None:
    """Output tokens/s in the cell's `window`; None where it has none."""
    if (over := window(cell)) is None:
        return None
    return metrics.throughput(cell["answers"], since_s=over[0], until_s=over[1])


def requests_per_s(cell: Mapping[Any, Any]) -> float | None:
    """Tokens/s ÷ tokens of a mean answer: whole requests that end inside a short window are too few to count."""
    lengths = [a.tokens for a in cell["answers"] if a.tokens]
    return None if (rate := tokens_per_s(cell)) is None or not lengths else rate / float(np.mean(lengths))
