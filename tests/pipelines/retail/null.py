"""Cameras, an eye and a detector that cost nothing and do what a test tells them; and the service around them, listening."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import uvicorn
from numpy.typing import NDArray

from lib.pipelines.retail import feeds, floor, pipeline
from lib.pipelines.retail.api import Api
from lib.pipelines.retail.fleet import Fleet
from lib.pipelines.retail.hub import Hub
from lib.pipelines.retail.instruments import Instruments, Model
from lib.pipelines.retail.service import Server
from lib.pipelines.retail.wishes import Footage

NET_HW, FRAME_HW = (96, 128), (72, 96)
ANCHORS = 12 * 16 + 6 * 8 + 3 * 4


def frame(shade: int = 0, hw: tuple[int, int] = FRAME_HW) -> NDArray[np.uint8]:
    return np.full((*hw, 3), shade % 256, np.uint8)


class Roll:
    """Footage of `frames` frames, each of its own shade. `hang` blocks the next read until it is set; at frame `broken` it raises."""

    def __init__(self, frames: int = 1_000_000, *, broken: int | None = None, hw: tuple[int, int] = FRAME_HW) -> None:
        self.frames, self.broken, self.hw = frames, broken, hw
        self.at, self.rewound, self.skipped, self.closed = 0, 0, 0, False
        self.hang: Event | None = None

    def read(self) -> NDArray[np.uint8] | None:
        if self.hang is not None:
            self.hang.wait(20)
        if self.at == self.broken:
            raise OSError("the lens fell off")
        if self.at >= self.frames:
            return None
        self.at += 1
        return frame(self.at - 1, self.hw)

    def skip(self) -> bool:
        self.skipped += 1
        return self.read() is not None

    def rewind(self) -> None:
        self.at, self.rewound = 0, self.rewound + 1

    def close(self) -> None:
        self.closed = True


class Detector:
    """Finds one person in the middle of every canvas. `fails`: so many calls raise; `gate`: each call waits for it."""

    name, takes = "null", "canvas"

    def __init__(self, batch: int = 1, *, fails: int = 0, gate: Event | None = None, takes: str = "canvas", warm: bool = True) -> None:
        self.batch, self.net_hw, self.takes, self.fails, self.gate, self._cold = batch, NET_HW, takes, fails, gate, warm
        self.sizes: list[int] = []
        self.inputs: list[NDArray[Any]] = []
        self._heads = np.zeros((batch, 84, ANCHORS), np.float32)
        self._heads[:, :5, 0] = (64, 48, 40, 60, 0.9)

    def infer(self, x: NDArray[Any]) -> NDArray[np.float32]:
        if self._cold:  # the warm-up always succeeds
            self._cold = False
            return self._heads
        if self.gate is not None:
            self.gate.wait(20)
        self.sizes.append(len(x))
        self.inputs.append(x.copy())
        if self.fails:
            self.fails -= 1
            raise RuntimeError("the detector tripped")
        return self._heads


class Eye:
    """Sees one person wherever it looks. `still`: nothing moves; `broken`: it cannot follow. `order`: the times it was told."""

    def __init__(self, *, still: bool = False, broken: bool = False) -> None:
        self.still, self.broken, self.order = still, broken, list[float]()

    def moved(self, image: NDArray[np.uint8]) -> bool:
        return not self.still

    def canvas(self, image: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        if image.shape != (*FRAME_HW, 3):
            raise ValueError(f"a frame of {image.shape}")
        out[:] = image[0, 0]

    def see(self, raw: NDArray[np.float32], time_s: float) -> Any:
        if self.broken:
            raise ValueError("blind")
        self.order.append(time_s)
        return sight(int((raw[4] > 0.5).sum()))

    def rest(self, time_s: float) -> Any:
        self.order.append(time_s)
        return sight(0)


def sight(people: int) -> Any:
    return SimpleNamespace(
        report=SimpleNamespace(people=people),
        boxes=[0] * people,
        tracks=[],
        event=lambda camera: json.dumps({"camera": camera, "people": people}).encode(),
    )


def until(holds: Callable[[], object], *, within_s: float = 10) -> None:
    """Wait until it holds; a machine that is busy has time."""
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "it did not come to hold"
        time.sleep(0.005)


SHOP = {
    "frame": [96, 72],
    "line": {"start": [48, 70], "end": [48, 10]},
    "zones": [
        {"name": "door", "corners": [[5, 5], [90, 5], [90, 70], [5, 70]]},
        {"name": "till", "corners": [[5, 5], [20, 5], [20, 20]], "queue": True},
    ],
}


@dataclass
class Shop:
    """A service with null cameras. `well`: whether the source "moody" works; `hang`: what "stuck" waits for."""

    detector: Detector = field(default_factory=Detector)
    well: bool = True
    hang: Event = field(default_factory=Event)
    url: str = ""

    def moody(self) -> Roll:
        shop = self

        class Moody(Roll):
            def read(self) -> NDArray[np.uint8] | None:
                if not shop.well:
                    raise OSError("out of order")
                return super().read()

        return Moody()

    def stuck(self) -> Roll:
        roll = Roll()
        roll.hang = self.hang
        return roll

    def footage(self) -> dict[str, Footage]:
        opens: dict[str, Callable[[], Roll]] = {
            "roll": Roll,
            "moody": self.moody,
            "stuck": self.stuck,
            "short": lambda: Roll(5),
            "torn": lambda: Roll(broken=3),
            "wide": lambda: Roll(hw=(10, 20)),
        }
        return {name: Footage(open, FRAME_HW, 50.0, floor.parse(SHOP)) for name, open in opens.items()}


@contextmanager
def serving(shop: Shop, *, most_cameras: int = 4, most_subscribers: int = 8, port: int = 0, **options: Any) -> Iterator[Api]:
    """The shop's service, ready, on a free port unless one is told; ended in order."""
    instruments = Instruments(Model("null-1", "int8", "none"))
    fleet = Fleet([shop.detector], most_cameras=most_cameras, hub=Hub(most=most_subscribers), on_seen=instruments.seen)
    api = Api(fleet, shop.footage(), lambda drawn, fps: pipeline.Eye(drawn, net_hw=NET_HW, fps=fps), instruments, net_hw=NET_HW, **options)
    ours = feeds.listening("127.0.0.1", port)
    shop.url = f"http://127.0.0.1:{ours.getsockname()[1]}"
    server = Server(uvicorn.Config(api.app(), lifespan="off", log_config=None, timeout_graceful_shutdown=3), api)
    thread = Thread(target=server.run, args=([ours],))
    thread.start()
    try:
        until(lambda: server.started and fleet.ready)
        yield api
    finally:
        shop.hang.set()
        api.leave()
        server.should_exit = True
        thread.join(10)
        fleet.close()
        assert not thread.is_alive()
