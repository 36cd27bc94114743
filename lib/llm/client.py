"""Stamp first, parse later: a streaming client that takes almost nothing from the machine it measures.

While requests run, only two things happen when bytes arrive: the clock is read and the bytes are kept. HTTP framing, server-sent
events, JSON, UTF-8 and token counts wait until the last answer is in (`events.py`). The load runs in processes of its own, so
neither a notebook's kernel nor its sampler threads delay a stamp. It knows HTTP and nothing of engines, and refuses to report a
latency it did not see: a request that fails keeps its stamps and its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from resource import RUSAGE_SELF, getrusage
from time import perf_counter_ns
from typing import cast

import numpy as np
import uvloop

END = b"\r\n0\r\n\r\n"  # the last chunk; no JSON payload can hold these bytes, for JSON escapes CR and LF
TICK_S = 0.01


@dataclass(frozen=True, slots=True)
class Closed:
    """`streams` users, each sending its next request when the last is answered. The first `warmup` requests are not measured."""

    streams: int
    warmup: int = 0

    def check(self, requests: int) -> None:
        if self.streams < 1:
            raise ValueError(f"streams must be at least 1, not {self.streams}")
        if self.warmup < 0:
            raise ValueError(f"warm-up must be at least 0, not {self.warmup}")
        if requests <= self.warmup or requests < self.streams:
            raise ValueError(f"{requests} requests are too few for {self.streams} streams and {self.warmup} of warm-up")
        if 0 < self.warmup < self.streams:
            raise ValueError(f"a warm-up of {self.warmup} does not reach all {self.streams} streams")


@dataclass(frozen=True, slots=True)
class Open:
    """Poisson arrivals at `rate_per_s`, whatever the server does. Latency counts from the schedule."""

    rate_per_s: float
    seed: int = 0
    warmup: int = 0
    connections: int = 64  # opened before the clock starts; more are opened when all are busy

    def check(self, requests: int) -> None:
        if self.warmup < 0 or self.connections < 1:
            raise ValueError(f"a warm-up of {self.warmup} and {self.connections} connections: must be at least 0 and 1")
        if not 0 < self.rate_per_s < float("inf"):
            raise ValueError(f"the arrival rate must be positive, not {self.rate_per_s}")
        if requests <= self.warmup:
            raise ValueError(f"{requests} requests are too few for a warm-up of {self.warmup}")

    def arrivals_ns(self, requests: int) -> list[int]:
        """When each request is due, ns after the start: exponential gaps, not rescaled to hit the rate on the nose."""
        gaps = np.random.default_rng(self.seed).exponential(1 / self.rate_per_s, requests)
        return [int(t) for t in np.cumsum(gaps) * 1e9]


@dataclass(slots=True)
class Exchange:
    """One request as it happened. Times in ns of the monotonic clock; `reads` holds (arrival, raw bytes) in order of arrival."""

    number: int
    due_ns: int
    sent_ns: int = 0
    reads: list[tuple[int, bytes]] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the client saw and what it took. `lag_s`: how late its own ticks fired; `cpu_s` of all worker processes under load."""

    exchanges: tuple[Exchange, ...]
    lag_s: tuple[float, ...]
    cpu_s: float
    wall_s: float
    opened_late: int  # connections that had to be opened while the clock ran


class Stream(asyncio.Protocol):
    """A connection that carries one request at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._exchange: Exchange | None = None
        self._headed = False  # whether the whole head of the answer is in
        self._needed: int | None = None  # bytes of an answer that is not chunked
        self.alive = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    async def ask(self, exchange: Exchange, request: bytes, *, timeout_s: float) -> Exchange:
        """Send `request` and return `exchange` once the answer is complete, or with its `error` set."""
        loop = asyncio.get_running_loop()
        self._reads, self._headed, self._needed = exchange.reads, False, None
        self._answered: asyncio.Future[None] = loop.create_future()
        self._exchange = exchange
        timer = loop.call_later(timeout_s, self._give_up, f"no complete answer within {timeout_s:g} s")
        exchange.sent_ns = perf_counter_ns()
        try:  # past the event loop's write queue, so that the stamp stands right before the system call
            sent = self._socket.send(request)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            sent = len(request)
            self._give_up(f"could not send: {error}")
        if sent < len(request):
            self._transport.write(request[sent:])
        await self._answered
        timer.cancel()
        return exchange

    def data_received(self, data: bytes) -> None:
        now = perf_counter_ns()
        if self._exchange is None:
            return
        self._reads.append((now, data))
        if data.endswith(END) or len(data) < len(END) or self._needed is not None or not self._headed:
            self._look()

    def _look(self) -> None:
        """Is the answer complete? Called until the head is in, on a possible end (it may be cut), and for answers of a known length."""
        if not self._headed:
            head, gap, _ = b"".join(data for _, data in self._reads).partition(b"\r\n\r\n")
            if not gap:
                return
            self._headed, head = True, head.lower()
            if b"transfer-encoding: chunked" not in head and b"content-length:" in head:
                self._needed = len(head) + 4 + int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        if self._tail().endswith(END) if self._needed is None else sum(len(data) for _, data in self._reads) >= self._needed:
            self._finish()

    def _tail(self) -> bytes:
        """The last bytes, also where the end was cut in two."""
        return b"".join(data for _, data in self._reads[-len(END):])

    def connection_lost(self, reason: Exception | None) -> None:
        self.alive = False
        if self._exchange is not None:
            self._exchange.error = f"connection lost: {reason or 'closed by the server'}"
            self._finish()

    def close(self) -> None:
        self.alive = False
        self._transport.close()

    def _give_up(self, why: str) -> None:
        if self._exchange is not None:
            self._exchange.error = why
            self._finish()
        self.alive = False
        self._transport.abort()

    def _finish(self) -> None:
        self._exchange = None
        if not self._answered.done():
            self._answered.set_result(None)


@dataclass(frozen=True, slots=True)
class _Share:
    """One worker's part of the load."""

    port: int
    requests: tuple[tuple[int, bytes], ...]
    load: Closed | Open
    arrivals_ns: tuple[int, ...]
    start_ns: int
    timeout_s: float
    reuse: bool


async def _connect(port: int) -> Stream:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    return (await asyncio.get_running_loop().create_connection(lambda: Stream(connection), sock=connection))[1]


async def _again(port: int) -> Stream | None:
    """A new connection in the middle of a run; None when the server is gone: a measurement ends with failures then, not with a crash."""
    with contextlib.suppress(OSError):
        return await _connect(port)
    return None


async def _ask(stream: Stream | None, exchange: Exchange, request: bytes, *, timeout_s: float) -> Exchange:
    if stream is not None:
        return await stream.ask(exchange, request, timeout_s=timeout_s)
    exchange.sent_ns, exchange.error = perf_counter_ns(), "the server takes no connections any more"
    return exchange


async def _until(due_ns: int) -> None:
    """Sleep to the microsecond: the loop's timers tick in whole milliseconds, so the last one is spent yielding."""
    while (left := (due_ns - perf_counter_ns()) / 1e9) > 0:
        await asyncio.sleep(left - 0.0015 if left > 0.003 else 0)


async def _closed(share: _Share, load: Closed, late: list[int]) -> list[Exchange]:
    queue = iter(share.requests)  # one shared iterator: the next free stream takes the next request
    streams = [await _connect(share.port) for _ in range(load.streams)]
    await _until(share.start_ns)

    async def user(stream: Stream | None) -> list[Exchange]:
        done = []
        for number, request in queue:
            done.append(await _ask(stream, Exchange(number, perf_counter_ns()), request, timeout_s=share.timeout_s))
            if stream is not None and not (stream.alive and share.reuse):
                stream.close()
                late.append(1)
                stream = await _again(share.port)
        if stream is not None:
            stream.close()
        return done

    return [exchange for done in await asyncio.gather(*map(user, streams)) for exchange in done]


async def _open(share: _Share, load: Open, late: list[int]) -> list[Exchange]:
    free = [await _connect(share.port) for _ in range(min(load.connections, len(share.requests)))]

    async def serve(number: int, due_ns: int, request: bytes) -> Exchange:
        while free and not free[-1].alive:  # closed by the server while it waited its turn
            free.pop()
        if not free:
            late.append(1)
        stream = free.pop() if free else await _again(share.port)
        exchange = await _ask(stream, Exchange(number, due_ns), request, timeout_s=share.timeout_s)
        if stream is not None and stream.alive and share.reuse:
            free.append(stream)
        elif stream is not None:
            stream.close()
        return exchange

    tasks = []
    for (number, request), arrival_ns in zip(share.requests, share.arrivals_ns, strict=True):
        await _until(share.start_ns + arrival_ns)
        tasks.append(asyncio.ensure_future(serve(number, share.start_ns + arrival_ns, request)))
    return list(await asyncio.gather(*tasks, return_exceptions=False))


async def _ticks(lags: list[float]) -> None:
    while True:
        due = perf_counter_ns() + int(TICK_S * 1e9)
        await asyncio.sleep(TICK_S)
        lags.append(max(0.0, (perf_counter_ns() - due) / 1e9))


async def _run(share: _Share) -> tuple[list[Exchange], list[float], float, int]:
    lags: list[float] = []
    late: list[int] = []
    ticks = asyncio.ensure_future(_ticks(lags))
    before = getrusage(RUSAGE_SELF)
    load = share.load
    exchanges = await (_closed(share, load, late) if isinstance(load, Closed) else _open(share, load, late))
    after = getrusage(RUSAGE_SELF)
    ticks.cancel()
    return exchanges, lags, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, len(late)


def _work(share: _Share) -> tuple[list[Exchange], list[float], float, int]:
    with contextlib.suppress(PermissionError):  # a busy engine must not delay the stamps; only root may ask for that
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection in the middle of a run would be a lag of our own making
    try:
        seen: tuple[list[Exchange], list[float], float, int] = uvloop.run(_run(share))
        return seen
    finally:
        gc.enable()


def _shares(port: int, requests: Sequence[bytes], load: Closed | Open, workers: int, timeout_s: float,
            reuse: bool) -> Iterator[_Share]:
    arrivals = load.arrivals_ns(len(requests)) if isinstance(load, Open) else []
    start_ns = perf_counter_ns() + int((0.2 + 0.002 * (load.streams if isinstance(load, Closed) else load.connections)) * 1e9)
    numbered = list(enumerate(requests))
    for worker in range(workers):
        part = load
        if isinstance(load, Closed):
            part = Closed(streams=len(range(worker, load.streams, workers)), warmup=load.warmup)
        yield _Share(port, tuple(numbered[worker::workers]), part, tuple(arrivals[worker::workers]), start_ns, timeout_s, reuse)


class Client:
    """A pool of load processes that lives as long as a measurement session. Use as a context manager."""

    def __init__(self, *, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self.workers = workers
        self._pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)

    def __enter__(self) -> Client:
        list(self._pool.map(_warm, range(self.workers)))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, port: int, requests: Sequence[bytes], load: Closed | Open, *, timeout_s: float = 120,
            reuse: bool = True) -> Traffic:
        """Send `requests` (whole HTTP messages) to 127.0.0.1:`port` and return what happened, in order of sending.

        `reuse`: keep a connection for the next request; False for servers that close after each stream. Then a new one is opened as
        soon as an answer is complete, before the next request is due.
        Raises ValueError before anything starts for zero requests, a bad rate, too little warm-up, more workers than streams.
        """
        load.check(len(requests))
        if isinstance(load, Closed) and load.streams < self.workers:
            raise ValueError(f"{self.workers} workers cannot share {load.streams} streams")
        started = perf_counter_ns()
        parts = list(self._pool.map(_work, _shares(port, requests, load, self.workers, timeout_s, reuse)))
        wall_s = (perf_counter_ns() - started) / 1e9
        exchanges = sorted((e for part in parts for e in part[0]), key=lambda e: e.sent_ns)
        return Traffic(tuple(exchanges), tuple(lag for part in parts for lag in part[1]), sum(part[2] for part in parts), wall_s,
                       sum(part[3] for part in parts))


def _end_with_parent() -> None:
    """A worker waits for work on a pipe that it holds open itself, so a parent that is killed would leave it waiting for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _warm(_: int) -> None:
    uvloop.run(asyncio.sleep(0))


def post(path: str, body: bytes, *, headers: str = "") -> bytes:
    """One whole HTTP/1.1 POST, built before the clock starts."""
    return (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{headers}"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body

