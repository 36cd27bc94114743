"""mosec: a web server in Rust before workers in Python. It takes its address from the command line."""

from __future__ import annotations

import os
import sys
from typing import Any

import mosec

from lib.pipelines.fraud.servers import task


class Fraud(mosec.Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.forest = task.Forest(os.environ["FOREST_SO"])

    def deserialize(self, data: bytes) -> Any:
        return data

    def serialize(self, data: Any) -> bytes:
        return bytes(data)

    def forward(self, data: bytes) -> bytes:
        return self.forest.answer(data)


if __name__ == "__main__":
    port, os.environ["FOREST_SO"] = task.arguments()
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    server = mosec.Server()
    server.append_worker(Fraud, num=1, route=task.PATH, env=[{"FOREST_SO": os.environ["FOREST_SO"]}])
    server.run()
