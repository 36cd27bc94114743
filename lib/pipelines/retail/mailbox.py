"""A mailbox between a quick writer and a reader who may be slow: bounded, the newest wins, and what is lost is counted.

A queue that grows makes every later answer late; a picture of a second ago is worth nothing beside the newest one. Refuses to block
the writer, ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Holds the newest `depth` items. Safe between threads."""

    def __init__(self, *, depth: int = 1, ring: Callable[[], object] | None = None) -> None:
        """`ring` is called after each item, on the writer's thread: it wakes the reader. Raises ValueError for no depth."""
        if depth < 1:
            raise ValueError(f"a mailbox of depth {depth} holds nothing; give it at least 1")
        self._items: deque[Item] = deque(maxlen=depth)
        self._lock, self._ring = Lock(), ring
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many items gave way to newer ones."""
        return self._dropped

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Lay it in; the oldest gives way where there is no room."""
        with self._lock:
            self._dropped += len(self._items) == self._items.maxlen
            self._items.append(item)
        if self._ring is not None:
            self._ring()

    def take(self) -> Item | None:
        """The oldest of those held, or None."""
        with self._lock:
            return self._items.popleft() if self._items else None
