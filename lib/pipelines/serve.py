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
from typing import Any, Protocol

import uvloop

from lib.pipelines.http import App, Limits, listen


class Service(App, Protocol):
    """An app that can be ended. `ready` is what its readiness says."""

    ready: bool

    def close(self) -> None:
        """Called once, after the last answer."""


def run(service: Service, *, host: str = "127.0.0.1", port: int = 0, limits: Limits | None = None, drain_s: float = 5) -> None:
    """Serve until told to stop. Ends the process with status 2 when it cannot listen; returns after an orderly end."""
    try:
        uvloop.run(_serve(service, host, port, limits or Limits(), drain_s))
    except OSError as error:
        service.close()
        say("failed", reason=f"cannot listen on {host}:{port}: {error.strerror or error}; another port may be free (--port)")
        sys.exit(2)


async def _serve(service: Service, host: str, port: int, limits: Limits, drain_s: float) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    signals = 0

    def stop(number: signal.Signals) -> None:
        nonlocal signals
        signals += 1
        told.set()
        if signals > 1:
            server.close()
            loop.stop()

    server = await listen(service, host=host, port=port, limits=limits)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    if not _loopback(host):
        say("warning", reason=f"listening on {host}, beyond this machine, without authentication")
    say("started", host=host, port=server.port)
    await told.wait()
    service.ready = False
    say("draining", in_flight=server.in_flight)
    server.drain()
    until = loop.time() + drain_s
    while server.in_flight and loop.time() < until:
        await asyncio.sleep(0.005)
    left = server.in_flight
    server.close()
    service.close()
    say("stopped", unanswered=left)


def say(event: str, **facts: Any) -> None:
    """One line of the service's log."""
    print(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **facts}), file=sys.stderr, flush=True)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
