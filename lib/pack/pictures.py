"""ResNet-50 on batches of growing size in one form of PyTorch: eager, half, channels_last, compiled, as a CUDA graph.

Measured as notebook 31 measures them (lib/profiling/asks.py): a form is a process of its own, so that no memory and no compiled code of one
is left to the next and none of it to the servers. Weights are random, of the true architecture. Refuses a graph where there is no GPU.
"""

from __future__ import annotations

import os
from dataclasses import replace

from lib import home
from lib.measured import Found, Skipped
from lib.profiling.asks import sweep
from lib.profiling.networks import GRAPH

BATCHES = {"cuda": (1, 2, 4, 8, 16, 32, 64, 128, 256), "cpu": (1, 2)}
ROUNDS = 3


def swept(device: str, form: str, seconds: float, *, most_s: float) -> Found:
    """A form on every batch size: seconds of passes by size and round; about `seconds`, `most_s` at most. Raises Skipped, Broke."""
    if GRAPH in form and device != "cuda":
        raise Skipped("a CUDA graph needs an NVIDIA GPU")
    sizes = BATCHES[device]
    path = os.pathsep.join([str(home.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # NVML's package may be there alone
    told = sweep(device, "resnet50", form, sizes, threads=len(os.sched_getaffinity(0)), budget_s=0.4 * seconds / len(sizes), rounds=ROUNDS,
                 limit_s=seconds, timeout_s=max(1.0, min(most_s, 60 + 5 * seconds)), env={"PYTHONPATH": path})  # fmt: skip
    return replace(told, facts={**told.facts, "network": "resnet50, random weights"})
