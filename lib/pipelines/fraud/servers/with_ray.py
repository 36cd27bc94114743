"""Ray Serve: a proxy before replicas, each a process that could be on another machine; here all of them are on this one.

Usage: `PORT FOREST_SO [REPLICAS]`. Ray is told to stay on 127.0.0.1, to start no dashboard, to keep a small object store and to write
below $TMPDIR alone. Its cluster asks for a token that lives as long as it does. It is set up as its documentation begins; the preset for
throughput (RAY_SERVE_THROUGHPUT_OPTIMIZED) took 4.6 ms of processor a request instead of 5.9 when it was tried.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import tempfile

TOLD = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Despite its name it decides on Linux too whether a node is known by 127.0.0.1, and with that what GCS, raylet and workers bind.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray makes one and leaves it in the user's home
    "RAY_SERVE_LOG_TO_STDERR": "0",
}
os.environ.update(TOLD)  # read when Ray is imported, here and in each of its processes

import ray  # noqa: E402
from ray import serve  # noqa: E402
from ray.serve.schema import LoggingConfig  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import Response  # noqa: E402

from lib.pipelines.fraud.servers import task  # noqa: E402

STORE_BYTES = 80 << 20  # nothing that is scored goes through it
IN_FLIGHT = 100  # of a replica; Ray's own 5 would make the proxy wait for what takes microseconds


def stay() -> None:
    """Runs first in each worker: a replica's gRPC server, through which others call it, binds every interface and cannot be told."""
    from ray._common import tls_utils

    bind = tls_utils.add_port_to_grpc_server
    tls_utils.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", "127.0.0.1"))


class Fraud:
    def __init__(self, library: str) -> None:
        self.forest = task.Forest(library)

    async def __call__(self, request: Request) -> Response:
        if request.method != "POST":
            return Response(b'"ok"', media_type="application/json")
        body = await request.body()
        answer = self.forest.slowly(body) if request.url.path == task.SLOW_PATH else self.forest.answer(body)
        return Response(answer, media_type="application/json")


if __name__ == "__main__":
    port, library = task.arguments()
    replicas = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    ray.init(num_cpus=replicas, num_gpus=0, include_dashboard=False, object_store_memory=STORE_BYTES, _temp_dir=tempfile.gettempdir(),
             _node_ip_address="127.0.0.1", log_to_driver=False, runtime_env={"worker_process_setup_hook": stay})
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    silent = LoggingConfig(enable_access_log=False)
    deployed = serve.deployment(num_replicas=replicas, max_ongoing_requests=IN_FLIGHT, logging_config=silent)
    serve.run(deployed(Fraud).bind(library), name="fraud", route_prefix="/")
    signal.pause()  # Ray answers the signals itself: its cluster ends with its driver
