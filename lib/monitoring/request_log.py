"""The request log: a JSON line for every request that ended, so that whoever doubts a percentile or a bill can compute it again.

Lines are written at least each FLUSH_S: a kill loses what came after the last time. At `most_bytes` the file becomes FILE.1 and a new one
begins; what the older FILE.1 held is gone, and counted. A disk that takes no more loses lines, which are counted too, never the service.
Reading skips a line that a kill cut, and says how many there were.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

FLUSH_S = 0.2
MOST_BYTES = 64 << 20


class Entry(msgspec.Struct, gc=False, omit_defaults=True):
    """A request. `duration_s`: from its arrival to the end of its answer; tokens and their times of an LLM's alone, None where unknown."""

    t_unix: float
    service: str
    outcome: str
    status: int
    duration_s: float
    ttft_s: float | None = None
    tpot_s: float | None = None
    input_uncached: int | None = None
    input_cached: int | None = None
    output: int | None = None


class RequestLog:
    """For one event loop. `lost`: how many lines it was given that its files do not hold."""

    def __init__(self, path: Path, *, most_bytes: int = MOST_BYTES) -> None:
        """Goes on after what the file holds. Raises OSError when it cannot be written."""
        self.lost = 0
        self._path, self._most_bytes = path, most_bytes
        self._waiting: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()
        held = path.read_bytes()
        self._bytes, self._lines = len(held), held.count(b"\n")
        self._cut = bool(held) and not held.endswith(b"\n")  # a kill did that to its last line: it must not happen to ours as well

    def add(self, entry: Entry) -> None:
        self._waiting.append(_encode(entry) + b"\n")
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting, self._timer = self._waiting, [], None
        data = b"\n" * self._cut + b"".join(waiting)
        try:
            if self._lines and self._bytes + len(data) > self._most_bytes:
                self._turn()
            written = os.write(self._file, data)
        except OSError:
            self.lost += len(waiting)
            return
        whole = max(0, data.count(b"\n", 0, written) - self._cut)
        self._cut = written < len(data) if written else self._cut  # a disk that is full takes a part
        self._bytes, self._lines, self.lost = self._bytes + written, self._lines + whole, self.lost + len(waiting) - whole

    def close(self) -> None:
        self.flush()
        os.close(self._file)

    def _turn(self) -> None:
        older = self._path.with_name(self._path.name + ".1")
        self.lost += older.read_bytes().count(b"\n") if older.exists() else 0
        if self._path.exists():  # whoever took it away has what it held
            self._path.replace(older)
        os.close(self._file)
        self._open()
        self._bytes = self._lines = 0

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def read(path: Path) -> Iterator[Entry | None]:
    """What FILE.1 and FILE hold, in the order it was written; None for a line that cannot be read."""
    for file in (path.with_name(path.name + ".1"), path):
        if file.exists():
            with file.open("rb") as lines:
                yield from (_decoded(line) for line in lines if line.strip())


def _decoded(line: bytes) -> Entry | None:
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode
