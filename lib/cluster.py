"""A Ray cluster as we use it: joined by a driver of its own Python, asked to run commands of ours on its nodes, told to be a node.

Ray's Python (engines.toml) knows nothing of us: lib/cluster_worker.py is its side, and speaks with this one in lines of JSON. Refuses
to start where Ray is not installed, and an address that does not answer within ten seconds.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib import home, install

REACH_S = 10  # within which a cluster must answer
JOIN_S = 90  # for Ray's driver to join one that answers; on an idle machine it takes ten
TOKEN = "ray-token"
Say = Callable[[str], None]


class NoCluster(Exception):
    """There is no cluster to measure on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A driver that joined: its nodes (id → GPUs), and lines to and from it."""

    driver: subprocess.Popen[str]
    nodes: dict[str, int]

    def asked(self, words: Sequence[str], nodes: Sequence[str], *, given: Path | None = None, gpus: int = 1) -> dict[str, Any]:
        """`python -m words…` for one of `nodes`, with the file `given` at its standard input; `gpus` where the node has them."""
        argv = [sys.executable, "-m", *words]
        return {"argv": argv, "cwd": str(home.ROOT), "path": str(Path(sys.executable).parent), "nodes": list(nodes),
                "gpus": gpus, "given": str(given or "")}  # fmt: skip

    def run(self, asked: Sequence[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Have them all done; which one, and its answers as they come, the last of each with "out" or "failed". Raises NoCluster."""
        assert self.driver.stdin is not None and self.driver.stdout is not None
        for number, one in enumerate(asked):
            self.driver.stdin.write(json.dumps({"id": number, **one}) + "\n")
        self.driver.stdin.flush()
        left = len(asked)
        while left:
            if not (line := self.driver.stdout.readline()):
                raise NoCluster("the cluster was lost: its head node, or ours, has died; what came back is kept, a rerun measures the rest")
            answer = json.loads(line)
            left -= "again" not in answer
            yield answer["id"], answer


@contextmanager
def joined(address: str, scratch: Path) -> Iterator[Cluster]:
    """Ray's driver, joined to the cluster. It goes when we go, for then its input ends. Raises NoCluster."""
    python = reachable(address)
    with (scratch / "driver.log").open("w") as log:
        process = subprocess.Popen([str(python), str(home.ROOT / "lib" / "cluster_worker.py"), "drive", address, str(scratch)], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment(), start_new_session=True)
    try:
        assert process.stdout is not None
        said = select.select([process.stdout], [], [], JOIN_S)[0] and process.stdout.readline()
        if not said:
            words = [line for line in (scratch / "driver.log").read_text(errors="replace").splitlines() if line.strip()]
            why = words[-1].strip() if words else f"silence for {JOIN_S} s"
            raise NoCluster(f"{address} answers, but no Ray cluster takes us in: {why}")
        nodes = {one["id"]: one["gpus"] for one in json.loads(said)["nodes"]}
        if not nodes:
            raise NoCluster(f"the Ray cluster at {address} has no node with processors")
        yield Cluster(process, nodes)
    finally:
        process.kill()
        process.communicate()


def reachable(address: str) -> Path:
    """Ray's Python, once something answers at `address`, HOST:PORT. Raises NoCluster."""
    if isinstance(found := install.find("ray"), install.Missing):
        raise NoCluster(f"Ray is not installed here: {found.reason}. ./run_all.sh node builds it, and starts a node of a cluster")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise NoCluster(f"{address!r} is no address of a Ray cluster; it is HOST:PORT, as ./run_all.sh node says it")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except (OSError, OverflowError) as why:
        raise NoCluster(f"no Ray cluster answers at {address} within {REACH_S} s ({why}); is its head node up?") from why
    return found.tool("python")


def environment() -> dict[str, str]:
    """For every process of Ray's: the token, unless the cluster's owner has another way, and nothing sent home."""
    # A cell is alone: it may fill the memory, and has no one to give way to (Ray's workers are niced by 15).
    ours = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0", "RAY_worker_niceness": "0"}
    if not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        ours |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home.cache() / TOKEN)}
    return {**os.environ, **ours}


def node(host: str, port: int, join: str | None, options: Sequence[str], *, say: Say = print) -> list[str]:
    """The command that is a node, with Ray built first, and a token made by the first of them. Raises NoCluster."""
    if isinstance(found := install.provision("ray", say=say), install.Missing):
        raise NoCluster(found.reason)
    token = home.cache() / TOKEN
    if "RAY_AUTH_TOKEN_PATH" in (told := environment()) and told["RAY_AUTH_TOKEN_PATH"] == str(token) and not token.exists():
        if join:
            raise NoCluster(f"a node that joins needs the cluster's token: copy {TOKEN} from the head's cache into this machine's")
        with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    where = ["--address", join] if join else ["--head", "--port", str(port)]
    return [str(found.tool("python")), str(home.ROOT / "lib" / "cluster_worker.py"), "node", host, *where, *options]
