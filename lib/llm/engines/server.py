"""An engine's server: the command of its module as a guarded process (lib/process.py), and its own counters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from lib.llm.engines.engine import Engine, Spec
from lib.process import Died, Process, running


@dataclass(frozen=True, slots=True)
class Server:
    """A running engine."""

    engine: Engine
    spec: Spec
    process: Process

    @property
    def port(self) -> int:
        return self.process.port

    @property
    def url(self) -> str:
        return self.process.url

    def check(self) -> None:
        """Raise Died if it is no longer there."""
        self.process.check()

    def counters(self) -> dict[str, float]:
        """The engine's own counts, now. Empty where it does not publish any. Raises Died when it does not answer."""
        if not self.engine.METRICS:
            return {}
        try:
            answer = httpx.get(self.url + self.engine.METRICS, timeout=10, trust_env=False)
        except httpx.HTTPError as error:
            self.check()
            raise Died(f"{self.engine.NAME} did not answer {self.engine.METRICS}: {error}") from error
        return self.engine.counters(answer.text) if answer.status_code == 200 else {}


@contextlib.contextmanager
def serving(engine: Engine, spec: Spec, *, logs: Path, timeout_s: float = 600, grace_s: float = 8) -> Iterator[Server]:
    """Start `engine` for `spec`, yield it when healthy, and end it and all its children however the block is left.

    Raises Unavailable when the engine cannot serve the spec and Died with the last lines of its log when it does not come up.
    """
    def argv(port: int) -> tuple[str, ...]:
        command = engine.command(spec, port)
        return ("env", *(f"{name}={value}" for name, value in command.env.items()), *command.argv)

    with running(argv, name=engine.NAME, logs=logs, health=engine.HEALTH, timeout_s=timeout_s, grace_s=grace_s) as process:
        yield Server(engine, spec, process)
