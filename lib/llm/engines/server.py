"""A server's life: start it on a free loopback port, wait until it answers, watch it, end it with everything it spawned.

No server outlives the process that started it, however that ends (see guard.py). What it printed is in a file; when it dies, its
last lines are in the exception.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import httpx
import psutil

from lib.child import PATHS
from lib.llm.engines.engine import Engine, Spec

GUARD = Path(__file__).with_name("guard.py")


class EngineDied(RuntimeError):
    """The server ended, or never answered; the message carries its last words."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `ready_s` is from the start of its process to the first healthy answer."""

    engine: Engine
    spec: Spec
    port: int
    pid: int
    ready_s: float
    log: Path
    guard: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def check(self) -> None:
        """Raise EngineDied if it is no longer there."""
        if self.guard.poll() is not None:
            raise EngineDied(f"{self.engine.NAME} ended with status {self.guard.returncode}: {last_lines(self.log)}")

    def counters(self) -> dict[str, float]:
        """The engine's own counts, now. Empty where it does not publish any. Raises EngineDied when it does not answer."""
        if not self.engine.METRICS:
            return {}
        try:
            answer = httpx.get(self.url + self.engine.METRICS, timeout=10, trust_env=False)
        except httpx.HTTPError as error:
            self.check()
            raise EngineDied(f"{self.engine.NAME} did not answer {self.engine.METRICS}: {error}") from error
        return self.engine.counters(answer.text) if answer.status_code == 200 else {}


@contextlib.contextmanager
def serving(engine: Engine, spec: Spec, *, logs: Path, timeout_s: float = 600, grace_s: float = 8) -> Iterator[Server]:
    """Start `engine` for `spec`, yield it when healthy, and end it and all its children however the block is left.

    Raises Unavailable when the engine cannot serve the spec and EngineDied with the last lines of its log when it does not come up.
    """
    logs.mkdir(parents=True, exist_ok=True)
    for attempt in range(3):
        port = free_port()
        log = logs / f"{engine.NAME.lower().replace(' ', '-')}-{spec.precision.lower()}-{port}.log"
        with _guarded(engine, spec, port, log, grace_s) as guard:
            try:
                server = _ready(engine, spec, port, log, guard, timeout_s)
            except EngineDied:
                if attempt == 2 or not _taken(port):
                    raise  # a port taken between our look and the server's bind is the one death worth a second try
                continue
            yield server
            return


@contextlib.contextmanager
def _guarded(engine: Engine, spec: Spec, port: int, log: Path, grace_s: float) -> Iterator[subprocess.Popen[bytes]]:
    command = engine.command(spec, port)
    theirs, ours = os.pipe()
    try:
        with log.open("wb") as out:
            guard = subprocess.Popen([sys.executable, "-I", "-S", str(GUARD), str(theirs), str(grace_s), "--", *command.argv],
                                     env={**os.environ, **command.env}, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                     pass_fds=(theirs,), start_new_session=True)
    finally:
        os.close(theirs)
    try:
        yield guard
    finally:
        os.close(ours)
        guard.wait()


def _ready(engine: Engine, spec: Spec, port: int, log: Path, guard: subprocess.Popen[bytes], timeout_s: float) -> Server:
    started = monotonic()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=2, trust_env=False) as http:
        while monotonic() - started < timeout_s:
            if guard.poll() is not None:
                raise EngineDied(f"{engine.NAME} ended with status {guard.returncode} while loading: {last_lines(log)}")
            with contextlib.suppress(httpx.HTTPError, psutil.NoSuchProcess):
                if http.get(engine.HEALTH).status_code == 200 and (pid := _served_by(guard, port)) is not None:
                    return Server(engine, spec, port, pid, monotonic() - started, log, guard)
            sleep(0.05)
    raise EngineDied(f"{engine.NAME} did not answer {engine.HEALTH} within {timeout_s:g} s: {last_lines(log)}")


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
