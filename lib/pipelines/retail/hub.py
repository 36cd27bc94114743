"""Who listens to what the cameras see: every subscriber has a bounded mailbox, and a slow one loses its oldest events, which are counted.

Refuses more subscribers than it was made for, and subscribers once it is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from lib.pipelines.retail.mailbox import Mailbox


class Full(Exception):
    """There are as many as there may be."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `camera` is None for what concerns all of them; `told`: one line of JSON."""

    kind: str
    camera: str | None
    told: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Subscriber:
    """One who listens: to one camera, or to all (None)."""

    camera: str | None
    mailbox: Mailbox[Event]
    ring: Callable[[], object]


class Hub:
    """Between the fleet's threads, which publish, and anybody who subscribes. Safe between threads."""

    def __init__(self, *, most: int = 64, depth: int = 64) -> None:
        self._most, self._depth = most, depth
        self._lock = Lock()
        self._subscribers: tuple[Subscriber, ...] = ()  # replaced, never changed: who publishes needs no lock
        self._lost = 0
        self.closed = False

    def __len__(self) -> int:
        return len(self._subscribers)

    @property
    def lost(self) -> int:
        """Events that gave way to newer ones, of all subscribers there ever were."""
        with self._lock:
            return self._lost + sum(one.mailbox.dropped for one in self._subscribers)

    def publish(self, event: Event) -> None:
        """Lay it into the mailboxes of those concerned. Never blocks."""
        for one in self._subscribers:
            if event.camera is None or one.camera in (None, event.camera):
                one.mailbox.put(event)

    @contextmanager
    def subscribed(self, camera: str | None, ring: Callable[[], object]) -> Iterator[Mailbox[Event]]:
        """A mailbox for the length of the block. `ring` is called after every event and when the hub closes. Raises Full."""
        one = Subscriber(camera, Mailbox(depth=self._depth, ring=ring), ring)
        with self._lock:
            if self.closed or len(self._subscribers) >= self._most:
                raise Full("the service is ending" if self.closed else f"{self._most} subscribers listen already; end one first")
            self._subscribers += (one,)
        try:
            yield one.mailbox
        finally:
            with self._lock:
                self._subscribers = tuple(other for other in self._subscribers if other is not one)
                self._lost += one.mailbox.dropped

    def close(self) -> None:
        """Wake everybody up to leave: `closed` is true then."""
        with self._lock:
            self.closed = True
        for one in self._subscribers:
            one.ring()
