"""How each program of the stand is started: a command for a port, what says that it is ready, and where it keeps things.

All on loopback, all below one folder. What this machine lacks is refused with a reason (Skipped).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from lib import process
from lib.home import ROOT
from lib.install import Missing, platform
from lib.measured import Skipped
from lib.monitoring import tools
from lib.monitoring.asks import MODEL
from lib.monitoring.timing import Timing
from lib.process import Process

PORTS = {"gateway": 8080, "fraud": 8000, "retail": 8010, "llm": 8081, "shim": 8082, "load": 8090, "redis": 6390, "node": 9100, "gpu": 9400,
         "prometheus": 9090, "alertmanager": 9093, "grafana": 3000}  # fmt: skip
CONTEXT, SLOTS = 1024, 4
FPS = 5  # of a camera


@dataclass(frozen=True, slots=True)
class Program:
    """`argv(port)` starts it; `health`: a path that answers 200 once it is ready, None where listening is enough."""

    name: str
    argv: Callable[[int], Sequence[str | Path]]
    health: str | None = "/metrics"
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 60.0


@contextmanager
def started(program: Program, port: int, logs: Path) -> Iterator[Process]:
    """Run it on exactly this port until the block is left. Raises Died."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{program.name}-{port}.log"
    with process.guarded([str(word) for word in program.argv(port)], program.env, log, 4) as guard:
        yield process.awaited(program.name, port, log, guard, program.health, program.timeout_s)


# --- what is watched ---


def redis(folder: Path) -> Program:
    if (found := shutil.which("redis-server")) is None:
        raise Skipped("redis-server is not installed on this machine")
    # A pause of its clients ends at a tick of its clock: at 10 Hz, its default, up to 0.1 s late.
    words = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder), "--hz", "100")
    return Program("redis", lambda port: (found, "--port", str(port), *words), health=None)


def fraud(folder: Path, redis_port: int | None, *options: str) -> Program:
    """With its windows in Redis where there is one; a journal for each port, for two instances may run at a time."""
    from lib.pipelines.fraud import model

    if isinstance(lacks := model.ready(), Missing):
        raise Skipped(lacks.reason)
    store = () if redis_port is None else ("--redis-url", f"redis://127.0.0.1:{redis_port}/0")
    patient = ("--deadline-ms", "500", "--queue-ms", "500")  # who promises 0.1 s at the gateway sheds no load after 10 ms
    return _ours("fraud", "lib.pipelines.fraud.service",
                 lambda port: ("--journal", folder / f"decisions-{port}.sqlite", *store, *patient, *options), health="/readyz")  # fmt: skip


def retail(clip: Path, *options: str) -> Program:
    """One camera that plays `clip`, a copy of ours: a drill may break it. Two instances may play it at a time."""
    from lib.pipelines.retail.session import shop
    from lib.vision.yolo import NotReady

    try:
        if not clip.exists():
            shutil.copyfile(shop().clip, clip)
    except NotReady as lacks:
        raise Skipped(str(lacks)) from lacks
    words = ("--clip", f"own={clip}", "--cameras", "1", "--fps", str(FPS), "--threads", "1", "--size", "256x320")
    return _ours("retail", "lib.pipelines.retail.service", lambda _: (*words, *options), health="/readyz", timeout_s=120)


def leaking(whole: Program, bytes_per_s: float) -> Program:
    """The same of ours, with a leak that a signal begins (leak.py)."""

    def argv(port: int) -> Sequence[str | Path]:
        python, dash_m, *rest = whole.argv(port)
        return python, dash_m, "lib.monitoring.leak", f"{bytes_per_s:g}", *rest

    return replace(whole, argv=argv)


@dataclass(frozen=True, slots=True)
class Llm:
    """An LLM server: what its engine is called, and how many bytes of weights a step reads."""

    program: Program
    engine: str
    weights_bytes: int


def llm(engine: str) -> Llm:
    """`engine`: llamacpp (INT4) or vllm (16 bit); a thread, prefix cache on."""
    from lib.llm import weights
    from lib.llm.contender import ENGINES
    from lib.llm.engines.engine import Options, Spec, Unavailable
    from lib.llm.model import load

    made = ENGINES[engine]
    counting = ("--enable-prompt-tokens-details", "--enable-force-include-usage")  # vLLM counts for those who do not ask, too
    precision, extra = ("INT4", ()) if engine == "llamacpp" else ("16-bit", counting)
    try:
        if (lacks := made.available()) is not None:
            raise Unavailable(lacks)
        family = weights.family(MODEL)
        spec = Spec(load(family), precision, context=CONTEXT, slots=SLOTS, device=platform(), extra=extra,
                    options=Options(prefix_cache=True))  # fmt: skip
        env, weights_bytes = made.command(spec, 0).env, spec.model.weights_bytes(made.stored(spec))
    except (weights.NotReady, Unavailable) as why:
        raise Skipped(str(why)) from why
    program = Program("llm", lambda port: made.command(spec, port).argv, health=made.HEALTH, env=env, timeout_s=600)
    return Llm(program, made.NAME, weights_bytes)


# --- what stands between and asks ---


def shim(upstream_port: int) -> Program:
    return _ours("shim", "lib.monitoring.shim", lambda _: ("--upstream", f"http://127.0.0.1:{upstream_port}"), health="/-/toxic")


def gateway(routes: Mapping[str, int], log: Path) -> Program:
    told = [word for service, port in routes.items() for word in ("--route", f"{service}=http://127.0.0.1:{port}")]
    return _ours("gateway", "lib.monitoring.gateway", lambda _: (*told, "--log", log, "--model", MODEL), health="/healthz")


def load(gateway_port: int, log: Path, services: Sequence[str]) -> Program:
    """Its control port is its port."""
    told = [word for service in services for word in ("--service", service)]
    words = ("--gateway", f"http://127.0.0.1:{gateway_port}", "--log", str(log), *told)
    return Program("load", lambda port: (sys.executable, "-m", "lib.monitoring.load", "--control", str(port), *words), health="/plan")


# --- what watches ---

GRAFANA_HOME = "/usr/share/grafana"  # where its packages lay its pages
COLLECTORS = ("cpu", "loadavg", "meminfo", "pressure", "stat", "textfile")


def node(textfiles: Path) -> Program:
    asked = [f"--collector.{name}" for name in COLLECTORS]
    found = _tool("node_exporter")
    return Program("node", lambda port: (found, f"--web.listen-address=127.0.0.1:{port}", "--collector.disable-defaults", *asked,
                                         f"--collector.textfile.directory={textfiles}"))  # fmt: skip


def gpu() -> Program:
    return _ours("gpu", "lib.monitoring.gpu_exporter", lambda _: (), health="/metrics")


def prometheus(folder: Path, timing: Timing) -> Program:
    """A drill is as quick in noticing targets that move, in telling again what it told a minute ago, and as forgetful.

    What fires before it has found Alertmanager (five seconds) is told at the next time. Alertmanager takes an alert of which it has not
    heard for four such times as resolved, so they are no shorter than two seconds: a busy machine must not end alerts.
    """
    found = _tool("prometheus")
    look_ms, tell_ms = (round(1000 * max(least, timing.seconds(told))) for told, least in (("5s", 0.2), ("1m", 2.0)))
    return Program("prometheus", lambda port: (
        found, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", f"--query.lookback-delta={timing.wait('5m')}",
        f"--scrape.discovery-reload-interval={look_ms}ms", f"--rules.alert.resend-delay={tell_ms}ms",
        "--log.level=warn"), health="/-/ready")  # fmt: skip


def alertmanager(folder: Path) -> Program:
    """Alone: without the gossip that would listen on every interface. Where tools.py unpacked it, its templates lie beside it."""
    found = _tool("alertmanager")
    return Program("alertmanager", lambda port: (
        "env", "-C", found.parent, found, f"--config.file={folder / 'alertmanager.yml'}", f"--storage.path={folder / 'alertmanager'}",
        "--cluster.listen-address=", f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"), health="/-/ready")  # fmt: skip


def grafana(folder: Path, prometheus_port: int) -> Program:
    """With the dashboards of monitoring/grafana and this Prometheus, for anybody on this machine to look at."""
    found, place = _tool("grafana"), folder / "grafana"
    source = {"name": "Prometheus", "type": "prometheus", "uid": "prometheus", "url": f"http://127.0.0.1:{prometheus_port}",
              "access": "proxy", "isDefault": True}  # fmt: skip
    boards = {"name": "inference", "type": "file", "options": {"path": str(ROOT / "monitoring" / "grafana" / "dashboards")}}
    for kind, what in (("datasources", source), ("dashboards", {**boards, "allowUiUpdates": False})):
        (place / "provisioning" / kind).mkdir(parents=True, exist_ok=True)
        key = "providers" if kind == "dashboards" else kind
        (place / "provisioning" / kind / "stand.yaml").write_text(json.dumps({"apiVersion": 1, key: [what]}))  # JSON is YAML
    places = {f"PATHS_{name.upper()}": place / name for name in ("data", "logs", "plugins", "provisioning")}
    silent = dict.fromkeys(("REPORTING_ENABLED", "CHECK_FOR_UPDATES", "CHECK_FOR_PLUGIN_UPDATES"), "false")
    settings = {"SERVER_HTTP_ADDR": "127.0.0.1", "AUTH_ANONYMOUS_ENABLED": "true", "AUTH_ANONYMOUS_ORG_ROLE": "Viewer", **places,
                **{f"ANALYTICS_{name}": value for name, value in silent.items()}}  # fmt: skip
    words = (found,) if found.name == "grafana-server" else (found, "server")
    return Program("grafana", lambda port: ("env", f"GF_SERVER_HTTP_PORT={port}", *words, "--homepath", GRAFANA_HOME), health="/api/health",
                   env={f"GF_{name}": str(value) for name, value in settings.items()})  # fmt: skip


def _tool(name: str) -> Path:
    if isinstance(found := tools.find(name), Missing):
        raise Skipped(found.reason)
    return found


def _ours(name: str, module: str, options: Callable[[int], Sequence[str | Path]], *, health: str, timeout_s: float = 60) -> Program:
    command = (sys.executable, "-m", module, "--port")
    return Program(name, lambda port: (*command, str(port), *options(port)), health=health, timeout_s=timeout_s)
