"""A container's limits around a process: CPU time and memory, by the kernel's control groups (version 1 or 2), as runtimes set them.

A library that counts processors does not see such a limit: it starts a thread for each processor of the host, and the kernel stops them
all for the rest of each period once their time is used up. `granted` sees it. Refuses to pretend: where groups may not be made, `boxed`
raises Unboxed with the reason, for affinity alone can neither halve a processor nor bound memory.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import sleep

MOUNT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000  # Kubernetes' and Docker's
JOIN = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ > "$1/cgroup.procs" || exit 126; shift; n=$((n-1)); done; exec "$@"'
_number = count()


class Unboxed(Exception):
    """Limits cannot be set here; the message says why."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the kernel counted in a box so far. `throttled_s`: time in which something wanted to run and had no quota left."""

    cpu_s: float
    periods: int
    throttled: int
    throttled_s: float
    peak_bytes: int | None
    oom_kills: int


@dataclass(frozen=True, slots=True)
class Box:
    """The groups of one box, in version 2 three times the same. `prefix` goes before the command that is to live in it."""

    cpu: Path
    account: Path
    memory: Path
    version: int

    @property
    def prefix(self) -> tuple[str, ...]:
        groups = dict.fromkeys(str(group.resolve()) for group in (self.cpu, self.account, self.memory))
        return ("sh", "-c", JOIN, "box", str(len(groups)), *groups)

    def usage(self) -> Usage:
        """Raises OSError once the box is gone."""
        stat, oom = _table(self.cpu / "cpu.stat"), _table(self.memory / ("memory.events" if self.version == 2 else "memory.oom_control"))
        if self.version == 2:
            peak = self.memory / "memory.peak"  # since Linux 5.19
            spent_s, throttled_s = stat["usage_usec"] / 1e6, stat.get("throttled_usec", 0) / 1e6
            return Usage(spent_s, stat.get("nr_periods", 0), stat.get("nr_throttled", 0), throttled_s,
                         int(peak.read_text()) if peak.exists() else None, oom.get("oom_kill", 0))  # fmt: skip
        spent_ns = int((self.account / "cpuacct.usage").read_text())
        return Usage(spent_ns / 1e9, stat["nr_periods"], stat["nr_throttled"], stat["throttled_time"] / 1e9,
                     int((self.memory / "memory.max_usage_in_bytes").read_text()), oom.get("oom_kill", 0))  # fmt: skip


@contextlib.contextmanager
def boxed(*, cpus: float | None = None, memory_bytes: int | None = None, mount: Path = MOUNT) -> Iterator[Box]:
    """A box with `cpus` processors' worth of time (None: no limit) and at most `memory_bytes`, swap included. It goes when the block ends.

    Whoever lives in it must have ended by then. Raises Unboxed, ValueError for limits that are none.
    """
    if (cpus is not None and not cpus > 0) or (memory_bytes is not None and not memory_bytes > 0):
        raise ValueError(f"limits of {cpus} processors and {memory_bytes} bytes")
    name, version = f"box-{os.getpid()}-{next(_number)}", 2 if (mount / "cgroup.controllers").exists() else 1
    rooms = [mount] * 3 if version == 2 else [mount / which for which in ("cpu", "cpuacct", "memory")]
    made: list[Path] = []
    try:
        try:
            if version == 2:
                (mount / "cgroup.subtree_control").write_text("+cpu +memory")
            for room in dict.fromkeys(room.resolve() for room in rooms):  # cpu and cpuacct are often one
                _sweep(room)
                (room / name).mkdir()
                made.append(room / name)
            box = Box(rooms[0] / name, rooms[1] / name, rooms[2] / name, version)
            for path, value in _limits(box, cpus, memory_bytes):
                path.write_text(value)
        except OSError as error:
            why = f"control groups cannot be made here ({error.strerror or error}): that needs root and a writable {mount}"
            raise Unboxed(why) from error
        yield box
    finally:
        for group in reversed(made):
            _remove(group)


def _limits(box: Box, cpus: float | None, memory_bytes: int | None) -> Iterator[tuple[Path, str]]:
    if cpus is not None:
        quota = round(cpus * PERIOD_US)
        if box.version == 2:
            yield box.cpu / "cpu.max", f"{quota} {PERIOD_US}"
        else:
            yield box.cpu / "cpu.cfs_period_us", str(PERIOD_US)
            yield box.cpu / "cpu.cfs_quota_us", str(quota)
    if memory_bytes is not None:
        yield box.memory / ("memory.max" if box.version == 2 else "memory.limit_in_bytes"), str(memory_bytes)
        swap = box.memory / ("memory.swap.max" if box.version == 2 else "memory.memsw.limit_in_bytes")
        if swap.exists():
            yield swap, "0" if box.version == 2 else str(memory_bytes)


def _sweep(room: Path) -> None:
    """Boxes of makers who were killed, once nobody lives in them."""
    for old in room.glob("box-*-*"):
        if not Path("/proc", old.name.split("-")[1]).exists():
            with contextlib.suppress(OSError):
                old.rmdir()


def _remove(group: Path) -> None:
    """A group is busy for a moment after its last process has gone."""
    for _ in range(100):
        try:
            group.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            sleep(0.02)
    raise Unboxed(f"something still lives in {group.name}")


def granted(*, mount: Path = MOUNT, own: Path = Path("/proc/self/cgroup")) -> int:
    """Processors that this process may keep busy: those of its affinity, or what its group's CPU quota amounts to, rounded up, if less."""
    quotas = [math.ceil(quota) for quota in _quotas(mount, own)]
    return max(1, min([len(os.sched_getaffinity(0)), *quotas]))


def _quotas(mount: Path, own: Path) -> Iterator[float]:
    """The quota of each group from this process's own up to the root that can be seen, in processors."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in lines:
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mount / "cpu" if controllers else mount
        here = root / path.lstrip("/")
        for group in (here, *here.parents):
            with contextlib.suppress(OSError, ValueError):
                if controllers:
                    quota, period = (int((group / f"cpu.cfs_{what}_us").read_text()) for what in ("quota", "period"))
                else:
                    quota, period = map(int, (group / "cpu.max").read_text().split())
                if quota > 0:
                    yield quota / period
            if group == root:
                break


def _table(path: Path) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in path.read_text().splitlines())}
