"""What this machine's memory does at most: read bandwidth of each of its levels.

A layer's bytes may come from any of them (roofline.py). A cache whose size the system does not tell is left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from lib.clock import Timing, measure

CPU = Path("/sys/devices/system/cpu/cpu0/cache")
SHARE = 0.5  # of a cache that is filled: the rest is for what else a core reads
READS = 64  # times that a buffer is read in one call, so that the call itself costs nothing
DRAM_BYTES = 2**28


def levels() -> dict[str, int]:
    """Bytes of each data cache that a core sees, "L1" to "L3"; empty where the system does not tell."""
    found = {}
    for index in sorted(CPU.glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind in ("Data", "Unified") and (told := re.fullmatch(r"(\d+)([KM])", size)):
            found[f"L{level}"] = int(told[1]) << {"K": 10, "M": 20}[told[2]]
    return found


def places(threads: int) -> dict[str, int]:
    """Where a layer's bytes may come from → bytes that all threads read there together. Caches below the last are each core's own."""
    known = levels()
    last = max(known, default="")
    sizes = {name: int(SHARE * size) * (1 if name == last else threads) for name, size in known.items() if name != "L1"}
    return {**sizes, "DRAM": max(DRAM_BYTES, 8 * known.get(last, 0))}


def bandwidth(size: int, *, threads: int, budget_s: float) -> tuple[float, Timing]:
    """B/s of summing `size` bytes again and again: each thread has its own part, which stays where it fits. Best of the timing."""
    import torch

    torch.set_num_threads(threads)
    reads = max(1, READS if size < DRAM_BYTES else 1)
    part = torch.ones(threads, 1, size // 4 // threads).expand(threads, reads, -1)  # reads of the same bytes, without a copy
    timing = measure(lambda: part.sum(dim=2), budget_s=budget_s)
    return reads * size / min(timing.samples_s), timing
