"""One connection on the measured path: send, stamp, keep the bytes. What they mean is found out later (`events.py`).

While a request runs, only two things happen when bytes arrive: the clock is read and the bytes are kept. The one question asked
at once is whether the answer is complete, from its last bytes, for the stream must be free for the next request.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import cast

END = b"\r\n0\r\n\r\n"  # the last chunk; no JSON payload can hold these bytes, for JSON escapes CR and LF


@dataclass(slots=True)
class Exchange:
    """One request as it happened. Times in ns of the monotonic clock; `reads` holds (arrival, raw bytes) in order of arrival."""

    number: int
    due_ns: int
    sent_ns: int = 0
    reads: list[tuple[int, bytes]] = field(default_factory=list)
    error: str | None = None


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


async def connect(port: int) -> Stream:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    return (await asyncio.get_running_loop().create_connection(lambda: Stream(connection), sock=connection))[1]
