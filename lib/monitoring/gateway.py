"""The gateway: where clients' requests to all services pass, because engines and services do not tell what their clients see.

/fraud/v1/score goes to the fraud service's /v1/score; streams pass chunk by chunk. When a request has ended it is counted by how (call.py)
and has a line in the request log; an LLM's stream is read on its way for its tokens and their times. What is not POSTed asks for no
prediction: it passes uncounted. Refuses what is too large, what is more than a service may have in flight, and upstreams beyond loopback.

    python -m lib.monitoring.gateway --route fraud=http://127.0.0.1:8000 --log FILE     (see --help)

PUT /-/routes {"fraud": "http://127.0.0.1:8001"} moves a service; what is in flight ends where it is. GET /metrics, /healthz, /-/routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter, time
from typing import Annotated

import aiohttp
import typer
import uvloop
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from lib.monitoring.call import LLM, PREDICTIONS, Call
from lib.monitoring.gateway_metrics import GatewayMetrics
from lib.monitoring.request_log import RequestLog
from lib.monitoring.usage import Usage
from lib.pipelines.serve import say

TIMES_S = {"fraud": 1.0}  # the longest silence of an upstream; of others OTHERS_S
OTHERS_S, LONGEST_S, CONNECT_S = 5.0, 120.0, 1.0
MOST_BODY_BYTES, MOST_IN_FLIGHT = 8 << 20, 64
IDLE_S = 2.0  # connections are let go before uvicorn (5 s) does: a request on one that closes would be lost
HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect", "host", "content-length",
       "accept-encoding"}  # the last because what is compressed cannot be read on its way  # fmt: skip
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
STATUSES = {"refused": 503, "timeout": 504, "unreachable": 502}


class BadRoute(ValueError):
    """An upstream that cannot be: says which, and what would be right."""


def upstream(told: str, *, beyond: bool = False) -> URL:
    """The upstream in `told`. Raises BadRoute unless it is http://HOST:PORT of this machine, or of another where `beyond` allows."""
    try:
        url = URL(told)
        if url.scheme != "http" or not url.host or url.explicit_port is None or str(url).rstrip("/") != str(url.origin()):
            raise ValueError
    except ValueError:
        raise BadRoute(f"{told!r} is no upstream; say http://127.0.0.1:8000") from None
    try:
        ours = ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        ours = url.host == "localhost"
    if not (ours or beyond):
        raise BadRoute(f"{told!r} is beyond this machine; --beyond-loopback allows that")
    return url.origin()


class Gateway:
    """Proxies for one event loop. `routes` are read once a request, so that they may change at any time."""

    def __init__(self, routes: Mapping[str, URL], metrics: GatewayMetrics, log: RequestLog, *, times_s: Mapping[str, float],
                 most_in_flight: Mapping[str, int], beyond: bool = False) -> None:
        self._routes, self._metrics, self._log, self._beyond = dict(routes), metrics, log, beyond
        self._most, self._in_flight = most_in_flight, dict.fromkeys(routes, 0)
        # An LLM's connection is a new one each time: llama.cpp closes after a stream without saying so.
        self._sessions = {service: aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True) if service == LLM else
            aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S),
            timeout=aiohttp.ClientTimeout(total=LONGEST_S, sock_connect=CONNECT_S, sock_read=times_s.get(service, OTHERS_S)),
            auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding", "Content-Type", "User-Agent")) for service in routes}  # fmt: skip

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._log.close()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request to the gateway."""
        service, slash, rest = request.raw_path.removeprefix("/").partition("/")
        if slash and service in self._routes:
            return await self._counted(request, service, "/" + rest)
        match request.method, request.path:
            case "GET", "/metrics":
                return web.Response(body=self._metrics.text(self._log.lost), headers={"Content-Type": PROMETHEUS})
            case "GET", "/healthz" | "/readyz":
                return web.json_response({"alive": True})
            case "GET", "/-/routes":
                return web.json_response({name: str(url) for name, url in self._routes.items()})
            case "PUT", "/-/routes":
                return await self._move(request)
        return _problem(404, f"There is {', '.join(f'/{name}/…' for name in self._routes)}, /metrics, /healthz and /-/routes")

    async def _move(self, request: web.BaseRequest) -> web.Response:
        try:
            asked = json.loads(await request.read())
            if not isinstance(asked, dict) or not asked.keys() <= self._routes.keys():
                raise BadRoute(f"Send JSON of services and their upstreams; there are {', '.join(self._routes)}")
            moved = {name: upstream(str(told), beyond=self._beyond) for name, told in asked.items()}
        except (ValueError, RecursionError) as error:
            return _problem(400, str(error))
        self._routes |= moved
        say("moved", **{name: str(url) for name, url in moved.items()})
        return web.json_response({name: str(url) for name, url in self._routes.items()})

    async def _counted(self, request: web.BaseRequest, service: str, path: str) -> web.StreamResponse:
        call = Call(service, path, perf_counter(), time(), usage=Usage() if service == LLM else None)
        self._in_flight[service] += 1
        self._metrics.begun(service, 1)
        try:
            if self._in_flight[service] > self._most.get(service, MOST_IN_FLIGHT):
                return await self._refuse(request, call, "refused", f"More is in flight to {service} than it takes; try again later")
            return await self._forward(request, call)
        except asyncio.CancelledError:
            call.outcome = call.left()
            raise
        except aiohttp.ClientConnectionResetError:
            call.outcome = call.left()
            return _problem(499, "The client left")  # to nobody
        finally:
            self._in_flight[service] -= 1
            self._metrics.begun(service, -1)
            if request.method == "POST":
                entry = call.entry(perf_counter())
                self._metrics.ended(entry)
                self._log.add(entry)

    async def _forward(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        try:
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            async with asyncio.timeout(OTHERS_S):
                body = await request.read()
            url = URL(f"{self._routes[call.service]}{call.path}", encoded=True)
        except web.HTTPRequestEntityTooLarge:
            return await self._refuse(request, call, "client", f"A body has at most {MOST_BODY_BYTES} bytes", status=413)
        except TimeoutError:
            return await self._refuse(request, call, "client", f"The body was not here within {OTHERS_S:g} s", status=408)
        except (ValueError, aiohttp.ClientError):
            return await self._refuse(request, call, "client", "This is no request as HTTP has it", status=400)
        call.asked = True
        begun: list[web.StreamResponse] = []
        try:
            async with self._sessions[call.service].request(request.method, url, data=body or None, headers=_passed(request.headers),
                                                            allow_redirects=False) as theirs:
                return await self._relay(request, call, theirs, begun)
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            outcome, why = "unreachable", f"{call.service} cannot be reached ({type(error).__name__})"
        except TimeoutError:
            outcome, why = "timeout", f"{call.service} did not answer in time"
        except aiohttp.ClientError as error:
            if begun and isinstance(error, aiohttp.ClientConnectionResetError):
                raise  # it is our client's connection, not theirs
            outcome, why = "unreachable", f"The connection to {call.service} broke ({type(error).__name__})"
        if not begun:
            return await self._refuse(request, call, outcome, why)
        call.outcome = outcome
        if request.transport is not None:
            request.transport.abort()  # so that nobody takes the part for the whole
        return begun[0]

    async def _relay(self, request: web.BaseRequest, call: Call, theirs: aiohttp.ClientResponse,
                     begun: list[web.StreamResponse]) -> web.StreamResponse:
        """Pass the answer on. `begun`: where our own is put once a part of it is on its way."""
        headers = _passed(theirs.headers)
        if theirs.content_length is not None and theirs.content_length <= MOST_BODY_BYTES:
            body = await theirs.read()
            call.status = theirs.status
            ours: web.StreamResponse = web.Response(status=theirs.status, body=body, headers=headers)
            begun.append(ours)
            await ours.prepare(request)
            await ours.write_eof()
            call.outcome = call.ended(body)
            return ours
        call.status = theirs.status
        ours = web.StreamResponse(status=theirs.status, headers=headers)
        begun.append(ours)
        await ours.prepare(request)
        async for chunk in theirs.content.iter_any():
            if call.usage is not None:
                call.usage.feed(chunk, perf_counter())
            await ours.write(chunk)
            call.streamed = True
        await ours.write_eof()
        call.outcome = call.ended(None)
        return ours

    async def _refuse(self, request: web.BaseRequest, call: Call, outcome: str, why: str, *, status: int = 0) -> web.StreamResponse:
        """Our own answer in place of the service's."""
        call.outcome, call.status = outcome, status or STATUSES[outcome]
        ours = _problem(call.status, why)
        await ours.prepare(request)
        await ours.write_eof()
        return ours


def _passed(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """What concerns the other side. What is not ASCII cannot be sent on as it came."""
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in HOP and value.isascii())


def _problem(status: int, why: str) -> web.Response:
    return web.json_response({"error": why}, status=status, headers={"Retry-After": "1"} if status == 503 else None)


@contextlib.asynccontextmanager
async def listening(gateway: Gateway, *, host: str = "127.0.0.1", port: int = 0, drain_s: float = 5.0) -> AsyncIterator[int]:
    """Answer at the port that this yields; then let what is in flight end, for `drain_s` at most. Raises OSError."""
    factory = partial(web.BaseRequest, loop=asyncio.get_running_loop(), client_max_size=MOST_BODY_BYTES)
    server = web.Server(gateway.answer, request_factory=factory, handler_cancellation=True, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=drain_s)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
        await gateway.close()


async def _serve(gateway: Gateway, host: str, port: int) -> None:
    told = asyncio.Event()
    async with listening(gateway, host=host, port=port) as bound:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, told.set)
        say("started", host=host, port=bound)
        await told.wait()
        say("draining")
    say("stopped")


def main(
    route: Annotated[list[str], typer.Option(help="SERVICE=URL, of fraud, retail and llm; may be given again.")],
    log: Annotated[Path, typer.Option(help="The request log, JSON lines.")],
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="Beyond loopback only if you ask for it: there is no authentication.")] = "127.0.0.1",
    model: Annotated[str, typer.Option(help="What the LLM's metrics call it.")] = "smollm2-135m",
    times: Annotated[list[str], typer.Option("--time", help="SERVICE=SECONDS, the longest silence of it.", show_default=False)] = [],  # noqa: B006
    in_flight: Annotated[list[str], typer.Option(help="SERVICE=N, more are refused with 503.", show_default=False)] = [],  # noqa: B006
    beyond_loopback: Annotated[bool, typer.Option(help="Let upstreams be other machines.")] = False,
) -> None:
    """Pass requests on to services, and tell Prometheus how they fared, until told to stop."""
    try:
        routes = {name: upstream(told, beyond=beyond_loopback) for name, told in map(_pair, route)}
        times_s = TIMES_S | {name: _positive(told) for name, told in map(_pair, times)}
        most = {name: int(_positive(told)) for name, told in map(_pair, in_flight)}
        kept = RequestLog(log)

        async def run() -> None:
            metrics = GatewayMetrics(tuple(routes), model)
            gateway = Gateway(routes, metrics, kept, times_s=times_s, most_in_flight=most, beyond=beyond_loopback)
            await _serve(gateway, host, port)

        uvloop.run(run())
    except (BadRoute, OSError, OverflowError) as reason:
        sys.exit(f"gateway: {reason}")


def _pair(told: str) -> tuple[str, str]:
    name, _, value = told.partition("=")
    if name not in PREDICTIONS or not value:
        raise BadRoute(f"{told!r}: say SERVICE=VALUE, the service one of {', '.join(PREDICTIONS)}")
    return name, value


def _positive(told: str) -> float:
    try:
        if (value := float(told)) > 0:
            return value
    except ValueError:
        pass
    raise BadRoute(f"{told!r} is no number above 0")


if __name__ == "__main__":
    typer.run(main)
