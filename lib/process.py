"""A server process of ours: started on a free loopback port, awaited until it answers, watched, and ended with all it spawned.

No server outlives the process that started it, however that ends (see guard.py). What it printed is in a file; when it dies, its
last lines are in the exception. Refuses to take a stranger at the port for its own server.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import httpx
import psutil

from lib.child import PATHS

GUARD = Path(__file__).with_name("guard.py")


class Died(RuntimeError):
    """The server ended, or never answered; the message carries its last words."""


@dataclass(frozen=True, slots=True)
class Process:
    """A running server. `ready_s` is from the start of its process to the first healthy answer."""

    name: str
    port: int
    pid: int
    ready_s: float
    log: Path
    guard: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def check(self) -> None:
        """Raise Died if it is no longer there."""
        if self.guard.poll() is not None:
            raise Died(f"{self.name} ended with status {self.guard.returncode}: {last_lines(self.log)}")

    def signal(self, number: signal.Signals) -> int:
        """Send `number` to the server and wait until it has ended; its exit status, as a shell tells it."""
        os.kill(self.pid, number)
        return self.guard.wait()


@contextlib.contextmanager
def running(argv: Callable[[int], Sequence[str]], *, name: str, logs: Path, health: str = "/readyz", env: Mapping[str, str] | None = None,
            cores: Sequence[int] | None = None, timeout_s: float = 60, grace_s: float = 8) -> Iterator[Process]:
    """Start `argv(port)`, yield it once `health` answers 200, and end it and all its children however the block is left.

    `cores`: the processors it may use. Raises Died with the last lines of its log when it does not come up within `timeout_s`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    pinned = () if cores is None else ("taskset", "--cpu-list", ",".join(map(str, cores)))
    for attempt in range(3):
        port = free_port()
        log = logs / f"{name.lower().replace(' ', '-')}-{port}.log"
        with guarded((*pinned, *argv(port)), env or {}, log, grace_s) as guard:
            try:
                process = awaited(name, port, log, guard, health, timeout_s)
            except Died:
                if attempt == 2 or not _taken(port):
                    raise  # a port taken between our look and the server's bind is the one death worth a second try
                continue
            yield process
            return


@contextlib.contextmanager
def guarded(argv: Sequence[str], env: Mapping[str, str], log: Path, grace_s: float) -> Iterator[subprocess.Popen[bytes]]:
    """Run `argv` below a guard until the block is left. What it says goes to `log`; whether it is ready is the caller's to find out."""
    theirs, ours = os.pipe()
    try:
        with log.open("wb") as out:
            guard = subprocess.Popen([sys.executable, "-I", "-S", str(GUARD), str(theirs), str(grace_s), "--", *argv],
                                     env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                     pass_fds=(theirs,), start_new_session=True)
    finally:
        os.close(theirs)
    try:
        yield guard
    finally:
        os.close(ours)
        guard.wait()


def awaited(name: str, port: int, log: Path, guard: subprocess.Popen[bytes], health: str | None, timeout_s: float) -> Process:
    """The server that runs below `guard`, once `health` answers 200 (None: once it listens at `port`). Raises Died."""
    started = monotonic()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=2, trust_env=False) as http:
        while monotonic() - started < timeout_s:
            if guard.poll() is not None:
                raise Died(f"{name} ended with status {guard.returncode} while loading: {last_lines(log)}")
            with contextlib.suppress(httpx.HTTPError, psutil.NoSuchProcess):
                if (health is None or http.get(health).status_code == 200) and (pid := _served_by(guard, port)) is not None:
                    return Process(name, port, pid, monotonic() - started, log, guard)
            sleep(0.05)
    what = f"listen at port {port}" if health is None else f"answer {health}"
    raise Died(f"{name} did not {what} within {timeout_s:g} s: {last_lines(log)}")


def _served_by(guard: subprocess.Popen[bytes], port: int) -> int | None:
    """The server's process, if it is our own family that listens, and not a stranger who was quicker at the port."""
    twin = psutil.Process(guard.pid).children()
    server = twin[0].children() if twin else []
    family = [member for one in server for member in (one, *one.children(recursive=True))]
    ours = any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for member in family for c in member.net_connections("tcp"))
    return server[0].pid if ours else None


def _taken(port: int) -> bool:
    """Whether somebody listens at the port: not our server any more, so a stranger."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what our own server leaves behind does not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def last_lines(log: Path, *, count: int = 6) -> str:
    """The last words of a log, on one line, of paths only the last part: what is recorded tells nothing of this machine."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()][-count:]
    home = str(Path.home())
    return PATHS.sub("", (" | ".join(lines) or "it printed nothing").replace(home + "/", "/").replace(home, "~"))
