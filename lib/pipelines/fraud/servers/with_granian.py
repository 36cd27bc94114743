"""granian, a server written in Rust, by its own interface RSGI and, with ASGI as a third argument, by that."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from granian import Granian
from granian.constants import Interfaces, Loops
from granian.log import LogLevels

from lib.pipelines.fraud.servers import asgi, task

HEADERS = [("content-type", "application/json")]


def by_asgi() -> Callable[..., Awaitable[None]]:
    return asgi.app(task.Forest(os.environ["FOREST_SO"]))


def by_rsgi() -> Callable[..., Awaitable[None]]:
    forest = task.Forest(os.environ["FOREST_SO"])

    async def rsgi(scope: Any, protocol: Any) -> None:
        answer = forest.answer(await protocol()) if scope.method == "POST" else b'"ok"'
        protocol.response_bytes(200, [*HEADERS, ("content-length", str(len(answer)))], answer)

    return rsgi


if __name__ == "__main__":
    port, os.environ["FOREST_SO"] = task.arguments()  # its worker is a process of its own and loads the application itself
    which = "asgi" if "ASGI" in sys.argv[3:] else "rsgi"
    interface = Interfaces.ASGINL if which == "asgi" else Interfaces.RSGI
    Granian(f"lib.pipelines.fraud.servers.with_granian:by_{which}", port=port, interface=interface, loop=Loops.uvloop, factory=True,
            log_level=LogLevels.warning).serve()
