"""A network in PyTorch: timed, traced, counted, spoken of by oneDNN. `-m lib.profiling.worker ASKED.json ANSWER.json`, one job a process.

Runs on the packages of the network's own environment, so it imports nothing of ours that needs more. Counting FLOPs replaces operators,
tracing slows them: each has a process of its own, and no time of one is quoted from another.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from lib.profiling import networks
from lib.profiling.words import END, PASS, SCOPE


def _taken(infer: Callable[[], Any], passes: int) -> list[int]:
    taken = []
    for _ in range(passes):
        began_ns = perf_counter_ns()
        infer()
        taken.append(perf_counter_ns() - began_ns)
    return taken


def timed(asked: dict[str, Any]) -> dict[str, Any]:
    """`variants` in turn, `passes` each, in `rounds`: ns by name and round. A pause of `warm` passes before each turn is not timed.

    `answers`: by how much each differs from the first, as a share of its largest value, and the share of equal first classes.
    """
    made: dict[str, Callable[[], Any]] = {}
    ready_s: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name in asked["variants"]:
        try:
            made[name], ready_s[name] = networks.variant(asked, name)
        except (RuntimeError, KeyError, AttributeError) as reason:
            failed[name] = f"{type(reason).__name__}: {str(reason).splitlines()[0] if str(reason) else ''}"
    first = next(iter(made))
    whole = networks.answer(made[first]()).float()
    answers = {}
    for name, infer in made.items():
        told = networks.answer(infer()).float()
        if told.shape == whole.shape:
            same = float((told.argmax(1) == whole.argmax(1)).float().mean()) if told.ndim == 2 else None
            answers[name] = {"off": float((told - whole).abs().max() / whole.abs().max()), "same": same}
    gc.collect()
    gc.disable()
    ns: dict[str, list[list[int]]] = {name: [] for name in made}
    for turn in range(asked["rounds"]):
        for name in list(made) if turn % 2 == 0 else list(reversed(made)):
            _taken(made[name], asked["warm"])
            ns[name].append(_taken(made[name], asked["passes"]))
    return {"ns": ns, "ready_s": ready_s, "failed": failed, "answers": answers}


@contextlib.contextmanager
def scopes(model: Any) -> Iterator[None]:
    """Each module's forward as a scope of its name in the trace."""
    import torch

    names = {layer: name for name, layer in model.named_modules() if name}
    open_: list[Any] = []

    def before(layer: Any, _: Any) -> None:
        if (name := names.get(layer)) is not None:
            open_.append(torch.profiler.record_function(SCOPE + name))
            open_[-1].__enter__()

    def after(layer: Any, _: Any, __: Any) -> None:
        if layer in names:
            open_.pop().__exit__(None, None, None)

    hooks = [torch.nn.modules.module.register_module_forward_pre_hook(before),
             torch.nn.modules.module.register_module_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def traced(asked: dict[str, Any]) -> dict[str, Any]:
    """The network under torch.profiler: its trace to `trace`, stacks to `stacks`; ns of passes with each way of looking, in turns.

    "bare": nothing looks. "scopes": modules are scopes, nobody listens. "profiler": operators alone. "whole": scopes and shapes, which is
    what the trace is of. "events": how many events a pass of the whole has. "tick_ns": of an operator that does nothing, bare and seen.
    """
    import torch

    model, x = networks.network(asked), networks.images(asked)
    if asked.get("folded"):
        networks.folded(model)
    names = {layer: name for name, layer in model.named_modules()}

    def infer() -> Any:
        with torch.no_grad():
            return model(x)

    def profiled(**more: Any) -> Any:
        return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], **more)

    _taken(infer, asked["warm"])
    ns: dict[str, list[int]] = {"bare": [], "scopes": [], "profiler": [], "whole": []}
    gc.collect()
    gc.disable()
    seen: Any = None
    for _ in range(asked["rounds"]):
        ns["bare"] += _taken(infer, asked["passes"])
        with scopes(model):
            ns["scopes"] += _taken(infer, asked["passes"])
        with profiled():
            infer()
            ns["profiler"] += _taken(infer, asked["passes"])
        seen = profiled(record_shapes=True)
        with scopes(model), seen:
            infer()
            for _ in range(asked["passes"]):
                with torch.profiler.record_function(PASS):
                    ns["whole"] += _taken(infer, 1)
    seen.export_chrome_trace(asked["trace"])
    verbose = torch._C._profiler._ExperimentalConfig(verbose=True)  # without it there are no stacks to export
    with profiled(with_stack=True, experimental_config=verbose) as stacked:
        for _ in range(3):
            infer()
    stacked.export_stacks(asked["stacks"], "self_cpu_time_total")
    events = sum(event.count for event in seen.key_averages()) / (asked["passes"] + 1)
    tick = torch.ones(1)

    def ticks() -> int:
        began_ns = perf_counter_ns()
        for _ in range(2_000):
            tick.add_(1.0)
        return (perf_counter_ns() - began_ns) // 2_000

    with torch.no_grad():
        bare = sorted(ticks() for _ in range(9))[4]
        with profiled(record_shapes=True):
            watched = sorted(ticks() for _ in range(9))[4]
    kinds = {name: type(layer).__name__ for layer, name in names.items() if name}
    return {"ns": ns, "events": events, "tick_ns": {"bare": bare, "seen": watched}, "modules": kinds, "torch": torch.__version__}


def spoken(asked: dict[str, Any]) -> dict[str, Any]:
    """Passes of which oneDNN says on standard output what it did (ONEDNN_VERBOSE=profile_exec, set by who starts us); ns of each.

    Its lines and ours go through C's buffer, so that they stay in order.
    """
    libc = ctypes.CDLL(None)
    infer, _ = networks.variant(asked, asked["variant"])
    _taken(infer, asked["warm"])
    ns = []
    for _ in range(asked["passes"]):
        libc.puts(PASS.encode())
        ns += _taken(infer, 1)
    libc.puts(END.encode())
    libc.fflush(None)
    return {"ns": ns}


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


JOBS = {"timed": timed, "traced": traced, "spoken": spoken, "counted": counted}

def main(asked_path: str, answer_path: str) -> None:
    import torch

    wanted = json.loads(Path(asked_path).read_text())
    torch.set_num_threads(wanted["threads"])
    torch.set_num_interop_threads(1)
    Path(answer_path).write_text(json.dumps(JOBS[wanted["job"]](wanted)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
