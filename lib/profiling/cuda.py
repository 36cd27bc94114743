"""Passes on an NVIDIA GPU by its own clock: CUDA events around each, after the processor clock has settled; CUDA graphs.

A pass is timed in three WAYS, and each says which it is. "ns": passes follow each other, so that the L2 cache holds what the one before
left there, as in a service under load: this is what is quoted. "cold_ns": a buffer of twice its size is written over before each.
"wall_ns": as a caller waits for it, from the call until the GPU is done, by the host's clock; what launching costs is in it.
Refuses to run where PyTorch sees no GPU. Runs on the packages of the network's own environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, perf_counter_ns
from typing import Any

Infer = Callable[[], Any]
LEAST_S, MOST_S = 1.0, 10.0  # of warming up
EVERY_S, SETTLED = 0.1, 5  # a clock that was told the same so many times has settled
SIDE = 3  # passes on a side stream before a graph is recorded: libraries choose kernels and take memory in them


def needed() -> None:
    """Raises RuntimeError where PyTorch sees no GPU."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("needs an NVIDIA GPU; PyTorch sees none on this machine")


def taken(infer: Infer, passes: int, *, before: Callable[[], object] | None = None) -> list[int]:
    """ns of each pass between two events on its stream; `before` each, untimed, e.g. a flush. Waits once, at the end."""
    import torch

    marks = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(passes)]
    for begin, end in marks:
        if before is not None:
            before()
        begin.record()
        infer()
        end.record()
    torch.cuda.synchronize()
    return [round(1e6 * begin.elapsed_time(end)) for begin, end in marks]


def walls(infer: Infer, passes: int) -> list[int]:
    """ns of each pass as its caller waits for it."""
    import torch

    told = []
    torch.cuda.synchronize()
    for _ in range(passes):
        began_ns = perf_counter_ns()
        infer()
        torch.cuda.synchronize()
        told.append(perf_counter_ns() - began_ns)
    return told


def flusher() -> Callable[[], object]:
    """Writes over twice as many bytes as the L2 cache has."""
    import torch

    buffer = torch.empty(2 * torch.cuda.get_device_properties(0).L2_cache_size, dtype=torch.int8, device="cuda")
    flush: Callable[[], object] = buffer.zero_
    return flush


def ways() -> dict[str, Callable[[Infer, int], list[int]]]:
    """The name of an answer → how its passes are timed."""
    flush = flusher()
    return {"ns": taken, "cold_ns": lambda infer, passes: taken(infer, passes, before=flush), "wall_ns": walls}


def warmed(infer: Infer, *, mhz: Callable[[], float | None] | None = None, now: Callable[[], float] = perf_counter) -> dict[str, Any]:
    """Passes until the multiprocessors' clock has settled within 1 %, LEAST_S at least and MOST_S at most: s, mhz (as read), settled.

    `settled` is None where nobody tells the clock: then LEAST_S have to do.
    """
    import torch

    read, told, began = mhz or clock_mhz, list[float | None](), now()
    settled: bool | None = False
    while (passed := now() - began) < MOST_S and not (settled is not False and passed >= LEAST_S):
        until = now() + EVERY_S
        while now() < until:
            infer()
            torch.cuda.synchronize()  # else the queue would grow for as long as the host is quicker
        told.append(read())
        last = [one for one in told[-SETTLED:] if one is not None]
        settled = None if not last else len(last) == SETTLED and max(last) - min(last) <= 0.01 * max(last)
    return {"s": passed, "mhz": told, "settled": settled}


def clock_mhz() -> float | None:
    """The multiprocessors' clock now, as NVML tells it; None where it does not, or is not there to be asked."""
    import torch

    try:
        return float(torch.cuda.clock_rate())
    except Exception:  # NVML's errors share no other base, and its package may be missing here
        return None


@dataclass(frozen=True, slots=True)
class Replay:
    """A pass as it was recorded; its answer lies where the recorded one did. `infer` is kept, for what it reads must not be freed."""

    recorded: Any
    told: Any
    infer: Infer

    def __call__(self) -> Any:
        self.recorded.replay()
        return self.told


def graph(infer: Infer) -> Replay:
    """A pass recorded once, to be replayed without a word to the driver for each kernel."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(SIDE):
            infer()
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        told = infer()
    return Replay(recorded, told, infer)


def facts() -> dict[str, Any]:
    """What a reader has to know of the GPU and of how PyTorch uses it."""
    import torch

    about = torch.cuda.get_device_properties(0)
    return {"gpu": about.name, "sm": about.multi_processor_count, "capability": f"{about.major}.{about.minor}",
            "l2_bytes": about.L2_cache_size, "memory_bytes": about.total_memory,
            "torch": torch.__version__, "cuda": torch.version.cuda, "mhz": clock_mhz(),
            "tf32": {"convolutions": torch.backends.cudnn.allow_tf32, "products": torch.backends.cuda.matmul.allow_tf32}}  # fmt: skip


class Meter:
    """How sweeper.py measures a batch on the GPU: pictures lie there already, as `dress` puts them; memory is what PyTorch took of it.

    `clock`: what `warmed` said, once, before the first batch is timed.
    """

    def __init__(self, dress: Callable[[Any], Any], *, graphs: bool) -> None:
        needed()
        self._dress, self._graphs = dress, graphs
        self.clock: dict[str, Any] | None = None

    def ready(self, infer: Callable[[Any], Any], x: Any) -> Infer:
        """A pass on `x`, recorded where that was asked for."""
        import torch

        there = self._dress(torch.from_numpy(x))
        made: Infer = graph(lambda: infer(there)) if self._graphs else lambda: infer(there)
        if self.clock is None:
            self.clock = warmed(made)
        return made

    def taken(self, infer: Infer, budget_s: float) -> list[int]:
        """ns of each pass by events, some at a time, so that the host runs ahead as in a service."""
        told, until = taken(infer, 1), perf_counter() + budget_s
        while perf_counter() < until:
            told += taken(infer, max(1, min(100, round(budget_s * 1e9 / 4 / max(1, min(told))))))
        return told

    def forget(self) -> None:
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()

    def held(self) -> int:
        import torch

        return int(torch.cuda.memory_allocated())

    def peak(self) -> int:
        import torch

        return int(torch.cuda.max_memory_allocated())

    def recovers(self, reason: Exception) -> bool:
        """Whether the next batch may be tried: memory that was not given is no harm, all else leaves a GPU in doubt."""
        import torch

        return isinstance(reason, torch.OutOfMemoryError)
