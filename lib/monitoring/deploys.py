"""What a deploy may bring: a model that nobody asked for, one that was broken on its way, a leak; or, as it should, nothing new.

The instance is started beforehand beside the one that serves: a deploy starts it elsewhere, and here its start would starve the rest. Then
it takes the traffic, and afterwards an ordinary one takes it back. Refuses nothing: what cannot start is the stand's to say.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import psutil

from lib.monitoring import leak, services
from lib.monitoring.stand import Stand

WRONG = "drill-0000"  # a version that nobody deployed
WRONG_PRECISION = "f32"  # the detector that was not quantised
LEAK_BYTES_PER_S = 1.2e8  # what a virtual machine grants without starving anybody: that is another fault
GROWN_BYTES, GROWING_S = 2.5e8, 10.0  # what the alert wants to see, and how long it is waited for


def prepared(**changed: object) -> Callable[[Stand], None]:
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


def another_model(service: str = "fraud", told_by: str = f'version="{WRONG}"') -> Callable[[Stand], AbstractContextManager[object]]:
    """The prepared instance takes the traffic."""

    @contextmanager
    def injected(stand: Stand) -> Iterator[list[float]]:
        asked_s = time.time()
        stand.replace(service)
        told = stand.prometheus.range(f"{service}_model_info{{{told_by}}}", asked_s, time.time(), 0.1)
        try:
            yield told["t_s"].tolist()[:1]  # it is scraped before it has the traffic
        finally:
            stand.replace(service)

    return injected


def prepared_precision(stand: Stand) -> None:
    """A detector in another precision than was meant."""
    stand.prepare("retail", "--precision", WRONG_PRECISION)


def prepared_leak(stand: Stand) -> None:
    """The retail service as it is, but for a leak that waits."""
    stand.prepare("retail", changed=lambda program: services.leaking(program, LEAK_BYTES_PER_S))


@contextmanager
def leaking(stand: Stand) -> Iterator[list[float]]:
    """The prepared instance takes the traffic and leaks; yields once it holds GROWN_BYTES more: how soon that is depends on the machine."""
    stand.replace("retail")
    pid = stand.pid("retail")
    until_s, enough = time.monotonic() + GROWING_S, psutil.Process(pid).memory_info().rss + GROWN_BYTES
    os.kill(pid, leak.BEGIN)
    try:
        while psutil.Process(pid).memory_info().rss < enough and time.monotonic() < until_s:
            time.sleep(0.02)
        yield [time.time()]
    finally:
        stand.replace("retail")


@contextmanager
def equal(stand: Stand) -> Iterator[None]:
    """The prepared fraud service takes the traffic, and keeps it."""
    stand.replace("fraud")
    yield
