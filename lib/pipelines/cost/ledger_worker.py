"""One form of one model in a process of its own, from the interpreter's first line to its answers: `ledger_worker ASKED.json`.

Prints a line of JSON at the first answer, so that whoever started it can hold a clock of its own against the stamps, and one at the end. A
form that cannot run here says so instead. The measuring is one thread's, on the processors that the process was given.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

STARTED_NS = time.perf_counter_ns()  # before anything else is imported: the clock is the machine's, so the parent's stamps fit

Answer = Callable[[Any], Any]  # of the forest, (n, 35) rows → (n,) margins; of a network, (n, 3, h, w) → its raw output
Load = Callable[[int], Answer]  # for a batch size


def main(asked_path: str) -> None:
    """ASKED: engine, file, net_hw, precision, inputs (.npy), warm_s, latency_s, batches, batch_s, most; judged (.npy or null), answers."""
    with open(asked_path) as file:
        asked = json.load(file)
    try:
        load = loader(asked["engine"], Path(asked["file"]), asked["net_hw"], asked["precision"])
        imported_ns = time.perf_counter_ns()
        answer = load(1)
    except Exception as reason:  # whatever a package trips over here is why there is no row
        print(json.dumps({"cannot": f"{type(reason).__name__}: {reason}", "kind": type(reason).__name__}))
        return
    loaded_ns, loaded_bytes = time.perf_counter_ns(), resident()
    import numpy as np

    inputs = np.load(asked["inputs"], mmap_mode="r")
    first = np.ascontiguousarray(inputs[:1])
    began_ns = time.perf_counter_ns()
    answer(first)
    answered_ns = time.perf_counter_ns()
    cold = {"started": STARTED_NS, "imported": imported_ns, "loaded": loaded_ns, "began": began_ns, "answered": answered_ns}
    print(json.dumps({"cold_ns": cold}), flush=True)
    told = measured(load, answer, np.ascontiguousarray(inputs), asked)
    if asked["judged"]:
        judged = np.load(asked["judged"], mmap_mode="r")
        whole = asked["net_hw"] is None
        parts = [judged] if whole else [judged[place : place + 1] for place in range(len(judged))]
        np.save(asked["answers"], np.concatenate([np.array(answer(np.ascontiguousarray(part))) for part in parts]))
    print(json.dumps({**told, "loaded_bytes": loaded_bytes}))


def measured(load: Load, answer: Answer, inputs: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Warm latency one by one, memory, then seconds of batches of each size."""
    run(answer, inputs, 1, asked["warm_s"], asked["most"])
    latency_s, answered = run(answer, inputs, 1, asked["latency_s"], asked["most"])
    told: dict[str, Any] = {"latency_s": latency_s, "answered": answered, "used_bytes": resident(), "peak_bytes": resident("VmHWM"),
            "processors": len(os.sched_getaffinity(0)), "batch_s": {}}  # fmt: skip
    for size in asked["batches"]:
        batched = answer if size == 1 else load(size)
        run(batched, inputs, size, asked["batch_s"] / 4, asked["most"], least=1)
        told["batch_s"][size] = run(batched, inputs, size, asked["batch_s"], asked["most"])[0]
    return told


def run(answer: Answer, inputs: Any, size: int, budget_s: float, most: int, *, least: int = 2) -> tuple[list[float], int]:
    """Seconds of each answer to `size` inputs in turn, for `budget_s`, `least` at least; of more than `most`, every so manieth is kept.

    Also how many there were.
    """
    starts = range(0, len(inputs) - size + 1, size)
    batches = [inputs[start : start + size] for start in starts]
    taken, clock = list[int](), time.perf_counter_ns
    ends = clock() + int(budget_s * 1e9)
    while len(taken) < least or clock() < ends:
        x = batches[len(taken) % len(batches)]
        began = clock()
        answer(x)
        taken.append(clock() - began)
    step = -(-len(taken) // most)
    return [round(ns / 1e9, 9) for ns in taken[::step]], len(taken)


def resident(what: str = "VmRSS") -> int:
    """Bytes resident now (VmRSS) or at most so far (VmHWM)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(what))


def loader(engine: str, file: Path, net_hw: list[int] | None, precision: str) -> Load:
    """What loads the file, on one thread; all that it needs is imported when this returns. Raises what importing raises."""
    return _trees(engine, file) if net_hw is None else _networks(engine, file, (net_hw[0], net_hw[1]), precision)


def _trees(engine: str, file: Path) -> Load:
    from lib.pipelines.fraud import forest, model

    if engine == "LightGBM":
        import lightgbm  # noqa: F401

        return lambda _: forest.Native(model.at(file.parent)).margins
    if engine == "ONNX Runtime":
        import onnxruntime  # noqa: F401

        return lambda _: forest.Onnx(model.at(file.parent)).margins
    if engine == "tl2cgen":
        import tl2cgen  # noqa: F401

        return lambda _: forest.Tl2cgen(model.at(file.parent)).margins
    return lambda _: forest.Compiled(model.at(file.parent)).margins


def _networks(engine: str, file: Path, net_hw: tuple[int, int], precision: str) -> Load:
    from lib.vision import detector

    if engine.startswith("PyTorch"):
        import torch

        torch.set_num_interop_threads(1)
        compiled, loaded = engine == "PyTorch compiled", list[detector.Torch]()

        def load(batch: int) -> Answer:
            if not loaded:
                loaded.append(detector.torch_detector(file, net_hw=net_hw, batch=batch, threads=1, compiled=compiled))
            return loaded[0].of(batch).infer

        return load
    if engine == "ONNX Runtime":
        import onnxruntime  # noqa: F401

        return lambda batch: detector.onnxruntime_detector(file, net_hw=net_hw, batch=batch, threads=1).infer
    detector.quiet_openvino()
    hint: Literal["f32", "bf16"] = "bf16" if precision == "bf16" else "f32"
    return lambda batch: detector.openvino_detector(file, net_hw=net_hw, batch=batch, threads=1, precision=hint, canvas=False).infer

if __name__ == "__main__":
    main(sys.argv[1])
