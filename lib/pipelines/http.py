"""HTTP/1.1 for one event loop: the app answers, in order, and a bad client harms nobody but itself.

Why no framework: at 25,000 requests a second a core has 40 µs for one, and routing, middleware and a task a request take most of it.
- A client says the same head again and again: one that was parsed once is remembered by its bytes (`Server.heads`), and a read that is
  exactly one request with such a head needs no parsing. Anything else is parsed (reader.py).
- While the app is `busy`, such a request gets the app's ready-made answer without being looked at any further.
- Time limits are kept by one sweep a second, not by a timer a request.
Refuses what goes beyond `Limits` as soon as that shows. What an Upgrade offers is not taken: answered, then closed.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import replace
from functools import cache
from http import HTTPStatus
from time import perf_counter_ns
from typing import Protocol, cast

from lib.pipelines.reader import Limits, Reader, Request

__all__ = ["App", "Connection", "Limits", "Request", "Server", "listen", "whole"]

JSON = b"application/json"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PIECE_BYTES = 4096  # parsed at a time: what one read can turn into waiting requests stays small
PIPELINE = 16  # requests of one connection that may wait before it is read no further
HEADS, REMEMBERED_BYTES = 1024, 1024  # how many heads are remembered, and how long one may be
NOTHING = memoryview(b"")
FAULTS = {
    400: "this is not HTTP/1.1 as RFC 9112 has it",
    408: "the request was not complete in time: send it at once",
    413: "the body is larger than this service takes",
    431: "the head of the request is larger than this service takes",
    500: "the service failed at this request",
}


class App(Protocol):
    """What is served. It is handed one request of a connection at a time and answers it by `connection.answer`, now or later.

    `busy`: None, or a `whole` answer for requests that begin with `shed_prefix` (`b"POST /v1/score "`): those of known form then get
    it without the app being asked, and `sheds` counts them; others still come to `request`, which decides for itself.
    """

    busy: bytes | None
    shed_prefix: bytes
    sheds: int

    def request(self, connection: Connection, request: Request) -> None: ...


class Server:
    """What the connections of one listening socket share. Made by `listen`."""

    def __init__(self, app: App, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.app, self.limits, self.loop = app, limits, loop
        self.heads: dict[bytes, tuple[Request, int]] = {}  # a request without its body, and how long that is
        self.connections: set[Connection] = set()

    async def open(self, host: str, port: int) -> None:
        backlog = min(self.limits.connections, 65_535)
        self._listener = await self.loop.create_server(lambda: Connection(self), host, port, reuse_address=True, backlog=backlog)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        self._sweeping = self.loop.call_later(self.limits.sweep_s, self._sweep)

    def drain(self) -> None:
        """Take no new connection, close the idle ones, and the others as soon as what they asked is answered."""
        self._listener.close()
        for connection in tuple(self.connections):
            connection.leave()

    @property
    def in_flight(self) -> int:
        """Connections that still wait for an answer or for the rest of one."""
        return sum(connection.owed for connection in self.connections)

    def close(self) -> None:
        """End everything now."""
        self._listener.close()
        self._sweeping.cancel()
        for connection in tuple(self.connections):
            connection.abort()

    def learn(self, head: bytes, request: Request) -> None:
        if len(self.heads) >= HEADS:  # heads that never repeat would fill it: begin anew, as re does with its patterns
            self.heads.clear()
        self.heads[head] = replace(request, body=b""), len(request.body)

    def _sweep(self) -> None:
        now_ns = perf_counter_ns()
        for connection in tuple(self.connections):
            connection.sweep(now_ns)
        self._sweeping = self.loop.call_later(self.limits.sweep_s, self._sweep)


async def listen(app: App, *, port: int, host: str = "127.0.0.1", limits: Limits | None = None) -> Server:
    """A server for `app` on the running loop; `port` 0 takes a free one (see `Server.port`). Raises OSError when it cannot listen."""
    server = Server(app, limits or Limits(), asyncio.get_running_loop())
    await server.open(host, port)
    return server


@cache
def _opening(status: int, content_type: bytes) -> bytes:
    return b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: " % (status, HTTPStatus(status).phrase.encode(), content_type)


def whole(status: int, body: bytes, *, content_type: bytes = JSON, headers: bytes = b"") -> bytes:
    """A whole answer as bytes; `headers` are lines that each end with CRLF."""
    return b"%b%d\r\n%b\r\n%b" % (_opening(status, content_type), len(body), headers, body)


@cache
def _refusal(status: int) -> bytes:
    return whole(status, json.dumps({"error": FAULTS[status]}).encode(), headers=b"Connection: close\r\n")


class Connection(asyncio.Protocol):
    """One client. `alive`: whether an answer can still reach it."""

    __slots__ = ("_advancing", "_app", "_current", "_heads", "_leaving", "_paused", "_read_ns", "_reader", "_server", "_since_ns", "_stuck",
                 "_transport", "_unfed", "_waiting", "alive")  # fmt: skip

    def __init__(self, server: Server) -> None:
        self._server, self._app, self._heads = server, server.app, server.heads
        self._waiting: deque[Request | bytes] = deque()  # read, not handed over yet; bytes are a refusal, after which it ends
        self._reader = Reader(self._waiting, server.limits)
        self._current: Request | None = None  # with the app
        self._unfed = NOTHING  # received, not parsed yet, because enough requests wait
        self._leaving = self._stuck = self._paused = self._advancing = self.alive = False
        self._since_ns = self._read_ns = perf_counter_ns()

    def answer(self, status: int, body: bytes, *, content_type: bytes = JSON, headers: bytes = b"") -> None:
        """Answer the request that the app holds; to a client that went away it does nothing.

        `headers`: further lines, each ending with CRLF. Raises RuntimeError when there is nothing to answer.
        """
        request, self._current = self._current, None
        if request is None:
            if self.alive:
                raise RuntimeError("no request of this connection waits for an answer: was it answered twice?")
            return
        reader = self._reader
        more = bool(self._waiting or reader.unfinished or self._unfed)
        last = (reader.stopped or self._leaving) and not more
        if last:
            headers += b"Connection: close\r\n"
        sent = b"" if request.method == b"HEAD" else body  # its length is told all the same
        self._transport.write(b"%b%d\r\n%b\r\n%b" % (_opening(status, content_type), len(body), headers, sent))
        if last:
            self._end()
        elif more:
            self._advance()

    @property
    def owed(self) -> bool:
        """Whether the client still waits for something that it asked, or for the rest of an answer."""
        asked = self._current is not None or bool(self._waiting) or self._reader.unfinished
        return asked or self._transport.get_write_buffer_size() > 0

    def leave(self) -> None:
        """Close when nothing is asked any more, which may be now."""
        self._leaving = True
        if self.alive and not self.owed:
            self._hang_up()

    def abort(self) -> None:
        self.alive = False
        self._transport.abort()

    def sweep(self, now_ns: int) -> None:
        """Hold the client to its time limits."""
        limits, waited_s = self._server.limits, (now_ns - self._since_ns) / 1e9
        if self._stuck or not self.alive:
            if waited_s > limits.unread_s:
                self.abort()
        elif self._current is not None or self._waiting:
            self._since_ns = now_ns  # our time, not the client's
        elif self._reader.unfinished:
            if waited_s > limits.request_s:
                self._refuse(408)
                self._advance()
        elif waited_s > limits.idle_s:
            self._hang_up()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        if len(self._server.connections) >= self._server.limits.connections:
            self._transport.abort()
            return
        self.alive = True
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive, self._current = False, None
        self._waiting.clear()
        self._deafen()
        self._server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._read_ns = now_ns = perf_counter_ns()
        reader, end = self._reader, 0
        if reader.stopped:
            return
        if self._current is None and not reader.unfinished and not self._waiting:
            end = data.find(b"\r\n\r\n") + 4
            known = self._heads.get(data[:end])
            if known is not None and len(data) == end + known[1]:
                self._since_ns = now_ns
                busy = self._app.busy
                if busy is not None and data.startswith(self._app.shed_prefix):
                    self._app.sheds += 1
                    self._transport.write(busy)
                else:
                    like = known[0]
                    self._hand(Request(like.method, like.path, like.query, like.headers, data[end:], now_ns))
                return
        self._unfed = memoryview(data)
        self._feed()
        if self._waiting or reader.began_ns == now_ns:
            self._since_ns = now_ns
        if 4 <= end <= REMEMBERED_BYTES and len(self._waiting) == 1 and not reader.stopped and not reader.unfinished:
            request = self._waiting[0]
            # A body that is exactly what follows the blank line came with a plain Content-Length: chunks would be longer than it.
            if isinstance(request, Request) and len(request.body) == len(data) - end:
                self._server.learn(data[:end], request)
        self._advance()

    def eof_received(self) -> bool:
        """The client sends no more; it may still listen for what it asked."""
        self._deafen()
        return self.alive and (self._current is not None or bool(self._waiting))

    def pause_writing(self) -> None:
        self._stuck, self._since_ns = True, perf_counter_ns()
        self._flow()

    def resume_writing(self) -> None:
        self._stuck, self._since_ns = False, perf_counter_ns()
        self._advance()

    # From bytes to requests to the end

    def _feed(self) -> None:
        """Parse what was received, until enough requests wait."""
        reader = self._reader
        while self._unfed and not reader.stopped and len(self._waiting) <= PIPELINE:
            piece, self._unfed = self._unfed[:PIECE_BYTES], self._unfed[PIECE_BYTES:]
            reader.feed(piece, read_ns=self._read_ns)
        if reader.fault is not None:
            self._refuse(reader.fault)
            reader.fault = None
        elif reader.stopped:
            self._deafen()

    def _advance(self) -> None:
        """Hand over and parse by turns, until the app keeps a request or there is none left."""
        if self._advancing:  # the app answered at once: the loop below goes on by itself
            return
        self._advancing = True
        while self._current is None and self._waiting and not self._stuck:
            self._hand(self._waiting.popleft())
            self._feed()
        self._advancing = False
        if self._reader.expects and self._reader.unfinished and self._current is None:
            self._reader.expects = False
            self._transport.write(CONTINUE)
        self._flow()

    def _hand(self, request: Request | bytes) -> None:
        if isinstance(request, bytes):
            self._transport.write(request)
            self._end()
            return
        self._current = request
        try:
            self._app.request(self, request)
        except Exception as error:  # whatever the app does wrong costs this client its connection, and nobody else anything
            self._server.loop.call_exception_handler({"message": "the app failed at a request", "exception": error})
            if self._current is request:
                self._current = None
                self._transport.write(_refusal(500))
            self._end()

    def _flow(self) -> None:
        """Read on only where what was read before leaves room."""
        full = self.alive and (self._stuck or bool(self._unfed) or len(self._waiting) > PIPELINE)
        if full != self._paused and not self._transport.is_closing():
            self._paused = full
            if full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _refuse(self, status: int) -> None:
        """Answer what was asked before, then this, then end."""
        self._deafen()
        self._waiting.append(_refusal(status))

    def _deafen(self) -> None:
        self._reader.stop()
        self._unfed = NOTHING

    def _hang_up(self) -> None:
        self.alive = False
        self._transport.close()

    def _end(self) -> None:
        """Say that no more comes, but read on: closing on unread bytes would tear the last answer out of the client's hands."""
        self._deafen()
        self._waiting.clear()
        self.alive, self._since_ns = False, perf_counter_ns()
        if not self._transport.is_closing():
            self._transport.write_eof()
        self._flow()
