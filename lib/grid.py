"""A sweep's cells measured across a Ray cluster, so that the notebooks find them recorded and measure only what is missing.

Which cells there are is asked of the very function that the notebook calls: its session is told not to measure but to name what it
would (`choose`, lib/llm/session.py). A cell is then that same call on a node, told to measure this one setting in a copy of the run; what
it adds comes back, its series first, and is merged into the run of the node's kind of machine. Machines of one kind (`machine_id`) and
one software are one run, as in the notebooks; each kind measures the whole sweep, for no ratio joins two kinds. The kind's ceilings are
measured once, by its first node; which node measured a point is in its facts.

A cell starts its engine itself: independent, and so slower in all than one machine's sweep on that machine; worth it from two nodes on.
A cell whose node dies is run elsewhere, what has come back is not repeated. Load from several machines is no part of this. Refuses a
node with another revision of the code, and to start where Ray is not installed or the cluster does not answer.

    python -m lib.grid node [--host HOST] [--port PORT | --join ADDRESS] [RAY START'S OPTIONS]
"""

from __future__ import annotations

import importlib
import io
import json
import os
import secrets
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lib import cluster, fetch, home, machine, record
from lib.cluster import Cluster
from lib.llm import bench, contender, session, throughput, weights
from lib.llm.model import Model, load
from lib.session import Opened

HERE = "lib.grid"
FACTS = ("model", "ceiling", "start")  # points beside a sweep's cells that come from the machine alone
Say = Callable[[str], None]


class Rivals(Protocol):
    def __call__(self, *, among: list[str]) -> list[contender.Contender]: ...


def ready(name: str) -> Model:
    """The model, where it is prepared: a cell makes no weights. Raises NotReady."""
    return load(weights.family(name) if name in fetch.sources() else weights.named(name))


@dataclass(frozen=True, slots=True)
class Sweep:
    """A notebook's sweep, in the notebook's own words: who competes, how much a profile asks, the function that measures."""

    rivals: Rivals
    plans: Mapping[str, Any]
    measure: Callable[[session.Session, Sequence[contender.Contender], Any], object]
    model: Callable[[str], Model] = ready


SWEEPS = {"10_llm_latency": Sweep(partial(contender.contenders, *bench.RIVALS), bench.LATENCY, bench.latency),
          "11_llm_throughput": Sweep(partial(contender.contenders, *throughput.RIVALS), throughput.PLANS, throughput.measure)}


@dataclass(frozen=True, slots=True)
class Errand:
    """What a node is asked: this setting of a notebook's sweep, or None: the model's and the machine's facts, which come first."""

    notebook: str
    profile: str
    model: str
    engines: tuple[str, ...]
    setting: Mapping[str, record.Scalar] | None
    table: str = HERE  # the module whose SWEEPS knows the notebook

    @property
    def sweep(self) -> Sweep:
        found: Sweep = importlib.import_module(self.table).SWEEPS[self.notebook]
        return found

    def measure(self, s: session.Session) -> None:
        self.sweep.measure(s, self.sweep.rivals(among=list(self.engines)), self.sweep.plans[self.profile])

    @property
    def parameters(self) -> dict[str, Any]:
        return {"profile": self.profile, "model": self.model}


class Missing(Exception):
    """Raised out of a sweep that was to name its missing settings, once it knows some."""

    def __init__(self, settings: list[dict[str, record.Scalar]]) -> None:
        super().__init__(len(settings))
        self.settings = settings


@dataclass(slots=True)
class Job:
    """One notebook's sweep on one kind of machine: its run on our disk, and what was asked of the cluster already."""

    errand: Errand
    run: record.Run
    nodes: list[str]
    tried: set[str] = field(default_factory=set)
    scouts: set[str] = field(default_factory=set)  # engines of which one cell was asked, to see whether they start

    def missing(self) -> list[Errand]:
        """What can be asked now, none of it twice. The facts come first, then a cell an engine, then all of those that start."""
        if "opened" not in self.tried:
            self.tried.add("opened")
            if not self._measured():
                return [self.errand]
        if not self._measured():
            return []  # no node could say what its limits are
        known = {key: self.run.environment[key] for key in machine.Machine.__dataclass_fields__}
        here = machine.Machine(**{**known, "gpus": tuple(machine.Gpu(**gpu) for gpu in known["gpus"])})
        s = session.Session(Opened(self.run, (), here), self.errand.sweep.model(self.errand.model), self._choose)
        try:
            self.errand.measure(s)
        except Missing as found:
            return [replace(self.errand, setting=setting) for setting in found.settings]
        return []

    def _measured(self) -> bool:
        return any(p.setting.get("what") == "ceiling" for p in self.run.points())

    def _choose(self, asked: Sequence[session.Asked]) -> list[bool]:
        up = {p.key for p in self.run.points() if p.setting.get("what") == "start" and p.status == "ok"}
        found = []
        for one in asked:
            start, key = record.canonical(one.start), record.canonical(one.setting)
            if key not in self.tried and (start in up or start not in self.scouts):
                self.tried.add(key)
                self.scouts.add(start)
                found.append(dict(one.setting))
        if found:
            raise Missing(found)
        return [False] * len(asked)


def measure(address: str, notebooks: Sequence[str], *, profile: str, model: str, engines: Sequence[str] = (), root: Path = home.RUNS,
            table: str = HERE, say: Say = print) -> None:
    """Measure what the runs below `root` lack of the sweeps of `notebooks`, on the cluster at `address`. Raises NoCluster."""
    with tempfile.TemporaryDirectory() as scratch, cluster.joined(address, Path(scratch)) as ray:
        jobs = [Job(Errand(name, profile, model, tuple(engines), None, table),
                    record.begin(name, parameters={"profile": profile, "model": model}, environment=one["environment"], root=root), nodes)
                for nodes, one in _kinds(ray, say) for name in notebooks]  # fmt: skip
        numbers = {name: number for number, name in enumerate(ray.nodes, start=1)}
        while todo := [(job, one) for job in jobs for one in job.missing()]:
            given = {id(job): _packed(job.run, Path(scratch)) for job in jobs}
            asked = [ray.asked((HERE, "cell", _told(one)), job.nodes, given=given[id(job)], gpus=_gpus(one)) for job, one in todo]
            for number, answer in ray.run(asked):
                job, one = todo[number]
                where = f"{job.errand.notebook}, node {numbers.get(answer.get('node', ''), '-')} ({job.run.machine_id})"
                what = "the machine's limits" if one.setting is None else record.canonical(one.setting)
                if "again" in answer:
                    say(f"{where}: {answer['again']}, once more elsewhere: {what}")
                elif "failed" in answer:
                    say(f"{where}: not measured: {what}: {answer['failed']}")
                    if one.setting is not None:
                        job.run.add(record.Point(one.setting, "failed", answer["failed"]))
                else:
                    told = merge(job.run, Path(answer["out"]).read_bytes(), one.setting, node=answer["node"][:8])
                    say(f"{where}: {told}: {what}")


def merge(run: record.Run, packed: bytes, setting: Mapping[str, record.Scalar] | None, *, node: str) -> str:
    """Take over what a cell added to its copy of `run`: series first, each whole, then the points; how the setting ended.

    Of points that are not the setting's own only starts and the facts are taken, unless the run has them with the same end, or a good one:
    what a node concludes from its one cell (a capacity) is no conclusion.
    """
    asked, ended = setting and record.canonical(setting), "added nothing"
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            tar.extractall(scratch, filter="data")
        theirs = record.load(Path(scratch))
        for series in Path(scratch).glob("*.parquet"):
            (half := run.path / f".{series.name}.half").write_bytes(series.read_bytes())
            half.replace(run.path / series.name)
        known = {p.key: p.status for p in run.points()}
        ours = replace(run, git={**run.git, "dirty": run.git["dirty"] or theirs.git["dirty"]})
        for line in (Path(scratch) / "points.jsonl").read_text().splitlines():
            point = record.Point(**json.loads(line))
            fact = point.setting.get("what") in FACTS and known.get(point.key) not in ("ok", point.status)
            if point.key == asked or fact:
                ours.add(replace(point, facts={**point.facts, "node": node}))
                known[point.key] = point.status
                ended = point.status if point.key == asked or asked is None else ended
                if point.setting.get("what") == "start" and point.status != "ok" and ended == "added nothing":
                    ended = f"{point.status}: {point.reason}"
    return ended


def cell(told: str) -> None:
    """On a node: the run's copy from standard input, the errand measured in it, what that added to standard output."""
    said = json.loads(told)
    errand = Errand(**{**said, "engines": tuple(said["engines"])})
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a sweep prints is no result
    if os.getpriority(os.PRIO_PROCESS, 0) > 0:
        sys.exit("this node's Ray lets its work give way to others; start it with ./run_all.sh node, or RAY_worker_niceness=0")
    here = machine.here()
    environment = here.environment(**contender.versions())
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / errand.notebook / environment["machine_id"] / "copy"
        copy.mkdir(parents=True)
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
            tar.extractall(copy, filter="data")
        run = record.begin(errand.notebook, parameters=errand.parameters, environment=environment, root=Path(scratch))
        if run.path != copy:
            sys.exit("this node's software has changed since the run was begun")
        (points := copy / "points.jsonl").touch()
        before, seen = points.stat().st_size, {path: path.stat().st_mtime_ns for path in copy.glob("*.parquet")}
        s = session.prepared(Opened(run, (), here), errand.sweep.model(errand.model), profile=errand.profile, choose=partial(_only, errand))
        if errand.setting is not None:
            errand.measure(s)
        points.write_bytes(points.read_bytes()[before:])
        new = [path for path in copy.glob("*.parquet") if seen.get(path) != path.stat().st_mtime_ns]
        with out, tarfile.open(fileobj=out, mode="w|") as tar:
            for path in (copy / "run.json", points, *new):
                tar.add(path, path.name)


def who() -> None:
    """On a node: which machine it is, with which software and which revision of the code."""
    with tempfile.TemporaryDirectory() as scratch:
        run = record.begin("who", parameters={}, environment=machine.here().environment(**contender.versions()), root=Path(scratch))
        print(json.dumps({"environment": run.environment, "git": run.git}))


def _only(errand: Errand, asked: Sequence[session.Asked]) -> list[bool]:
    return [dict(one.setting) == errand.setting for one in asked]


def _gpus(errand: Errand) -> int:
    """GPUs a cell spans."""
    setting = errand.setting or {}
    return int(setting.get("tensor_parallel") or 1) * int(setting.get("pipeline_parallel") or 1)


def _told(errand: Errand) -> str:
    return json.dumps({name: getattr(errand, name) for name in Errand.__dataclass_fields__})


def _packed(run: record.Run, scratch: Path) -> Path:
    """The run as it stands, for the nodes to copy."""
    path = scratch / f"{run.notebook}-{run.run_id}-{secrets.token_hex(3)}.tar"
    with tarfile.open(path, "w") as tar:
        for one in (run.path / "run.json", run.path / "points.jsonl", *run.path.glob("*.parquet")):
            if one.exists():
                tar.add(one, one.name)
    return path


def _kinds(ray: Cluster, say: Say) -> list[tuple[list[str], dict[str, Any]]]:
    """Nodes that are one kind of machine with one software, and what they said. A node that cannot say, or has other code, is left out."""
    kinds: dict[str, tuple[list[str], dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        environment = machine.here().environment()
        git = record.begin("who", parameters={}, environment=environment, root=Path(scratch)).git
    names = list(ray.nodes)
    for number, answer in ray.run([ray.asked((HERE, "who"), [name]) for name in names]):
        if "out" not in answer:
            say(f"node {number + 1} is left out: {answer.get('failed') or answer.get('again')}")
            continue
        told = json.loads(Path(answer["out"]).read_text())
        if told["git"]["sha"] != git["sha"]:
            say(f"node {number + 1} is left out: its code is revision {told['git']['sha']}, ours {git['sha']}")
            continue
        kind = f"{told['environment']['machine_id']} {told['environment']['stack_id']}"
        kinds.setdefault(kind, ([], told))[0].append(names[number])
        say(f"node {number + 1}: {kind.partition(' ')[0]}")
    return list(kinds.values())


def be_a_node() -> None:
    import argparse

    read = argparse.ArgumentParser(prog="./run_all.sh node", epilog="Other options go to `ray start`: --num-gpus 1, --temp-dir DIR …")
    read.description = ("Be a node of a Ray cluster until Ctrl-C, for ./run_all.sh --ray HOST:PORT on one of its nodes. Who holds the "
                        "token in the cache (or is on this machine as us) may run code on every node, and nothing is encrypted: "
                        "loopback, or a private network. Every node wants the clone and the cache at the same place.")
    read.add_argument("verb", choices=["node"], help=argparse.SUPPRESS)
    read.add_argument("--host", default="127.0.0.1", help="address of this node that the others reach; loopback unless given")
    read.add_argument("--port", type=int, default=6379, help="of a cluster's first node")
    read.add_argument("--join", metavar="HOST:PORT", help="the first node, of which this one becomes another")
    said, options = read.parse_known_args()
    try:
        argv = cluster.node(said.host, said.port, said.join, options)
    except cluster.NoCluster as why:
        sys.exit(f"run_all.sh: {why}")
    os.execve(argv[0], argv, cluster.environment())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["cell", told]:  # these two are what the cluster is asked to run
            cell(told)
        case ["who"]:
            who()
        case _:
            be_a_node()
