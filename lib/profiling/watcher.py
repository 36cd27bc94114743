"""One network in eager PyTorch, looked at in every way there is, in turns, beside passes that nobody looks at: the worker's job "watched".

All ways take turns in one process, with unwatched passes between any two: a virtual machine's pace changes within a second, so a way's
passes are held against those right before and right after them. What looking costs is learned apart, on pictures half as high and wide: the
same calls with little to compute. And it makes a pass touch new pages, for its own notes and because the heap is another then: those are
counted in every block, and what one costs is measured.
Runs on the packages of the network's own environment, so it imports nothing of ours that needs more.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from collections.abc import Callable, Iterator
from time import perf_counter_ns, time_ns
from typing import Any

from lib.profiling import hooks, networks
from lib.profiling.words import END, PASS, SCOPE

WAYS = ("profiler", "hooks", "onednn", "whole")
LITTLE = 2  # by which pictures are less high and wide where the cost of looking is learned, here and in counters.py
TRIES = 9
PAGES = 2**14  # so many are mapped anew for each call of the allocator, whatever its thresholds


def watched(asked: dict[str, Any]) -> dict[str, Any]:
    """`turns` of the network's own pictures, and, as "little", of pictures that are LITTLE times less high and wide.

    `cost_ns`: of a page that is touched "first" and "again". Python's stacks go to `stacks`.
    """
    import torch

    model = networks.network(asked)
    little = {**asked, "hw": [side // LITTLE for side in asked["hw"]], "traces": asked["traces"].format("little-{}")}
    told = {**turns(model, asked), "little": turns(model, little)}
    kinds = [[name, type(module).__name__, not list(module.children())] for name, module in model.named_modules()]
    x = networks.images(asked)
    with torch.no_grad():
        _stacks(lambda: model(x), asked["stacks"])
    return {**told, "cost_ns": {"page": _page()}, "modules": kinds, "torch": torch.__version__}


def turns(model: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """`rounds` turns of WAYS: ns by way and turn, `passes` each; traces to `traces` ("{}" is way and turn).

    "bare": nobody looks, before each block of a way and after the last. "profiler": operators alone, which the account is of. "whole":
    scopes of modules and shapes, `traced` passes. "hooks": two stamps a module, told as `calls`, a list a pass. "onednn": it says what it
    does on standard output, between marks that bear its clock. `faults`: pages that a pass touched first, by way and turn.
    """
    import torch

    x, modules = networks.images(asked), [module for _, module in model.named_modules()]
    calls: list[list[list[int]]] = []
    ns: dict[str, list[list[int]]] = {way: [] for way in ("bare", *WAYS)}
    faults: dict[str, list[float]] = {way: [] for way in ns}

    def infer() -> Any:
        with torch.no_grad():
            return model(x)

    def block(way: str, passes: int, one: Callable[[], list[int]] = lambda: taken(infer, 1)) -> None:
        infer()  # the first pass after another way finds other things in the caches
        before = _faults()
        ns[way].append([each for _ in range(passes) for each in one()])
        faults[way].append((_faults() - before) / passes)

    def in_scope() -> list[int]:
        with torch.profiler.record_function(PASS):
            return taken(infer, 1)

    def profiler(turn: int) -> None:
        with profiled() as seen:
            block("profiler", asked["passes"], in_scope)
        seen.export_chrome_trace(asked["traces"].format(f"profiler-{turn}"))

    def whole(turn: int) -> None:
        with scopes(model), profiled(record_shapes=True) as seen:
            block("whole", asked["traced"], in_scope)
        seen.export_chrome_trace(asked["traces"].format(f"whole-{turn}"))

    def hooked(turn: int) -> None:
        stamps: hooks.Stamps = []

        def one() -> list[int]:
            stamps.clear()
            told = taken(infer, 1)
            calls.append(hooks.rows(stamps))
            return told

        with hooks.stamping(modules, stamps):
            block("hooks", asked["passes"], one)

    def onednn(turn: int) -> None:
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            block("onednn", asked["passes"], lambda: marked(infer))

    looks = dict(zip(WAYS, (profiler, hooked, onednn, whole), strict=True))
    taken(infer, asked["warm"])
    gc.collect()
    gc.disable()
    for turn in range(asked["rounds"]):
        for way in WAYS:
            block("bare", asked["passes"])
            looks[way](turn)
    block("bare", asked["passes"])
    gc.enable()
    return {"ns": ns, "faults": faults, "calls": calls}


def taken(infer: Callable[[], Any], passes: int) -> list[int]:
    """ns of each pass."""
    told = []
    for _ in range(passes):
        began_ns = perf_counter_ns()
        infer()
        told.append(perf_counter_ns() - began_ns)
    return told


def marked(infer: Callable[[], Any]) -> list[int]:
    """`taken` of a pass between two marks on standard output, each with the time of oneDNN's clock.

    oneDNN's lines and ours go through C's buffer, so that they stay in order.
    """
    libc = ctypes.CDLL(None)
    libc.puts(f"{PASS} {time_ns()}".encode())
    told = taken(infer, 1)
    libc.puts(f"{END} {time_ns()}".encode())
    libc.fflush(None)
    return told


def profiled(**more: Any) -> Any:
    import torch

    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], **more)


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

    doors = [torch.nn.modules.module.register_module_forward_pre_hook(before),
             torch.nn.modules.module.register_module_forward_hook(after)]
    try:
        yield
    finally:
        for door in doors:
            door.remove()


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _page() -> dict[str, float]:
    """ns of a page that one thread touches first, and again: medians of TRIES."""
    import torch

    told: dict[str, list[float]] = {"first": [], "again": []}
    for _ in range(TRIES):
        fresh, before = torch.empty(PAGES * 1024), _faults()  # floats of 4 bytes
        for way in told:
            told[way] += taken(lambda: fresh[::1024].fill_(1.0), 1)  # noqa: B023  called at once
        paged = max(1, _faults() - before)
        for each in told.values():
            each[-1] /= paged
    return {way: sorted(each)[len(each) // 2] for way, each in told.items()}


def _stacks(infer: Callable[[], Any], path: str) -> None:
    """Three passes with Python's stacks, folded; without "verbose" there are none to export."""
    import torch

    verbose = torch._C._profiler._ExperimentalConfig(verbose=True)
    with profiled(with_stack=True, experimental_config=verbose) as stacked:
        for _ in range(3):
            infer()
    stacked.export_stacks(path, "self_cpu_time_total")
