"""The null server itself: keeps its schedule, plants exactly the faults it promises, refuses the rest. Raw sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.llm.engines import null, server
from lib.llm.engines.engine import Engine, Spec
from lib.llm.model import Model, Shape
from lib.llm.weights import Family

TRUTH = null.Truth(ttft_s=0.020, tpot_s=0.005)
LATE_S = 0.050  # generous: the tests share a busy machine. Early is never allowed

if reason := null.available():
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with null.serving(TRUTH) as port:
        yield port


@pytest.fixture(autouse=True)
def _forget(port: int) -> None:
    null.stamps(port)


def ask(path: str = "/v1/completions", *, headers: str = "", **fields: object) -> bytes:
    chat = {"messages": [{"role": "user", "content": "one two three"}]}
    asked = {"max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps({**(chat if "chat" in path else {"prompt": [1, 2, 3, 4]}), **asked, **fields}).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def talk(port: int, request: bytes, *, until: bytes = b"0\r\n\r\n") -> list[bytes]:
    """What arrived, read by read, up to and with `until` or the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        reads: list[bytes] = []
        while not b"".join(reads[-3:]).endswith(until) and (data := connection.recv(65536)):
            reads.append(data)
    return reads


def status(port: int, request: bytes) -> int:
    return int(talk(port, request, until=b"}}")[0].split()[1])


def payload(port: int, **fields: object) -> bytes:
    """The body of a streamed answer with its chunks joined; every chunk is checked to be as long as it says."""
    head, _, rest = b"".join(talk(port, ask(**fields))).partition(b"\r\n\r\n")
    assert b"200 OK" in head
    assert b"Transfer-Encoding: chunked" in head
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        chunk, gap, rest = rest[: int(size, 16)], rest[int(size, 16) : int(size, 16) + 2], rest[int(size, 16) + 2 :]
        assert gap == b"\r\n"
        assert len(chunk) == int(size, 16)
        body += chunk
    return body


def token(text: str = " a", finish: str = "null", more: str = "") -> bytes:
    return ('data: {"id":"null","object":"text_completion","created":0,"model":"null","choices":'
            f'[{{"index":0,"text":"{text}","finish_reason":{finish}}}]{more}}}\n\n').encode()


def usage(tokens: int) -> str:
    return f'"usage":{{"prompt_tokens":4,"completion_tokens":{tokens},"total_tokens":{tokens + 4}}}'


def told(tokens: int = 3) -> bytes:
    return ('data: {"id":"null","object":"text_completion","created":0,"model":"null","choices":[],'
            f"{usage(tokens)}}}\n\n").encode()


LAST = token(finish='"length"')
DONE = b"data: [DONE]\n\n"
EMPTY = (b'data: {"id":"null","object":"text_completion","created":0,"choices":'
         b'[{"index":0,"text":"","finish_reason":null}]}\n\n')
ERROR = b'data: {"error":{"message":"planted","type":"server_error","code":500}}\n\n'


@pytest.mark.parametrize(("fault", "expected"), [
    ("an id", token() * 2 + LAST + told() + DONE),
    ("no-usage", token() * 2 + LAST + DONE),
    ("usage-last-choice", token() * 2 + token(finish='"length"', more="," + usage(3)) + DONE),
    ("short:1", token() + token(finish='"stop"') + told(2) + DONE),
    ("short:99", token(finish='"stop"') + told(1) + DONE),
    ("role-first", EMPTY + token() * 2 + LAST + told() + DONE),
    ("per-event:2", token(" a a") + LAST + told() + DONE),
    ("error-event:1", token() + ERROR + DONE),
    ("error-event:0", ERROR + DONE),
    ("glue", token() * 2 + LAST + told() + DONE),
    ("late-end:5", token() * 2 + LAST + told() + DONE),
    ("cut-utf8", token(" 日") * 2 + token(" 日", '"length"') + told() + DONE),
])  # fmt: skip
def test_streams_exactly_these_bytes(port: int, fault: str, expected: bytes) -> None:
    assert payload(port, user=fault) == expected


def test_usage_is_told_only_when_asked_for(port: int) -> None:
    assert payload(port, stream_options=None) == token() * 2 + LAST + DONE


def test_cut_events_arrive_in_two_reads_and_break_a_character(port: int) -> None:
    reads = talk(port, ask(user="cut-utf8", max_tokens=10))
    broken = [read for read in reads if read.endswith(b"\xe6")]
    mended = [read for read in reads if read.startswith(b"\x97\xa5")]
    assert broken  # not all ten: a reader that the machine held up finds both halves at once
    assert len(broken) == len(mended)


@pytest.mark.parametrize("last", [b"\n", b"0\r\n\r\n", b"\n\r\n0\r\n\r\n"])
def test_the_end_of_an_answer_can_come_apart(port: int, last: bytes) -> None:
    for _ in range(20):  # a reader that the machine held up finds both parts at once
        reads = talk(port, ask(user=f"late-end:{len(last)}"))
        assert b"".join(reads).endswith(b"0\r\n\r\n")
        if reads[-1] == last:
            return
    pytest.fail(f"{last!r} never came by itself")


def test_closes_after_a_whole_answer_without_saying_so(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(ask(user="closes"))
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert answer.endswith(DONE + b"\r\n0\r\n\r\n")
    assert b"Connection:" not in answer
    assert null.stamps(port)[0].complete


def test_glued_events_leave_in_one_write(port: int) -> None:
    talk(port, ask(user="glue"))
    first, second, third = null.stamps(port)[0].sent_ns
    assert first == second < third


@pytest.mark.parametrize("events", [0, 2])
def test_drops_the_connection_after_n_events(port: int, events: int) -> None:
    body = b"".join(talk(port, ask(user=f"drop:{events}")))
    assert body.count(b" a") == events
    assert not body.endswith(b"0\r\n\r\n")
    assert [(r.complete, len(r.sent_ns)) for r in null.stamps(port)] == [(False, events)]


def test_hang_sends_no_byte(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=0.2) as connection:
        connection.sendall(ask(user="hang"))
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_role_first_comes_before_the_first_token_is_sent(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(ask("/v1/chat/completions", user="role-first", max_tokens=1))
        first = connection.recv(65536)
        arrived_ns = time.perf_counter_ns()
        assert b'"role":"assistant"' in first
        assert b" a" not in first
        assert b" a" in connection.recv(65536)
    assert arrived_ns < null.stamps(port)[0].sent_ns[0]


def test_status_is_refused_as_asked(port: int) -> None:
    assert status(port, ask(user="status:503")) == 503


def test_chat_and_whole_answers(port: int) -> None:
    streamed = b"".join(talk(port, ask("/v1/chat/completions")))
    assert streamed.count(b'"delta":{"content":" a"}') == 3
    assert b'"prompt_tokens":3' in streamed
    whole = b"".join(talk(port, ask(stream=False), until=b"}}"))
    answer = json.loads(whole.partition(b"\r\n\r\n")[2])
    assert answer["choices"][0]["text"] == " a a a"
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}


def test_keeps_its_schedule_and_never_runs_ahead(port: int) -> None:
    talk(port, ask(max_tokens=20))
    served, = null.stamps(port)
    assert served.complete
    assert len(served.sent_ns) == 20
    assert all(0 <= late < LATE_S for late in served.late_s(TRUTH)), served.late_s(TRUTH)


def test_several_tokens_an_event_keep_the_time_per_token() -> None:
    truth = null.Truth(ttft_s=0.01, tpot_s=0.002, tokens_per_event=4)
    with null.serving(truth) as port:
        talk(port, ask(max_tokens=18))
        served, = null.stamps(port)
    assert len(served.sent_ns) == 5
    assert all(0 <= late < LATE_S for late in served.late_s(truth)[:-1])
    assert 0 <= (served.sent_ns[-1] - served.recv_ns) / 1e9 - (truth.ttft_s + (18 - 4) * truth.tpot_s) < LATE_S


def test_stamps_lie_between_those_of_the_client(port: int) -> None:
    """The server's clock is the client's: what it received was sent before, what it sent arrived after."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        sent_ns = time.perf_counter_ns()
        connection.sendall(ask(max_tokens=1))
        connection.recv(65536)
        arrived_ns = time.perf_counter_ns()
    served, = null.stamps(port)
    assert sent_ns < served.recv_ns < served.sent_ns[0] < arrived_ns


def test_requests_are_known_by_header_then_user(port: int) -> None:
    talk(port, ask(user="by-user"))
    talk(port, ask(user="by-user", headers="x-request-id: by-header\r\n"))
    assert [served.id for served in null.stamps(port)] == ["by-user", "by-header"]
    assert null.stamps(port) == []


def test_a_connection_is_used_again_and_requests_sent_ahead_wait(port: int) -> None:
    both = ask(user="1") + ask(user="2", headers="Connection: close\r\n")
    assert b"".join(talk(port, both, until=b"never")).count(DONE) == 2
    first, second = null.stamps(port)
    assert first.sent_ns[-1] <= second.recv_ns


def test_a_request_may_come_byte_by_byte(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in ask(max_tokens=1, stream=False):
            connection.sendall(bytes([byte]))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("request_", "expected"), [
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\n\r\n{\"a\":", 400),
    (ask(max_tokens=0), 400), (ask(max_tokens="3"), 400), (ask(max_tokens=65537), 400), (ask(max_tokens=1.5), 400),
    (ask(prompt=7), 400), (ask("/v1/chat/completions", messages="x"), 400), (ask(n=2), 400),
    (ask(user="drop"), 400), (ask(user="drop:x"), 400), (ask(user="hang:1"), 400),
    (ask(user="per-event:65"), 400), (ask(user="late-end:17"), 400),
    (ask(user="status:200"), 400), (ask(user="u" * 128), 400), (ask(user="u" * 127, stream=False), 200),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 400),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 14\r\n\r\n{\"prompt\":[1]]", 400),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99\r\n\r\n" + b"[" * 99, 400),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    (b"POST /v1/completions HTTP/1.1\r\n\r\n", 411),
    (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", 413),
    (b"GET /health HTTP/1.0\r\n\r\n", 400), (b"nonsense\r\n\r\n", 400), (b"x" * 20000, 431),
    (b"GET /nowhere HTTP/1.1\r\n\r\n", 404), (b"POST /health HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
    (b"PUT /health HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
], ids=lambda value: value[:60].decode().replace("\r\n", " ") if isinstance(value, bytes) else str(value))  # fmt: skip
def test_refuses_what_it_cannot_answer(port: int, request_: bytes, expected: int) -> None:
    assert status(port, request_) == expected


def test_a_body_of_a_megabyte_is_taken_and_one_more_byte_is_not(port: int) -> None:
    room = 1024 * 1024 - len(ask(stream=False, prompt="").partition(b"\r\n\r\n")[2])
    assert status(port, ask(stream=False, prompt="x" * room)) == 200
    answer = b"".join(talk(port, ask(stream=False, prompt="x" * (room + 1)), until=b"}}"))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"longer than 1 MiB" in answer


def test_words_inside_a_prompt_are_no_fields(port: int) -> None:
    answer = b"".join(talk(port, ask(prompt='a "max_tokens": 9 \\" b "stream": false', max_tokens=2)))
    assert answer.count(b'" a"') == 2


def test_a_hundred_clients_hang_up_and_it_goes_on(port: int) -> None:
    connections = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(100)]
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close() will reset
        connection.sendall(ask(max_tokens=1000))
    connections[0].recv(1)
    for connection in connections:
        connection.close()
    assert payload(port) == token() * 2 + LAST + told() + DONE
    gone = null.stamps(port)
    assert sum(not served.complete for served in gone) == 100
    assert sum(served.complete for served in gone) == 1


def get(port: int, path: str) -> str:
    answer = b"".join(talk(port, f"GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n".encode(), until=b"never"))
    return answer.partition(b"\r\n\r\n")[2].decode()


def test_health_models_and_counters(port: int) -> None:
    before = null.counters(get(port, "/metrics"))
    payload(port)
    after = null.counters(get(port, "/metrics"))
    grown = {name: after[name] - before[name] for name in after}
    assert grown == {"requests": 1, "prompt_tokens": 4, "output_tokens": 3}
    assert json.loads(get(port, "/health")) == {"status": "ok"}
    assert [model["id"] for model in json.loads(get(port, "/v1/models"))["data"]] == ["null"]


def test_listens_on_loopback_alone(port: int) -> None:
    rows = (Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()).splitlines()
    sockets = [(row.split()[1], row.split()[3]) for row in rows]
    listening = [address for address, state in sockets if address.endswith(f":{port:04X}") and state == "0A"]
    assert listening == [f"0100007F:{port:04X}"]


def test_ends_with_sigterm_and_status_0() -> None:
    server = subprocess.Popen([null.build(), *null.arguments(TRUTH)], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    server.send_signal(signal.SIGTERM)
    assert server.wait(10) == 0
    server.stdout.close()


def test_ends_with_the_process_that_started_it() -> None:
    program = [str(null.build()), *null.arguments(TRUTH)]
    start = f"import os, subprocess as s, time; p = s.Popen({program!r}); os.write(1, b'%d\\n' % p.pid); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    said = sorted(parent.stdout.readline().decode() for _ in range(2))  # the server shares its output
    assert said[1].startswith("listening on ")
    pid = int(said[0])
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert parent.stdout.read() == b""  # ends when the last process that holds it does, so the server has let go
    assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
    parent.stdout.close()


@pytest.mark.parametrize("wrong", [["--port", "70000"], ["--tpot-ms", "-1"], ["--ttft-ms"], ["--first-event", "x"],
                                   ["--what", "1"]])  # fmt: skip
def test_wrong_options_are_told(wrong: list[str]) -> None:
    done = subprocess.run([null.build(), *wrong], capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 2
    assert wrong[0] in done.stderr


def test_it_is_an_engine_like_the_others(tmp_path: Path) -> None:
    shape = Shape(layers=1, hidden=8, intermediate=8, heads=1, kv_heads=1, head_dim=8, vocab=8, context=4096, tied=True)
    spec = Spec(Model("none", shape, Family("none", tmp_path, {}, "", "")), extra=null.arguments(TRUTH))
    engine: Engine = null
    with server.serving(engine, spec, logs=tmp_path, timeout_s=10) as served:
        path, body = engine.request(spec, [1, 2, 3], 2)
        head = f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        assert b"".join(talk(served.port, head + body)).count(b'" a"') == 2
        assert served.counters() == {"requests": 1, "prompt_tokens": 3, "output_tokens": 2}
    assert not Path(f"/proc/{served.process.pid}").exists()


def test_a_taken_port_is_told(port: int) -> None:
    done = subprocess.run([null.build(), "--port", str(port)], capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
