"""Bytes in, whole requests out: httptools behind limits, without a socket.

Refuses a body as soon as its announced length, or the chunks so far, are over the limit, and a head likewise; trailers never change
what the head said. After a fault or a client's last request it reads no more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import httptools

BAD, BODY_TOO_LARGE, HEAD_TOO_LARGE = 400, 413, 431


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask of the server. `request_s`: from a request's first byte to its last; `unread_s`: an answer not taken."""

    body_bytes: int = 65_536
    head_bytes: int = 8192
    idle_s: float = 75
    request_s: float = 10
    unread_s: float = 10
    connections: int = 4096
    sweep_s: float = 1


@dataclass(slots=True)
class Request:
    """One whole request. Header names are lower case, repeated ones joined by a comma; the headers are shared, so not to be changed."""

    method: bytes
    path: bytes  # as sent, without the query
    query: bytes
    headers: dict[bytes, bytes]
    body: bytes
    arrived_ns: int  # perf_counter_ns when its last byte was read


class Reader:
    """The requests of one connection. `fault`: the status to refuse with; `stopped`: whatever comes next is not read."""

    __slots__ = ("_body", "_body_bytes", "_head_bytes", "_head_seen", "_headers", "_parser", "_raw", "_read_ns", "_requests", "_url",
                 "began_ns", "expects", "fault", "headed", "stopped", "unfinished")  # fmt: skip

    def __init__(self, requests: deque[Request | bytes], limits: Limits) -> None:
        self._requests, self._head_bytes, self._body_bytes = requests, limits.head_bytes, limits.body_bytes
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self.fault: int | None = None
        self.stopped = self.unfinished = self.headed = self.expects = False  # the last three of the request that is being read
        self.began_ns = self._read_ns = self._raw = self._head_seen = 0
        self._url = self._body = b""
        self._headers: dict[bytes, bytes] = {}

    def feed(self, data: memoryview, *, read_ns: int) -> None:
        """Parse `data`; what it completes is appended to `requests`, in order."""
        assert self._parser is not None, "it was stopped"
        self._read_ns = read_ns
        self._raw += len(data)  # of what was unfinished before: a message that begins here starts at zero
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.stop()
        except httptools.HttpParserError:  # also what the callbacks below raise
            self._refuse(self.fault or BAD)
        if self.unfinished and self._raw > self._head_bytes + (8 * self._body_bytes if self.headed else 0):  # tiny chunks are mostly frame
            self._refuse(BODY_TOO_LARGE if self.headed else HEAD_TOO_LARGE)
        if self.stopped:
            self.stop()

    def stop(self) -> None:
        self.stopped, self.unfinished = True, False
        self._parser = None  # it holds us as we hold it

    def _refuse(self, status: int) -> None:
        if not self.stopped:  # what follows a client's last request is nobody's fault
            self.fault = status
        self.stop()

    def _count(self, head_bytes: int) -> None:
        self._head_seen += head_bytes
        if self._head_seen > self._head_bytes:
            self.fault = HEAD_TOO_LARGE
            raise ValueError("head too large")

    def _weigh(self, body_bytes: int) -> None:
        if body_bytes > self._body_bytes:
            self.fault = BODY_TOO_LARGE
            raise ValueError("body too large")

    # What the parser calls

    def on_message_begin(self) -> None:
        if self.stopped:
            raise ValueError("there is something after the last request")
        self.unfinished, self.headed, self.expects = True, False, False
        self._url, self._headers, self._body = b"", {}, b""
        self._raw = self._head_seen = 0
        self.began_ns = self._read_ns

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        if not self.headed:
            name = name.lower()
            before = self._headers.get(name)
            self._headers[name] = value if before is None else before + b", " + value

    def on_headers_complete(self) -> None:
        self._weigh(int(self._headers.get(b"content-length", b"0")))
        self.headed, self.expects = True, self._headers.get(b"expect", b"").lower() == b"100-continue"

    def on_body(self, body: bytes) -> None:
        self.expects = False
        self._body = self._body + body if self._body else body
        self._weigh(len(self._body))

    def on_message_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        self.unfinished = False
        path, _, query = self._url.partition(b"?")
        self._requests.append(Request(parser.get_method(), path, query, self._headers, self._body, self._read_ns))
        # HTTP/1.0 takes the end of the connection for the end of the answer unless told otherwise: it always gets that.
        self.stopped = not parser.should_keep_alive() or parser.get_http_version() != "1.1"
