"""The gateway against upstreams that do whatever an upstream can do, and clients that do whatever clients can do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lib import process
from lib.monitoring import gateway as subject
from lib.monitoring.gateway import BadRoute, Gateway, listening, upstream
from lib.monitoring.gateway_metrics import OUTCOMES, GatewayMetrics
from lib.monitoring.request_log import Entry, RequestLog, read

Handler = Callable[[bytes, bytes, asyncio.StreamWriter], Awaitable[None]]
SCORED = b'{"id":"a","decision":"approve","probability":0.01,"reasons":[],"model":"m"}'
SEEN = b'{"width":1,"height":1,"detections":[],"people":0,"shelf":{}}'
PATHS = {"fraud": "/fraud/v1/score", "retail": "/retail/v1/pictures", "llm": "/llm/v1/completions"}


def whole(status: int, body: bytes, headers: bytes = b"") -> Handler:
    async def answer(head: bytes, asked: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d Any\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), headers, body))

    return answer


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(told: object) -> bytes:
    return chunk(b"data: " + (told if isinstance(told, bytes) else json.dumps(told).encode()) + b"\n\n")


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def streamed(*pieces: bytes | float, end: bytes = END) -> Handler:
    """Chunks and pauses (s) between them."""

    async def answer(head: bytes, asked: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for piece in pieces:
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                writer.write(piece)
                await writer.drain()
        writer.write(end)

    return answer


@contextlib.asynccontextmanager
async def upstream_of(handler: Handler) -> AsyncIterator[str]:
    """A server that answers each request by `handler` and closes; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), 0)
            await handler(head, await reader.readexactly(length), writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@dataclass
class Stand:
    """A gateway, a client of it, and the log that it writes."""

    url: str
    http: aiohttp.ClientSession
    gateway: Gateway
    log: RequestLog
    path: Path

    async def post(self, path: str, body: bytes = b"{}", **more: Any) -> tuple[int, bytes]:
        async with self.http.post(self.url + path, data=body, **more) as answer:
            return answer.status, await answer.read()

    async def metrics(self) -> dict[tuple[str, ...], float]:
        async with self.http.get(f"{self.url}/metrics") as answer:
            families = text_string_to_metric_families((await answer.read()).decode())
        return {(s.name, *(v for k, v in s.labels.items() if k != "le")): s.value
                for f in families for s in f.samples if not s.name.endswith("_bucket")}  # fmt: skip

    async def outcomes(self) -> dict[tuple[str, str], int]:
        """Requests by service and outcome, of those there were any."""
        await asyncio.sleep(0.02)  # a request is counted after its client has the last byte
        found = await self.metrics()
        return {(key[1], key[2]): int(value) for key, value in found.items() if key[0] == "gateway_requests_total" and value}

    def entries(self) -> list[Entry | None]:
        self.log.flush()
        return list(read(self.path))


@contextlib.asynccontextmanager
async def stand(path: Path, **handlers: Handler | str) -> AsyncIterator[Stand]:
    async with contextlib.AsyncExitStack() as stack:
        urls = {name: h if isinstance(h, str) else await stack.enter_async_context(upstream_of(h)) for name, h in handlers.items()}
        log = RequestLog(path / "requests.jsonl")
        gateway = Gateway({name: upstream(url) for name, url in urls.items()}, GatewayMetrics(tuple(urls), "m"), log,
                          times_s={"fraud": 0.3, "retail": 0.3, "llm": 0.3}, most_in_flight={"fraud": 2})
        port = await stack.enter_async_context(listening(gateway, drain_s=0.2))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Stand(f"http://127.0.0.1:{port}", http, gateway, log, path / "requests.jsonl")


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


async def hang(head: bytes, asked: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(5)


async def close(head: bytes, asked: bytes, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def cut(head: bytes, asked: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")


TOKEN = event({"choices": [{"text": "a"}]})
CASES: dict[str, tuple[str, Handler, int, str]] = {
    "scored": ("fraud", whole(200, SCORED), 200, "ok"),
    "without a decision": ("fraud", whole(200, b'{"id":"a"}'), 200, "empty"),
    "no JSON": ("fraud", whole(200, b"<html>"), 200, "empty"),
    "nothing": ("fraud", whole(200, b""), 200, "empty"),
    "nested too deep": ("fraud", whole(200, b"[" * 9000), 200, "empty"),
    "seen, nobody there": ("retail", whole(200, SEEN), 200, "ok"),
    "without detections": ("retail", whole(200, b'{"people":0}'), 200, "empty"),
    "not valid": ("fraud", whole(422, b"{}"), 422, "client"),
    "too many": ("fraud", whole(429, b"{}"), 429, "refused"),
    "overloaded": ("fraud", whole(503, b"{}"), 503, "refused"),
    "expired": ("fraud", whole(504, b"{}"), 504, "timeout"),
    "failed": ("fraud", whole(500, b"{}"), 500, "server"),
    "another gateway's": ("fraud", whole(502, b"{}"), 502, "unreachable"),
    "redirected": ("fraud", whole(302, b"", b"Location: http://127.0.0.1:1/\r\n"), 302, "server"),
    "hangs": ("fraud", hang, 504, "timeout"),
    "closes": ("fraud", close, 502, "unreachable"),
    "cut": ("fraud", cut, 502, "unreachable"),
    "tokens": ("llm", streamed(TOKEN, event(b"[DONE]")), 200, "ok"),
    "no token": ("llm", streamed(event({"choices": [{"delta": {"role": "assistant"}}]}), event(b"[DONE]")), 200, "empty"),
    "no event": ("llm", streamed(), 200, "empty"),
    "an error under 200": ("llm", streamed(TOKEN, event({"error": {"message": "out of memory"}})), 200, "server"),
    "whole": ("llm", whole(200, b'{"choices":[{"text":"a b"}],"usage":{"completion_tokens":2,"prompt_tokens":5}}'), 200, "ok"),
    "whole, without a token": ("llm", whole(200, b'{"choices":[{"text":""}],"usage":{"completion_tokens":0}}'), 200, "empty"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_end_has_its_outcome(case: str, tmp_path: Path) -> None:
    service, handler, status, outcome = CASES[case]

    async def scenario() -> None:
        async with stand(tmp_path, **{service: handler}) as s:
            got, _ = await s.post(PATHS[service], allow_redirects=False)
            assert got == status
            assert await s.outcomes() == {(service, outcome): 1}
            [entry] = s.entries()
            assert entry is not None and (entry.service, entry.outcome, entry.status) == (service, outcome, status)
            seen = await s.metrics()
            assert seen[("gateway_request_seconds_count", service)] == (outcome == "ok")
            assert seen[("gateway_in_flight", service)] == 0

    run(scenario())


def test_nothing_listens(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stand(tmp_path, fraud=f"http://127.0.0.1:{process.free_port()}") as s:
            status, body = await s.post(PATHS["fraud"])
            assert status == 502 and b"cannot be reached" in body
            assert await s.outcomes() == {("fraud", "unreachable"): 1}

    run(scenario())


def test_what_passes_is_what_was_sent(tmp_path: Path) -> None:
    heads = []

    async def answer(head: bytes, asked: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append((head, asked))
        await whole(200, SCORED, b"X-Their: yes\r\nConnection: keep-alive\r\n")(head, asked, writer)

    async def scenario() -> None:
        async with stand(tmp_path, fraud=answer) as s:
            url = f"{s.url}/fraud/v1/%C3%A9//a%2Fb?x=1%202&y="
            sent = {"X-Mine": "1", "Connection": "close", "Upgrade": "h2c", "X-Odd": "\xe9"}
            async with s.http.request("PATCH", aiohttp.client.URL(url, encoded=True), data=b"\x00\xff", headers=sent) as got:
                assert (got.status, await got.read(), got.headers["X-Their"]) == (200, SCORED, "yes")
        [(head, asked)] = heads
        assert asked == b"\x00\xff"
        assert head.startswith(b"PATCH /v1/%C3%A9//a%2Fb?x=1%202&y= HTTP/1.1\r\n")
        assert b"X-Mine: 1\r\n" in head
        assert not any(word in head.lower() for word in (b"upgrade", b"connection: close", b"accept-encoding", b"x-odd"))

    run(scenario())


def test_a_stream_passes_piece_by_piece(tmp_path: Path) -> None:
    """The second piece is only sent once the client has the first: a gateway that collects would wait for ever."""
    has_first = asyncio.Event()

    async def answer(head: bytes, asked: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + event({"choices": [{"text": "one"}]}))
        await asyncio.wait_for(has_first.wait(), 5)
        writer.write(event({"choices": [{"text": "two"}]}) + END)

    async def scenario() -> None:
        async with stand(tmp_path, llm=answer) as s, s.http.post(s.url + PATHS["llm"], data=b"{}") as got:
            assert b"one" in await got.content.readany()
            has_first.set()
            assert b"two" in await got.content.read()

    run(scenario())


def test_times_and_tokens_of_a_stream(tmp_path: Path) -> None:
    """A role first, which is no token; then three tokens 60 ms apart, as llama.cpp tells them."""

    def told(n: int, text: str) -> bytes:
        return event({"choices": [{"text": text}], "timings": {"predicted_n": n, "prompt_n": 8, "cache_n": 40}})

    role = event({"choices": [{"delta": {"role": "assistant"}}]})
    pieces = (role, 0.1, told(1, "a"), 0.06, told(2, "b"), 0.06, told(3, ""), told(3, ""), event(b"[DONE]"))

    async def scenario() -> None:
        async with stand(tmp_path, llm=streamed(*pieces)) as s:
            await s.post(PATHS["llm"])
            await s.outcomes()
            [entry] = s.entries()
            assert entry is not None and entry.ttft_s is not None and entry.tpot_s is not None
            assert 0.1 <= entry.ttft_s < 0.2
            assert 0.055 <= entry.tpot_s < 0.1
            assert (entry.input_uncached, entry.input_cached, entry.output) == (8, 40, 3)
            seen = await s.metrics()
            assert [seen[("gen_ai_tokens_total", "m", kind)] for kind in ("input_uncached", "input_cached", "output")] == [8, 40, 3]
            assert seen[("gen_ai_server_time_to_first_token_seconds_sum", "m")] == pytest.approx(entry.ttft_s)
            assert seen[("gen_ai_server_time_per_output_token_seconds_sum", "m")] == pytest.approx(entry.tpot_s)

    run(scenario())


@pytest.mark.parametrize(("pieces", "outcome"), [((TOKEN, 5.0), "timeout"), ((TOKEN,), "unreachable")])
def test_an_answer_that_breaks_off_is_seen_to(pieces: tuple[bytes | float, ...], outcome: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stand(tmp_path, llm=streamed(*pieces, end=b"")) as s:
            with pytest.raises(aiohttp.ClientError):
                await s.post(PATHS["llm"])
            assert await s.outcomes() == {("llm", outcome): 1}
            [entry] = s.entries()
            assert entry is not None and entry.output == 1  # what was made was paid for

    run(scenario())


@pytest.mark.parametrize(("before", "outcome"), [((), "timeout"), ((TOKEN,), "client"),
                                                 ((event({"choices": [{"delta": {"role": "assistant"}}]}),), "timeout")])
def test_a_client_that_leaves(before: tuple[bytes, ...], outcome: str, tmp_path: Path) -> None:
    """Before it has a token it gave up waiting, after that it had what it wanted; the engine is told either way."""
    told = asyncio.Event()

    async def answer(head: bytes, asked: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        writer.writelines(before)
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                await asyncio.sleep(0.01)
                writer.write(chunk(b": still there\n\n"))
                await writer.drain()
        told.set()

    async def scenario() -> None:
        async with stand(tmp_path, llm=answer) as s:
            got = await s.http.post(s.url + PATHS["llm"], data=b"{}")
            await got.content.readany()
            got.close()
            await asyncio.wait_for(told.wait(), 5)
            assert await s.outcomes() == {("llm", outcome): 1}
            assert (await s.metrics())[("gateway_in_flight", "llm")] == 0

    run(scenario())


def test_a_client_that_leaves_before_its_body_is_here_asked_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stand(tmp_path, fraud=whole(200, SCORED)) as s:
            _, writer = await asyncio.open_connection("127.0.0.1", int(s.url.rpartition(":")[2]))
            writer.write(b"POST /fraud/v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            await asyncio.sleep(0.05)
            writer.close()
            await asyncio.sleep(0.05)
            assert await s.outcomes() == {("fraud", "client"): 1}

    run(scenario())


def test_bodies_are_bounded_in_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "OTHERS_S", 0.1)

    async def scenario() -> None:
        async with stand(tmp_path, retail=whole(200, SEEN)) as s:
            assert (await s.post(PATHS["retail"], bytes(subject.MOST_BODY_BYTES)))[0] == 200
            with contextlib.suppress(aiohttp.ClientConnectionError):  # it may be closed while the client still sends
                assert (await s.post(PATHS["retail"], bytes(subject.MOST_BODY_BYTES + 1)))[0] == 413
            reader, writer = await asyncio.open_connection("127.0.0.1", int(s.url.rpartition(":")[2]))
            writer.write(b"POST /retail/v1/pictures HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            assert b" 408 " in await reader.readline()
            writer.close()
            assert await s.outcomes() == {("retail", "ok"): 1, ("retail", "client"): 2}

    run(scenario())


def test_whoever_waits_to_be_told_to_go_on_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stand(tmp_path, fraud=whole(200, SCORED)) as s:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(s.url.rpartition(":")[2]))
            writer.write(b"POST /fraud/v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            assert b" 100 " in await asyncio.wait_for(reader.readline(), 1)
            writer.write(b"{}")
            assert await reader.readline() == b"\r\n"
            assert b" 200 " in await reader.readline()
            writer.close()

    run(scenario())


def test_more_than_may_be_in_flight_is_refused_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stand(tmp_path, fraud=hang) as s:
            got = await asyncio.gather(*(s.post(PATHS["fraud"]) for _ in range(5)))
            assert sorted(status for status, _ in got) == [503, 503, 503, 504, 504]
            assert await s.outcomes() == {("fraud", "refused"): 3, ("fraud", "timeout"): 2}

    run(scenario())


def test_a_service_moves_and_what_is_in_flight_ends_where_it_is(tmp_path: Path) -> None:
    blue, green = SCORED.replace(b'"m"', b'"blue"'), SCORED.replace(b'"m"', b'"green"')
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go.wait()
        await whole(200, blue)(head, body, writer)

    async def scenario() -> None:
        async with upstream_of(whole(200, green)) as other, stand(tmp_path, fraud=slow) as s:
            first = asyncio.create_task(s.post(PATHS["fraud"]))
            await asked.wait()
            async with s.http.put(f"{s.url}/-/routes", json={"fraud": other}) as moved:
                assert (moved.status, await moved.json()) == (200, {"fraud": other})
            assert (await s.post(PATHS["fraud"]))[1] == green
            go.set()
            assert (await first)[1] == blue
            assert await s.outcomes() == {("fraud", "ok"): 2}

    run(scenario())


@pytest.mark.parametrize("told", [b"", b"[]", b"{", b'{"shop": "http://127.0.0.1:1"}', b'{"fraud": "http://10.0.0.1:80"}', b'{"fraud": 7}',
                                  b'{"fraud": "https://127.0.0.1:80"}', b'{"fraud": "http://127.0.0.1:80/x"}', b"[" * 9000])
def test_a_route_that_cannot_be_moves_nothing(told: bytes, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stand(tmp_path, fraud=whole(200, SCORED)) as s:
            async with s.http.put(f"{s.url}/-/routes", data=told) as got:
                assert got.status == 400 and (await got.json())["error"]
            assert (await s.post(PATHS["fraud"]))[0] == 200

    run(scenario())


@pytest.mark.parametrize("told", ["", "127.0.0.1:80", "http://127.0.0.1", "http://[::1", "http://10.0.0.1:80", "http://example.com:80", "http://a:b"])
def test_no_upstream(told: str) -> None:
    with pytest.raises(BadRoute):
        upstream(told)


def test_upstreams_beyond_this_machine_only_when_asked_for() -> None:
    assert str(upstream("http://fraud:8000/", beyond=True)) == "http://fraud:8000"
    assert str(upstream("http://[::1]:80")) == "http://[::1]"  # 80 is what is meant where none is said
    assert str(upstream("http://localhost:81")) == "http://localhost:81"


def test_what_asks_for_no_prediction_passes_uncounted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stand(tmp_path, fraud=whole(503, b"{}")) as s:
            async with s.http.get(f"{s.url}/fraud/readyz") as got:
                assert got.status == 503
            assert await s.outcomes() == {}
            for path in ("/", "/fraud", "/nowhere/x", "/-/else"):
                async with s.http.get(s.url + path) as got:
                    assert got.status == 404
            async with s.http.get(f"{s.url}/healthz") as got:
                assert got.status == 200

    run(scenario())


ODD = (b"[", b"%", b"%zz", b"@x", b"?#", b"..//..", b"\xff\xfe", b"a" * 4000, b"{}|^`")
LINES = (*(b"POST /fraud/%d HTTP/1.1" % n for n in range(40)), *(b"POST /fraud/%b HTTP/1.1" % odd for odd in ODD),
         b"POST /llm/v1/completions HTTP/1.1\r\nX-Odd: \xff\xfe", b"POST http://evil.example/fraud/x HTTP/1.1", b"BREW /fraud/x HTTP/1.1",
         b"POST * HTTP/1.1", b"POST /fraud/x HTTP/9.9", b"\x00\x01")  # fmt: skip


def test_hostile_clients_make_no_series(tmp_path: Path) -> None:
    """Paths, models, methods and headers of every kind: the same series as before, and nothing that blames the service."""

    async def scenario() -> None:
        answer = whole(404, b'{"error":"\xff"}', b"X-Theirs: \xfe\r\n")
        async with stand(tmp_path, fraud=answer, llm=answer) as s:
            before = (await s.metrics()).keys()
            for line in LINES:
                reader, writer = await asyncio.open_connection("127.0.0.1", int(s.url.rpartition(":")[2]))
                body = b'{"model":"%b"}' % line[:20]
                writer.write(line + b"\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                assert (await asyncio.wait_for(reader.readline(), 3)).startswith(b"HTTP/1."), line
                writer.close()
            assert (await s.metrics()).keys() == before
            assert {outcome for _, outcome in await s.outcomes()} == {"client"}

    run(scenario())


def test_input_that_an_engine_does_not_tell_is_counted_as_untold(tmp_path: Path) -> None:
    """A bill that lacks something says so."""

    async def scenario() -> None:
        async with stand(tmp_path, llm=streamed(TOKEN, event(b"[DONE]"))) as s:
            await s.post(PATHS["llm"])
            await s.outcomes()
            [entry] = s.entries()
            assert entry is not None and (entry.input_uncached, entry.output) == (None, 1)
            assert (await s.metrics())[("gen_ai_requests_without_usage_total", "m")] == 1

    run(scenario())


def test_every_series_is_there_from_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stand(tmp_path, fraud=whole(200, SCORED), llm=whole(200, SCORED)) as s:
            seen = await s.metrics()
            assert {key[1:] for key in seen if key[0] == "gateway_requests_total"} == {(n, o) for n in ("fraud", "llm") for o in OUTCOMES}
            assert {key[2] for key in seen if key[0] == "gen_ai_tokens_total"} == {"input_uncached", "input_cached", "output"}
            assert seen[("process_cpu_seconds_total",)] > 0

    run(scenario())


def test_a_process_from_its_start_to_its_orderly_end(tmp_path: Path) -> None:
    """As a deployment runs it: what was answered before a kill is in the log, give or take its last fifth of a second."""
    log = tmp_path / "log" / "requests.jsonl"

    def argv(port: int) -> list[str]:
        route = ("--route", "fraud=http://127.0.0.1:9")
        return [sys.executable, "-m", "lib.monitoring.gateway", "--port", str(port), *route, "--log", str(log)]

    with process.running(argv, name="gateway", logs=tmp_path, health="/healthz") as gateway:
        for _ in range(5):
            assert httpx.post(f"{gateway.url}/fraud/v1/score", json={}, trust_env=False).status_code == 502
        assert gateway.signal(signal.SIGTERM) == 0
    assert [entry and entry.outcome for entry in read(log)] == ["unreachable"] * 5
    assert '"stopped"' in gateway.log.read_text()


@pytest.mark.parametrize(("args", "says"), [
    (["--route", "shop=http://127.0.0.1:1"], "say SERVICE=VALUE"),
    (["--route", "fraud=ftp://x"], "no upstream"),
    (["--route", "fraud=http://127.0.0.1:1", "--time", "fraud=soon"], "no number above 0"),
])  # fmt: skip
def test_a_command_line_that_cannot_be_says_why(args: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import typer.testing

    app = typer.Typer()
    app.command()(subject.main)
    told = typer.testing.CliRunner().invoke(app, [*args, "--log", str(tmp_path / "x")])
    assert says in str(told.exception)
