"""One form of one network on batches of growing size, in a process that holds nothing else: `-m lib.profiling.sweeper ASKED ANSWER`.

Every size is loaded and run until one takes longer than `limit_s`, or memory ends; what was not tried says why. Then all sizes are timed in
turns, so that a machine's pace is every size's. The most memory of a size is the kernel's own count, begun anew before it, less what the
sizes before it hold. A meter does the timing and counting: the processor's here, a GPU's in cuda.py.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import Any, Protocol

import numpy as np

REST_S = 0.05  # before a size's turn: threads of the one before may still wait for work without sleeping
WARM_S = 0.2  # a pass that is shorter has one before it in each turn, for caches hold another size's pictures
Load = Callable[[int], Callable[[Any], Any]]  # for a batch size


class Meter(Protocol):
    """How passes are timed and memory is counted, on the device where they run."""

    def ready(self, infer: Callable[[Any], Any], x: Any) -> Callable[[], Any]:
        """A pass on `x`, which lies where the device finds it."""

    def taken(self, infer: Callable[[], Any], budget_s: float) -> list[int]:
        """ns of passes for so long, of one at least."""

    def forget(self) -> None:
        """Begin the count of the most memory anew."""

    def held(self) -> int: ...

    def peak(self) -> int: ...

    def recovers(self, reason: Exception) -> bool:
        """Whether a larger batch may be tried after that."""


class Host:
    """The processor's: the host's clock, and the kernel's account of this process."""

    def ready(self, infer: Callable[[Any], Any], x: Any) -> Callable[[], Any]:
        return lambda: infer(x)

    def taken(self, infer: Callable[[], Any], budget_s: float) -> list[int]:
        taken = list[int]()
        ends = perf_counter_ns() + int(budget_s * 1e9)
        while not taken or perf_counter_ns() < ends:
            began_ns = perf_counter_ns()
            infer()
            taken.append(perf_counter_ns() - began_ns)
        return taken

    def forget(self) -> None:
        with contextlib.suppress(OSError):  # not every system allows that
            Path("/proc/self/clear_refs").write_text("5")

    def held(self) -> int:
        return _status("VmRSS")

    def peak(self) -> int:
        return _status("VmHWM")

    def recovers(self, reason: Exception) -> bool:
        return False


def main(asked_path: str, answer_path: str) -> None:
    """ASKED: engine, file, hw, precision, threads, batches, budget_s, limit_s. ANSWER: a list of rows, one a batch size."""
    asked = json.loads(Path(asked_path).read_text())
    Path(answer_path).write_text(json.dumps(swept(asked, *loader(asked))))


def loader(asked: dict[str, Any]) -> tuple[Load, Meter]:
    """What makes an engine for a batch size, and what measures it; of PyTorch a `variant`, on a `device`.

    Raises detector.WrongDevice when it is called for what the processor lacks, RuntimeError for a GPU that is not there.
    """
    net_hw, threads = (asked["hw"][0], asked["hw"][1]), asked["threads"]
    if asked["engine"] == "PyTorch":
        import torch

        from lib.profiling import cuda, networks

        torch.set_num_threads(threads)
        it = networks.made(asked, asked.get("variant", "eager"))
        if asked.get("device", "cpu") != "cpu":
            return lambda batch: it.run, cuda.Meter(it.dress, graphs=it.graph)
        return lambda batch: lambda x: it.run(it.dress(torch.from_numpy(x))), Host()
    from lib.vision import detector

    file = Path(asked["file"])
    if asked["engine"] == "ONNX Runtime":
        return lambda batch: detector.onnxruntime_detector(file, net_hw=net_hw, batch=batch, threads=threads).infer, Host()
    return lambda batch: detector.openvino_detector(file, net_hw=net_hw, batch=batch, threads=threads, precision=asked["precision"],
                                                    canvas=False).infer, Host()


def swept(asked: dict[str, Any], load: Load, meter: Meter | None = None) -> list[dict[str, Any]]:
    """A row a size: batch, ns of passes in `rounds` turns, peak_bytes; or batch and why it was not measured."""
    meter = meter or Host()
    rows: list[dict[str, Any]] = []
    made: dict[int, Callable[[], Any]] = {}
    alone, last_s, last = meter.held(), 0.0, 0
    for batch in asked["batches"]:
        if last and last_s * batch / last > asked["limit_s"]:
            rows.append({"batch": batch, "lacks": f"a pass would take {last_s * batch / last:.1f} s; {asked['limit_s']:g} s are the limit"})
            continue
        meter.forget()
        before = meter.held()
        try:
            made[batch] = meter.ready(load(batch), np.random.default_rng(batch).random((batch, 3, *asked["hw"]), np.float32))
            last_s, last = meter.taken(made[batch], 0.0)[0] / 1e9, batch
            if last_s < WARM_S:  # of a short pass the first one says little
                last_s = min(last_s, meter.taken(made[batch], 0.0)[0] / 1e9)
        except (MemoryError, RuntimeError, ValueError) as reason:
            made.pop(batch, None)
            rows.append({"batch": batch, "lacks": f"{type(reason).__name__}: {str(reason).splitlines()[0][:160]}"})
            if meter.recovers(reason):
                continue
            break
        rows.append({"batch": batch, "ns": [], "peak_bytes": alone + max(0, meter.peak() - before), "pass_s": last_s})
    for turn in range(asked["rounds"]):
        there = [row for row in rows if "ns" in row]
        for row in there if turn % 2 == 0 else there[::-1]:
            row["ns"].append(_timed(meter, made[row["batch"]], row["pass_s"], asked["budget_s"] / asked["rounds"]))
    return rows


def _timed(meter: Meter, infer: Callable[[], Any], pass_s: float, budget_s: float) -> list[int]:
    """ns of a size's turn."""
    sleep(REST_S)
    if pass_s < WARM_S:
        infer()
    gc.collect()
    gc.disable()
    try:
        return meter.taken(infer, budget_s)
    finally:
        gc.enable()


def _status(what: str) -> int:
    """Bytes, of the kernel's account of this process."""
    return next(int(line.split()[1]) << 10 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
