"""Whether a fault did what it is said to do, told by others than Prometheus: the load client's own log, the kernel, the thing itself.

A witness is asked before the fault and during it; without an impact there is nothing to detect, and an alert would be chance.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pandas as pd
import psutil

if TYPE_CHECKING:
    from lib.monitoring.stand import Stand

ASK_S = 0.5  # how long something is given to answer a witness
LOOKS = 40  # decisions that are looked at to see whether scores differ


@dataclass(frozen=True, slots=True)
class Witness:
    """`read(stand, start_s, end_s)`: a number of that time, None where it cannot be told. `differs(before, during)`: an impact."""

    what: str
    read: Callable[[Stand, float, float], float | None]
    differs: Callable[[float, float], bool]

    def impact(self, before: float | None, during: float | None) -> bool:
        return before is not None and during is not None and self.differs(before, during)


def _requests(stand: Stand, service: str, start_s: float, end_s: float) -> pd.DataFrame:
    """What the client sent to a service in that time, by when it was due."""
    sent = stand.load.requests(start_s, end_s)
    return sent[sent["service"] == service]


def _share(stand: Stand, start_s: float, end_s: float, *, service: str, bad: Callable[[pd.DataFrame], pd.Series[bool]]) -> float | None:
    sent = _requests(stand, service, start_s, end_s)
    sent = sent[sent["status"].notna()]  # those that are still under way are judged by `unanswered`
    return float(bad(sent).mean()) if len(sent) else None


def _higher(by: float) -> Callable[[float, float], bool]:
    return lambda before, during: during - before > by


def failed(service: str) -> Witness:
    """The share of requests without a 2xx."""
    bad = partial(_share, service=service, bad=lambda sent: sent["status"] // 100 != 2)
    return Witness(f"{service}: share of requests that failed", bad, _higher(0.1))


def invalid(service: str) -> Witness:
    """The share of requests that were refused as the caller's fault."""
    bad = partial(_share, service=service, bad=lambda sent: sent["status"] // 100 == 4)
    return Witness(f"{service}: share of requests answered 4xx", bad, _higher(0.2))


def empty(service: str) -> Witness:
    """The share of 2xx answers without a token."""
    return Witness(f"{service}: share of answers without a token", partial(
        _share, service=service, bad=lambda sent: (sent["status"] == 200) & ~(sent["tokens"] > 0)), _higher(0.5))


def slow(service: str, bound_s: float) -> Witness:
    """The share of requests that took longer than `bound_s`."""
    return Witness(f"{service}: share slower than {bound_s:g} s", partial(
        _share, service=service, bad=lambda sent: sent["done_s"] - sent["sent_s"] > bound_s), _higher(0.1))


def unanswered(service: str) -> Witness:
    """The share of requests of that time without an answer at its end."""

    def read(stand: Stand, start_s: float, end_s: float) -> float | None:
        sent = _requests(stand, service, start_s, end_s - ASK_S)
        return float((~(sent["done_s"] <= end_s)).mean()) if len(sent) else None

    return Witness(f"{service}: share without an answer", read, _higher(0.5))


def _median(stand: Stand, start_s: float, end_s: float, *, of: Callable[[pd.DataFrame], pd.Series[float]]) -> float | None:
    values = of(_requests(stand, "llm", start_s, end_s)).dropna()
    return float(values.median()) if len(values) else None


ttft_p50 = Witness("llm: median time to the first token, s", partial(_median, of=lambda sent: sent["first_s"] - sent["sent_s"]),
                   _higher(0.5))
tokens = Witness("llm: median output tokens a request", partial(_median, of=lambda sent: sent["tokens"]),
                 lambda before, during: during > 2 * before)


cached = Witness("llm: median share of a prompt that came from the cache, as the engine told its client",
                 partial(_median, of=lambda sent: sent["cached"] / sent["prompt"]), lambda before, during: during < 0.5 * before)


def _waiting(stand: Stand, start_s: float, end_s: float) -> float | None:
    """The most requests to the engine at a time that were sent and not answered."""
    sent = _requests(stand, "llm", start_s, end_s)
    moments = pd.concat([pd.Series(1, sent["sent_s"].dropna()), pd.Series(-1, sent["done_s"].dropna())]).sort_index()
    return float(moments.cumsum().max()) if len(moments) else 0.0


waiting = Witness("llm: most requests under way at a time", _waiting, _higher(10))


def _rate(stand: Stand, start_s: float, end_s: float) -> float | None:
    return len(stand.load.requests(start_s, end_s)) / (end_s - start_s)


rate = Witness("requests a second, all services", _rate, lambda before, during: abs(during / before - 1) > 0.2)


def _pressure(_: Stand, start_s: float, end_s: float) -> float | None:
    """The share of the last 10 s in which something waited for a processor, as the kernel says; a load average where it does not."""
    try:
        with open("/proc/pressure/cpu", encoding="utf-8") as file:
            return float(file.readline().split("avg10=")[1].split()[0]) / 100
    except (OSError, IndexError):
        return psutil.getloadavg()[0] / (psutil.cpu_count() or 1)


pressure = Witness("share of ten seconds in which something waits for a processor", _pressure, _higher(0.1))
memory = Witness("memory available, share", lambda *_: psutil.virtual_memory().available / psutil.virtual_memory().total,
                 lambda before, during: during < 0.1 < before)


def _resident(stand: Stand, *_: float, name: str) -> float:
    return float(psutil.Process(stand.pid(name)).memory_info().rss)


def resident(name: str) -> Witness:
    """Bytes that the kernel counts as the process'."""
    return Witness(f"{name}: resident memory, bytes", partial(_resident, name=name), _higher(2e8))


def _scores(stand: Stand, *_: float) -> float | None:
    """How many different probabilities the last LOOKS decisions have, as a share: from the service's decision log."""
    log = stand.folder / f"decisions-{stand.ports['fraud']}.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{log}?mode=ro", uri=True)) as reader:
        seen = [score for (score,) in reader.execute("select probability from decisions order by rowid desc limit ?", (LOOKS,))]
    return len(set(seen)) / len(seen) if len(seen) == LOOKS else None


one_score = Witness("fraud: different scores, share of transactions", _scores, lambda before, during: during < 0.1 < before)


def _asked(url: str, *, within_s: float = ASK_S) -> httpx.Response | None:
    try:
        return httpx.get(url, timeout=within_s, trust_env=False)
    except httpx.HTTPError:
        return None


def silent(name: str) -> Witness:
    """1 where it does not answer."""
    return Witness(f"{name} does not answer", lambda stand, *_: float(_asked(stand.urls[name] + "/metrics") is None), _higher(0.5))


def another_version(wrong: str) -> Witness:
    """1 where the service says that it runs `wrong`."""

    def read(stand: Stand, *_: float) -> float | None:
        told = _asked(stand.urls["gateway"] + "/fraud/v1/model")
        return None if told is None else float(json.loads(told.content)["model"] == wrong)

    return Witness(f"fraud says that it runs {wrong}", read, _higher(0.5))


def computes_in(precision: str) -> Witness:
    """1 where the retail service says that its model computes in `precision`."""

    def read(stand: Stand, *_: float) -> float | None:
        told = _asked(stand.urls["retail"] + "/metrics")
        mine = None if told is None else [line for line in told.text.splitlines() if line.startswith("retail_model_info{")]
        return None if mine is None else float(any(f'precision="{precision}"' in line for line in mine))

    return Witness(f"retail says that it computes in {precision}", read, _higher(0.5))


def _cameras(stand: Stand) -> list[dict[str, Any]] | None:
    """As the service lists them, which has much to do where they are many."""
    told = _asked(stand.urls["gateway"] + "/retail/v1/cameras", within_s=10 * ASK_S)
    return None if told is None else json.loads(told.content)["cameras"]


def _lost(stand: Stand, *_: float) -> float | None:
    told = _cameras(stand)
    return None if told is None else float(sum(one["state"] != "running" for one in told))


def _unseen(stand: Stand, *_: float) -> float | None:
    """Of the frames that all cameras ought to deliver, those of the last seconds that nobody looked at."""
    return 1 - sum(one["fps"] for one in told) / sum(one["target_fps"] for one in told) if (told := _cameras(stand)) else None


camera = Witness("retail: cameras that do not run", _lost, _higher(0.5))
unseen = Witness("retail: share of frames that nobody looked at", _unseen, _higher(0.3))
