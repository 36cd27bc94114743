"""A service's life: it listens, serves until told to stop, and leaves in order.

SIGTERM or Ctrl-C: not ready any more, no new connections, what is in flight is answered, then out, after `drain_s` at the latest; a
second signal ends it at once. One JSON line on stderr for each event of its life, and none for what clients send.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import signal
import sys
import time
from pathlib import Path
from traceback import extract_tb
from typing import Any, Protocol

import uvloop

from lib.pipelines.http import App, Limits, Server, listen


class Service(App, Protocol):
    """An app that can be ended. `ready` is what its readiness says."""

    ready: bool

    def close(self) -> None:
        """Called once, after the last answer."""


def run(service: Service, *, host: str = "127.0.0.1", port: int = 0, limits: Limits | None = None, drain_s: float = 5) -> None:
    """Serve until told to stop. Ends the process with status 2 when it cannot listen; returns after an orderly end."""
    uvloop.run(_serve(service, host, port, limits or Limits(), drain_s))


async def _serve(service: Service, host: str, port: int, limits: Limits, drain_s: float) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    loop.set_exception_handler(_failed)
    try:
        server = await listen(service, host=host, port=port, limits=limits)
    except (OSError, OverflowError) as error:  # uvloop tells of a port beyond 65535 by the latter
        service.close()
        say("failed", reason=f"cannot listen on {host}:{port}: {error}; another port may be free (--port)")
        sys.exit(2)

    def stop() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # whoever asks twice does not want to wait
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if not _loopback(host):
        say("warning", reason=f"listening on {host}, beyond this machine, without authentication")
    say("started", host=host, port=server.port)
    await told.wait()
    service.ready = False
    await _drain(server, drain_s)
    left = server.in_flight
    service.close()
    server.close()
    say("stopped", unanswered=left)


async def _drain(server: Server, drain_s: float) -> None:
    say("draining", in_flight=server.in_flight)
    server.drain()
    loop = asyncio.get_running_loop()
    until = loop.time() + drain_s
    while server.in_flight and loop.time() < until:
        await asyncio.sleep(0.005)


def say(event: str, **facts: Any) -> None:
    """One line of the service's log."""
    print(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **facts}), file=sys.stderr, flush=True)


def _failed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Where and what, without the exception's own words: they may quote what a client sent."""
    error = context.get("exception")
    frames = extract_tb(error.__traceback__) if error is not None else []
    at = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
    say("error", reason=context["message"], error=type(error).__name__, at=at)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
