"""Our client as a program of its own, so that its CPU is counted from outside, by the same means as the others'.

    python -m tests.peers.ours TASK.json

The task names the engine, its port, the body of a request but for the prompt, the load, and where the result goes. A
warm-up of one request a stream goes before the measured ones.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from lib.llm import client, events, metrics
from lib.llm.engines import llamacpp, null, vllm_
from lib.llm.engines.engine import Engine

ENGINES: dict[str, Engine] = {engine.NAME: engine for engine in (null, llamacpp, vllm_)}


def main(task: dict[str, Any]) -> None:
    engine = ENGINES[task["engine"]]
    draw = random.Random(time.time_ns())  # no prompt twice, not even over rounds: a prefix cache must not answer
    streams, total = task["streams"], task["streams"] + task["requests"]
    prompts = [[draw.randrange(1000, 40000) for _ in range(task["prompt_tokens"])] for _ in range(total)]
    bodies = [{**task["body"], "prompt": prompt} for prompt in prompts]
    asks = [client.post("/v1/completions", json.dumps(body).encode()) for body in bodies]
    with client.Client() as sender:
        traffic = sender.run(task["port"], asks, client.Closed(streams, warmup=streams), reuse=engine.KEEPS_ALIVE)
    measured = [exchange for exchange in traffic.exchanges if exchange.number >= streams]
    answers = [events.answer(e, engine.tokens_in, start_ns=measured[0].sent_ns) for e in measured]
    if wrong := [a.error for a in answers if a.error]:
        sys.exit(f"{len(wrong)} of {len(answers)} requests failed: {wrong[0]}")
    if short := [a.tokens for a in answers if a.tokens != task["output_tokens"]]:
        sys.exit(f"{len(short)} answers are not {task['output_tokens']} tokens long, but for example {short[0]}")
    ttft_s, tpot_s = [metrics.ttft_s(a) for a in answers], [metrics.tpot_s(a) for a in answers]
    Path(task["result"]).write_text(json.dumps({
        "ttft_s": ttft_s, "tpot_s": tpot_s, "prompt_tokens": [a.prompt_tokens for a in answers],
        "ttft_median_s": np.median(ttft_s), "ttft_p99_s": np.quantile(ttft_s, 0.99), "tpot_median_s": np.median(tpot_s),
        "tok_per_s": sum(a.tokens or 0 for a in answers) / max(a.sent_s + a.stamps_s[-1] for a in answers)}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
