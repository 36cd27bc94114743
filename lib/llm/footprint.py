"""Where an engine's memory goes, asked three ways: what arithmetic predicts, what the engine's own log says, what the system counts.

Servers are started for it and weighed, nothing is timed. Refuses to split what nobody told apart: what an engine holds beyond its
weights, cache and compute buffers is one rest, its runtime.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import psutil

from lib import measured, record, sampler
from lib.llm import blank, memory
from lib.llm.cell import as_claimed
from lib.llm.contender import Contender
from lib.llm.engines.engine import Engine, Options, Spec, Unavailable
from lib.llm.engines.server import Server, together
from lib.llm.model import Model
from lib.llm.session import Session
from lib.progress import Progress


@dataclass(frozen=True, slots=True)
class Plan:
    """What a profile weighs: llama.cpp, which starts in a second, at all `sizes` (slots, context) and both KV forms, its `precisions` at
    the smallest size, and `others` as (engine, KV, whether it is the second model) at the largest.
    """

    sizes: tuple[tuple[int, int], ...]
    precisions: tuple[str, ...]
    others: tuple[tuple[str, str, bool], ...]


PLANS = {
    "smoke": Plan(((2, 256), (8, 512)), ("INT8",), ()),
    "quick": Plan(((2, 1024), (8, 1024)), ("INT8", "INT4"),
                  (("vLLM", "8-bit", False), ("vLLM", "16-bit", True), ("transformers", "16-bit", False),
                   ("TensorRT-LLM", "16-bit", False))),
    "full": Plan(((2, 1024), (8, 1024), (16, 4096)), ("INT8", "INT4", "Q4_K_M"),
                 (("vLLM", "8-bit", False), ("vLLM", "16-bit", True), ("transformers", "16-bit", False), ("TensorRT-LLM", "16-bit", False),
                  ("TensorRT-LLM", "8-bit", False))),
}


def measure(s: Session, rivals: Sequence[Contender], plan: Plan) -> pd.DataFrame:
    """Start each server of the plan that the run does not hold yet, weigh it, end it."""
    if s.here is None or s.model is None:
        return s.frame()
    todo = [(rival, spec) for rival, spec in stands(s, s.model, rivals, plan) if s.run.measured(setting(spec, rival)) is None]
    with Progress(len(todo), f"{s.run.notebook}: weighing") as progress:
        for engine in dict.fromkeys(rival.engine for rival, _ in todo):
            mine = [(rival, spec) for rival, spec in todo if rival.engine is engine]
            with contextlib.ExitStack() as stack:
                started(s.run, mine, stack)
            for rival, spec in mine:
                progress.advance(f"{rival.name}, {spec.slots} × {spec.context} tokens")
    return s.frame()


def stands(s: Session, model: Model, rivals: Sequence[Contender], plan: Plan) -> list[tuple[Contender, Spec]]:
    """The servers of a plan, of those engines that compete."""
    second, found = blank.model(model.family), list[tuple[Contender, Spec]]()
    threads = s.here.threads if s.here else 1

    def add(rival: Contender, size: tuple[int, int], *, kv: str = "16-bit", of: Model = model) -> None:
        one = replace(rival, options=Options(kv=kv))
        found.append((one, Spec(of, one.precision, context=size[1], slots=size[0], threads=threads, device=s.device, options=one.options)))

    for rival in rivals:
        if rival.engine.NAME == "llama.cpp":
            for size in plan.sizes:
                add(rival, size)
                add(rival, size, kv="8-bit")
                add(rival, size, of=second)
            for precision in plan.precisions:
                add(replace(rival, precision=precision), min(plan.sizes))
        for name, kv, two in plan.others:
            if name == rival.engine.NAME:
                add(rival, max(plan.sizes), kv=kv, of=second if two else model)
    return found


def started(run: record.Run, wanted: Sequence[tuple[Contender, Spec]], stack: contextlib.ExitStack) -> list[Server | None]:
    """Servers that live as long as `stack`, started together, each weighed once a run; None and a row with the reason where none is."""
    reasons = [_hindered(rival, spec) for rival, spec in wanted]
    telling = [(rival.engine, replace(spec, extra=(*spec.extra, *rival.engine.TELLS)))
               for (rival, spec), why in zip(wanted, reasons, strict=True) if why is None]
    up = iter(together(telling, stack, logs=run.path / "logs"))
    servers: list[Server | None] = []
    for (rival, spec), why in zip(wanted, reasons, strict=True):
        server = next(up) if why is None else Unavailable(why)
        servers.append(server if isinstance(server, Server) else None)
        if isinstance(server, Server):
            measured.keep(run, setting(spec, rival), lambda server=server: weighed(server), timed=False)  # type: ignore[misc]
        else:
            run.add(record.Point(setting(spec, rival), "skipped" if isinstance(server, Unavailable) else "failed", str(server)))
    return servers


def _hindered(rival: Contender, spec: Spec) -> str | None:
    try:
        return rival.engine.available() or lacks(rival.engine, spec)
    except Unavailable as why:
        return str(why)


def setting(spec: Spec, rival: Contender) -> dict[str, record.Scalar]:
    return {"what": "memory", **rival.setting, "model": spec.model.name, "slots": spec.slots, "context": spec.context}


def weighed(server: Server) -> measured.Found:
    """A server at rest: its processes' memory in three readings, what its log says, what arithmetic says."""
    engine, spec = server.engine, server.spec
    pids = sampler.family(server.process.pid)
    card = sampler.gpu(pids)
    readings = [{**resident(pids), "gpu_bytes": card.read().get("gpu_process_bytes")} for _ in range(3)]
    samples = {word: [reading[word] for reading in readings] for word in readings[0]}
    stored, cache = engine.stored(spec), engine.kv_cache(spec)
    weights = spec.model.weights_bytes(stored)
    holder = samples["gpu_bytes"][-1] if spec.device == "cuda" else samples["resident_bytes"][-1]
    said = engine.allocated(server.process.log.read_text(errors="replace"), spec)
    facts = {"processes": len(pids), "stored": stored, "weights_bytes": weights, "said": said, "shape": asdict(spec.model.shape),
             "predicted": predicted(spec, stored, cache), "cache": None if cache is None else asdict(cache), "gpu_status": card.status}
    checks = {"4 precision": as_claimed(spec.model, stored)}
    if holder is not None:
        checks["3 resident"] = memory.holds(holder, weights)
    return measured.Found(samples, facts, checks)


def predicted(spec: Spec, stored: str, cache: memory.Cache | None) -> dict[str, float | None]:
    """From the shape alone. None for a form of weights that has no formula, and for a cache that has no size of its own."""
    shape = spec.model.shape
    try:
        weights: float | None = memory.weights_bytes(shape, stored)
    except KeyError:
        weights = None
    return {"weights_bytes": weights, "kv_bytes": None if cache is None else cache.bytes(shape),
            "kv_tokens": None if cache is None else cache.tokens}


def resident(pids: Sequence[int]) -> dict[str, float]:
    """Bytes in memory of a family of processes, as Linux counts them: pages of a file that several map count once, whoever else maps it.

    Raises OSError where it does not tell.
    """
    anonymous, files = 0.0, dict[str, float]()
    for pid in pids:
        place, mapped = "", 0.0
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            word, *values = line.split()
            if "-" in word:  # a mapping begins: addresses, rights, offset, device, inode, path
                place = f"{values[2]} {values[3]} {values[1]}"
            elif word == "Rss:":
                mapped = float(values[0]) * 1024
            elif word == "Anonymous:":
                private = float(values[0]) * 1024
                anonymous += private
                files[place] = max(files.get(place, 0.0), mapped - private)
    return {"anonymous_bytes": anonymous, "file_bytes": sum(files.values()), "resident_bytes": anonymous + sum(files.values())}


def lacks(engine: Engine, spec: Spec) -> str | None:
    """Why `spec` does not fit into the memory that is free now, before anything is loaded; None when it does. Raises Unavailable."""
    weights, cache, parts = spec.model.weights_bytes(engine.stored(spec)), engine.kv_cache(spec), spec.options.gpus
    if parts > 1 and parts > (there := gpus()):
        return f"it spans {parts} GPUs, this machine has {there}"
    kept = cache.bytes(spec.model.shape) if cache else 0.0
    reason = memory.lacks(weights=weights / parts, cache=kept / parts, free=free_bytes(spec.device))
    return reason and f"{spec.model.name} {reason}"


def gpus() -> int:
    """How many GPUs the driver sees."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def free_bytes(device: str) -> float:
    """Memory that a new process can have now: the first GPU's, or the machine's."""
    if device != "cuda":
        return float(psutil.virtual_memory().available)
    import pynvml

    pynvml.nvmlInit()
    return float(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).free)
