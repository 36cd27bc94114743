"""The shim passes everything through as it came, and spoils exactly what it was told to."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from lib.monitoring.shim import CONTROL, NOTHING, Shim, Toxic, loopback
from lib.process import Process, running

EVENTS = [f'data: {{"n":{n}}}\n\n'.encode() for n in range(3)]


class Upstream:
    """A server that streams three events, echoes, or breaks off; it remembers who left early."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for event in EVENTS:
            await answer.write(event)
            await asyncio.sleep(0.05)
        return answer

    async def echo(self, request: web.Request) -> web.Response:
        told = {"path": request.raw_path, "body": (await request.read()).decode(), "agent": request.headers.get("X-Of-Mine")}
        return web.json_response(told, status=418, headers={"X-Told": "yes"})

    async def breaks(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(EVENTS[0])
        assert request.transport is not None
        request.transport.abort()
        return answer

    async def forever(self, request: web.Request) -> web.Response:
        try:
            await asyncio.sleep(60)
        finally:
            self.left.set()
        return web.Response()


@asynccontextmanager
async def shimmed() -> AsyncIterator[tuple[TestClient[web.Request, web.Application], Upstream]]:
    upstream, app = Upstream(), web.Application()
    app.router.add_post("/stream", upstream.stream)
    app.router.add_route("*", "/echo", upstream.echo)
    app.router.add_get("/breaks", upstream.breaks)
    app.router.add_get("/forever", upstream.forever)
    async with TestServer(app, handler_cancellation=True) as behind:
        server = TestServer(Shim(f"http://127.0.0.1:{behind.port}").app(), handler_cancellation=True)
        async with TestClient(server) as client:
            yield client, upstream


async def poison(client: TestClient[web.Request, web.Application], **toxic: object) -> None:
    assert (await client.put(CONTROL, json=toxic)).status == 200


def test_without_a_toxic_everything_passes_as_it_came() -> None:
    async def course() -> None:
        async with shimmed() as (client, _):
            answer = await client.put("/echo?a=%20b", data=b"body", headers={"X-Of-Mine": "me"})
            assert (answer.status, answer.headers["X-Told"]) == (418, "yes")
            assert await answer.json() == {"path": "/echo?a=%20b", "body": "body", "agent": "me"}
            stream = await client.post("/stream")
            pieces = [(piece, time.monotonic()) async for piece in stream.content.iter_any()]
            assert b"".join(piece for piece, _ in pieces) == b"".join(EVENTS)
            assert pieces[-1][1] - pieces[0][1] > 0.03, "the first event waited for the others"

    asyncio.run(course())


def test_each_toxic_does_what_it_says() -> None:
    async def course() -> None:
        async with shimmed() as (client, _):
            await poison(client, error_every=3)
            assert [(await client.get("/echo")).status for _ in range(6)] == [418, 418, 500, 418, 418, 500]
            await poison(client, error_every=1)
            assert (await client.get("/echo")).status == 500
            await poison(client, empty=True)
            answer = await client.post("/stream")
            assert (answer.status, await answer.read()) == (200, NOTHING)
            await poison(client, delay_s=0.2)
            began_s = time.monotonic()
            assert (await client.get("/echo")).status == 418 and time.monotonic() - began_s >= 0.2
            await poison(client, slow_tokens_s=0.2)
            began_s = time.monotonic()
            assert await (await client.post("/stream")).read() == b"".join(EVENTS) and time.monotonic() - began_s >= 0.6
            await poison(client, hang=True)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.get("/echo"), 0.3)
            await poison(client)
            assert (await client.get("/echo")).status == 418

    asyncio.run(course())


def test_a_client_that_leaves_frees_the_upstream_and_half_an_answer_is_no_answer() -> None:
    async def course() -> None:
        async with shimmed() as (client, upstream):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.get("/forever"), 0.2)
            await asyncio.wait_for(upstream.left.wait(), 2)
            answer = await client.get("/breaks")
            with pytest.raises(aiohttp.ClientError):
                await answer.read()

    asyncio.run(course())


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["delay_s", "error_every", "empty", "hang", "slow_tokens_s"]) | st.text(), inner)))  # fmt: skip
def test_a_toxic_is_understood_or_refused(told: object) -> None:
    try:
        toxic = Toxic.told(json.loads(json.dumps(told)))
    except ValueError as wrong:
        assert str(wrong)
    else:
        assert toxic.delay_s >= 0 and toxic.error_every >= 0 and toxic.slow_tokens_s >= 0


@pytest.mark.parametrize("elsewhere", ["http://192.0.2.1:80", "https://127.0.0.1:1", "127.0.0.1:80", "http://127.0.0.1"])
def test_only_loopback_is_asked(elsewhere: str) -> None:
    with pytest.raises(ValueError, match=r"say http://127|not appear to be"):
        loopback(elsewhere)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Process]:
    command = (sys.executable, "-m", "lib.monitoring.shim", "--upstream", "http://127.0.0.1:9")
    with running(lambda port: (*command, "--port", str(port)), name="shim", logs=tmp_path, health=CONTROL) as process:
        yield process


def test_as_a_process_it_says_what_is_wrong(alone: Process) -> None:
    assert httpx.get(alone.url + "/x", trust_env=False).status_code == 502
    wrong = httpx.put(alone.url + CONTROL, json={"hang": 1}, trust_env=False)
    assert (wrong.status_code, wrong.json()["error"]) == (400, "hang is a bool, not negative; not 1")
    assert httpx.get(alone.url + CONTROL, trust_env=False).json()["asked"] == 1
