"""One form of one network on batches of growing size, in a process that holds nothing else: `-m lib.profiling.sweeper ASKED ANSWER`.

Every size is loaded, warmed and timed in turn until one takes longer than `limit_s`, or memory ends; what was not tried says why. The most
memory of each size is the kernel's own count, begun anew before it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

Load = Callable[[int], Callable[[Any], Any]]  # for a batch size


def main(asked_path: str, answer_path: str) -> None:
    """ASKED: engine, file, hw, precision, threads, batches, budget_s, limit_s. ANSWER: a list of rows, one a batch size."""
    asked = json.loads(Path(asked_path).read_text())
    Path(answer_path).write_text(json.dumps(swept(asked, loader(asked))))


def loader(asked: dict[str, Any]) -> Load:
    """What makes an engine for a batch size. Raises detector.WrongDevice when it is called for what the processor lacks."""
    from lib.vision import detector

    net_hw, threads = (asked["hw"][0], asked["hw"][1]), asked["threads"]
    if asked["engine"] == "PyTorch":
        import torch

        from lib.profiling import networks

        torch.set_num_threads(threads)
        model = networks.network(asked)

        def infer(x: Any) -> Any:
            with torch.no_grad():
                return model(torch.from_numpy(x))

        return lambda batch: infer
    file = Path(asked["file"])
    if asked["engine"] == "ONNX Runtime":
        return lambda batch: detector.onnxruntime_detector(file, net_hw=net_hw, batch=batch, threads=threads).infer
    return lambda batch: detector.openvino_detector(file, net_hw=net_hw, batch=batch, threads=threads, precision=asked["precision"],
                                                    canvas=False).infer


def swept(asked: dict[str, Any], load: Load) -> list[dict[str, Any]]:
    """A row a size: batch, ns of passes in `rounds` parts, peak_bytes; or batch and why it was not measured."""
    rows: list[dict[str, Any]] = []
    last_s, last = 0.0, 0
    for batch in asked["batches"]:
        if last and last_s * batch / last > asked["limit_s"]:
            rows.append({"batch": batch, "lacks": f"a pass would take {last_s * batch / last:.1f} s; {asked['limit_s']:g} s are the limit"})
            continue
        _forget()
        try:
            infer = load(batch)
            x = np.random.default_rng(batch).random((batch, 3, *asked["hw"]), np.float32)
            infer(x)
            gc.collect()
            gc.disable()
            rounds = [_taken(infer, x, asked["budget_s"] / asked["rounds"]) for _ in range(asked["rounds"])]
        except (MemoryError, RuntimeError, ValueError) as reason:
            rows.append({"batch": batch, "lacks": f"{type(reason).__name__}: {str(reason).splitlines()[0][:160]}"})
            break
        finally:
            gc.enable()
        last_s, last = float(np.median(np.concatenate(rounds))) / 1e9, batch
        rows.append({"batch": batch, "ns": rounds, "peak_bytes": _peak()})
    return rows


def _taken(infer: Callable[[Any], Any], x: Any, budget_s: float, *, least: int = 2) -> list[int]:
    taken = list[int]()
    ends = perf_counter_ns() + int(budget_s * 1e9)
    while len(taken) < least or perf_counter_ns() < ends:
        began_ns = perf_counter_ns()
        infer(x)
        taken.append(perf_counter_ns() - began_ns)
    return taken


def _forget() -> None:
    """Begin the kernel's count of this process' most memory anew, where it allows that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    return next(int(line.split()[1]) << 10 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
