"""How much CPU a program and all its children took, and when: so that start-up and clean-up can be told from the load.

Reads the scheduler's own account (`/proc/PID/task/TID/schedstat`, in ns) ten times a second. Refuses to guess where the
kernel keeps no such account.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Watched:
    """A finished program. `cpu_s[i]` is what its whole tree had taken by `at_ns[i]` of the monotonic clock."""

    status: int
    output: str
    at_ns: tuple[int, ...]
    cpu_s: tuple[float, ...]

    def until(self, ns: int) -> float:
        """CPU seconds taken up to `ns`, interpolated between the two readings around it."""
        if ns <= self.at_ns[0]:
            return self.cpu_s[0]
        for i, at in enumerate(self.at_ns[1:], start=1):
            if ns <= at:
                share = (ns - self.at_ns[i - 1]) / (at - self.at_ns[i - 1])
                return self.cpu_s[i - 1] + share * (self.cpu_s[i] - self.cpu_s[i - 1])
        return self.cpu_s[-1]


def foreign_share(over_s: float = 3) -> float:
    """Share of the machine's CPU that is in use while we do nothing, 0 to 1."""
    return psutil.cpu_percent(over_s) / 100


def watch(command: Sequence[str], *, log: Path, timeout_s: float, env: dict[str, str] | None = None) -> Watched:
    """Run `command` to its end, its output in `log`, and account for its CPU. Raises TimeoutExpired, leaves nothing."""
    if not Path("/proc/self/schedstat").exists():
        raise RuntimeError("this kernel keeps no schedstat; CPU a token cannot be measured here")
    at_ns, cpu_s, seen = [], [], dict[str, int]()
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env,
                                 start_new_session=True)
        began_s = time.monotonic()
        try:
            while child.poll() is None:
                at_ns.append(time.perf_counter_ns())
                cpu_s.append(_account(child.pid, seen))
                if time.monotonic() - began_s > timeout_s:
                    raise subprocess.TimeoutExpired(list(command), timeout_s)
                time.sleep(EVERY_S)
        finally:
            for pid in reversed(_tree(child.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            child.wait()
    return Watched(child.returncode, log.read_text(errors="replace"), tuple(at_ns), tuple(cpu_s))


def _account(root: int, seen: dict[str, int]) -> float:
    """CPU seconds of the tree below `root`; threads that ended keep what they had at the last reading."""
    for pid in _tree(root):
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(OSError):
                    seen[task.name] = int((task / "schedstat").read_text().split()[0])
    return sum(seen.values()) / 1e9


def _tree(root: int) -> list[int]:
    """`root` and its descendants, parents first; children are asked of every thread, for each keeps its own."""
    found = [root]
    for pid in found:
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(OSError):
                    found += [int(child) for child in (task / "children").read_text().split()]
    return found
