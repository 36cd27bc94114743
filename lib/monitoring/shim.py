"""A toxic proxy in front of a server: it passes everything through, until it is told to spoil it.

The faults of a network or a broken engine, without touching the engine: answers late, refused, empty, never, or slowly. What it does is
set with `PUT /-/toxic` and told by `GET /-/toxic`. Only loopback. Refuses a toxic that it does not know, and an upstream elsewhere.

    python -m lib.monitoring.shim --port 8082 --upstream http://127.0.0.1:8081
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, fields
from ipaddress import ip_address
from math import isfinite
from typing import Annotated, Any

import aiohttp
import typer
import uvloop
from aiohttp import web

MOST_BYTES = 8 * 2**20
CONTROL = "/-/toxic"
HOP = frozenset({"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length"})
# A stream of completions as an engine would end it, without a token in it.
NOTHING = b'data: {"object":"text_completion","choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@dataclass(frozen=True, slots=True)
class Toxic:
    """What happens to requests; by default nothing.

    `delay_s` before the upstream is asked; `error_every` n-th request is answered 500 (0 none, 1 all); `empty`: 200 and a well-formed
    stream without a token; `hang`: accepted, never answered; `slow_tokens_s`: a pause before each event of a stream.
    """

    delay_s: float = 0.0
    error_every: int = 0
    empty: bool = False
    hang: bool = False
    slow_tokens_s: float = 0.0

    @classmethod
    def told(cls, body: Any) -> Toxic:
        """From JSON; what is not named is off. Raises ValueError that says what is wrong."""
        kinds = {field.name: type(field.default) for field in fields(cls)}
        if not isinstance(body, dict) or body.keys() - kinds:
            raise ValueError(f"a toxic is an object of {', '.join(kinds)}, not {body!r:.100}")
        for name, value in body.items():
            number = type(value) in (int, float) and isfinite(value) and value >= 0
            if not {bool: type(value) is bool, int: number and type(value) is int, float: number}[kinds[name]]:
                raise ValueError(f"{name} is a {kinds[name].__name__}, not negative; not {value!r:.100}")
        return cls(**body)


class Shim:
    """The proxy. For one event loop; `open` it before it is asked."""

    def __init__(self, upstream: str) -> None:
        """Raises ValueError unless `upstream` is http on loopback."""
        self._upstream, self.toxic, self.asked = loopback(upstream), Toxic(), 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MOST_BYTES)
        app.router.add_put(CONTROL, self.put)
        app.router.add_get(CONTROL, self.get)
        app.router.add_route("*", "/{path:.*}", self.handle)
        app.cleanup_ctx.append(self._session)
        return app

    async def _session(self, _: web.Application) -> AsyncIterator[None]:
        waits = aiohttp.ClientTimeout(total=None, sock_connect=2)  # who asks decides how long an answer may take
        plain = aiohttp.TCPConnector(limit=0, force_close=True)  # llama.cpp closes after a stream without saying so in a header
        async with aiohttp.ClientSession(self._upstream, connector=plain, timeout=waits, auto_decompress=False) as self._ask:
            yield

    async def get(self, _: web.Request) -> web.Response:
        return web.json_response({**asdict(self.toxic), "asked": self.asked})

    async def put(self, request: web.Request) -> web.Response:
        try:
            self.toxic = Toxic.told(await request.json())
        except ValueError as wrong:
            return web.json_response({"error": str(wrong)}, status=400)
        self.asked = 0  # every n-th counts from here
        return await self.get(request)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        toxic, body = self.toxic, await request.read()
        self.asked += 1
        if toxic.delay_s:
            await asyncio.sleep(toxic.delay_s)
        if toxic.hang:
            await asyncio.Event().wait()  # until the client leaves: its going cancels this
        if toxic.error_every and self.asked % toxic.error_every == 0:
            return web.json_response({"error": {"message": "the shim fails on purpose", "code": 500}}, status=500)
        if toxic.empty:
            return web.Response(body=NOTHING, headers={"Content-Type": "text/event-stream"})
        return await self._pass(request, body, toxic.slow_tokens_s)

    async def _pass(self, request: web.Request, body: bytes, slow_s: float) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        try:
            asked = await self._ask.request(request.method, request.raw_path, data=body or None, headers=headers, allow_redirects=False)
        except aiohttp.ClientError as error:
            return web.json_response({"error": f"the upstream cannot be reached: {type(error).__name__}"}, status=502)
        async with asked:
            kept = {name: value for name, value in asked.headers.items() if name.lower() not in HOP}
            answer = web.StreamResponse(status=asked.status, headers=kept)
            await answer.prepare(request)
            try:
                async for piece in events(asked.content) if slow_s else asked.content.iter_any():
                    if slow_s:
                        await asyncio.sleep(slow_s)
                    await answer.write(piece)
            except aiohttp.ClientError:  # half an answer must not look like a whole one
                if request.transport is not None:
                    request.transport.abort()
                return answer
            await answer.write_eof()
            return answer


async def events(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """One server-sent event at a time, however many have come."""
    while piece := await stream.readuntil(b"\n\n"):
        yield piece


def loopback(url: str) -> str:
    """The address, if it is http on this machine. Raises ValueError."""
    from yarl import URL

    asked = URL(url)
    if asked.scheme != "http" or not asked.host or asked.explicit_port is None or not ip_address(asked.host).is_loopback:
        raise ValueError(f"{url}: say http://127.0.0.1:PORT")
    return url


def main(port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8082,
         upstream: Annotated[str, typer.Option(help="Who is asked in the end.")] = "http://127.0.0.1:8081") -> None:
    """Pass everything on to --upstream, until PUT /-/toxic says otherwise."""
    try:
        shim = Shim(upstream)
    except ValueError as wrong:
        raise typer.BadParameter(str(wrong)) from None
    serve(shim.app(), port)


def serve(app: web.Application, port: int) -> None:
    """Serve on loopback until told to stop; a client that leaves ends its request."""
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, handler_cancellation=True, shutdown_timeout=1.0)


if __name__ == "__main__":
    typer.run(main)
