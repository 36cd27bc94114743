"""Ray's side of a grid: a node of a cluster, and the driver that hands errands to nodes, one at a time each.

Runs under Ray's own Python (engines.toml), so it knows the standard library and Ray alone; lib/cluster.py starts it and speaks with it
in lines of JSON. An errand gets a node's processors whole, and as many of its GPUs as it spans, so nothing else of the cluster runs beside
a measurement. What an errand's command says is its result, good or bad; only when the node (or Ray's worker on it) dies is it run again,
on another node. Refuses an address that does not answer.

Ray trusts whoever holds its token with the right to run code: the token file is readable by its owner alone, and what goes over the
wire is not encrypted. Loopback, or a private network.

    PYTHON lib/cluster_worker.py node HOST [--head PORT | --join ADDRESS] [RAY START'S OPTIONS]
    PYTHON lib/cluster_worker.py drive ADDRESS SCRATCH
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
SAYS = 100  # the file that our lines go to, in place of standard output
TRIES = 3  # of an errand whose nodes keep dying
LASTS_S = 2 * 3600  # no cell takes longer
GONE_S = 40  # Ray knows within this time that a node which stopped answering is dead


def stay() -> None:
    """Let 127.0.0.1 be 127.0.0.1: Ray replaces it by the machine's first address, and binds what is not 127.0.0.1 to every interface."""
    from ray._private import services

    services.resolve_ip_for_localhost = lambda host: host


def node(host: str, options: list[str]) -> None:
    """Be a node until told to stop."""
    stay()
    from ray.scripts.scripts import cli

    head = ["--include-dashboard", "false"] if "--head" in options else []
    cli(["start", "--block", "--node-ip-address", host, "--disable-usage-stats", "--include-log-monitor", "false",
         "--object-store-memory", str(256 << 20), *head, *options])  # fmt: skip


def errand(argv: list[str], cwd: str, path: str, given: bytes) -> tuple[int, bytes, str]:
    """On a node: the command with `given` at its standard input; its status, what it wrote, the end of what it said.

    The command goes when this process goes. It sees the node as if Ray were not there: Ray would have it use one thread.
    """
    import ctypes
    import signal
    import subprocess

    ours = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_NUM_THREADS", "LD_PRELOAD"))}
    env = {**ours, "PYTHONPATH": cwd, "PATH": path + os.pathsep + ours.get("PATH", ""), "ORT_DISABLE_TELEMETRY": "1"}
    try:
        done = subprocess.run(argv, cwd=cwd, env=env, input=given, capture_output=True, timeout=LASTS_S, check=False,
                              preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGTERM))  # PR_SET_PDEATHSIG
    except FileNotFoundError:
        return 127, b"", "this node has no clone of the repository, or no environment, where the driver has its own: ./run_all.sh there"
    except subprocess.TimeoutExpired:
        return 124, b"", f"not done after {LASTS_S} s"
    return done.returncode, done.stdout, done.stderr.decode(errors="replace")[-2000:]


class Driver:
    """Errands that wait, those on their way, and the nodes they may go to."""

    def __init__(self, scratch: Path) -> None:
        import ray

        self.ray, self.scratch = ray, scratch
        self.nodes = {one["NodeID"]: one["Resources"] for one in ray.nodes() if one["Alive"] and one["Resources"].get("CPU")}
        self.remote = ray.remote(max_retries=0)(errand)
        self.waiting: list[dict[str, Any]] = []
        self.running: dict[Any, tuple[str, dict[str, Any]]] = {}  # Ray's reference -> node, errand
        self.given: dict[str, Any] = {}

    def go(self, asked: queue.SimpleQueue[str]) -> None:
        """Until whoever asks has gone."""
        while True:
            while not asked.empty() or not (self.waiting or self.running):
                self.waiting.append({"tries": 0, **json.loads(asked.get())})
            self.place()
            done, _ = self.ray.wait(list(self.running), timeout=0.2) if self.running else ([], [])
            for reference in done:
                self.ended(reference, *self.running.pop(reference))

    def place(self) -> None:
        """Give every free node the first errand that may go there; what no node is left for has failed."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        for lost in [one for one in self.waiting if not set(one["nodes"]) & set(self.nodes)]:
            self.waiting.remove(lost)
            tell(id=lost["id"], failed="no node of its kind is left")
        for name in set(self.nodes) - {busy for busy, _ in self.running.values()}:
            if (one := next((one for one in self.waiting if name in one["nodes"]), None)) is not None:
                self.waiting.remove(one)
                has = self.nodes[name]
                where = self.remote.options(num_cpus=has["CPU"], num_gpus=min(one["gpus"], has.get("GPU", 0)),
                                            scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False))
                self.running[where.remote(one["argv"], one["cwd"], one["path"], self.input(one["given"]))] = (name, one)

    def input(self, path: str) -> Any:
        if path not in self.given:
            self.given = {path: self.ray.put(Path(path).read_bytes() if path else b"")}  # the last alone: a stage shares its own
        return self.given[path]

    def ended(self, reference: Any, name: str, one: dict[str, Any]) -> None:
        try:
            status, out, said = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as broke:
            return tell(id=one["id"], node=name, failed=str(broke).strip().splitlines()[-1])
        except self.ray.exceptions.RayError as lost:
            if gone := self.gone(name):
                self.nodes.pop(name, None)
            why = "its node died" if gone else f"Ray's worker died: {str(lost).strip().splitlines()[0]}"
            if one["tries"] + 1 >= TRIES:
                return tell(id=one["id"], node=name, failed=f"{why}, {TRIES} times")
            self.waiting.insert(0, {**one, "tries": one["tries"] + 1})
            return tell(id=one["id"], node=name, again=why)
        if status != 0:
            return tell(id=one["id"], node=name, failed=(said.strip().splitlines() or [f"ended with status {status}"])[-1])
        (whole := self.scratch / f"{one['id']}.out").write_bytes(out)
        return tell(id=one["id"], node=name, out=str(whole))

    def gone(self, name: str) -> bool:
        """Whether Ray comes to the conclusion that the node is dead."""
        until = time.monotonic() + GONE_S
        while time.monotonic() < until:
            if not any(one["Alive"] for one in self.ray.nodes() if one["NodeID"] == name):
                return True
            time.sleep(0.5)
        return False


def tell(**what: Any) -> None:
    os.write(SAYS, json.dumps(what).encode() + b"\n")


def drive(address: str, scratch: Path) -> None:
    os.dup2(1, SAYS)
    os.dup2(2, 1)  # Ray prints as it pleases
    stay()
    import ray

    here = {"_node_ip_address": LOOPBACK} if address.startswith(f"{LOOPBACK}:") else {}
    ray.init(address=address, log_to_driver=False, logging_level="error", **here)
    driver, asked = Driver(scratch), queue.SimpleQueue[str]()
    tell(nodes=[{"id": name, "gpus": int(has.get("GPU", 0))} for name, has in driver.nodes.items()])

    def read() -> None:
        for line in sys.stdin:
            asked.put(line)
        os._exit(0)  # Ray ends what was on its way

    threading.Thread(target=read, daemon=True).start()
    driver.go(asked)


if __name__ == "__main__":
    if sys.argv[1] == "node":
        node(sys.argv[2], sys.argv[3:])
    else:
        drive(sys.argv[2], Path(sys.argv[3]))
