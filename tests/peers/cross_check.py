"""Do others see the same engine as we do? Ours, `vllm bench serve` and guidellm on one running server, in turns.

    python -m tests.peers.cross_check [--rounds 3] [--streams 1 4] [--requests 16] [--engine vLLM --engine llama.cpp]

Each engine is started once, by the project's own code; every round gives each tool each load once, the order turned by
one from round to round. Ratios are formed inside a round only. Recorded as one run `peers_cross_check`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections import defaultdict
from dataclasses import asdict
from operator import itemgetter
from typing import Any

from lib import machine, record
from lib.home import cache
from lib.llm import model, weights
from lib.llm.engines import llamacpp, server, vllm_
from lib.llm.engines.engine import Engine, Spec
from tests.peers import cpu, peers

ENGINES: dict[str, Engine] = {vllm_.NAME: vllm_, llamacpp.NAME: llamacpp}
TOOLS = ("ours", "vllm", "guidellm")
THEIRS = {vllm_.NAME: {"temperature": 0, "ignore_eos": True},
          llamacpp.NAME: {"temperature": 0, "ignore_eos": True, "cache_prompt": False}}
PROMPT_TOKENS, OUTPUT_TOKENS = 100, 64
METRICS = ("ttft_median_s", "tpot_median_s", "tok_per_s")


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--rounds", type=int, default=3)
    parse.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    parse.add_argument("--requests", type=int, default=16, help="measured requests, after one a stream to warm up")
    parse.add_argument("--engine", action="append", choices=ENGINES)
    parse.add_argument("--busy", action="store_true", help="measure although something else runs: a mere trial")
    asked = parse.parse_args()
    if (share := cpu.foreign_share()) > 0.1 and not asked.busy:
        parse.error(f"something else uses {share:.0%} of this machine: stop it, or give --busy for a mere trial")
    tools = [peers.peer(name) for name in TOOLS]
    engines = {name: ENGINES[name] for name in asked.engine or ENGINES}
    versions = {name: engine.version() for name, engine in engines.items()}
    run = record.begin(
        "peers_cross_check", environment=machine.here().environment(**versions), fresh=True,
        parameters={"prompt_tokens": PROMPT_TOKENS, "output_tokens": OUTPUT_TOKENS, "requests": asked.requests,
                    "rounds": asked.rounds, "streams": asked.streams, "busy": asked.busy,
                    "tools": [tool.name for tool in tools]})
    what = model.load(weights.family())
    for name, engine in engines.items():
        if reason := engine.available():
            run.add(record.Point({"engine": name, "client": None, "streams": None, "round": None}, "skipped", reason))
            print(f"{name}: {reason}", flush=True)
            continue
        spec = Spec(what, slots=max(asked.streams), threads=os.cpu_count() or 1)
        with server.serving(engine, spec, logs=cache() / "logs") as served:
            body = json.loads(engine.request(spec, [1], OUTPUT_TOKENS)[1])
            target = peers.Target(name, served.port, what.name, what.family.hf, ours=body, theirs=THEIRS[name])
            for turn in range(asked.rounds):
                for streams in asked.streams:
                    load = peers.Load(streams, asked.requests, PROMPT_TOKENS, OUTPUT_TOKENS)
                    for tool in tools[turn % len(tools):] + tools[: turn % len(tools)]:
                        setting = {"engine": name, "client": tool.name, "streams": streams, "round": turn}
                        print(told(run.add(measure(tool, target, load, setting))), flush=True)
    print(*verdict(run.points()), f"recorded in {run.path}", sep="\n")


def measure(tool: peers.Peer, target: peers.Target, load: peers.Load, setting: dict[str, Any]) -> record.Point:
    """One tool under one load: requests as samples, its own summary as facts."""
    try:
        said, _ = peers.ask(tool, target, load)
    except peers.Failed as why:
        return record.Point(setting, "failed", str(why))
    off = [n for n in said.prompt_tokens if n is not None and abs(n - PROMPT_TOKENS) > 0.1 * PROMPT_TOKENS]
    wrong = f"{len(off)} prompts are not about {PROMPT_TOKENS} tokens long, but for example {off[0]}" if off else None
    return record.Point(setting, "invalid" if wrong else "ok", wrong, audit={"6 length": wrong},
                        samples={"ttft_s": said.ttft_s, "tpot_s": said.tpot_s, "prompt_tokens": said.prompt_tokens},
                        facts={"reported": {name: asdict(said)[name] for name in (*METRICS, "ttft_p99_s")}})


def told(point: record.Point) -> str:
    name = "{engine} · round {round} · {streams} streams · {client:<24}".format_map(point.setting)
    if point.status != "ok":
        return f"{name} {point.status}: {point.reason}"
    said = point.facts["reported"]
    return (f"{name} TTFT {said['ttft_median_s'] * 1e3:7.2f} ms · TPOT {said['tpot_median_s'] * 1e3:6.3f} ms · "
            f"{said['tok_per_s']:6.1f} tok/s · prompt {statistics.mean(point.samples['prompt_tokens']):.1f} tokens")


def verdict(points: list[record.Point]) -> list[str]:
    """Our number ÷ theirs, formed inside each round; the median of the rounds and their range."""
    ratios = defaultdict(list)
    key = itemgetter("engine", "streams", "round", "client")
    by_round = {key(p.setting): p.facts["reported"] for p in points if p.status == "ok"}
    for (engine, streams, turn, tool), theirs in by_round.items():
        if tool != "ours" and (mine := by_round.get((engine, streams, turn, "ours"))):
            for metric in METRICS:
                ratios[engine, streams, tool, metric].append(mine[metric] / theirs[metric])
    return [f"{engine} · {streams} streams · ours ÷ {tool}: {metric} {statistics.median(values):.3f} "
            f"({min(values):.3f}–{max(values):.3f})"
            for (engine, streams, tool, metric), values in sorted(ratios.items())]


if __name__ == "__main__":
    main()
