"""Every client against the same known delays, in one session, in turns: what each adds to the truth, and what it costs.

    python -m tests.peers.side_by_side [--rounds 3] [--streams 1 16 64 256] [--waves 4] [--only ours --only aiperf …]

The null server answers with a TTFT of 50 ms and a TPOT of 10 ms, 128 tokens a request. Every round gives each tool
each load once, the order turned by one from round to round. CPU is that of the tool's process tree between the server's
receipt of the first request and its sending of the last token, divided by the tokens sent in between: start-up and what
comes after are facts of their own, warm-up requests count on both sides. Recorded as one run `peers_side_by_side`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from lib import machine, record
from lib.llm.engines import null
from tests.peers import cpu, peers

TRUTH = null.Truth(ttft_s=0.050, tpot_s=0.010)
PROMPT_TOKENS, OUTPUT_TOKENS = 100, 128
FEWEST = 12  # requests, also of a single stream


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--rounds", type=int, default=3)
    parse.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64, 256])
    parse.add_argument("--waves", type=int, default=4, help="measured requests a stream")
    parse.add_argument("--only", action="append", choices=peers.NAMES, help="a tool, may be given again")
    parse.add_argument("--busy", action="store_true", help="measure although something else runs: a mere trial")
    asked = parse.parse_args()
    if (share := cpu.foreign_share()) > 0.1 and not asked.busy:
        parse.error(f"something else uses {share:.0%} of this machine: stop it, or give --busy for a mere trial")
    tools, absent = [], {}
    for name in asked.only or peers.NAMES:
        try:
            tools.append(peers.peer(name))
        except peers.Absent as reason:
            absent[name] = str(reason)
    run = record.begin("peers_side_by_side", environment=machine.here().environment(), fresh=True, parameters={
        "truth": asdict(TRUTH), "prompt_tokens": PROMPT_TOKENS, "output_tokens": OUTPUT_TOKENS, "waves": asked.waves,
        "rounds": asked.rounds, "streams": asked.streams, "busy": asked.busy, "tools": [peer.name for peer in tools]})
    for name, reason in absent.items():
        run.add(record.Point({"client": name, "streams": None, "round": None}, "skipped", reason))
        print(f"{name}: {reason}", flush=True)
    tokenizer = peers.byte_tokenizer()
    with null.serving(TRUTH) as port:
        body = {"max_tokens": OUTPUT_TOKENS, "stream": True, "stream_options": {"include_usage": True}}
        target = peers.Target(null.NAME, port, "nothing", tokenizer, ours=body, theirs={})
        for turn in range(asked.rounds):
            for streams in asked.streams:
                load = peers.Load(streams, max(FEWEST, streams * asked.waves), PROMPT_TOKENS, OUTPUT_TOKENS)
                for peer in tools[turn % len(tools):] + tools[: turn % len(tools)]:
                    setting = {"client": peer.name, "streams": streams, "round": turn}
                    print(told(run.add(measure(peer, target, load, setting))), flush=True)
    print(f"recorded in {run.path}")


def measure(peer: peers.Peer, target: peers.Target, load: peers.Load, setting: dict[str, Any]) -> record.Point:
    """One tool under one load: its own numbers as samples, what the server saw beside them, its CPU as facts."""
    null.stamps(target.port)  # what came before is not ours
    try:
        said, watched = peers.ask(peer, target, load)
    except peers.Failed as why:
        return record.Point(setting, "failed", str(why))
    served = [s for s in null.stamps(target.port) if s.complete]
    first_ns, last_ns = min(s.recv_ns for s in served), max(s.sent_ns[-1] for s in served)
    tokens = sum(len(s.sent_ns) * s.per_event for s in served)
    before, inside, whole = watched.cpu_s[0], watched.until(last_ns) - watched.until(first_ns), watched.cpu_s[-1]
    short = [s for s in served if len(s.sent_ns) * s.per_event != OUTPUT_TOKENS]
    wrong = f"{len(short)} of {len(served)} answers are not {OUTPUT_TOKENS} tokens long" if short else None
    return record.Point(
        setting, "invalid" if wrong else "ok", wrong, audit={"6 length": wrong},
        samples={"ttft_s": said.ttft_s, "tpot_s": said.tpot_s,
                 "server_first_late_s": [s.late_s(TRUTH)[0] for s in served]},
        facts={"cpu_us_per_token": inside / tokens * 1e6, "cpu_start_s": watched.until(first_ns) - before,
               "cpu_after_s": whole - watched.until(last_ns), "tokens": tokens, "window_s": (last_ns - first_ns) / 1e9,
               "reported": {"ttft_median_s": said.ttft_median_s, "ttft_p99_s": said.ttft_p99_s,
                            "tpot_median_s": said.tpot_median_s, "tok_per_s": said.tok_per_s}})


def told(point: record.Point) -> str:
    name = "round {round} · {streams} streams · {client:<24}".format_map(point.setting)
    if point.status != "ok":
        return f"{name} {point.status}: {point.reason}"
    said = point.facts["reported"]
    return (f"{name} TTFT {said['ttft_median_s'] * 1e3:7.2f} / p99 {said['ttft_p99_s'] * 1e3:7.2f} ms · "
            f"TPOT {said['tpot_median_s'] * 1e3:6.3f} ms · {point.facts['cpu_us_per_token']:6.1f} µs CPU a token")


if __name__ == "__main__":
    main()
