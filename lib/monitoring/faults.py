"""What goes wrong in a drill, and what only looks like it: each injected for real, seen by a witness that is not Prometheus, and undone.

A fault names the alert that ought to come first, from its runbook: the one that says what is wrong, not merely that something is. Controls
name none. What this machine cannot do (memory that is not there to be filled) is refused with a reason and becomes a row.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import psutil

from lib import process
from lib.home import logs
from lib.measured import Skipped
from lib.monitoring import witness
from lib.monitoring.stand import Stand
from lib.monitoring.witness import Witness

Injected: TypeAlias = contextlib.AbstractContextManager[object]
WRONG = "drill-0000"  # a version that nobody deployed
SPARE_BYTES = 2**30  # left to the rest of the machine when memory is filled
DELAY_S = 1.5  # half as long again as the first token may take
FLOOD = 50  # completions at once, within what the gateway lets be in flight
PAUSE_S, GAP_S = 0.2, 0.05  # shorter than what the service grants Redis, and a gap for what waits: slow, not lost
TOKENS_TIMES = 4
LOW_MEMORY, FILLED_TO = 0.1, 0.07  # shares of memory that are available: an alert's threshold, and what is left
# Huge pages, a little at a time: filling must not starve the processors, which is another fault.
FILL = """
import mmap, pathlib, sys, time
pathlib.Path("/proc/self/oom_score_adj").write_text("1000")
whole = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
whole.madvise(mmap.MADV_HUGEPAGE)
for at in range(0, len(whole), 2**21):
    whole[at] = 1
    time.sleep(0.0005)
time.sleep(600)
"""
FILL_S = 12.0  # beyond that nobody waits for a fault
# Evenly spaced, so that a forecast does not have to guess how many requests a second brings.
USUAL: Mapping[str, dict[str, Any]] = {
    "fraud": {"rate": 40.0, "even": True}, "retail": {"rate": 1.0, "even": True},
    "llm": {"rate": 4.0, "even": True, "prompt_tokens": 32, "output_tokens": 8},
}  # fmt: skip
NO_LOAD = {name: {**flow, "rate": 0.0} for name, flow in USUAL.items()}


@dataclass(frozen=True, slots=True)
class Scenario:
    """`right`: alerts of which one ought to come first, none in a control. `hold_s`: how long it lasts at most, where no alert comes."""

    name: str
    what: str
    service: str
    right: tuple[str, ...]
    inject: Callable[[Stand], Injected]
    sees: Witness
    hold_s: float = 16.0
    ready: Callable[[Stand], object] = lambda _: None  # what is done beforehand, in peace

    @property
    def control(self) -> bool:
        return not self.right


# --- how each is done ---


def _toxic(**toxic: object) -> Callable[[Stand], Injected]:
    @contextlib.contextmanager
    def injected(stand: Stand) -> Iterator[None]:
        stand.shim.toxic(**toxic)
        try:
            yield
        finally:
            stand.shim.toxic()

    return injected


def _plan(**changes: Any) -> Callable[[Stand], Injected]:
    @contextlib.contextmanager
    def injected(stand: Stand) -> Iterator[None]:
        stand.load.plan(changes)
        try:
            yield
        finally:
            stand.load.plan(USUAL)

    return injected


def _killed(name: str) -> Callable[[Stand], Injected]:
    @contextlib.contextmanager
    def injected(stand: Stand) -> Iterator[None]:
        os.kill(stand.pid(name), signal.SIGKILL)
        try:
            yield
        finally:
            stand.restart(name)

    return injected


def _stopped(name: str) -> Callable[[Stand], Injected]:
    """It hangs: its sockets are open, and nobody is behind them."""

    @contextlib.contextmanager
    def injected(stand: Stand) -> Iterator[None]:
        pid = stand.pid(name)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    return injected


def _stress(*options: str) -> Callable[[Stand], Injected]:
    @contextlib.contextmanager
    def injected(stand: Stand) -> Iterator[None]:
        if (found := shutil.which("stress-ng")) is None:
            raise Skipped("stress-ng is not installed on this machine")
        logs().mkdir(parents=True, exist_ok=True)
        with process.guarded((found, "--quiet", *options), {}, logs() / "stress-ng.log", 2):
            yield

    return injected


@contextlib.contextmanager
def _memory(stand: Stand) -> Iterator[list[float]]:
    """Fill memory; yields when less than LOW_MEMORY was available first, once it was. The filler is the first that the kernel would end."""
    memory = psutil.virtual_memory()
    left = FILLED_TO * memory.total
    if left < SPARE_BYTES:
        raise Skipped(f"{FILLED_TO:.0%} of {memory.total / 2**30:.1f} GiB is too little to leave to a machine that is in use")
    low: list[float] = []

    def look() -> None:
        if not low and psutil.virtual_memory().available < LOW_MEMORY * memory.total:
            low.append(time.time())

    wanted = int(memory.available - left)
    if (takes_s := wanted / _granted_bytes_per_s()) > FILL_S:
        raise Skipped(f"this machine grants memory so slowly that filling {wanted / 2**30:.0f} GiB would take {takes_s:.0f} s")
    filler = (sys.executable, "-c", FILL, str(wanted))
    with process.guarded(filler, {}, stand.folder / "filler.log", 2), _repeated(0.02, look):
        yield low


def _granted_bytes_per_s() -> float:
    """How fast memory that was not used before can be had: a virtual machine may have to be given it first."""
    with mmap.mmap(-1, 2**28, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as piece:
        piece.madvise(mmap.MADV_HUGEPAGE)
        began_s = time.perf_counter()
        for at in range(0, len(piece), 2**12):
            piece[at] = 1
        return len(piece) / (time.perf_counter() - began_s)


@contextlib.contextmanager
def _slow_redis(stand: Stand) -> Iterator[None]:
    """Every command waits for up to PAUSE_S: Redis pauses its clients again and again, as a store does that is short of I/O."""
    pause = ("CLIENT", "PAUSE", str(round(PAUSE_S * 1000)), "ALL")
    with stand.redis_cli() as redis, _repeated(PAUSE_S + GAP_S, lambda: redis.execute_command(*pause)):
        yield


@contextlib.contextmanager
def _repeated(every_s: float, act: Callable[[], object]) -> Iterator[None]:
    import threading

    over = threading.Event()

    def go() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                act()
            over.wait(every_s)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _prepared(**changed: object) -> Callable[[Stand], None]:
    """An instance of the fraud service, started before anything happens, as a deploy starts it elsewhere: here it would starve the rest.

    Its model's description differs by `changed`: a version that nobody asked for, a calibration that is flat; or not at all.
    """

    def ready(stand: Stand) -> None:
        from lib.pipelines.fraud import model

        root, copy = model.load().root, stand.folder / f"model-{'-'.join(changed)}"
        if not copy.exists():
            copy.mkdir()
            for file in root.iterdir():
                (copy / file.name).symlink_to(file) if file.name != "ok.json" else None
            (copy / "ok.json").write_text(json.dumps({**json.loads((root / "ok.json").read_text()), **changed}))
        stand.prepare("fraud", "--model", str(copy))

    return ready


def _another_model() -> Callable[[Stand], Injected]:
    """The prepared instance takes the traffic."""

    @contextlib.contextmanager
    def injected(stand: Stand) -> Iterator[list[float]]:
        asked_s = time.time()
        stand.replace("fraud")
        told = stand.prometheus.range(f'fraud_model_info{{version="{WRONG}"}}', asked_s, time.time(), 0.1)
        try:
            yield told["t_s"].tolist()[:1]  # it is scraped before it has the traffic
        finally:
            stand.replace("fraud")

    return injected


@contextlib.contextmanager
def _camera_lost(stand: Stand) -> Iterator[None]:
    """The camera's footage is cut off: reading fails, and so does opening it again."""
    clip = stand.clip
    kept = clip.with_suffix(".kept")
    shutil.copyfile(clip, kept)
    os.truncate(clip, 0)
    try:
        yield
    finally:
        shutil.copyfile(kept, clip)


@contextlib.contextmanager
def _deployed(stand: Stand) -> Iterator[None]:
    stand.replace("fraud")
    yield


@contextlib.contextmanager
def _nothing(_: Stand) -> Iterator[None]:
    yield


SCENARIOS = (
    Scenario("added latency", f"the way to the engine takes {DELAY_S} s longer", "llm", ("LlmTtftBudgetBurn", "TtftRegression"),
             _toxic(delay_s=DELAY_S), witness.ttft_p50),
    Scenario("error burst", "every second completion is answered 500", "llm", ("ErrorBurst", "LlmAvailabilityBudgetBurn"),
             _toxic(error_every=2), witness.failed("llm")),
    Scenario("engine killed", "kill -9 of the LLM server", "llm", ("TargetDown",), _killed("llm"), witness.failed("llm")),
    Scenario("engine hung", "the LLM server is stopped, its port stays open", "llm", ("EngineStalled", "TargetDown"), _stopped("llm"),
             witness.unanswered("llm")),
    Scenario("queue flood", f"{FLOOD} completions at once", "llm", ("QueueGrowing", "LlmTtftBudgetBurn"), _plan(burst={"llm": FLOOD}),
             witness.waiting),
    Scenario("processors starved", "stress-ng: eight busy workers a processor", "host", ("HostCpuSaturated",),
             _stress("--cpu", str(8 * (os.cpu_count() or 1))), witness.pressure),
    Scenario("memory pressure", f"memory is filled but for {FILLED_TO:.0%}", "host", ("HostMemoryLow",), _memory, witness.memory),
    Scenario("constant scores", "the fraud model is deployed with a flat calibration", "fraud", ("ScoreDrift",),
             _another_model(), witness.one_score, ready=_prepared(a=0.0)),
    Scenario("no prediction", "completions are answered 200, and empty", "llm", ("SilentFailure",), _toxic(empty=True),
             witness.empty("llm")),
    Scenario("exporter gone", "kill -9 of node_exporter", "host", ("TargetDown",), _killed("node"), witness.silent("node")),
    Scenario("slow dependency", f"Redis lets its clients wait for up to {PAUSE_S} s", "fraud", ("FraudLatencyBudgetBurn",), _slow_redis,
             witness.slow("fraud", 0.1)),
    Scenario("dependency lost", "kill -9 of Redis", "fraud", ("ErrorBurst", "FraudAvailabilityBudgetBurn"), _killed("redis"),
             witness.failed("fraud")),
    Scenario("wrong version", "another fraud model is deployed than was meant", "fraud", ("ModelVersionUnexpected",),
             _another_model(), witness.another_version(WRONG), ready=_prepared(version=WRONG)),
    Scenario("token jump", f"prompts and answers {TOKENS_TIMES} times as long", "llm", ("TokenCostSpike",),
             _plan(llm={"rate": 1.0, "prompt_tokens": 32 * TOKENS_TIMES, "output_tokens": 8 * TOKENS_TIMES}), witness.tokens),
    Scenario("camera lost", "the camera's footage breaks off", "retail", ("CameraDown",), _camera_lost, witness.camera),
    Scenario("nothing", "control: nothing is done", "none", (), _nothing, witness.failed("llm"), hold_s=12.0),
    Scenario("idle", "control: all load stops", "none", (), _plan(**NO_LOAD), witness.rate, hold_s=12.0),
    Scenario("load step", "control: half as much load again", "none", (),
             _plan(fraud={"rate": 60.0}, llm={"rate": 6.0}), witness.rate, hold_s=12.0),
    Scenario("deploy", "control: the fraud service is replaced by an equal one", "none", (), _deployed, witness.failed("fraud"),
             hold_s=12.0, ready=_prepared()),
)  # fmt: skip


def named(name: str) -> Scenario:
    """Raises ValueError with the names that there are."""
    if found := next((one for one in SCENARIOS if one.name == name), None):
        return found
    raise ValueError(f"no scenario {name!r}; there are: {', '.join(one.name for one in SCENARIOS)}")
