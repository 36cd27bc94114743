"""The task as a plain ASGI application, for the servers that speak it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from lib.pipelines.fraud.servers.task import Forest

HEADERS = [(b"content-type", b"application/json")]


def app(forest: Forest) -> Callable[..., Awaitable[None]]:
    async def asgi(scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]],
                   send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])  # how an application declines lifespan and websockets
        body, more = b"", True
        while more:
            event = await receive()
            body += event.get("body", b"")
            more = event.get("more_body", False)
        answer = forest.answer(body) if scope["method"] == "POST" else b'"ok"'
        await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, (b"content-length", b"%d" % len(answer))]})
        await send({"type": "http.response.body", "body": answer})

    return asgi
