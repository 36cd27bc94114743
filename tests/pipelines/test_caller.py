"""The load client against servers whose delays and faults are known; the truth is what the server stamped itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import psutil
import pytest
import uvloop

from lib.pipelines import arrivals, wire
from lib.pipelines.caller import NOT_SENT, Caller

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"


def ask(number: int) -> bytes:
    return b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" % number


def number_of(request: bytes) -> int:
    return int(request.split(b" ", 2)[1][1:])


class Server:
    """Calls `behave(server, transport, number)` for each request, in a thread of its own; stamps what comes and goes."""

    def __init__(self, behave: Callable[[Server, asyncio.Transport, int], None], port: int = 0) -> None:
        self.behave, self.port = behave, port
        self.got: dict[int, int] = {}
        self.replied: dict[int, int] = {}
        self.order: list[int] = []
        self.most = self.inside = 0
        self.loop = uvloop.new_event_loop()
        up = threading.Event()
        self._thread = threading.Thread(target=self._main, args=(up,))
        self._thread.start()
        assert up.wait(10)

    def _main(self, up: threading.Event) -> None:
        server = self

        class Connection(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                number = number_of(data)
                server.got[number] = perf_counter_ns()
                server.order.append(number)
                server.inside += 1
                server.most = max(server.most, server.inside)
                server.behave(server, self.transport, number)  # type: ignore[arg-type]

        async def main() -> None:
            self._stop = asyncio.Event()
            listening = await self.loop.create_server(Connection, "127.0.0.1", self.port, backlog=512)
            self.port = listening.sockets[0].getsockname()[1]
            up.set()
            await self._stop.wait()
            listening.close()

        self.loop.run_until_complete(main())
        self.loop.close()

    def reply(self, transport: asyncio.Transport, number: int, status: bytes = b"200 OK", extra: bytes = b"") -> None:
        self.inside -= 1
        self.replied[number] = perf_counter_ns()
        body = b"%d" % number
        transport.write(b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, extra, len(body), body))

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


@contextlib.contextmanager
def serving(behave: Callable[[Server, asyncio.Transport, int], None], port: int = 0) -> Iterator[Server]:
    server = Server(behave, port)
    try:
        yield server
    finally:
        server.stop()


def at_once(server: Server, transport: asyncio.Transport, number: int) -> None:
    server.reply(transport, number)


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    with Caller() as one:
        yield one


def test_latencies_are_those_that_the_server_stamped(caller: Caller) -> None:
    def later(server: Server, transport: asyncio.Transport, number: int) -> None:
        server.loop.call_later(0.02 + 0.02 * (number % 2), server.reply, transport, number)

    with serving(later) as server:
        calls = caller.run(server.port, [ask(i) for i in range(120)], arrivals.poisson(400, 120, seed=1), connections=64, keep_bodies=True)
    got, replied = (np.array([stamps[i] for i in range(120)]) for stamps in (server.got, server.replied))
    assert (calls.status == 200).all() and calls.bodies == [b"%d" % i for i in range(120)]
    assert (calls.due_ns <= calls.sent_ns).all() and (calls.sent_ns <= got).all() and (replied <= calls.done_ns).all()
    assert np.median(calls.service_s - (replied - got) / 1e9) < 0.003
    assert (calls.service_s[1::2] >= 0.039).all() and (calls.service_s >= 0.019).all()
    assert not calls.waited.any() and calls.opened == 64 and len(calls.lag_s) == 120


def test_a_stalled_server_does_not_stop_the_clock_of_those_who_wait(caller: Caller) -> None:
    def stalls(server: Server, transport: asyncio.Transport, number: int) -> None:
        server.loop.call_later(0.3 if number == 0 else 0, server.reply, transport, number)

    with serving(stalls) as server:
        calls = caller.run(server.port, [ask(i) for i in range(20)], arrivals.evenly(100, 20), connections=1)
    assert calls.waited.tolist() == [False] + [True] * 19  # with one connection all are due before the first is through
    assert (calls.latency_s + (calls.due_ns - calls.due_ns[0]) / 1e9 >= 0.299).all()  # nobody is served before the stall ends
    assert np.median(calls.service_s[1:]) < 0.1 < np.median(calls.latency_s[1:])  # which the service time does not show
    assert len(calls.lag_s) == 1


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_an_answer_in_pieces_is_whole_when_its_last_byte_is_there(caller: Caller, size: int) -> None:
    whole = GOOD.replace(b"Content-Length", b"content-LENGTH") % (30, b"x" * 30)

    def dribbles(server: Server, transport: asyncio.Transport, number: int) -> None:
        def piece(at: int) -> None:
            server.replied[number] = perf_counter_ns()  # that of the last piece stays
            transport.write(whole[at:at + size])
            if at + size < len(whole):
                server.loop.call_later(0.001, piece, at + size)

        piece(0)

    with serving(dribbles) as server:
        calls = caller.run(server.port, [ask(i) for i in range(5)], arrivals.evenly(100, 5), keep_bodies=True, connections=8)
    assert calls.bodies == [b"x" * 30] * 5 and (calls.status == 200).all()
    assert all(calls.done_ns[i] >= server.replied[i] for i in range(5))


@pytest.mark.parametrize("cut", range(0, 45, 4))
def test_the_length_of_an_answer_is_known_when_its_head_is(cut: int) -> None:
    whole = GOOD % (5, b"hello")
    assert wire._length(whole[:cut]) == (None if cut < len(whole) - 5 else len(whole))


def test_a_lost_connection_is_a_failed_request_and_is_opened_again(caller: Caller) -> None:
    def moody(server: Server, transport: asyncio.Transport, number: int) -> None:
        transport.abort() if number % 5 == 2 else server.reply(transport, number)

    with serving(moody) as server:
        calls = caller.run(server.port, [ask(i) for i in range(100)], arrivals.evenly(500, 100), connections=4)
    assert calls.status.tolist() == [0 if i % 5 == 2 else 200 for i in range(100)]
    assert np.isinf(calls.latency_s[2::5]).all() and np.isinf(calls.service_s).sum() == 20
    assert calls.opened == 4 + 20


def test_who_is_not_answered_in_time_has_failed_and_so_have_those_behind(caller: Caller) -> None:
    def deaf(server: Server, transport: asyncio.Transport, number: int) -> None:
        if number != 0:
            server.reply(transport, number)

    began = time.monotonic()
    with serving(deaf) as server:
        schedule = np.array([0, 1, 2, 500]) * 1_000_000
        calls = caller.run(server.port, [ask(i) for i in range(4)], schedule, connections=1, timeout_s=0.2)
    assert calls.status[0] == 0 and calls.status[3] == 200 and calls.sent_ns[0] > 0 == calls.done_ns[0]
    assert time.monotonic() - began < 5
    assert calls.waited[1] or calls.sent_ns[1] == 0


def test_connection_close_is_obeyed(caller: Caller) -> None:
    def closes(server: Server, transport: asyncio.Transport, number: int) -> None:
        server.reply(transport, number, extra=b"Connection: close\r\n")
        transport.close()

    with serving(closes) as server:
        calls = caller.run(server.port, [ask(i) for i in range(30)], arrivals.evenly(300, 30), connections=2)
    assert (calls.status == 200).all() and calls.opened >= 30


def test_a_server_that_comes_back_is_found_again(caller: Caller) -> None:
    def dies(server: Server, transport: asyncio.Transport, number: int) -> None:
        if number == 20:
            server._stop.set()
        if number >= 20:
            transport.abort()
        else:
            server.reply(transport, number)

    first = Server(dies)
    reborn: list[Server] = []

    def again() -> None:
        first._thread.join(10)
        time.sleep(0.2)
        reborn.append(Server(at_once, first.port))

    waits = threading.Thread(target=again)
    waits.start()
    calls = caller.run(first.port, [ask(i) for i in range(120)], arrivals.evenly(100, 120), connections=4, timeout_s=3)
    waits.join()
    reborn[0].stop()
    assert (calls.status[:20] == 200).all() and calls.status[20] == 0
    assert (calls.status[60:] == 200).all()


def test_a_closed_loop_keeps_as_many_in_flight_as_it_has_streams(caller: Caller) -> None:
    def slow(server: Server, transport: asyncio.Transport, number: int) -> None:
        server.loop.call_later(0.005, server.reply, transport, number)

    with serving(slow) as server:
        calls = caller.closed(server.port, [ask(i) for i in range(3)], 7, 0.3, keep_bodies=True)
    assert server.most == 7 and (calls.status == 200).all() and (calls.due_ns == calls.sent_ns).all()
    assert calls.bodies == [b"%d" % (i % 3) for i in range(len(calls.sent_ns))]
    assert calls.wall_s > 0.25 and len(calls.sent_ns) <= 7 * (calls.wall_s / 0.005 + 1)


def test_throttled_requests_stay_with_the_client(caller: Caller) -> None:
    def refuses(server: Server, transport: asyncio.Transport, number: int) -> None:
        server.reply(transport, number, b"503 Service Unavailable")

    requests, schedule = [ask(i) for i in range(800)], arrivals.evenly(2000, 800)
    with serving(refuses) as server:
        calls = caller.run(server.port, requests, schedule, throttle=True, connections=16)
    kept = calls.status == NOT_SENT
    assert kept.sum() > 400 and (calls.status[~kept] == 503).all()
    assert sorted(server.got) == np.flatnonzero(~kept).tolist()
    assert (calls.sent_ns[kept] == 0).all() and np.isinf(calls.latency_s[kept]).all()
    with serving(at_once) as server:
        assert (caller.run(server.port, requests, schedule, throttle=True, connections=16).status == 200).all()


def test_what_cannot_be_read_or_reached_is_told(caller: Caller) -> None:
    with serving(lambda server, transport, number: transport.write(b"HTTP/1.1 200 OK\r\n\r\nhello")) as server, \
            pytest.raises(wire.Unreadable, match="without Content-Length"):
        caller.run(server.port, [ask(0)], arrivals.evenly(1, 1))
    with pytest.raises(ConnectionRefusedError):
        caller.run(server.port, [ask(0)], arrivals.evenly(1, 1))
    with serving(at_once) as server:  # and the load process lives on
        assert caller.run(server.port, [ask(0)], arrivals.evenly(1, 1)).status.tolist() == [200]


def test_nonsense_is_refused(caller: Caller) -> None:
    with pytest.raises(ValueError, match="one each"):
        caller.run(1, [ask(0)], arrivals.evenly(1, 2))
    with pytest.raises(ValueError, match="in order"):
        caller.run(1, [ask(0)] * 2, np.array([5, 1]))
    with pytest.raises(ValueError, match="no requests"):
        caller.closed(1, [], 1, 1)
    with pytest.raises(ValueError, match="20000 bytes"):
        caller.closed(1, [b"x" * 20_000], 1, 1)
    with pytest.raises(ValueError, match="positive"):
        caller.closed(1, [ask(0)], 0, 1)
    with pytest.raises(ValueError, match="cores"):
        Caller(cores=(4096,))


SCRIPT = """
import sys
from lib.pipelines import arrivals
from lib.pipelines.caller import Caller
if __name__ == "__main__":
    with Caller() as caller:
        print(caller._process.pid, flush=True)
        caller.run(int(sys.argv[1]), [b"POST /1 HTTP/1.1\\r\\n\\r\\n"] * 6000, arrivals.evenly(100, 6000))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_load_process_ends_with_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "load.py"
    script.write_text(SCRIPT)
    with serving(at_once) as server:
        parent = subprocess.Popen([sys.executable, script, str(server.port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                  env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        assert parent.stdout is not None
        load = psutil.Process(int(parent.stdout.readline()))
        while not server.got:
            time.sleep(0.01)
        parent.send_signal(how)
        assert parent.wait(10) != 0
        with contextlib.suppress(psutil.NoSuchProcess):
            load.wait(10)
        parent.stdout.close()


def test_replicas_share_what_is_asked(caller: Caller) -> None:
    with serving(at_once) as one, serving(at_once) as other:
        calls = caller.run((one.port, other.port), [ask(i) for i in range(200)], arrivals.evenly(2000, 200), connections=10)
    assert (calls.status == 200).all()
    assert sorted(one.order + other.order) == list(range(200))
    assert abs(len(one.order) - len(other.order)) < 60  # in turn, as far as answers come in turn, and not the connection used last
