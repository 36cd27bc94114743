"""A guard between us and a server: when we go, however we go, the server goes.

Run as a script: `guard.py FD GRACE_S -- COMMAND…`. Its end of a pipe is FD; the other end lives in the process that measures. The
pipe closes on a normal stop, an exception, a kernel restart and a kill -9 alike, and the guard then ends the whole family: the
process group first with TERM, after GRACE_S everything with KILL, also what put itself into a session of its own, because the
guard adopts orphans (child subreaper). The guard is two, one below the other: should one of them be killed, the other ends the
family all the same, and the kernel tells it at once (parent-death signal, end of a child).
It exits with the server's status when that ends by itself. Linux only; standard library only, for it starts before everything.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def descendants() -> list[int]:
    """Every process below this one, from /proc."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, frontier = [], [os.getpid()]
    while frontier:
        frontier = [pid for pid, parent in parents.items() if parent in frontier]
        found += frontier
    return found


def reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def end_all(group: int, grace_s: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
    until = time.monotonic() + grace_s
    while time.monotonic() < until and descendants():
        reap()
        time.sleep(0.05)
    while left := descendants():
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap()
        time.sleep(0.02)


def watch(child: int, fd: int, grace_s: float) -> int:
    """Until `child` ends, FD closes or a signal comes; then everything below us goes. Returns the child's status, as a shell does."""
    asleep, wake = os.pipe()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: os.write(wake, b"."))
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([fd, ended, asleep], [], [])
    by_itself = ended in ready
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if by_itself else -signal.SIGTERM
    end_all(child, 0.5 if by_itself else grace_s)
    return status if status >= 0 else 128 - status


def main(fd: int, grace_s: float, command: list[str]) -> int:
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if twin := os.fork():
        return watch(twin, fd, grace_s + 1)
    os.setpgid(0, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # a fork does not inherit it
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    server = subprocess.Popen(command, process_group=0, stdin=subprocess.DEVNULL,
                              preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    return watch(server.pid, fd, grace_s)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[4:]))
