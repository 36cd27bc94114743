"""Where Alertmanager tells: a receiver on loopback that stamps each notice by this machine's clock as it arrives.

A thread in the process that asks, so that faults and notices are stamped by one clock. Refuses bodies beyond MOST_BYTES and what is no
notice of Alertmanager's (400, counted as `refused`); remembers the last MOST_NOTICES.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from typing import Any, Literal

MOST_BYTES, MOST_NOTICES = 2**20, 100_000
SILENCE_S = 10.0  # how long a connection may say nothing
NEVER = "0001-01-01T00:00:00Z"  # Go's zero time: an alert that has no end


@dataclass(frozen=True, slots=True)
class Notice:
    """One alert of one post. `at_s`: arrival here; `starts_s`, `ends_s`: Prometheus' own times (unix), the end None while it fires."""

    at_s: float
    receiver: str
    alert: str
    labels: Mapping[str, str]
    status: Literal["firing", "resolved"]
    starts_s: float
    ends_s: float | None

    def json(self, *, since: float = 0.0) -> dict[str, Any]:
        """For a record; times in s after `since` (unix)."""
        starts, ends = (None if at is None else round(at - since, 4) for at in (self.starts_s, self.ends_s))
        return {"at_s": round(self.at_s - since, 4), "receiver": self.receiver, "alert": self.alert, "labels": dict(self.labels),
                "status": self.status, "starts_s": starts, "ends_s": ends}  # fmt: skip


class Notices:
    """What arrived, in order. Safe from any thread."""

    def __init__(self) -> None:
        self._kept: deque[Notice] = deque(maxlen=MOST_NOTICES)
        self._news = Condition()
        self.refused = 0

    def add(self, notices: list[Notice]) -> None:
        with self._news:
            self._kept.extend(notices)
            self._news.notify_all()

    def refuse(self) -> None:
        with self._news:
            self.refused += 1

    def since(self, at_s: float = 0.0) -> list[Notice]:
        """Those that arrived at `at_s` (unix) or later."""
        with self._news:
            return self._since(at_s)

    def wait_for(self, enough: Callable[[Sequence[Notice]], bool], timeout_s: float, *, since: float = 0.0) -> bool:
        """Wait until those that arrived at `since` or later are `enough`, for `timeout_s`; whether they were."""
        with self._news:
            return self._news.wait_for(lambda: enough(self._since(since)), timeout_s)

    def _since(self, at_s: float) -> list[Notice]:
        return [notice for notice in self._kept if notice.at_s >= at_s]


@contextmanager
def receiving(port: int = 0) -> Iterator[tuple[str, Notices]]:
    """Yield the address that Alertmanager posts to and the notices that come; the server ends with the block. Port 0 is a free one."""
    notices = Notices()

    class Handler(BaseHTTPRequestHandler):
        timeout = SILENCE_S

        def do_POST(self) -> None:
            at_s = time.time()
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MOST_BYTES:
                return self._refuse(413, f"a body of at most {MOST_BYTES} bytes, its length told")
            try:
                notices.add(read(self.rfile.read(int(length)), at_s))
            except ValueError as wrong:
                return self._refuse(400, str(wrong))
            self.send_response(204)
            self.end_headers()
            return None

        def _refuse(self, status: int, why: str) -> None:
            notices.refuse()
            self.close_connection = True  # what it still sends is not read
            self.send_error(status, why)

        def log_message(self, *_: object) -> None:
            """Nothing is printed: the notices are the log."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="webhook", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", notices
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def read(body: bytes, at_s: float) -> list[Notice]:
    """The alerts of one post of Alertmanager's (webhook version 4). Raises ValueError that says what is wrong with it."""
    try:
        told = json.loads(body)
        return [_notice(alert, str(told["receiver"]), at_s) for alert in told["alerts"]]
    except (KeyError, TypeError, AttributeError, RecursionError, UnicodeDecodeError, json.JSONDecodeError) as wrong:
        raise ValueError(f"no notice of Alertmanager: {type(wrong).__name__}") from wrong


def _notice(alert: Mapping[str, Any], receiver: str, at_s: float) -> Notice:
    status = alert["status"]
    if status not in ("firing", "resolved"):
        raise ValueError("an alert is firing or resolved")
    labels = {str(name): str(value) for name, value in alert["labels"].items()}
    ends = None if status == "firing" or alert["endsAt"] == NEVER else _unix(alert["endsAt"])
    return Notice(at_s, receiver, labels["alertname"], labels, status, _unix(alert["startsAt"]), ends)


def _unix(told: str) -> float:
    """RFC 3339 with nanoseconds, as Go writes it. Raises ValueError."""
    stamp = datetime.fromisoformat(told)  # Python 3.11 reads any number of digits, and keeps six
    if stamp.tzinfo is None:
        raise ValueError(f"a time without its zone: {told!r}")
    return stamp.timestamp()
