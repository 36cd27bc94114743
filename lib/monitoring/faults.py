"""What goes wrong in a drill, and what only looks like it: each injected for real, seen by a witness that is not Prometheus, and undone.

A fault names the alert that ought to come first, from its runbook: the one that says what is wrong, not merely that something is. Controls
name none. What this machine cannot do (memory that is not there to be filled) is refused with a reason and becomes a row.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx
import psutil

from lib import process
from lib.home import logs
from lib.measured import Skipped
from lib.monitoring import deploys, witness
from lib.monitoring.asks import SHARED_TOKENS
from lib.monitoring.controls import ASK_S
from lib.monitoring.deploys import LEAK_BYTES_PER_S, WRONG, WRONG_PRECISION
from lib.monitoring.stand import Stand
from lib.monitoring.witness import Witness

Injected: TypeAlias = contextlib.AbstractContextManager[object]
SPARE_BYTES = 2**30  # left to the rest of the machine when memory is filled
DELAY_S = 1.5  # half as long again as the first token may take
FLOOD = 50  # completions at once, within what the gateway lets be in flight
PAUSE_S, GAP_S = 0.2, 0.05  # shorter than what the service grants Redis, and a gap for what waits: slow, not lost
TOKENS_TIMES = 4
PICTURES = 100.0  # a second; four are looked at at a time, and each takes some 20 ms of a core
MORE_CAMERAS = 31  # which makes 32: all that the service takes, and more than a core looks at
CUT_EVERY = 2
HOLES = "holes"  # a file as large as memory that takes no room
LOW_MEMORY, FILLED_TO = 0.1, 0.07  # shares of memory that are available: an alert's threshold, and what is left
# What a file of holes would read is locked: it stays cached, and so this machine's, when it is let go. Who may not lock takes memory of its
# own. A little at a time: filling must not starve the processors, which is another fault.
FILL = """
import ctypes, mmap, pathlib, sys, time, psutil
pathlib.Path("/proc/self/oom_score_adj").write_text("1000")
lock, size, at, held = ctypes.CDLL(None).mlock, 2**26, 0, []
with open(sys.argv[1], "r+b") as holes:
    whole = mmap.mmap(holes.fileno(), 0)
begin = ctypes.addressof(ctypes.c_char.from_buffer(whole))
while True:
    if psutil.virtual_memory().available > int(sys.argv[2]):
        if lock(ctypes.c_void_p(begin + at), ctypes.c_size_t(size)):
            held.append(b"x" * size)
        at += size
    time.sleep(0.02)
"""
GRANTED_S = 300.0  # beyond that nobody waits for a fault
# Evenly spaced, so that a forecast does not have to guess how many requests a second brings.
USUAL: Mapping[str, dict[str, Any]] = {
    "fraud": {"rate": 40.0, "even": True, "cut_every": 0}, "retail": {"rate": 1.0, "even": True},
    "llm": {"rate": 4.0, "even": True, "prompt_tokens": 32, "output_tokens": 8, "shared_tokens": SHARED_TOKENS},
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


def _rehearsed(stand: Stand) -> None:
    """Fill memory once in peace and let go of it: what was locked is cached, available, and this machine's.

    A virtual machine may be given memory no faster than 0.15 GB a second, and lose seconds later what it has freed.
    """
    memory, until_s = psutil.virtual_memory(), time.monotonic() + GRANTED_S
    if FILLED_TO * memory.total < SPARE_BYTES:
        raise Skipped(f"{FILLED_TO:.0%} of {memory.total / 2**30:.1f} GiB is too little to leave to a machine that is in use")
    with (stand.folder / HOLES).open("wb") as file:
        file.truncate(memory.total)
    with _filled(stand) as low:
        while not low:
            if time.monotonic() > until_s:
                raise Skipped(f"this machine grants memory so slowly that {GRANTED_S:g} s do not fill {memory.available / 2**30:.0f} GiB")
            time.sleep(0.1)


@contextlib.contextmanager
def _filled(stand: Stand) -> Iterator[list[float]]:
    """Fill memory; yields when less than LOW_MEMORY was available first, once it was. The filler is the first that the kernel would end."""
    total, low = psutil.virtual_memory().total, list[float]()

    def look() -> None:
        if not low and psutil.virtual_memory().available < LOW_MEMORY * total:
            low.append(time.time())

    filler = (sys.executable, "-c", FILL, str(stand.folder / HOLES), str(round(FILLED_TO * total)))
    with process.guarded(filler, {}, stand.folder / "filler.log", 2), _repeated(0.02, look):
        yield low


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
def _many_cameras(stand: Stand) -> Iterator[list[float]]:
    """Cameras are switched on as their owner would do it, a few at a time; yields when half of them were on, once they were."""
    urls = [f"{stand.urls['retail']}/v1/cameras/more-{n}" for n in range(MORE_CAMERAS)]
    half: list[float] = []

    def on(url: str) -> None:
        httpx.put(url, json={"source": "own"}, timeout=ASK_S, trust_env=False).raise_for_status()
        if url == urls[MORE_CAMERAS // 2]:
            half.append(time.time())

    with ThreadPoolExecutor(4) as pool:
        asked = {url: pool.submit(on, url) for url in urls}
        try:
            yield half
        finally:
            pool.shutdown(cancel_futures=True)
            begun = {url: answer for url, answer in asked.items() if not answer.cancelled()}
            for url in begun:
                if (gone := httpx.delete(url, timeout=ASK_S, trust_env=False)).status_code != 404:  # nor was it ever on
                    gone.raise_for_status()
    for answer in begun.values():
        answer.result()


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
    Scenario("memory pressure", f"memory is filled but for {FILLED_TO:.0%}", "host", ("HostMemoryLow",), _filled, witness.memory,
             hold_s=40.0, ready=_rehearsed),
    Scenario("constant scores", "the fraud model is deployed with a flat calibration", "fraud", ("ScoreDrift",),
             deploys.another_model(), witness.one_score, ready=deploys.prepared(a=0.0)),
    Scenario("no prediction", "completions are answered 200, and empty", "llm", ("SilentFailure",), _toxic(empty=True),
             witness.empty("llm")),
    Scenario("exporter gone", "kill -9 of node_exporter", "host", ("TargetDown",), _killed("node"), witness.silent("node")),
    Scenario("slow dependency", f"Redis lets its clients wait for up to {PAUSE_S} s", "fraud", ("FraudLatencyBudgetBurn",), _slow_redis,
             witness.slow("fraud", 0.1)),
    Scenario("dependency lost", "kill -9 of Redis", "fraud", ("ErrorBurst", "FraudAvailabilityBudgetBurn"), _killed("redis"),
             witness.failed("fraud")),
    Scenario("wrong version", "another fraud model is deployed than was meant", "fraud", ("ModelVersionUnexpected",),
             deploys.another_model(), witness.another_version(WRONG), ready=deploys.prepared(version=WRONG)),
    Scenario("token jump", f"prompts and answers {TOKENS_TIMES} times as long", "llm", ("TokenCostSpike",),
             _plan(llm={"rate": 1.0, "prompt_tokens": 32 * TOKENS_TIMES, "output_tokens": 8 * TOKENS_TIMES}), witness.tokens),
    Scenario("camera lost", "the camera's footage breaks off", "retail", ("CameraDown",), _camera_lost, witness.camera),
    Scenario("bad requests", f"of every {CUT_EVERY} transactions one is sent with half of its body", "fraud", ("ClientErrors",),
             _plan(fraud={"cut_every": CUT_EVERY}), witness.invalid("fraud")),
    Scenario("wrong retail model", f"a detector in {WRONG_PRECISION} is deployed, and INT8 was meant", "retail",
             ("ModelVersionUnexpected",), deploys.another_model("retail", f'precision="{WRONG_PRECISION}"'),
             witness.computes_in(WRONG_PRECISION), ready=deploys.prepared_precision),
    Scenario("too many pictures", f"{PICTURES:g} pictures a second are to be looked at", "retail", ("ErrorBurst",),
             _plan(retail={"rate": PICTURES}), witness.failed("retail")),
    Scenario("many cameras", f"{MORE_CAMERAS} more cameras are switched on", "retail", ("RetailFreshnessBudgetBurn",), _many_cameras,
             witness.unseen),
    Scenario("unique prompts", "prompts do not begin alike any more", "llm", ("PrefixCacheLost",), _plan(llm={"shared_tokens": 0}),
             witness.cached),
    Scenario("memory leak", f"the retail service is deployed with a leak of {LEAK_BYTES_PER_S / 1e6:.0f} MB a second", "retail",
             ("MemoryGrowing",), deploys.leaking, witness.resident("retail"), ready=deploys.prepared_leak),
    Scenario("nothing", "control: nothing is done", "none", (), _nothing, witness.failed("llm"), hold_s=12.0),
    Scenario("idle", "control: all load stops", "none", (), _plan(**NO_LOAD), witness.rate, hold_s=12.0),
    Scenario("load step", "control: half as much load again", "none", (),
             _plan(fraud={"rate": 60.0}, llm={"rate": 6.0}), witness.rate, hold_s=12.0),
    Scenario("deploy", "control: the fraud service is replaced by an equal one", "none", (), deploys.equal, witness.failed("fraud"),
             hold_s=12.0, ready=deploys.prepared()),
)  # fmt: skip


def named(name: str) -> Scenario:
    """Raises ValueError with the names that there are."""
    if found := next((one for one in SCENARIOS if one.name == name), None):
        return found
    raise ValueError(f"no scenario {name!r}; there are: {', '.join(one.name for one in SCENARIOS)}")
