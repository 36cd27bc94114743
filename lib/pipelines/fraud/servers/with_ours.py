"""The task on the HTTP layer of this repository, in the environment of the repository; with a third argument `slow`, the slow one."""

from __future__ import annotations

import sys

from lib.pipelines import serve
from lib.pipelines.fraud.servers import task
from lib.pipelines.http import Connection, Request


class Fraud:
    busy: bytes | None = None
    shed_prefix = b""
    sheds = 0
    ready = True

    def __init__(self, library: str, *, slow: bool) -> None:
        forest = task.Forest(library)
        self.answer = forest.slowly if slow else forest.answer

    def request(self, connection: Connection, request: Request) -> None:
        connection.answer(200, self.answer(request.body) if request.method == b"POST" else b'"ok"')

    def close(self) -> None:
        """Nothing to close."""


if __name__ == "__main__":
    port, library = task.arguments()
    serve.run(Fraud(library, slow="slow" in sys.argv[3:]), port=port)
