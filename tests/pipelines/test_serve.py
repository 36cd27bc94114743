"""A service's life as its supervisor sees it: what it says, how it ends, and that it owes nobody an answer then."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.pipelines.serve import _loopback

ROOT = Path(__file__).resolve().parents[2]
SERVICE = """
import asyncio, sys
from lib.pipelines.serve import run, say

class Slow:
    busy, shed_prefix, sheds, ready = None, b"POST / ", 0, True
    kept = []
    def request(self, connection, request):
        if request.path == b"/now":
            connection.answer(200, b"now")
        elif request.path == b"/never":
            say("kept")
        elif request.path == b"/last":
            self.kept.append(connection)
            say("kept")
        elif request.path == b"/broken":
            raise ValueError("4111 1111 1111 1111")
        else:
            say("kept")
            asyncio.get_running_loop().call_later(0.3, lambda: connection.answer(200, b"late, ready %d" % self.ready))
    def close(self):
        for connection in self.kept:
            connection.answer(200, b"at the very end")
        say("closed")

run(Slow(), host=sys.argv[1], port=int(sys.argv[2]), drain_s=float(sys.argv[3]))
"""


class Running:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def hears(self, event: str) -> dict[str, Any]:
        """The next line of the log, which must be `event`."""
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        told: dict[str, Any] = json.loads(line)
        assert told["event"] == event, line
        return told


@contextlib.contextmanager
def service(*, host: str = "127.0.0.1", port: int = 0, drain_s: float = 5) -> Iterator[Running]:
    argv = [sys.executable, "-c", SERVICE, host, str(port), str(drain_s)]
    with subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


def asking(port: int, path: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return sock


def rest(sock: socket.socket) -> bytes:
    with sock:
        out = b""
        while data := sock.recv(4096):
            out += data
        return out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_what_is_in_flight_and_ends_in_order(number: signal.Signals) -> None:
    with service() as running:
        port = running.hears("started")["port"]
        idle, late = asking(port, "/now"), asking(port, "/late")
        assert idle.recv(4096).endswith(b"now")
        running.hears("kept")
        running.process.send_signal(number)
        assert running.hears("draining")["in_flight"] == 1
        assert rest(idle) == b""
        assert rest(late).endswith(b"late, ready 0")
        running.hears("closed")
        assert running.hears("stopped")["unanswered"] == 0
        assert running.process.wait(5) == 0


def test_it_does_not_wait_for_ever() -> None:
    with service(drain_s=0.1) as running:
        never = asking(running.hears("started")["port"], "/never")
        running.hears("kept")
        running.process.terminate()
        running.hears("draining")
        running.hears("closed")
        assert running.hears("stopped")["unanswered"] == 1
        assert running.process.wait(5) == 0
        with contextlib.suppress(ConnectionResetError):
            assert rest(never) == b""


def test_what_is_answered_at_the_very_end_still_arrives() -> None:
    with service(drain_s=0.1) as running:
        last = asking(running.hears("started")["port"], "/last")
        running.hears("kept")
        running.process.terminate()
        assert rest(last).endswith(b"at the very end")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(number: signal.Signals) -> None:
    with service(drain_s=60) as running:
        never = asking(running.hears("started")["port"], "/never")
        running.hears("kept")
        running.process.send_signal(number)
        running.hears("draining")
        running.process.send_signal(number)
        assert running.process.wait(5) == -number
        assert running.process.stderr is not None and running.process.stderr.read() == ""  # no traceback, and no waiting for close
        never.close()


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger, service(port=stranger.getsockname()[1]) as running:
        running.hears("closed")
        assert f"cannot listen on 127.0.0.1:{stranger.getsockname()[1]}" in running.hears("failed")["reason"]
        assert running.process.wait(5) == 2


def test_the_same_port_serves_again_at_once() -> None:
    with service() as running:
        port = running.hears("started")["port"]
        assert asking(port, "/now").recv(4096)
        running.process.terminate()
        running.process.wait(5)
    with service(port=port) as running:
        assert running.hears("started")["port"] == port


def test_beyond_loopback_it_warns() -> None:
    with service(host="0.0.0.0") as running:
        assert "without authentication" in running.hears("warning")["reason"]
        running.hears("started")


@pytest.mark.parametrize(("host", "here"), [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
                                            ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example", False)])  # fmt: skip
def test_what_loopback_is(host: str, here: bool) -> None:
    assert _loopback(host) == here


def test_an_error_is_logged_without_what_a_client_sent() -> None:
    with service() as running:
        assert b" 500 " in rest(asking(running.hears("started")["port"], "/broken"))
        told = running.hears("error")
        assert told["error"] == "ValueError" and "http.py" in told["at"]
        assert "4111" not in json.dumps(told)
