"""Dynamic batching: requests wait for each other, and one pass answers them together. Simulated from latency(b), and run for real.

The policy: whoever infers takes what waits, at most `most`; is it fewer, it waits for more until the oldest has waited `wait_s`. The same
arrivals go through the simulation and through a thread that infers with a real engine, so that the two can be held against each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition
from time import perf_counter, sleep

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Policy:
    """`most` requests a pass; the oldest waits for others for `wait_s` at most."""

    most: int
    wait_s: float = 0.0

    @property
    def name(self) -> str:
        return "one by one" if self.most == 1 else f"up to {self.most}" + (f", waits {1e3 * self.wait_s:g} ms" if self.wait_s else "")


@dataclass(frozen=True, slots=True)
class Served:
    """`latency_s` of each request in the order of arrival; of the passes in order their sizes `batches` and what they took, `passes_s`;
    `wall_s` until the last answer."""

    latency_s: NDArray[np.float64]
    batches: tuple[int, ...]
    passes_s: tuple[float, ...]
    wall_s: float


def simulated(arrivals_s: Sequence[float], seconds: Callable[[int], float], policy: Policy) -> Served:
    """What becomes of `arrivals_s` (rising) where a pass of b requests takes `seconds(b)`."""
    ends = np.empty(len(arrivals_s))
    batches, free_s, at = [], 0.0, 0
    while at < len(arrivals_s):
        begin_s = max(free_s, arrivals_s[at])
        full_s = arrivals_s[at + policy.most - 1] if at + policy.most - 1 < len(arrivals_s) else np.inf
        begin_s = max(begin_s, min(full_s, arrivals_s[at] + policy.wait_s))
        size = 1
        while size < policy.most and at + size < len(arrivals_s) and arrivals_s[at + size] <= begin_s:
            size += 1
        free_s = begin_s + seconds(size)
        ends[at : at + size] = free_s
        batches.append(size)
        at += size
    return Served(ends - np.asarray(arrivals_s), tuple(batches), tuple(seconds(size) for size in batches), float(free_s))


def served(arrivals_s: Sequence[float], infer: Callable[[int], object], policy: Policy) -> Served:
    """The same for real: requests come when they are due, a thread infers. Latency counts from when a request was due."""
    waiting, ready = deque[int](), Condition()
    ends, batches, passes_s = np.full(len(arrivals_s), np.nan), list[int](), list[float]()
    began_s = perf_counter()

    def work() -> None:
        answered = 0
        while answered < len(arrivals_s):
            with ready:
                ready.wait_for(lambda: bool(waiting))
                left_s = arrivals_s[waiting[0]] + policy.wait_s - (perf_counter() - began_s)
                if left_s > 0:
                    ready.wait_for(lambda: len(waiting) >= policy.most, timeout=left_s)
                taken = [waiting.popleft() for _ in range(min(policy.most, len(waiting)))]
            pass_s = perf_counter()
            infer(len(taken))
            ends[taken] = perf_counter() - began_s
            passes_s.append(perf_counter() - pass_s)
            batches.append(len(taken))
            answered += len(taken)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        for number, due_s in enumerate(arrivals_s):
            if (early_s := due_s - (perf_counter() - began_s)) > 0:
                sleep(early_s)
            with ready:
                waiting.append(number)
                ready.notify()
            if working.done():
                break  # it raised
        working.result()
    return Served(ends - np.asarray(arrivals_s), tuple(batches), tuple(passes_s), float(np.nanmax(ends)))
