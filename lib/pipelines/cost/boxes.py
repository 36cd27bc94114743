"""A service of ours in a container's limits, ready to be asked, and what the kernel says it used.

As `docker run --cpus … --memory …` would start it, but for the image: control groups set the limits, processors are not pinned unless a
measurement must keep its client apart. Refuses to measure without limits: Skipped, with the reason.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from lib.box import Box, Unboxed, boxed
from lib.home import logs
from lib.measured import Skipped
from lib.process import Process, running


@dataclass(frozen=True, slots=True)
class Spent:
    """Between two looks at a box. `wall_s` by our clock, the rest by the kernel's."""

    wall_s: float
    cpu_s: float
    periods: int
    throttled: int
    throttled_s: float

    @property
    def facts(self) -> dict[str, Any]:
        return asdict(self)


class Meter:
    """Looks at a box at the beginning and whenever it is asked."""

    def __init__(self, box: Box) -> None:
        self._box, self._began_s, self._began = box, perf_counter(), box.usage()

    def spent(self) -> Spent:
        now, began, wall_s = self._box.usage(), self._began, perf_counter() - self._began_s
        return Spent(wall_s, now.cpu_s - began.cpu_s, now.periods - began.periods, now.throttled - began.throttled,
                     now.throttled_s - began.throttled_s)  # fmt: skip


def within(spent: Spent, cpus: float | None) -> str | None:
    """Whether the box kept to its limit, as the kernel promises: a period's worth of overdraft aside."""
    if cpus is None or spent.cpu_s <= cpus * (spent.wall_s + 0.2) * 1.05:
        return None
    return f"{spent.cpu_s:.2f} s of CPU in {spent.wall_s:.2f} s, of a limit of {cpus:g} processors: the box leaks"


@contextlib.contextmanager
def serving(service: str, options: Sequence[str], *, cpus: float | None, memory_bytes: int | None = None, replicas: int = 1,
            cores: Sequence[int] | None = None, timeout_s: float = 60) -> Iterator[tuple[Box, list[Process]]]:
    """`replicas` of "fraud" or "retail" in one box; a log of its own for each fraud service. Raises Skipped without groups, Died."""
    with ExitStack() as stack:
        try:
            box = stack.enter_context(boxed(cpus=cpus, memory_bytes=memory_bytes))
        except Unboxed as reason:
            raise Skipped(str(reason)) from reason
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="priced-")))
        made = []
        for number in range(replicas):
            state = ("--journal", str(scratch / f"decisions-{number}.sqlite")) if service == "fraud" else ()
            command = (*box.prefix, sys.executable, "-m", f"lib.pipelines.{service}.service", *state, *options)
            made.append(stack.enter_context(running(lambda port, command=command: (*command, "--port", str(port)),  # type: ignore[misc]
                                                    name=f"{service} service", logs=logs(), cores=cores, timeout_s=timeout_s)))  # fmt: skip
        yield box, made
