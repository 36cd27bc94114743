"""How far a long measurement is and how long it will take, where the reader sits: in the notebook's cell or terminal.

Leaves nothing behind in a notebook's saved output.
"""

from __future__ import annotations

import sys
from time import monotonic


def told(seconds: float) -> str:
    """A span of time as people say it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress:
    """`with Progress(n, "measuring") as p: …; p.advance("what was done")`."""

    def __init__(self, total: int, title: str) -> None:
        self.total, self._title, self._done = total, title, 0
        self._began = monotonic()

    def __enter__(self) -> Progress:
        self._show("")
        return self

    def __exit__(self, *_: object) -> None:
        if self.total:
            sys.stdout.write("\r\033[K" if sys.stdout.isatty() else "")
            self._clear()

    def advance(self, what: str) -> None:
        self._done += 1
        left = (monotonic() - self._began) / self._done * (self.total - self._done)
        self._show(f"{what} · about {told(left)} left")

    def _show(self, what: str) -> None:
        if not self.total:
            return
        line = f"{self._title} {self._done}/{self.total} {what}"
        if _in_notebook():
            from IPython.display import clear_output

            clear_output(wait=True)  # type: ignore[no-untyped-call]
            print(line)
        elif sys.stdout.isatty():
            print(f"\r\033[K{line}", end="", flush=True)

    def _clear(self) -> None:
        if _in_notebook():
            from IPython.display import clear_output

            clear_output()  # type: ignore[no-untyped-call]


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs us."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")
