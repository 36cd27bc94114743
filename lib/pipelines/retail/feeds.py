"""Streams that have no end of their own: server-sent events and motion JPEG. They end when the client leaves or the service does.

A client that reads slowly gets fewer of them, never later ones: events wait in a bounded mailbox, and a picture is the newest one when its
turn comes. One that does not read at all is cut off by the kernel. Refuses more of them than there are places.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from starlette.responses import StreamingResponse
from starlette.types import Send

from lib.pipelines.retail.fleet import Fleet
from lib.pipelines.retail.hub import Full, Hub
from lib.pipelines.retail.view import View

PING_S = 10.0  # a proxy that hears nothing for long hangs up
UNREAD_MS = 10_000  # a client that acknowledges nothing for so long is gone
BOUNDARY = b"--frame\r\n"
Chunks = AsyncGenerator[bytes, None]


class Places:
    """So many of something at a time. For one event loop."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._what, self._taken = most, what, 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """A place for the length of the block. Raises Full."""
        if self._taken >= self._most:
            raise Full(f"{self._most} {self._what} at a time, and there are as many; try again later")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


class Feed(StreamingResponse):
    """A stream whose generator ends with it, at once: it holds a place that others wait for."""

    def __init__(self, chunks: Chunks, media_type: str) -> None:
        super().__init__(chunks, media_type=media_type, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._chunks = chunks

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._chunks):
            await super().stream_response(send)


async def begun(chunks: Chunks, media_type: str) -> Feed:
    """The response of a generator that has yielded once, empty: it has its place, or has raised what it refuses with."""
    await anext(chunks)
    return Feed(chunks, media_type)


async def events(hub: Hub, camera: str | None, *, first: bytes) -> Chunks:
    """Server-sent events of one camera, or of all, and of the fleet; `first` is the fleet's event to begin with. Raises Full."""
    loop, bell = asyncio.get_running_loop(), asyncio.Event()
    with hub.subscribed(camera, lambda: loop.call_soon_threadsafe(bell.set)) as mailbox:
        yield b""
        yield b"retry: 1000\n\n" + _worded("fleet", first)
        while not hub.closed:
            bell.clear()
            while (event := mailbox.take()) is not None:
                yield _worded(event.kind, event.told)
            try:
                await asyncio.wait_for(bell.wait(), PING_S)
            except TimeoutError:
                yield b": still here\n\n"


def _worded(kind: str, told: bytes) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + told + b"\n\n"


async def mjpeg(fleet: Fleet, view: View, name: str, places: Places, *, fps: float) -> Chunks:
    """The camera's annotated frames, at most `fps` a second, until it is ended. Raises Full.

    The boundary follows each part: browsers show one when it ends.
    """
    with places.one():
        yield b""
        yield BOUNDARY
        last = None
        while not fleet.hub.closed:
            try:
                found = await view.jpeg(fleet.watch(name))
            except KeyError:
                return
            if found is not None and found[0] is not last:
                last, jpeg = found
                yield b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n" + BOUNDARY
            await asyncio.sleep(1 / fps)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens, whose connections end when their client reads nothing for UNREAD_MS. Raises OSError, OverflowError."""
    ours = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128)
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
    return ours
