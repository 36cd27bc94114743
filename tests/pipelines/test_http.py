"""HTTP as clients really speak it: cut anywhere, pipelined, slow, too large, broken, gone; and what shedding costs nobody but the shed.

What depends on how bytes are cut or on time is tested on a connection without a socket, where both are exact; the rest through sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter_ns, sleep

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.pipelines.http import HEADS, PIPELINE, Connection, Limits, Request, Server, listen, whole

BUSY = whole(503, b"busy", headers=b"Retry-After: 1\r\n")
CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
NS = 1_000_000_000


@dataclass
class App:
    """Answers with what it was asked; keeps those to /later until told to answer, breaks at /broken."""

    busy: bytes | None = None
    shed_prefix: bytes = b"POST /score "
    sheds: int = 0
    seen: list[Request] = field(default_factory=list)
    kept: list[tuple[Connection, Request]] = field(default_factory=list)

    def request(self, connection: Connection, request: Request) -> None:
        self.seen.append(request)
        if request.path == b"/later":
            self.kept.append((connection, request))
        elif request.path == b"/broken":
            if request.body:
                connection.answer(200, request.body)
            raise ZeroDivisionError
        else:
            connection.answer(200, request.path + b"|" + request.body)

    def answer_kept(self) -> None:
        connection, request = self.kept.pop(0)
        connection.answer(200, request.path + b"|" + request.body)


class Transport(asyncio.Transport):
    """The client's side of a connection without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.ended, self.closed, self.reading = b"", False, False, True

    def write(self, data: object) -> None:
        assert not self.ended and not self.closed, "written after the end"
        self.out += bytes(data)  # type: ignore[call-overload]

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True


def connected(app: App, server: Server | None = None, **limits: float) -> tuple[Connection, Transport, Server]:
    server = server or Server(app, Limits(**limits), asyncio.new_event_loop())  # type: ignore[arg-type]
    connection, transport = Connection(server), Transport()
    connection.connection_made(transport)
    return connection, transport, server


def post(path: str, body: bytes = b"", *, headers: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def answers(raw: bytes) -> list[tuple[int, bytes]]:
    """Status and body of the answers that `raw` holds, all of it."""
    found = []
    while raw:
        head, blank, rest = raw.partition(b"\r\n\r\n")
        assert blank and head.startswith(b"HTTP/1.1 "), raw
        if (status := int(head[9:12])) == 100:
            found.append((100, b""))
            raw = rest
            continue
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert len(rest) >= length, "an answer is not complete"
        found.append((status, rest[:length]))
        raw = rest[length:]
    return found


SCORE = post("/score", b"x", headers="X-More: 1\r\n")
ONE = post("/a?b=c&d", b'{"n": 1}\r\n\r\nx', headers="X-Two: 1\r\nx-two: 2\r\n")


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("cut", range(1, len(ONE)))
def test_a_request_may_come_in_two_reads(cut: int, known: bool) -> None:
    connection, transport, _ = connected(app := App())
    if known:
        connection.data_received(ONE)
    connection.data_received(ONE[:cut])
    assert len(app.seen) == known
    connection.data_received(ONE[cut:])
    assert answers(transport.out) == [(200, b'/a|{"n": 1}\r\n\r\nx')] * (1 + known)
    read = app.seen[-1]
    assert (read.method, read.path, read.query) == (b"POST", b"/a", b"b=c&d")
    assert read.headers == {b"host": b"a", b"x-two": b"1, 2", b"content-length": b"13"}


def test_a_head_that_is_known_reads_like_one_that_is_parsed() -> None:
    connection, _, server = connected(app := App())
    for _ in range(2):
        connection.data_received(ONE)
    parsed, known = app.seen
    assert list(server.heads) == [ONE[: ONE.index(b"\r\n\r\n") + 4]]
    parsed.arrived_ns = known.arrived_ns
    assert parsed == known
    connection.data_received(ONE[:-1] + b"y")  # the same head, another body
    assert app.seen[-1].body == b'{"n": 1}\r\n\r\ny'
    assert not any(like.body for like, _ in server.heads.values())  # what a client sent is not kept


@pytest.mark.parametrize("odd", [
    b"\r\n\r\n" + post("/a"), post("/a", headers="Connection: close\r\n"), post("/a") + post("/b"), b"GET /a HTTP/1.0\r\n\r\n",
    b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", post("/a", headers="X: " + "x" * 1100 + "\r\n"),
    b"GET /a HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
])  # fmt: skip
def test_only_plain_whole_requests_are_remembered(odd: bytes) -> None:
    connection, transport, server = connected(App())
    connection.data_received(odd)
    assert {status for status, _ in answers(transport.out)} == {200}
    assert not server.heads


def test_heads_that_never_repeat_do_not_fill_the_memory() -> None:
    connection, _, server = connected(app := App())
    for number in range(2 * HEADS + 5):
        connection.data_received(post(f"/{number}"))
    assert len(app.seen) == 2 * HEADS + 5 and len(server.heads) <= HEADS


METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE"])
BODIES = st.binary(max_size=60)


@st.composite
def spoken(draw: st.DrawFn) -> tuple[bytes, list[tuple[bytes, bytes, bytes]], list[int]]:
    """A stream of requests, what they are, and where it is cut."""
    raw, told = b"", []
    for number in range(draw(st.integers(1, 40))):
        method, body = draw(METHODS), draw(BODIES)
        path = draw(st.sampled_from([f"/{number}", "/later", "/same"]))
        opening = f"{method} {path} HTTP/1.1\r\nHost: a\r\n".encode()
        if draw(st.booleans()):
            size = draw(st.integers(1, 20))
            pieces = [body[at:at + size] for at in range(0, len(body), size)]
            framed = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
            raw += opening + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\nX-Trailer: 7\r\n\r\n"
        else:
            raw += opening + b"cOnTeNt-LeNgTh: %d\r\n\r\n" % len(body) + body
        told.append((method.encode(), path.encode(), body))
    return raw, told, sorted(draw(st.lists(st.integers(0, len(raw)), max_size=12)))


@settings(max_examples=150, deadline=None)
@given(spoken())
def test_requests_are_answered_in_order_however_they_are_cut(stream: tuple[bytes, list[tuple[bytes, bytes, bytes]], list[int]]) -> None:
    raw, told, cuts = stream
    connection, transport, _ = connected(app := App())
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        if start < end:
            while not transport.reading:  # it was told to wait, as a socket would
                app.answer_kept()
            connection.data_received(raw[start:end])
        assert len(app.kept) <= 1  # one at a time
    while app.kept:
        app.answer_kept()
    assert [(r.method, r.path, r.body) for r in app.seen] == told
    assert not any(b"x-trailer" in request.headers for request in app.seen)
    assert answers(transport.out) == [(200, path + b"|" + body) for _, path, body in told]
    assert connection.alive and transport.reading


def test_who_asks_far_ahead_is_not_read_until_answered() -> None:
    connection, transport, _ = connected(app := App())
    connection.data_received(post("/later") + post("/b") * 10_000)
    assert not transport.reading and len(app.seen) == 1
    assert len(connection._waiting) < PIPELINE + 4096 // len(post("/b")) + 2
    app.answer_kept()
    assert transport.reading and len(answers(transport.out)) == 10_001


@pytest.mark.parametrize(("raw", "status"), [
    (b"\x16\x03\x01\x02\x00", 400), (b"nonsense\r\n\r\n", 400), (b"GET / HTTP/9.9\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400),
    (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400), (b"POST / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\nx", 400),
    (CHUNKED + b"zz\r\n", 400), (b"GET / HTTP/1.1\r\nA b: c\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413), (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999\r\n\r\n", 413),
    (CHUNKED + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 2 + b"1\r\nx", 413), (CHUNKED + b"1;" + b"x" * 600_000, 413),
    (CHUNKED + b"0\r\n" + b"a: b\r\n" * 2000, 431), (CHUNKED + b"0\r\nContent-Length: 7\r\n\r\n", 400),
    (b"GET /" + b"x" * 8200 + b" HTTP/1.1\r\n\r\n", 431), (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 2000, 431),
    (b"GET / HTTP/1.1\r\nA: " + b"x" * 20_000, 431), (b"GET /" + b"x" * 20_000, 431),
])  # fmt: skip
@pytest.mark.parametrize("step", [1_000_000, 1009])
def test_what_is_not_http_or_too_large_is_refused_once_after_what_came_before(raw: bytes, status: int, step: int) -> None:
    connection, transport, _ = connected(app := App())
    connection.data_received(post("/later", b"first") + raw[:100])
    for at in range(100, len(raw), step):
        if transport.reading:
            connection.data_received(raw[at:at + step])
    assert not transport.out
    app.answer_kept()
    assert [s for s, _ in answers(transport.out)] == [200, status]
    assert transport.ended and not connection.alive and len(app.seen) == 1
    connection.data_received(post("/after"))  # read and thrown away
    assert len(app.seen) == 1


def test_the_largest_that_is_allowed_is_taken() -> None:
    connection, transport, _ = connected(App())
    connection.data_received(post("/a", b"x" * 65_536, headers="X: " + "x" * 8000 + "\r\n"))
    assert [status for status, _ in answers(transport.out)] == [200]


def test_a_body_that_looks_like_a_known_request_is_a_body() -> None:
    connection, transport, _ = connected(app := App())
    connection.data_received(SCORE)
    connection.data_received(b"POST /outer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(SCORE))
    connection.data_received(SCORE)
    assert [request.path for request in app.seen] == [b"/score", b"/outer"]
    assert answers(transport.out)[1:] == [(200, b"/outer|" + SCORE)]


def test_a_byte_now_and_then_does_not_make_a_request_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = perf_counter_ns()
    connection, transport, _ = connected(App())
    for second, byte in enumerate(ONE[:12]):
        monkeypatch.setattr("lib.pipelines.http.perf_counter_ns", lambda second=second: now + second * NS)
        connection.data_received(bytes([byte]))
        connection.sweep(now + second * NS)
        assert bool(transport.out) == (second > 10)
    assert answers(transport.out)[0][0] == 408


def test_time_limits() -> None:
    now = perf_counter_ns()
    idle, transport, _ = connected(App())
    idle.sweep(now + 74 * NS)
    assert not transport.closed
    idle.sweep(now + 76 * NS)
    assert transport.closed and not transport.out

    slow, transport, _ = connected(App())
    slow.data_received(ONE[:-1])
    slow.sweep(now + 9 * NS)
    assert not transport.out
    slow.sweep(now + 12 * NS)
    assert answers(transport.out)[0][0] == 408 and transport.ended
    slow.sweep(perf_counter_ns() + 11 * NS)  # and the client that does not go is left
    assert transport.closed

    ours, transport, _ = connected(app := App())
    ours.data_received(post("/later") + post("/next")[:9])
    ours.sweep(now + 500 * NS)  # nobody is blamed for the time that the app takes
    assert not transport.out and not transport.closed
    app.answer_kept()
    ours.sweep(now + 505 * NS)
    assert len(answers(transport.out)) == 1
    ours.sweep(now + 511 * NS)
    assert [status for status, _ in answers(transport.out)] == [200, 408]


def test_who_does_not_take_its_answers_gets_no_more_and_is_closed() -> None:
    connection, transport, _ = connected(app := App())
    connection.data_received(post("/later"))
    connection.pause_writing()
    assert not transport.reading
    app.answer_kept()
    connection.resume_writing()
    assert transport.reading
    connection.pause_writing()
    connection.sweep(perf_counter_ns() + 9 * NS)
    assert not transport.closed
    connection.sweep(perf_counter_ns() + 11 * NS)
    assert transport.closed and not connection.alive


def test_expect_100_is_told_to_go_on_when_it_is_its_turn() -> None:
    connection, transport, _ = connected(app := App())
    wary = post("/a", b"body", headers="Expect: 100-continue\r\n")
    connection.data_received(wary[:-4])
    connection.pause_writing()
    connection.resume_writing()
    assert answers(transport.out) == [(100, b"")]  # once
    connection.data_received(wary[-4:])
    connection.data_received(post("/later") + wary[:-4])
    assert answers(transport.out) == [(100, b""), (200, b"/a|body")]
    app.answer_kept()
    assert answers(transport.out)[2:] == [(200, b"/later|"), (100, b"")]
    connection.data_received(wary[-4:] + wary)  # and not when the body is there already, or some of it
    connection.data_received(wary[:-2])
    connection.data_received(wary[-2:])
    assert answers(transport.out)[4:] == [(200, b"/a|body")] * 3
    refused, transport, _ = connected(App())
    refused.data_received(b"POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 70000\r\n\r\n")
    assert [status for status, _ in answers(transport.out)] == [413]


@pytest.mark.parametrize(("raw", "closes"), [
    (post("/a"), False), (post("/a", headers="Connection: close\r\n"), True), (post("/a", headers="Connection: keep-alive\r\n"), False),
    (b"GET /a HTTP/1.0\r\n\r\n", True), (b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    (b"GET /a HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", True),
])  # fmt: skip
def test_the_connection_stays_unless_it_is_to_close(raw: bytes, closes: bool) -> None:
    connection, transport, _ = connected(app := App())
    connection.data_received(raw + post("/b"))
    assert [request.path for request in app.seen] == ([b"/a"] if closes else [b"/a", b"/b"])
    assert [status for status, _ in answers(transport.out)] == [200] * len(app.seen)
    assert transport.ended == closes == (b"\r\nConnection: close\r\n" in transport.out)
    assert connection.alive != closes


def test_head_is_told_a_length_and_nothing_more() -> None:
    connection, transport, _ = connected(App())
    connection.data_received(b"HEAD /abc HTTP/1.1\r\nHost: a\r\n\r\n")
    assert transport.out.endswith(b"Content-Length: 5\r\n\r\n")


def test_a_client_that_went_away_is_answered_nowhere_and_two_answers_are_a_mistake() -> None:
    connection, transport, server = connected(app := App())
    connection.data_received(post("/later"))
    connection.connection_lost(None)
    assert not server.connections
    app.answer_kept()
    assert not transport.out
    connection, transport, _ = connected(App())
    connection.data_received(post("/a"))
    with pytest.raises(RuntimeError, match="answered twice"):
        connection.answer(200, b"")


def test_what_the_app_breaks_costs_one_connection() -> None:
    said: list[dict[str, object]] = []
    connection, transport, server = connected(app := App())
    server.loop.set_exception_handler(lambda _, context: said.append(context))
    connection.data_received(post("/a") + post("/broken") + post("/b"))
    assert [status for status, _ in answers(transport.out)] == [200, 500]
    assert transport.ended and len(app.seen) == 2
    assert isinstance(said[0]["exception"], ZeroDivisionError)
    connection, transport, _ = connected(app, server)
    connection.data_received(post("/broken", b"answered first"))
    assert answers(transport.out) == [(200, b"answered first")]


def test_a_busy_app_is_not_asked() -> None:
    connection, transport, _ = connected(app := App())
    connection.data_received(SCORE)
    app.busy = BUSY
    connection.data_received(SCORE)
    assert transport.out.endswith(BUSY) and (app.sheds, len(app.seen)) == (1, 1)
    connection.data_received(post("/score/x", b"x"))  # not what is shed
    connection.data_received(SCORE[:30])  # in two reads, so the normal way
    connection.data_received(SCORE[30:])
    connection.data_received(SCORE + SCORE)
    connection.data_received(post("/score", b"x", headers="Connection: close\r\n"))
    assert (app.sheds, len(app.seen)) == (1, 6)
    assert [status for status, _ in answers(transport.out)] == [200, 503, 200, 200, 200, 200, 200]


def test_shedding_keeps_the_order() -> None:
    connection, transport, _ = connected(app := App())
    connection.data_received(SCORE)
    connection.data_received(post("/later"))
    app.busy = BUSY
    connection.data_received(SCORE)
    assert app.sheds == 0
    app.answer_kept()
    assert [body for _, body in answers(transport.out)] == [b"/score|x", b"/later|", b"/score|x"]


# Through sockets


@contextlib.contextmanager
def serving(app: App, **limits: float) -> Iterator[tuple[Server, asyncio.AbstractEventLoop]]:
    loop = uvloop.new_event_loop()
    server = loop.run_until_complete(listen(app, port=0, limits=Limits(**limits)))  # type: ignore[arg-type]
    (thread := threading.Thread(target=loop.run_forever)).start()
    try:
        yield server, loop
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(lambda: loop.call_later(0.01, loop.stop))
        thread.join()
        loop.close()


def client(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=5)


def ask(sock: socket.socket, raw: bytes) -> tuple[int, bytes]:
    sock.sendall(raw)
    out = sock.recv(65_536)
    while True:
        head, blank, body = out.partition(b"\r\n\r\n")
        if blank and len(body) >= int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]):
            return answers(out)[0]
        data = sock.recv(65_536)
        assert data, f"closed after {out!r}"
        out += data


def rest(sock: socket.socket) -> bytes:
    out = b""
    while data := sock.recv(65_536):
        out += data
    return out


def eventually(true: object) -> None:
    for _ in range(500):
        if true():  # type: ignore[operator]
            return
        sleep(0.01)
    raise AssertionError("it never became so")


def test_keep_alive_close_and_no_delay() -> None:
    with serving(App()) as (server, _), client(server) as sock:
        for number in range(50):
            assert ask(sock, post("/a", b"%d" % number)) == (200, b"/a|%d" % number)
        (connection,) = server.connections
        assert connection._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sock.sendall(post("/b") * 100 + post("/c", headers="Connection: close\r\n"))
        assert [body for _, body in answers(rest(sock))] == [b"/b|"] * 100 + [b"/c|"]


def test_ten_megabytes_are_refused_before_they_are_sent_and_the_refusal_arrives() -> None:
    with serving(app := App()) as (server, _), client(server) as sock:
        sock.sendall(b"POST /a HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(200):
                sock.sendall(b"x" * 50_000)  # a client that does not look
        assert answers(rest(sock))[0][0] == 413
        assert not app.seen


def test_a_slow_client_is_told_and_closed_while_others_are_served() -> None:
    with serving(App(), request_s=0.2, idle_s=0.6, sweep_s=0.05) as (server, _), client(server) as slow, client(server) as idle:
        slow.sendall(b"POST /a HT")
        with client(server) as other:
            assert ask(other, post("/b"))[0] == 200
        assert answers(rest(slow))[0][0] == 408
        assert rest(idle) == b""


def test_a_client_that_reads_nothing_is_closed() -> None:
    with serving(App(), unread_s=0.2, sweep_s=0.05) as (server, _), client(server) as sock:
        sock.settimeout(0.3)
        with contextlib.suppress(OSError):
            for _ in range(10_000):
                sock.sendall(post("/a", b"x" * 60_000))
        eventually(lambda: not server.connections)


def test_a_client_that_vanishes_in_a_request_or_before_its_answer_leaves_nothing() -> None:
    with serving(app := App()) as (server, loop):
        for part in (b"POST /a HTTP/1.1\r\nCont", post("/a", b"xyz")[:-1], post("/later")):
            sock = client(server)
            sock.sendall(part)
            eventually(lambda: server.connections)
            sleep(0.02)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # as a killed client does it
            sock.close()
            eventually(lambda: not server.connections)
        loop.call_soon_threadsafe(app.answer_kept)
        with client(server) as sock:
            assert ask(sock, post("/b"))[0] == 200


def test_who_says_no_more_still_hears_its_answer() -> None:
    with serving(app := App()) as (server, loop), client(server) as sock:
        sock.sendall(post("/later") + post("/b") + b"POST /half")
        sock.shutdown(socket.SHUT_WR)
        eventually(lambda: app.kept)
        sleep(0.02)
        loop.call_soon_threadsafe(app.answer_kept)
        assert [body for _, body in answers(rest(sock))] == [b"/later|", b"/b|"]


def test_no_more_connections_than_told() -> None:
    with serving(App(), connections=2) as (server, _), client(server) as one, client(server) as two:
        assert ask(one, post("/a"))[0] == ask(two, post("/a"))[0] == 200
        with client(server) as three, contextlib.suppress(ConnectionResetError):
            assert three.recv(10) == b""
        assert ask(one, post("/a"))[0] == 200
        two.close()
        eventually(lambda: len(server.connections) == 1)
        with client(server) as four:
            assert ask(four, post("/a"))[0] == 200


def test_a_drain_answers_what_is_in_flight_and_closes_the_idle() -> None:
    with serving(app := App()) as (server, loop), client(server) as idle, client(server) as late, client(server) as half:
        assert ask(idle, post("/a"))[0] == 200
        late.sendall(post("/later"))
        half.sendall(post("/a", b"xy")[:-1])
        eventually(lambda: app.kept and len(server.connections) == 3)
        sleep(0.02)
        loop.call_soon_threadsafe(server.drain)
        assert rest(idle) == b""
        with pytest.raises(ConnectionRefusedError):
            client(server)
        assert server.in_flight == 2
        loop.call_soon_threadsafe(app.answer_kept)
        half.sendall(b"y")
        for sock in (late, half):
            raw = rest(sock)
            assert answers(raw)[0][0] == 200 and b"Connection: close" in raw
        eventually(lambda: server.in_flight == 0)


FUZZ = st.one_of(st.binary(max_size=300), st.builds(lambda a, b: a + b, st.sampled_from(
    [b"GET / HTTP/1.1\r\n", ONE, ONE[:-3], CHUNKED, b"POST /score HTTP/1.1\r\nContent-Length: "]),
    st.binary(max_size=80)))  # fmt: skip


def test_whatever_comes_the_next_good_request_is_answered() -> None:
    with serving(App()) as (server, _), client(server) as good:

        @settings(max_examples=200, deadline=None)
        @given(FUZZ)
        def fuzz(raw: bytes) -> None:
            with client(server) as bad:
                with contextlib.suppress(OSError):
                    bad.sendall(raw)
                    bad.shutdown(socket.SHUT_WR)
                answers(rest(bad))  # whole answers or none
            assert ask(good, post("/a", b"x")) == (200, b"/a|x")

        fuzz()
        eventually(lambda: len(server.connections) == 1)
