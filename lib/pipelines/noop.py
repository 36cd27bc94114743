"""A server that always says the same at once, whatever it is asked: what remains of a latency measured against it is the client's.

    python -m lib.pipelines.noop PORT

It does not read what it gets: one read is one request, so it is for short requests that are not pipelined.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

BODY = b'{"id":"","decision":"approve","probability":0.001,"reasons":[],"model":""}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Same(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast(asyncio.WriteTransport, transport).write

    def data_received(self, data: bytes) -> None:
        self.write(ANSWER)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Same, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
