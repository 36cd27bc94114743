"""A network in PyTorch: timed, watched, counted. `-m lib.profiling.worker ASKED.json ANSWER.json`, one job a process.

Runs on the packages of the network's own environment, so it imports nothing of ours that needs more. Counting FLOPs replaces operators,
tracing slows them: each has a process of its own, and no time of one is quoted from another.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from lib.profiling import cuda, networks, sweeper
from lib.profiling.watcher import marked, scopes, taken, watched
from lib.profiling.words import PASS

SLOW = 20  # times the first variant: denormal products take 58 on some processors, and no other change comes near


def timed(asked: dict[str, Any]) -> dict[str, Any]:
    """`variants` in turn, `passes` pictures each, in `rounds`: ns by name and round. `warm` passes before each turn are not timed.

    On a processor one that takes SLOW times as long as the first has one pass a turn and none before it: so do denormal products, on some.
    `answers`: by how much each differs from the first, as a share of its largest value, and the share of equal first classes.
    `speaks`: the variant of which oneDNN then says on standard output what it does, between marks.
    On a GPU ns are by its own clock, with its other ways of timing beside them, `clock` and `facts`.
    """
    import torch

    plain = networks.network(asked)
    made: dict[str, Callable[[], Any]] = {}
    ready_s: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name in asked["variants"]:
        try:
            made[name], ready_s[name] = networks.variant(asked, name, plain)
        except (RuntimeError, KeyError, AttributeError) as reason:
            failed[name] = f"{type(reason).__name__}: {str(reason).splitlines()[0] if str(reason) else ''}"
    first = next(iter(made))
    whole = networks.answer(made[first]()).float()
    on_gpu = asked.get("device", "cpu") != "cpu"
    answers, slow = {}, set[str]()
    (usual_ns,) = taken(made[first], 1)
    for name, infer in made.items():
        began_ns = perf_counter_ns()
        told = networks.answer(infer()).float()
        if not on_gpu and perf_counter_ns() - began_ns > SLOW * usual_ns:
            slow.add(name)
        if told.shape == whole.shape:
            same = float((told.argmax(1) == whole.argmax(1)).float().mean()) if told.ndim == 2 else None
            answers[name] = {"off": float((told - whole).abs().max() / whole.abs().max()), "same": same}
    ways = cuda.ways() if on_gpu else {"ns": taken}
    more = {"clock": cuda.warmed(made[next(iter(made))]), "facts": cuda.facts()} if on_gpu else {}
    gc.collect()
    gc.disable()
    ns: dict[str, dict[str, list[list[int]]]] = {way: {name: [] for name in made} for way in ways}
    for turn in range(asked["rounds"]):
        for name in list(made) if turn % 2 == 0 else list(reversed(made)):
            batch = int((networks.besides(name) or {}).get("batch", 1))
            for way, take in ways.items():
                take(made[name], 0 if name in slow else -(-asked["warm"] // batch))
                ns[way][name].append(take(made[name], 1 if name in slow else -(-asked["passes"] // batch)))
    if asked.get("speaks") in made:
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            for _ in range(asked["passes"]):
                marked(made[asked["speaks"]])
    return {**ns, "ready_s": ready_s, "failed": failed, "answers": answers, **more}


def swept(asked: dict[str, Any]) -> dict[str, Any]:
    """sweeper.py's rows of a `variant` on growing batches; on a GPU with what is to be known of it."""
    load, meter = sweeper.loader(asked)
    rows = sweeper.swept(asked, load, meter)
    return {"rows": rows, "facts": {**cuda.facts(), "clock": meter.clock} if isinstance(meter, cuda.Meter) else {}}


def kernels(asked: dict[str, Any]) -> dict[str, Any]:
    """`passes` of a `variant` on the GPU, bare and then with a trace of modules, calls and kernels to `trace`: ns of both, clock, facts.

    A pass' scope ends when the GPU is done with it.
    """
    import torch

    made = networks.made(asked, asked["variant"])
    infer, _ = networks.ready(made, networks.images(asked))
    clock, kinds = cuda.warmed(infer), torch.profiler.ProfilerActivity
    bare, told = cuda.walls(infer, asked["passes"]), list[int]()
    with scopes(made.network), torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as seen:
        infer()  # the first that is watched takes longer
        torch.cuda.synchronize()
        for _ in range(asked["passes"]):
            with torch.profiler.record_function(PASS):
                told += cuda.walls(infer, 1)
    seen.export_chrome_trace(asked["trace"])
    return {"bare_ns": bare, "traced_ns": told, "clock": clock, "facts": cuda.facts()}


def counted(asked: dict[str, Any]) -> dict[str, Any]:
    """Each leaf module in order: name, kind, shapes, bytes of its weights, multiply-adds; and what PyTorch's own counter says in FLOPs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model, x = networks.network(asked), networks.images(asked)
    rows: list[dict[str, Any]] = []

    def after(name: str) -> Callable[[Any, Any, Any], None]:
        def saw(layer: Any, given: Any, told: Any) -> None:
            tensors = [t for t in (given[0] if isinstance(given[0], (list, tuple)) else given) if torch.is_tensor(t)]
            rows.append({"name": name, "kind": type(layer).__name__, "in": [list(t.shape) for t in tensors],
                         "out": list(told.shape) if torch.is_tensor(told) else None, "macs": _macs(layer, told),
                         "weights": sum(p.numel() for p in layer.parameters()),
                         "kernel": list(layer.kernel_size) if hasattr(layer, "weight") and hasattr(layer, "kernel_size") else None,
                         "stride": list(layer.stride) if hasattr(layer, "weight") and hasattr(layer, "stride") else None,
                         "groups": getattr(layer, "groups", None)})

        return saw

    hooks = [layer.register_forward_hook(after(name)) for name, layer in model.named_modules() if not list(layer.children())]
    with torch.no_grad():
        model(x)
        for hook in hooks:
            hook.remove()
        with FlopCounterMode(display=False) as flops:
            model(x)
    return {"layers": rows, "flops": flops.get_total_flops(), "parameters": sum(p.numel() for p in model.parameters())}


def _macs(layer: Any, told: Any) -> int:
    """Multiply-adds of a convolution or a linear layer; 0 for what multiplies nothing."""
    import torch

    if isinstance(layer, torch.nn.Conv2d):
        height, width = layer.kernel_size
        return int(told.numel() * layer.in_channels // layer.groups * height * width)
    return int(told.numel() * layer.in_features) if isinstance(layer, torch.nn.Linear) else 0


JOBS = {"timed": timed, "watched": watched, "counted": counted, "swept": swept, "kernels": kernels}


def main(asked_path: str, answer_path: str) -> None:
    import torch

    wanted = json.loads(Path(asked_path).read_text())
    torch.set_num_threads(wanted["threads"])
    torch.set_num_interop_threads(1)
    Path(answer_path).write_text(json.dumps(JOBS[wanted["job"]](wanted)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
