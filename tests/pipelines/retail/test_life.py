"""The service's life as its supervisor sees it: what it says, and that a signal ends it in order, with streams open."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[3]
NULL = """
import sys
from lib.pipelines.retail import pipeline, service
from lib.pipelines.retail.api import Api
from lib.pipelines.retail.fleet import Fleet
from lib.pipelines.retail.instruments import Instruments, Model
from lib.pipelines.retail.wishes import Wish
from tests.pipelines.retail.null import NET_HW, Detector, Shop

instruments, footage = Instruments(Model("null-1", "int8", "none")), Shop().footage()
fleet = Fleet([Detector()], on_seen=instruments.seen)
api = Api(fleet, footage, lambda drawn, fps: pipeline.Eye(drawn, net_hw=NET_HW, fps=fps), instruments, net_hw=NET_HW)
api.start("cam-1", Wish("roll", footage["roll"], 50, footage["roll"].floor, True))
service.run(api, host=sys.argv[1], port=int(sys.argv[2]), drain_s=2)
"""


class Running:
    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", NULL, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def hears(self, event: str) -> dict[str, Any]:
        """The next line of the log, which must be `event`."""
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        told: dict[str, Any] = json.loads(line)
        assert told["event"] == event, line
        return told


@pytest.fixture
def running() -> Iterator[Running]:
    service = Running("127.0.0.1", "0")
    yield service
    service.process.kill()
    service.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_with_streams_open(running: Running, number: signal.Signals) -> None:
    running.hears("camera started")
    url = f"http://127.0.0.1:{running.hears('started')['port']}"
    with (
        httpx.Client(base_url=url, trust_env=False, timeout=10) as client,
        client.stream("GET", "/v1/events") as events,
        client.stream("GET", "/v1/cameras/cam-1/stream.mjpg") as frames,
    ):
        heard, seen = events.iter_bytes(), frames.iter_bytes()
        next(heard), next(seen)
        running.process.send_signal(number)
        assert all(chunk for chunk in heard)  # each comes to its end
        assert all(chunk for chunk in seen)
    running.hears("draining")
    running.hears("stopped")
    assert running.process.wait(10) == 0


def test_a_port_that_is_taken_is_a_reason(running: Running) -> None:
    running.hears("camera started")
    port = str(running.hears("started")["port"])
    second = Running("127.0.0.1", port)
    second.hears("camera started")
    assert "another port may be free" in second.hears("failed")["reason"]
    assert second.process.wait(10) == 2
    second.process.communicate()
