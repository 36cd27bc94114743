"""A command that takes minutes: its output in a log, its progress on the screen, its end tied to ours.

Refuses to hide a failure: a command that ends badly or too late raises `Failed` with the last lines it wrote.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

Say = Callable[[str], None]
STEP = re.compile(rb"\[\s*(\d+/\d+)\]")  # ninja's "[17/224]"
PATHS = re.compile(r"(?:/[\w.+@~-]+)+/(?=[\w.+@~-])")
PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """A command that did not do its work: what was tried, how it ended, the last lines it said."""

    def __init__(self, what: str, how: str, tail: tuple[str, ...] = ()) -> None:
        super().__init__(what, how, tail)
        self.what, self.how, self.tail = what, how, tail

    def __str__(self) -> str:
        """One sentence for a row of a table: no line breaks, no paths of this machine."""
        told = [line for line in self.tail if re.search(r"\berror\b", line, re.I)] or list(self.tail)
        return f"{self.what}: {self.how}" + (f" ({PATHS.sub('', told[-1].strip())})" if told else "")


def run(
    command: Sequence[str | Path],
    *,
    what: str,
    log: Path,
    say: Say,
    timeout_s: float = 3600,
    every_s: float = 15,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Run `command` to its end, appending to `log`; `say` a line every `every_s` seconds. Returns its last lines.

    Raises Failed when it cannot start, ends badly or is not done after `timeout_s`.

    The command leads its own process group, which is killed when we are interrupted or time is up, and its leader is
    told to stop by the kernel when we die without a chance to do so.
    """
    with log.open("ab") as out:
        out.write(f"\n$ {' '.join(map(str, command))}\n".encode())
        out.flush()
        began_s, written = time.monotonic(), out.tell()
        try:
            child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=None if env is None else {**os.environ, **env},
                start_new_session=True,
                preexec_fn=_die_with_us,
            )
        except FileNotFoundError as error:
            raise Failed(what, f"there is no {error.filename} on this machine") from error
        try:
            told_s = began_s
            while child.poll() is None:
                now_s = time.monotonic()
                if now_s - began_s > timeout_s:
                    raise Failed(what, f"not done after {timeout_s:.0f} s", tail(log, start=written))
                if now_s - told_s >= every_s:
                    told_s = now_s
                    say(f"{what}: {step(log)}{now_s - began_s:.0f} s")
                time.sleep(0.05 if now_s - began_s < 2 else 0.5)
        finally:
            _kill_group(child)
    said = tail(log, start=written)
    if child.returncode != 0:
        raise Failed(what, f"ended with status {child.returncode}", said)
    return said


def step(log: Path) -> str:
    """The last "[n/total]" in the log's end as "n/total, ", or nothing where the command does not count."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        counts = STEP.findall(file.read())
    return f"{counts[-1].decode()}, " if counts else ""


def tail(log: Path, *, lines: int = 12, start: int = 0) -> tuple[str, ...]:
    """The last lines of `log` that are not empty, none of them before byte `start`."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 16384))
        text = file.read().decode(errors="replace")
    return tuple(line.rstrip() for line in text.splitlines() if line.strip())[-lines:]


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
