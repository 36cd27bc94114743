"""The needs of somebody who chooses an engine, each as a contest on each recorded machine.

Reads runs and hands samples on, repeat by repeat; `contest.settle` judges. Engines contend with the same 16-bit weights, forms of fewer
bits against each other. Refuses ratios across machines or runs by construction: a contest holds repeats of one machine, and every ratio
is formed inside one of them. A need that no run of a machine speaks of is a contest without contenders that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias

import pandas as pd

from lib import measured, record
from lib.llm import dollars, fidelity, latency, metrics, noise, saturation, throughput
from lib.llm.metrics import INTERACTIVE, SERVER, Slo
from lib.pipelines.cost import money
from lib.verdict.contest import Contest, Settled, settle
from lib.verdict.speaking import Speaking, alone

LATENCY, LOAD, FORMS = "10_llm_latency", "11_llm_throughput", "13_llm_quantization"
STARTED = (LATENCY, LOAD, FORMS, "14_llm_batching")  # each starts its engines anew: a run is a repeat
LONGEST = 512  # tokens of the longer prompt, as in 10_llm_latency's headline
Samples: TypeAlias = dict[str, dict[Hashable, float]]


def settled(speaking: Speaking) -> dict[str, list[Settled]]:
    """Machine → its contests, judged."""
    found: dict[str, list[Settled]] = {}
    for contest in contests(speaking):
        found.setdefault(contest.machine_id, []).append(settle(contest))
    return found


def environments(speaking: Speaking) -> dict[str, Mapping[str, Any]]:
    """Machine → what its newest run says of it, for every machine that engines ran on."""
    runs = sorted((run for notebook in STARTED for run in speaking.runs(notebook)), key=lambda run: run.utc)
    return {run.machine_id: run.environment for run in runs}


def contests(speaking: Speaking) -> list[Contest]:
    """All needs on every machine that speaks, machine by machine."""
    runs = {notebook: {run.machine_id: run for run in speaking.runs(notebook)} for notebook in STARTED}
    return [contest for machine in dict.fromkeys(m for mine in runs.values() for m in mine)
            for contest in _of(machine, {notebook: mine[machine] for notebook, mine in runs.items() if machine in mine})]  # fmt: skip


def _of(machine_id: str, runs: Mapping[str, record.Run]) -> list[Contest]:
    def of(notebook: str, read: Callable[[record.Run], list[Contest]]) -> list[Contest]:
        if notebook in runs:
            return read(runs[notebook])
        return [Contest(notebook, f"what {notebook} tells", machine_id, {}, why=f"no run of {notebook} on this machine")]

    return [*of(LATENCY, _latencies), *of(LOAD, _loads), *_starts(machine_id, runs), *of(FORMS, _forms)]


def _latencies(run: record.Run) -> list[Contest]:
    """A first token after a short and after a longer prompt, and the tokens after it: medians of a round's requests."""
    rows, floor, absent = latency.requests(run.frame().assign(origin="recorded")), noise.known(run.machine_id), absentees(run)
    rows = rows[rows["precision"] == fidelity.PARENT]
    lengths = sorted({int(n) for n in rows["prompt_tokens"] if n <= LONGEST})
    asked = [("first", "the earliest first token after {n} tokens", n, "ttft_s", "ttft") for n in dict.fromkeys(lengths[:1] + lengths[-1:])]
    asked += [("stream", "the fastest stream for one user", n, "tpot_s", "tpot") for n in lengths[-1:]]
    return [Contest(f"{key}-{n}" if key == "first" else key, need.format(n=n), run.machine_id, {LATENCY: run.run_id},
                    "{:.0f} ms" if key == "first" else "{:.1f} ms a token", _medians(rows[rows["prompt_tokens"] == n], column),
                    floor=floor.get(noisy) or 0.0, absent=absent)
            for key, need, n, column, noisy in asked]  # fmt: skip


def _medians(rows: pd.DataFrame, column: str) -> Samples:
    """Engine → round → median, ms."""
    found: Samples = {}
    for (engine, turn), values in rows.dropna(subset=[column]).groupby(["engine", "round"])[column]:
        found.setdefault(str(engine), {})[turn] = float(values.median()) * 1e3
    return found


def _loads(run: record.Run) -> list[Contest]:
    """Users within an SLO, tokens of all, dollars, and processor time, of closed loops of equal requests."""
    cells = throughput.cells(alone(run))
    plan = throughput.PLANS[run.parameters["profile"]]
    work = throughput.fixed(plan.prompt_tokens, plan.output_tokens)
    mine = cells[(cells["work"] == work) & (cells["kind"] == "closed") & (cells["precision"] == fidelity.PARENT)]
    loads, absent = saturation.by_load(mine), absentees(run)
    best = {row["contender"]: row["level"] for row in loads[loads["tok_s"].notna()].sort_values("tok_s").to_dict("records")}
    at_best = mine[mine["ok"] & (mine["level"] == mine["contender"].map(best))]
    users = [_users(run, mine, loads, slo, name, absent) for name, slo in (("Interactive", INTERACTIVE), ("Server", SERVER))]
    rates = _rounds(at_best, throughput.tokens_per_s)
    cpu_only = "" if run.environment["gpus"] else " without a GPU"
    return [*users,
            Contest("rate", "the most tokens a second of all users", run.machine_id, {LOAD: run.run_id}, "{:.0f} tokens/s", rates,
                    higher=True, absent=absent),
            _cost(run, mine, work, absent),
            Contest("cpu", f"the least processor time a token{cpu_only}", run.machine_id, {LOAD: run.run_id}, "{:.0f} ms",
                    _processor(run, plan), absent=absent)]  # fmt: skip


def _users(run: record.Run, cells: pd.DataFrame, loads: pd.DataFrame, slo: Slo, name: str, absent: Mapping[str, str]) -> Contest:
    table = saturation.carried(cells, slo)
    able = {_engine(row["contender"]): row for row in table[table["level"].notna()].to_dict("records")}
    most = max((float(row["level"]) for row in able.values()), default=None)
    at = loads[loads["level"] == most].to_dict("records")
    met = {_engine(row["contender"]): (round(row[f"attainment_{name.lower()}"] * row["tried"]), int(row["tried"]))
           for row in at if row["tried"]}
    near = table.sort_values("attainment", kind="stable").to_dict("records")[-1:]
    why = [f"none: the nearest is {_engine(one['contender'])} at {one['nearest']:.0f} with {one['attainment']:.0%} of {one['n']} requests"
           for one in near] if not able else [None]  # fmt: skip
    return Contest(f"users-{name.lower()}", f"the most users within the {name} SLO", run.machine_id, {LOAD: run.run_id}, "{:.0f} users",
                   {engine: {"carried": float(row["level"])} for engine, row in able.items()}, higher=True, repeats="requests", met=met,
                   open_ended=frozenset(engine for engine, row in able.items() if row["all_tried"]), absent=absent,
                   why=next(iter(why), None))  # fmt: skip


def _rounds(cells: pd.DataFrame, of: Callable[[Mapping[Any, Any]], float | None]) -> Samples:
    found: Samples = {}
    for cell in cells.to_dict("records"):
        if value := of(cell):
            found.setdefault(_engine(cell["contender"]), {})[cell["round"]] = value
    return found


def _cost(run: record.Run, cells: pd.DataFrame, work: str, absent: Mapping[str, str]) -> Contest:
    """A million tokens, input and output alike, at each engine's best load within the Server SLO; the hour at its listed price."""
    samples: Samples = {}
    why = None
    try:
        hourly = dollars.hours(run, [str(one) for one in cells["contender"].unique()])
    except LookupError as lacking:
        hourly, why = {}, str(lacking)
    priced = dollars.bills(cells, {}, hourly, work=work, utilisation=1.0)
    for row in priced[(priced["slo"] == "server") & priced["reason"].isna()].to_dict("records") if len(priced) else ():
        for cell in cells[(cells["contender"] == row["contender"]) & (cells["level"] == row["level"]) & cells["ok"]].to_dict("records"):
            if (flow := dollars.flows(cell, None)) is not None:
                cost = money.per_million(hourly[row["contender"]].amount, flow["blended"], 1.0)
                samples.setdefault(_engine(row["contender"]), {})[cell["round"]] = float(cost or 0)
    return Contest("cost", "the cheapest million tokens within the Server SLO", run.machine_id, {LOAD: run.run_id}, "${:.3f}", samples,
                   absent=absent, why=why)  # fmt: skip


def _processor(run: record.Run, plan: throughput.Plan) -> Samples:
    """Processor time of an engine's processes ÷ output tokens, ms, one stream."""
    found: Samples = {}
    for row in run.frame().to_dict("records"):
        asked = (row.get("precision"), row.get("streams"), row.get("prompt_tokens"), row.get("output_tokens"))
        alike = asked == (fidelity.PARENT, 1, plan.prompt_tokens, plan.output_tokens)
        if row["what"] == "cell" and row["status"] == "ok" and alike:
            spent, tokens = row["facts"]["host"].get("tree_cpu_s"), sum(n or 0 for n in row["samples"]["output_tokens"])
            if spent and tokens:
                found.setdefault(row["engine"], {})[row["round"]] = spent / tokens * 1e3
    return found


def _forms(run: record.Run) -> list[Contest]:
    """What each quantised form takes in quality for what it gives: KL divergence from its own 16-bit parent a megabyte saved, by windows of
    text; and a token a second gained by one stream, by rounds. The form that the parent was expanded from is near it by construction.
    """
    cells = throughput.cells(alone(run))
    cells = cells[cells["ok"] & (cells["kind"] == "closed") & (cells["level"] == 1)]
    weights = {row["contender"]: row["weights_bytes"] / 1e6 for row in cells.to_dict("records")}
    speeds = {name: {turn: 1 / median for turn, group in mine.groupby("round") if (median := _tpot_s(group))}
              for name, mine in cells.groupby("contender")}  # fmt: skip
    parent_of = str(next((p.facts.get("parent") for p in run.points() if p.setting.get("what") == "model"), ""))
    by_bytes: Samples = {}
    by_speed: Samples = {}
    absent, slow = absentees(run), dict[str, str]()
    for scored in measured.points(run, "quality"):
        engine, name = scored["engine"], f"{scored['engine']} {scored['precision']}"
        parent = f"{engine} {fidelity.PARENT}"
        if name == parent or parent not in weights or name not in weights:
            continue
        if scored["precision"] in parent_of:
            absent[name] = "the 16-bit parent was expanded from it"
            continue
        tokens = measured.series(run, scored, "tokens")
        windows, saved = tokens.groupby("window")["kl"].mean(), weights[parent] - weights[name]
        if saved > 0:
            by_bytes[name] = {window: float(kl) / saved * 1e6 for window, kl in windows.items() if kl > 0}
        gains = {turn: rate - speeds[parent][turn] for turn, rate in speeds[name].items() if turn in speeds[parent]}
        if gains and min(gains.values()) > 0:
            by_speed[name] = {turn: float(tokens["kl"].mean()) / gain * 1e6 for turn, gain in gains.items()}
        else:
            slow[name] = "not faster than 16 bit in every round"
    shared = (run.machine_id, {FORMS: run.run_id})
    return [Contest("bytes", "the most bytes saved for the quality lost", *shared, "{:.0f} µnat a MB saved", by_bytes,
                    repeats="windows of text", absent=absent),
            Contest("speed", "the most speed gained for the quality lost", *shared, "{:.0f} µnat a token/s gained", by_speed,
                    absent={**absent, **slow})]  # fmt: skip


def _tpot_s(cells: pd.DataFrame) -> float | None:
    found = [v for cell in cells.to_dict("records") for a in throughput.measured(cell) if (v := metrics.tpot_s(a)) is not None]
    return float(pd.Series(found).median()) if found else None


def _starts(machine_id: str, runs: Mapping[str, record.Run]) -> list[Contest]:
    """Memory at its peak and seconds until ready, of every run that started the engines: each run is a repeat."""
    memory: Samples = {}
    ready: Samples = {}
    for run in runs.values():
        for row in latency.starts(run.frame()).to_dict("records"):
            name, _, form = str(row["engine"]).rpartition(" ")
            if form == fidelity.PARENT and "," not in name and pd.notna(row["ready, s"]):
                ready.setdefault(name, {})[run.run_id] = row["ready, s"]
                if pd.notna(row["resident, MB"]):
                    memory.setdefault(name, {})[run.run_id] = row["resident, MB"]
    absent = {name: why for run in runs.values() for name, why in absentees(run).items()}
    told = {run.notebook: run.run_id for run in runs.values() if any(run.run_id in mine for mine in ready.values())}
    return [Contest("memory", "the least memory", machine_id, told, "{:,.0f} MB", memory, repeats="runs", absent=absent),
            Contest("start", "the soonest start", machine_id, told, "{:.1f} s", ready, repeats="runs", absent=absent)]  # fmt: skip


def absentees(run: record.Run) -> dict[str, str]:
    """Engines that did not run, and why."""
    starts = [p for p in run.points() if p.setting.get("what") == "start"]
    ran = {p.setting["engine"] for p in starts if p.status == "ok"}
    return {str(p.setting["engine"]): str(p.reason) for p in starts if p.status != "ok" and p.setting["engine"] not in ran}


def _engine(contender: str) -> str:
    return contender.removesuffix(f" {fidelity.PARENT}")
