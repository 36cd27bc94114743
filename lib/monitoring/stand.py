"""The stand: services, a real LLM server and all that watches them, started for real on loopback, and ended with the block.

Load → gateway → services, beside them node_exporter and the GPU exporter; Prometheus scrapes all, Alertmanager posts to a webhook in this
process. A part can be killed and restarted on its port, or replaced by another instance as a deploy does it. What it writes lies below
one folder. Refuses to start without Prometheus and its companions; a service that is missing is `lacking`, unless it was asked for.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import httpx
import numpy as np

from lib import process
from lib.child import Say
from lib.clock import measure
from lib.install import platform
from lib.measured import Skipped
from lib.monitoring import config, controls, facts, services, webhook
from lib.monitoring.asks import MODEL
from lib.monitoring.prometheus import Client
from lib.monitoring.services import PORTS, Program
from lib.monitoring.timing import Timing
from lib.monitoring.webhook import Notices
from lib.process import Died, Process

if TYPE_CHECKING:
    from redis import Redis

SERVICES = ("fraud", "retail", "llm")
SCRAPED = ("gateway", *SERVICES, "node", "gpu", "prometheus", "alertmanager")
PATIENCE_S = 40.0  # Prometheus hands on targets that moved every five seconds; a production scrape comes every fifteen
LOOK_S = 0.1


class Stand:
    """What runs. `processes` by name, `lacking` what does not and why, `notices` what Alertmanager told."""

    def __init__(self, timing: Timing, folder: Path, ports: Mapping[str, int], notices: Notices, say: Say) -> None:
        self.timing, self.folder, self.notices = timing, folder, notices
        self.processes: dict[str, Process] = {}
        self.lacking: dict[str, str] = {}
        self.ports = dict(ports)
        self.llm: services.Llm | None = None
        self._say = say
        self._programs: dict[str, Program] = {}
        self._held: dict[str, ExitStack] = {}
        self._retiring: Thread | None = None
        self._prepared: tuple[Program, Process, ExitStack] | None = None
        self.load: controls.Load
        self.shim = controls.Shim(lambda: self.urls["shim"])

    @property
    def urls(self) -> dict[str, str]:
        return {name: running.url for name, running in self.processes.items()}

    @property
    def prometheus(self) -> Client:
        return Client(self.urls["prometheus"])

    @property
    def clip(self) -> Path:
        """What the camera plays."""
        return self.folder / "clip.avi"

    def pid(self, name: str) -> int:
        """Of the server itself, to be killed or stopped. Raises KeyError."""
        return self.processes[name].pid

    @contextmanager
    def redis_cli(self) -> Iterator[Redis]:
        """A client of the Redis that holds the fraud service's windows."""
        import redis

        with redis.Redis(port=self.ports["redis"], socket_timeout=controls.ASK_S) as client:
            yield client

    def start(self, name: str, program: Program | None = None, *, port: int | None = None) -> None:
        """Start a part and wait until it is ready. Raises Died."""
        program, port = program or self._programs[name], port or self.ports[name]
        held = ExitStack()
        running = held.enter_context(services.started(program, port, self.folder / "logs"))
        self._programs[name], self.ports[name], self._held[name], self.processes[name] = program, port, held, running
        self._say(f"{name}: {running.url}, ready after {running.ready_s:.1f} s")

    def end(self, name: str) -> None:
        """End a part, whether it still lives or not. Raises KeyError."""
        self._held.pop(name).close()

    def restart(self, name: str) -> None:
        """Bring a part back on its port, whether it lives or was killed. Raises Died."""
        self.end(name)
        self.start(name)

    def prepare(self, name: str, *options: str, changed: Callable[[Program], Program] = lambda program: program) -> None:
        """Start the instance that `replace` will deploy, beside the one that serves. `changed`: of its program. Raises Died."""
        made = {"fraud": lambda: services.fraud(self.folder, self.ports.get("redis"), *options),
                "retail": lambda: services.retail(self.clip, *options)}  # fmt: skip
        if name not in made:
            raise ValueError(f"only {' and '.join(made)} are deployed beside themselves, not {name}")
        self._retired()
        program, held = changed(made[name]()), ExitStack()
        self._prepared = program, held.enter_context(services.started(program, process.free_port(), self.folder / "logs")), held

    def replace(self, name: str, *options: str) -> None:
        """Deploy a service anew with `options`, or the prepared instance: it is scraped, takes the traffic; the old one ends once nobody
        looks at it.

        Returns when the new one has the traffic. Raises Died, and then the old one still serves.
        """
        old, held = self.processes[name], self._held[name]
        if self._prepared is None:
            self.prepare(name, *options)
        assert self._prepared is not None
        (self._programs[name], self.processes[name], self._held[name]), self._prepared = self._prepared, None
        new = self.processes[name]
        self.ports[name] = new.port
        self._target(name, old.port, new.port)
        self._await(lambda: self._scraped(name, {old.port, new.port}), f"Prometheus does not scrape the new {name}")
        httpx.put(self.urls["gateway"] + "/-/routes", json={name: new.url}, timeout=controls.ASK_S, trust_env=False).raise_for_status()
        self._target(name, new.port)

        def retire() -> None:
            self._await(lambda: self._scraped(name, {new.port}), f"Prometheus does not let go of the old {name}")
            held.close()

        self._retiring = Thread(target=retire, name=f"the old {name} leaves")
        self._retiring.start()

    def afresh(self, fill: Callable[[Path], object] | None = None) -> None:
        """Prometheus and Alertmanager anew, without memory but for what `fill(data folder)` puts there; until all is scraped."""
        self._retired()
        for name in ("prometheus", "alertmanager"):
            self.end(name)
        for place in ("data", "alertmanager"):
            shutil.rmtree(self.folder / place, ignore_errors=True)
        if fill is not None:
            (self.folder / "data").mkdir()
            fill(self.folder / "data")
        for name in ("alertmanager", "prometheus"):
            self.start(name)
        self.scraped()

    def scraped(self) -> None:
        """Wait until Prometheus scrapes every part. Raises Died with those that it does not."""
        jobs = [name for name in SCRAPED if name in self.processes]
        self._await(lambda: all(self._scraped(job, {self.ports[job]}) for job in jobs), "Prometheus does not scrape all")

    def _scraped(self, job: str, ports: set[int]) -> bool:
        """Whether these are its instances, and all are up."""
        targets = self.prometheus.targets()
        mine = targets[targets["job"] == job]
        return set(mine["instance"]) == {f"127.0.0.1:{port}" for port in ports} and bool((mine["health"] == "up").all())

    def _await(self, true: Callable[[], bool], otherwise: str) -> None:
        until = time.monotonic() + PATIENCE_S
        while not true():
            if time.monotonic() > until:
                targets = self.prometheus.targets()
                raise Died(f"{otherwise} after {PATIENCE_S:g} s: {targets[['job', 'instance', 'health', 'error']].values.tolist()}")
            time.sleep(LOOK_S)

    def _target(self, job: str, *ports: int) -> None:
        """Say where a job is scraped, in one step: Prometheus watches the folder."""
        labels = {"engine": self.llm.engine, "model": MODEL} if job == "llm" and self.llm else {}
        (part := self.folder / "targets" / f"{job}.part").write_text(
            json.dumps([{"targets": [f"127.0.0.1:{port}" for port in ports], "labels": labels}])
        )
        part.rename(part.with_suffix(".json"))

    def _retired(self) -> None:
        if self._retiring is not None:
            self._retiring.join()

    def _offer(self, name: str, make: Callable[[], Program], *, must: bool) -> None:
        """A part that may be missing. Raises Skipped where it must not."""
        try:
            self._programs[name] = make()
        except Skipped as why:
            if must:
                raise
            self.lacking[name] = str(why)

    def _prepare(self, wanted: Sequence[str] | None, engine: str, webhook_url: str) -> None:
        """Commands, configuration, targets. Raises Skipped."""
        folder, asked = self.folder, wanted or ()
        for place in ("logs", "targets", "textfile", "rules"):
            (folder / place).mkdir(parents=True, exist_ok=True)

        def llm() -> Program:
            self.llm = services.llm(engine)
            return self.llm.program

        parts = {"fraud": lambda: services.fraud(folder, self.ports.get("redis") if "redis" in self._programs else None),
                 "retail": lambda: services.retail(self.clip), "llm": llm}  # fmt: skip
        if "fraud" in (wanted or SERVICES):
            self._offer("redis", lambda: services.redis(folder), must=False)
        for name in wanted or SERVICES:
            self._offer(name, parts[name], must=name in asked)
        there = [name for name in SERVICES if name in self._programs]
        routes = {name: self.ports["shim" if name == "llm" else name] for name in there}
        if "llm" in there:
            self._programs["shim"] = services.shim(self.ports["llm"])
        self._programs |= {
            "gateway": services.gateway(routes, folder / "requests.jsonl"),
            "node": services.node(folder / "textfile"),
            "gpu": services.gpu(),
            "alertmanager": services.alertmanager(folder),
            "prometheus": services.prometheus(folder, self.timing),
            "load": services.load(self.ports["gateway"], folder / "load.jsonl", there),
        }
        self._offer("grafana", lambda: services.grafana(folder, self.ports["prometheus"]), must=False)
        jobs = [job for job in SCRAPED if job in self._programs]
        alertmanager = f"127.0.0.1:{self.ports['alertmanager']}"
        for name, text in config.files(self.timing, webhook_url=webhook_url, alertmanager=alertmanager, jobs=jobs).items():
            (folder / name).write_text(text)
        for job in jobs:
            self._target(job, self.ports[job])
        weights = {self.llm.engine: float(self.llm.weights_bytes)} if self.llm else {}
        facts.write(folder / "textfile", facts.gather(weights_bytes=weights, bandwidth_bytes_per_s=_bandwidth_bytes_per_s()))

    def _up(self, *, load: bool) -> None:
        """Everything in an order that is quick; Prometheus last, so that it finds all of them up."""
        if "redis" in self._programs:
            self.start("redis")
        first = [name for name in self._programs if name not in ("redis", "prometheus", "load")]
        with ThreadPoolExecutor(len(first)) as pool:
            list(pool.map(self.start, first))
        for name in ("load", "prometheus"):
            if name != "load" or load:
                self.start(name)
        if load:
            self.load = controls.Load(lambda: self.urls["load"], self.folder / "load.jsonl")
        self.scraped()

    def _down(self) -> None:
        """The load first: what it sent shall be answered; the rest together."""
        if "load" in self._held:
            self.end("load")
        self._retired()
        if self._prepared is not None:
            self._prepared[2].close()
        with ThreadPoolExecutor(max(1, len(self._held))) as pool:
            list(pool.map(self.end, list(self._held)))


@contextmanager
def stand(
    timing: Timing, folder: Path, *, wanted: Sequence[str] | None = None, llm: str = "llamacpp", ports: Mapping[str, int] | None = None,
    load: bool = True, say: Say = lambda _: None,
) -> Iterator[Stand]:  # fmt: skip
    """Start it all below `folder`, yield once every target is scraped, end it all.

    `wanted`: services that must be there; by default those that can be. `ports`: where parts ought to listen, if that is free.
    Raises Skipped for what is missing, Died for what does not come up.
    """
    if strangers := set(wanted or ()) - set(SERVICES):
        raise ValueError(f"there is no service {', '.join(sorted(strangers))}; there are {', '.join(SERVICES)}")
    with webhook.receiving() as (url, notices):
        here = Stand(timing, folder.resolve(), _ports(ports or {}), notices, say)
        here._prepare(wanted, llm, url)
        try:
            here._up(load=load)
            yield here
        finally:
            here._down()


def _ports(wanted: Mapping[str, int]) -> dict[str, int]:
    """A port for each part: the wanted one where it is free, else one that is; all different."""
    with ExitStack() as held:
        ports = {}
        for name in PORTS:
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted.get(name, 0)))
            except OSError:
                probe.bind(("127.0.0.1", 0))
            ports[name] = int(probe.getsockname()[1])
        return ports


def _bandwidth_bytes_per_s() -> float | None:
    """Reading by one core, as the engine has one thread: the quickest sum over far more than a cache holds. Before anything else runs.

    None on a GPU, whose memory it does not read: there a dcgm-exporter tells.
    """
    if platform() != "cpu":
        return None
    data = np.ones(2**26, np.float32)
    return data.nbytes / min(measure(data.sum, budget_s=0.3).samples_s)
