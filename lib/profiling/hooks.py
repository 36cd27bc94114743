"""Stamps at the door of every module: when its forward began and when it ended, by forward hooks and the process' own clock.

The plainest way of looking: no profiler, no trace, two clock readings a module. Runs where the network's package is, so it imports nothing
of ours but words. Refuses nothing: a module that raises leaves its stamp open, and the pass with it is not told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from typing import Any

OUTSIDE = "outside of the network"  # what a pass takes before its outermost module begins, and after it
Stamps = list[tuple[int, int]]  # the module's number, or -1 where the innermost open one ends; ns


@contextlib.contextmanager
def stamping(modules: list[Any], stamps: Stamps) -> Iterator[None]:
    """Every call of `modules` leaves two stamps in `stamps`, by its number in the list."""

    def begins(number: int) -> Callable[[Any, Any], None]:
        def before(_: Any, __: Any) -> None:
            stamps.append((number, perf_counter_ns()))

        return before

    def ends(_: Any, __: Any, ___: Any) -> None:
        stamps.append((-1, perf_counter_ns()))

    hooks = [hook for number, module in enumerate(modules)
             for hook in (module.register_forward_pre_hook(begins(number)), module.register_forward_hook(ends))]  # fmt: skip
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def rows(stamps: Stamps) -> list[list[int]]:
    """[number, whole ns, own ns, modules directly in it] of each call, in the order in which they ended. `own` is without those in it."""
    told: list[list[int]] = []
    open_: list[list[int]] = []  # number, began, ns of those in it, how many
    for number, ns in stamps:
        if number >= 0:
            open_.append([number, ns, 0, 0])
            continue
        which, began, inside, calls = open_.pop()
        told.append([which, ns - began, ns - began - inside, calls])
        if open_:
            open_[-1][2] += ns - began
            open_[-1][3] += 1
    return told
