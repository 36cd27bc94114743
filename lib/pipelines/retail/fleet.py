"""Cameras and the detector that they share: newest frames first, batched across cameras, followed on a thread of its own.

    camera threads ──mailboxes, newest wins──▶ detector's threads (fit, infer) ──a few batches──▶ follower (boxes, tracks, floor) ──▶ hub

Inference computes with the interpreter's lock let go, so cameras decode and the follower follows meanwhile; several detector's threads
share the work where `infer` may be called by several. Nothing here grows with time. A detector that fails loses its batch; one that fails
on end, or a thread that dies, is the fleet's `fault`: it says so, is not ready any more, and does not come back by itself.
"""

from __future__ import annotations

import queue
import re
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from operator import attrgetter
from threading import Condition, Event, Lock, Thread
from time import perf_counter, time
from typing import TYPE_CHECKING

from lib.pipelines.retail import hub as hubs
from lib.pipelines.retail.camera import STOP_S, Frame, Source
from lib.pipelines.retail.floor import Floor
from lib.pipelines.retail.looker import Batch, Canvas, Looker, Raw
from lib.pipelines.retail.pipeline import Eye
from lib.pipelines.retail.sample import Sample
from lib.pipelines.retail.watch import Account, Seen, Watch
from lib.pipelines.serve import say

if TYPE_CHECKING:
    from lib.vision.detector import Detector

NAME, NAMED = re.compile(r"[a-z0-9-]{1,32}"), "A camera's name is 1 to 32 of a-z, 0-9 and -"
TICK_S = 0.25  # how often an idle thread looks up: whether it is still wanted
MOST_FAILURES = 5  # batches in a row before a detector counts as broken
SAMPLES = 4096


class BadName(ValueError):
    """No name for a camera."""


class Taken(ValueError):
    """There is a camera of this name already."""


class Busy(RuntimeError):
    """The detector cannot take it now."""


class Fleet:
    """Cameras come and go while it runs. Safe from any thread."""

    def __init__(
        self, detectors: Sequence[Detector], *, threads: int = 1, wait_s: float = 0.0, depth: int = 1, most_cameras: int = 32,
        hub: hubs.Hub | None = None, on_seen: Callable[[str, Seen], None] | None = None, now: Callable[[], float] = perf_counter,
    ) -> None:  # fmt: skip
        """`detectors`: of one geometry, each for another batch size. `wait_s`: how long a batch waits for more cameras' frames. `depth`:
        of a camera's mailbox. `on_seen` is called on the follower with every frame's camera and outcome. Raises ValueError.
        """
        self.hub = hubs.Hub() if hub is None else hub
        self.fault: str | None = None
        self._wait_s, self._depth, self._most_cameras, self._on_seen, self._now = wait_s, depth, most_cameras, on_seen, now
        self._epoch_s = time() - now()  # an event's time is everybody's; frames' stamps are of a clock that nobody sets
        self._watches: tuple[Watch, ...] = ()  # replaced, never changed: readers need no lock
        self._lock, self._bell, self._told = Lock(), Condition(), Event()
        self._errands: queue.Queue[tuple[Callable[[Canvas], None], Future[Raw]]] = queue.Queue(maxsize=4)
        self._turns: queue.Queue[Batch | None] = queue.Queue(maxsize=1 + threads)
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        lookers = [Looker(detectors, now=now) for _ in range(threads)]
        self._cold = threads
        self._detecting = [self._begin(partial(self._detect, looker), f"detector {n}") for n, looker in enumerate(lookers)]
        self._following = self._begin(self._follow, "follower")

    @property
    def ready(self) -> bool:
        """Warmed up, not ending and without fault."""
        return not self._cold and not self._told.is_set() and self.fault is None

    def start(
        self, name: str, open: Callable[[], Source], eye: Eye, *, fps: float, loop: bool = True, stall_s: float = 2.0, source: str = "",
        floor: Floor | None = None,
    ) -> None:  # fmt: skip
        """Begin a camera. `source`, `floor`: to tell and draw. Raises BadName, Taken, hub.Full, and ValueError for an impossible fps."""
        if not NAME.fullmatch(name):
            raise BadName(NAMED)
        with self._lock:
            if any(watch.name == name for watch in self._watches):
                raise Taken(f"there is a camera {name} already; end it first")
            if len(self._watches) >= self._most_cameras or self._told.is_set():
                raise hubs.Full(f"{len(self._watches)} of at most {self._most_cameras} cameras run; end one first")
            self._watches += (Watch(name, source, open, eye, fps=fps, loop=loop, stall_s=stall_s, depth=self._depth, ring=self._ring,
                                    now=self._now, floor=floor),)  # fmt: skip

    def stop(self, name: str) -> bool:
        """End a camera; whether its thread is gone (one that hangs in a read stays behind, and delivers nothing). Raises KeyError."""
        with self._lock:
            gone = self.watch(name)
            self._watches = tuple(watch for watch in self._watches if watch is not gone)
        return gone.camera.stop()

    def watch(self, name: str) -> Watch:
        """The camera of this name. Raises KeyError."""
        for watch in self._watches:
            if watch.name == name:
                return watch
        raise KeyError(name)

    def accounts(self) -> list[Account]:
        """How each camera does, in the order they were begun."""
        return [watch.account() for watch in self._watches]

    def samples(self) -> list[Sample]:
        """The last frames that were seen, of all cameras, oldest first."""
        return list(self._samples)

    def infer(self, fill: Callable[[Canvas], None]) -> Future[Raw]:
        """A picture between the cameras' frames: `fill` fits it into (H, W, 3) BGR, the future holds its head (84, A). Raises Busy."""
        if not self.ready:
            raise Busy(self.fault or "the detector is warming up, or ending")
        future: Future[Raw] = Future()
        try:
            self._errands.put_nowait((fill, future))
        except queue.Full:
            raise Busy("more pictures wait already than are looked at in time; try again later") from None
        self._ring()
        return future

    def close(self) -> None:
        """End everything, in order: cameras, detector, follower, subscribers. A second time does nothing."""
        with self._lock:
            self._told.set()
            watches, self._watches = self._watches, ()
        for watch in watches:
            watch.camera.leave()
        for watch in watches:
            watch.camera.stop()
        self._ring()
        for thread in self._detecting:
            thread.join(STOP_S)
        with suppress(queue.Full):  # of a follower that died
            self._turns.put(None, timeout=STOP_S)
        self._following.join(STOP_S)
        self._refuse(Busy("the service is ending"))
        self.hub.close()

    def _begin(self, work: Callable[[], None], name: str) -> Thread:
        def guarded() -> None:
            try:
                work()
            except Exception as error:  # the end of a thread that everybody relies on must not go unnoticed
                self.fault = f"the {name} died: {type(error).__name__}: {error}"
                say("fault", reason=self.fault)
                self._refuse(Busy(self.fault))

        thread = Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

    def _detect(self, looker: Looker) -> None:
        looker.warm()
        with self._lock:
            self._cold -= 1
        failures = 0
        while not self._told.is_set() and self.fault is None:
            with suppress(queue.Empty):
                _run(looker, *self._errands.get_nowait())
            if not (taken := self._take(looker)):
                continue
            batch = looker.look(taken)
            failures = failures + 1 if batch.error else 0
            if failures == MOST_FAILURES:
                raise RuntimeError(f"{failures} batches failed one after another, the last with {batch.error}") from batch.error
            self._hand_on(batch)
            with self._bell:
                for watch, _ in taken:
                    watch.in_flight = False
                self._bell.notify_all()

    def _take(self, looker: Looker) -> list[tuple[Watch, Frame]]:
        """The frames that the next batch is made of; none when something else is to be done, or nothing came."""
        with self._bell:
            self._bell.wait_for(lambda: self._waiting() or not self._errands.empty() or self._told.is_set(), TICK_S)
            if self._wait_s and self._waiting():
                self._bell.wait_for(lambda: len(self._waiting()) >= min(looker.most, len(self._watches)), self._wait_s)
            waiting = self._waiting()
            chosen = [(watch, watch.mailbox.take()) for watch in waiting[: looker.room(len(waiting))]]
            taken = [(watch, frame) for watch, frame in chosen if frame is not None]
            for watch, _ in taken:
                watch.in_flight, watch.taken_s = True, self._now()
        return taken

    def _waiting(self) -> list[Watch]:
        """Cameras whose next frame may be taken, who waits longest for a turn first.

        By the age of frames instead, the camera whose frame is replaced just before its turn would be last every time.
        """
        return sorted((watch for watch in self._watches if watch.mailbox and not watch.in_flight), key=attrgetter("taken_s"))

    def _hand_on(self, batch: Batch) -> None:
        """Wait for room with the follower: its backlog is what the mailboxes then drop, not what grows."""
        while not self._told.is_set() and self.fault is None:
            with suppress(queue.Full):
                self._turns.put(batch, timeout=TICK_S)
                return

    def _follow(self) -> None:
        while (batch := self._turns.get()) is not None:
            for watch, frame, head in batch.frames:
                turned_s, at_s = self._now(), frame.captured_s + self._epoch_s
                try:
                    sight = watch.eye.rest(at_s) if head is None else watch.eye.see(head, at_s)
                    followed_s = self._now()
                    event = sight.event(watch.name)
                except Exception as error:  # whatever is wrong with one camera's frame leaves the others theirs
                    watch.failed(error)
                    continue
                sample = Sample(
                    watch.name, frame.number, frame.place, 0 if head is None else batch.size, sight.report.people, frame.captured_s,
                    frame.woken_s, frame.decoded_s, batch.taken_s, batch.fitted_s, batch.inferred_s, turned_s, followed_s, self._now(),
                )  # fmt: skip
                seen = Seen(frame.image, sight, event, sample)
                watch.seen(seen, gated=head is None)
                self._samples.append(sample)
                self.hub.publish(hubs.Event("sight", watch.name, event))
                if self._on_seen is not None:
                    self._on_seen(watch.name, seen)

    def _ring(self) -> None:
        with self._bell:
            self._bell.notify()

    def _refuse(self, reason: Busy) -> None:
        with suppress(queue.Empty):
            while True:
                self._errands.get_nowait()[1].set_exception(reason)


def _run(looker: Looker, fill: Callable[[Canvas], None], future: Future[Raw]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(looker.look_at(fill))
    except Exception as error:  # it is the asker's, whatever it is
        future.set_exception(error)
