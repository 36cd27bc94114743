"""The handles of a drill: what the load sends, and what the shim spoils. Refuses what they refuse, with their sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pandas as pd

COLUMNS = ("n", "service", "due_s", "sent_s", "first_s", "last_s", "done_s", "status", "error", "tokens", "prompt", "cached")
NUMBERS = [name for name in COLUMNS if name not in ("service", "error")]
ASK_S = 10.0  # a starved machine takes its time


class Refused(ValueError):
    """A plan or a toxic that is none; the message says why."""


def _put(url: str, told: Mapping[str, Any]) -> Any:
    answer = httpx.put(url, json=told, timeout=ASK_S, trust_env=False)
    if answer.status_code != 200:
        raise Refused(answer.json()["error"])
    return answer.json()


class Load:
    """A running load (load.py)."""

    def __init__(self, url: Callable[[], str], log: Path) -> None:
        self._url, self._log, self._read, self._rows = url, log, 0, list[dict[str, Any]]()
        self.usual: dict[str, Any] = {name: flow for name, flow in self.told().items() if isinstance(flow, dict) and "rate" in flow}

    def told(self) -> dict[str, Any]:
        """The plan, what was counted, the CPU time it took."""
        found: dict[str, Any] = httpx.get(self._url() + "/plan", timeout=ASK_S, trust_env=False).json()
        return found

    def plan(self, changes: Mapping[str, Any]) -> None:
        """From now on: {"llm": {"rate": 3.0}, "burst": {"llm": 40}}. What is not named stays as it is. Raises Refused."""
        _put(self._url() + "/plan", changes)

    def requests(self, start_s: float, end_s: float) -> pd.DataFrame:
        """Every request that was due from `start_s` to `end_s` (unix), those under way with `status` NaN. Times in unix seconds."""
        going = httpx.get(self._url() + "/under-way", timeout=ASK_S, trust_env=False).json()
        with self._log.open("rb") as file:
            file.seek(self._read)
            whole, _, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + 1 if whole else 0
        self._rows += [json.loads(line) for line in whole.splitlines()]
        known = {row["n"] for row in self._rows[-len(going) - 10_000:]}
        rows = [row for row in (*self._rows, *(row for row in going if row["n"] not in known)) if start_s <= row["due_s"] <= end_s]
        frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(NUMBERS, "float64"))
        return frame.sort_values("n", ignore_index=True)


class Shim:
    """A running shim (shim.py)."""

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url

    def toxic(self, **toxic: object) -> None:
        """From now on this toxic and no other; none by default. Raises Refused."""
        _put(self._url() + "/-/toxic", toxic)
