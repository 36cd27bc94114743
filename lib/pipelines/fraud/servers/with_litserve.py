"""LitServe: a LitAPI, batching off; its API server and its worker are two processes.

Without `from __future__ import annotations`: LitServe reads the types of `decode_request` as they are.
"""

import os
from typing import Any

import litserve

from lib.pipelines.fraud.servers import task


class Fraud(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.forest = task.Forest(os.environ["FOREST_SO"])

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        return request

    def predict(self, asked: dict[str, Any]) -> task.Answer:
        return self.forest.decide(asked["id"], self.forest.probability(asked["v"], asked["amount"], asked["time"]))

    def encode_response(self, told: task.Answer) -> dict[str, Any]:
        return {"id": told.id, "decision": told.decision, "probability": told.probability}


if __name__ == "__main__":
    port, os.environ["FOREST_SO"] = task.arguments()
    server = litserve.LitServer(Fraud(api_path=task.PATH), accelerator="cpu", healthcheck_path="/readyz")
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)
