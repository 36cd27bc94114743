"""One process at a time builds what all of a machine's clones share. The kernel frees the lock when its holder dies."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(lock: Path, *, say: Callable[[str], None], what: str) -> Iterator[None]:
    """Hold the file `lock`; while another process has it, say so once and wait."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{what}: another process is at it, waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
