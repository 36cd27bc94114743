"""What the stream looked like in its last minute and hour: counts and mean amounts, per event, in constant memory.

Sixty buckets of a second and sixty of a minute, with running totals. Amounts are whole cents, so every sum is exact and the same in
every store. Nothing here is written down: the decision log is the only durable truth, and `Embedded.resumed` folds it again.
What the buckets hold depends on which events came and on the newest of them, not on their order, so folding is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

Event = tuple[str, int, int]  # id, second of event time (0 or later), cents
Stats = tuple[int, float, int, float]  # n_60s, mean_60s, n_3600s, mean_3600s; means in units of the amount, 0 where there is none

BUCKETS = 60
HOUR_S = 3600


class Unavailable(RuntimeError):
    """The windows cannot be read. The message says where, why and what to do."""


class Windows(Protocol):
    """Somewhere the windows are kept."""

    name: str

    def observe(self, events: Sequence[Event]) -> list[Stats]:
        """What each event finds before it is added, in order. Raises Unavailable."""

    def newest(self) -> int | None:
        """The newest second of event time seen; None before the first event."""

    def close(self) -> None: ...


def stats(n_60s: int, cents_60s: int, n_3600s: int, cents_3600s: int) -> Stats:
    """The one formula for means, so that every store rounds alike."""
    return (n_60s, cents_60s / n_60s / 100 if n_60s else 0.0, n_3600s, cents_3600s / n_3600s / 100 if n_3600s else 0.0)


class _Ring:
    """The last sixty ticks: events and cents of each, and of all."""

    __slots__ = ("all_cents", "all_n", "cents", "n", "newest")

    def __init__(self) -> None:
        self.newest = -1  # before any event: every bucket is empty, so it does not matter which ticks they stand for
        self.all_n = self.all_cents = 0
        self.n, self.cents = [0] * BUCKETS, [0] * BUCKETS

    def advance(self, tick: int) -> None:
        """Drop what is too old at `tick`. At most one turn, however far the jump."""
        for gone in range(max(self.newest + 1, tick - BUCKETS + 1), tick + 1):
            slot = gone % BUCKETS
            self.all_n -= self.n[slot]
            self.all_cents -= self.cents[slot]
            self.n[slot] = self.cents[slot] = 0
        self.newest = tick

    def add(self, tick: int, cents: int) -> None:
        if tick > self.newest - BUCKETS:
            slot = tick % BUCKETS
            self.n[slot] += 1
            self.cents[slot] += cents
            self.all_n += 1
            self.all_cents += cents


class Embedded:
    """The windows in this process. One thread."""

    name = "embedded"
    __slots__ = ("_minutes", "_seconds")

    def __init__(self) -> None:
        self._seconds, self._minutes = _Ring(), _Ring()

    @classmethod
    def resumed(cls, events: Iterable[Event]) -> Embedded:
        """As it was after these events. Those of the last hour of event time suffice (Journal.window(HOUR_S))."""
        windows = cls()
        for event in events:
            windows.observe((event,))
        return windows

    def observe(self, events: Sequence[Event]) -> list[Stats]:
        seconds, minutes = self._seconds, self._minutes
        found = []
        for _, second, cents in events:
            minute = second // 60
            if second > seconds.newest:
                seconds.advance(second)
                if minute > minutes.newest:
                    minutes.advance(minute)
            found.append(stats(seconds.all_n, seconds.all_cents, minutes.all_n, minutes.all_cents))
            seconds.add(second, cents)
            minutes.add(minute, cents)
        return found

    def newest(self) -> int | None:
        return self._seconds.newest if self._seconds.newest >= 0 else None

    def close(self) -> None:
        """Nothing is held outside this process."""
