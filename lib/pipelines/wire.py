"""Keep-alive connections to one port or several, for a load process: a request goes out, its answer comes back whole, both stamped.

While requests run nothing is parsed but an answer's length; statuses and bodies wait (`status`, `body`). One thread, one epoll, no
task or future a request. Refuses answers that do not say their length, and hides no loss: a request whose connection breaks has failed,
also where the server only closed an idle connection in the same moment, which a patient client would try again.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter_ns

READ_BYTES = 4096
AGAIN_NS = 20_000_000  # pause between attempts to connect to a server that is gone
IDLE, CONNECTING = -1, -2


class Unreadable(ConnectionError):
    """The server answers in a way that this client does not read."""


class HungUp(Exception):
    """Whoever ordered the load is gone."""


@dataclass(slots=True)
class _Line:
    sock: socket.socket
    fd: int
    number: int = IDLE  # of the request it carries
    part: bytes = b""  # of an answer


class Wire:
    """Requests are numbered in the order of `send` and `skip`; each list has one element a request. Raises OSError: nobody listens."""

    def __init__(self, port: int | Sequence[int], connections: int, *, parent: int) -> None:
        """Several ports are replicas, each with its share of the connections.

        `parent`: a file descriptor; when its other end closes, `poll` raises HungUp.
        """
        ports = (port,) if isinstance(port, int) else tuple(port)
        self.parent, self._ports = parent, cycle(ports)
        self._next = -1 if len(ports) == 1 else 0
        self.sent_ns: list[int] = []  # 0: never sent
        self.done_ns: list[int] = []  # 0: no answer
        self.raw: list[bytes] = []  # whole answers, b"" where there is none
        self.settled = bytearray()
        self.opened = self.outstanding = self.missing = 0
        self.free: list[_Line] = []  # last used first, as most pools do; of several ports in turn, as a balancer does
        self._lines: dict[int, _Line] = {}
        self._again_ns = 0
        self._epoll = select.epoll()
        self._epoll.register(parent, select.EPOLLRDHUP)
        for _ in range(connections):
            line = self._add(socket.create_connection(("127.0.0.1", next(self._ports)), timeout=5), select.EPOLLIN)
            self.free.append(line)

    def close(self) -> None:
        for line in self._lines.values():
            line.sock.close()
        self._epoll.close()

    def send(self, request: bytes) -> None:
        """Put `request` on a free connection; there must be one."""
        line = self.free.pop(self._next)
        line.number = len(self.sent_ns)
        self.done_ns.append(0)
        self.raw.append(b"")
        self.settled.append(0)
        self.outstanding += 1
        self.sent_ns.append(perf_counter_ns())
        try:
            whole = line.sock.send(request) == len(request)
        except OSError:
            whole = False
        if not whole:
            self._lose(line)

    def skip(self) -> None:
        """Count a request that is not sent."""
        self.sent_ns.append(0)
        self.done_ns.append(0)
        self.raw.append(b"")
        self.settled.append(1)

    def give_up(self, number: int) -> None:
        """Fail a request that waited too long, and the connection that carries it."""
        self._lose(next(line for line in self._lines.values() if line.number == number))

    def poll(self, timeout_s: float) -> list[int]:
        """Wait at most `timeout_s`, stamp what comes in; the numbers of the requests that are now answered."""
        answered = []
        for fd, _ in self._epoll.poll(timeout_s):
            if fd == self.parent:
                raise HungUp
            if (line := self._lines.get(fd)) is None:
                continue  # given up in this very round
            if line.number == CONNECTING:
                self._connected(line)
                continue
            try:
                data = line.sock.recv(READ_BYTES)
            except OSError:
                data = b""
            now = perf_counter_ns()
            if not data or line.number == IDLE:
                self._lose(line)
                continue
            if line.part:
                data = line.part + data
            if (length := _length(data)) is None or len(data) < length:
                line.part = data
                continue
            number, line.number, line.part = line.number, IDLE, b""
            self.done_ns[number], self.raw[number], self.settled[number] = now, data[:length], 1
            self.outstanding -= 1
            answered.append(number)
            if len(data) > length or b"connection: close" in data[:length].lower():
                self._lose(line)
            else:
                self.free.append(line)
        return answered

    def mend(self) -> None:
        """Open again what was lost, without waiting; a server that refuses is asked again a little later."""
        if (now := perf_counter_ns()) < self._again_ns:
            return
        while self.missing:
            sock = socket.socket()
            sock.setblocking(False)
            if sock.connect_ex(("127.0.0.1", next(self._ports))) not in (0, errno.EINPROGRESS):
                sock.close()
                self._again_ns = now + AGAIN_NS
                return
            self.missing -= 1
            self._add(sock, select.EPOLLOUT).number = CONNECTING

    def _connected(self, line: _Line) -> None:
        if line.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._again_ns = perf_counter_ns() + AGAIN_NS
            self._lose(line)
            return
        line.number = IDLE
        self._epoll.modify(line.fd, select.EPOLLIN)
        self.free.append(line)

    def _add(self, sock: socket.socket, events: int) -> _Line:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = self._lines[sock.fileno()] = _Line(sock, sock.fileno())
        self._epoll.register(line.fd, events)
        self.opened += 1
        return line

    def _lose(self, line: _Line) -> None:
        if line.number >= 0:
            self.settled[line.number] = 1
            self.outstanding -= 1
        elif line in self.free:
            self.free.remove(line)
        del self._lines[line.fd]
        line.sock.close()  # leaves the epoll by itself
        self.missing += 1


def _length(data: bytes) -> int | None:
    """Bytes of the whole answer that begins with `data`; None while its head is not complete. Raises Unreadable."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise Unreadable(f"an answer without Content-Length: {head[:200].decode('latin-1')!r}")
    value = head[at + 17:].split(b"\r\n", 1)[0]
    return end + 4 + int(value)


def status(raw: bytes) -> int:
    """The status of a whole answer, 0 for none."""
    return int(raw[9:12]) if raw else 0


def body(raw: bytes) -> bytes:
    return raw[raw.find(b"\r\n\r\n") + 4:] if raw else b""
