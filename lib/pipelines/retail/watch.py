"""A camera that is watched: its frames that wait, its eye, what was seen last, and the account of what became of every frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.pipelines.retail.camera import Camera, Frame, Source, State
from lib.pipelines.retail.floor import Floor
from lib.pipelines.retail.mailbox import Mailbox
from lib.pipelines.retail.pipeline import Eye, Sight
from lib.pipelines.retail.sample import Sample
from lib.pipelines.serve import say

FPS_OVER_S = 5.0
AGES = 1000  # the last so many give the quantiles of a frame's age


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame and what was seen in it. `event`: what consumers are told."""

    image: NDArray[np.uint8]
    sight: Sight
    event: bytes
    sample: Sample


@dataclass(frozen=True, slots=True)
class Account:
    """How one camera does. Each frame that fell due is `seen`, `gated`, `dropped` (late, or a newer one came) or `failed`, or on its way.

    `fps`: seen and gated ones over the last seconds. Ages in s over the last frames, None before the first.
    """

    name: str
    source: str
    state: State
    reason: str | None
    target_fps: float
    fps: float
    seen: int
    gated: int
    dropped: int
    failed: int
    restarts: int
    people: int | None
    age_p50_s: float | None
    age_p99_s: float | None

    def json(self) -> dict[str, Any]:
        """For the wire: ages in ms."""
        return {
            "name": self.name, "source": self.source, "state": self.state.value, "reason": self.reason, "target_fps": self.target_fps,
            "fps": round(self.fps, 1), "seen": self.seen, "gated": self.gated, "dropped": self.dropped, "failed": self.failed,
            "restarts": self.restarts, "people": self.people, "age_p50_ms": _ms(self.age_p50_s), "age_p99_ms": _ms(self.age_p99_s),
        }  # fmt: skip


class Watch:
    """A camera and its eye, running from construction on. `floor` is for whoever draws what is seen."""

    def __init__(
        self, name: str, source: str, open: Callable[[], Source], eye: Eye, *, fps: float, loop: bool, stall_s: float, depth: int,
        ring: Callable[[], None], now: Callable[[], float], floor: Floor | None,
    ) -> None:  # fmt: skip
        self.name, self.source, self.eye, self.floor = name, source, eye, floor
        self.mailbox: Mailbox[Frame] = Mailbox(depth=depth, ring=ring)
        self.latest: Seen | None = None
        self.in_flight = False  # a frame is with a detector: the next one waits, or they could overtake each other
        self.taken_s = float("-inf")  # when a frame of it was taken last
        self._trouble: str | None = None
        self._now, self._lock = now, Lock()
        self._began_s: float | None = None
        self._seen = self._gated = self._failed = 0
        self._ages_s: deque[float] = deque(maxlen=AGES)
        self._ended_s: deque[float] = deque(maxlen=AGES)
        self.camera = Camera(name, open, self.mailbox.put, fps=fps, loop=loop, stall_s=stall_s, now=now)

    def seen(self, seen: Seen, *, gated: bool) -> None:
        """One frame is through."""
        self.latest, self._trouble = seen, None
        with self._lock:
            self._began_s = self._began_s or seen.sample.sent_s
            self._gated += gated
            self._seen += not gated
            self._ages_s.append(seen.sample.age_s)
            self._ended_s.append(seen.sample.sent_s)

    def failed(self, error: Exception) -> None:
        """One frame came to nothing. The first of several in a row is said aloud; the account shows the last."""
        if self._trouble is None:
            say("frame failed", camera=self.name, error=type(error).__name__, reason=str(error))
        self._trouble = f"{type(error).__name__}: {error}"
        with self._lock:
            self._failed += 1

    def account(self) -> Account:
        """As of now. Safe from any thread."""
        status, now_s, latest = self.camera.status(), self._now(), self.latest
        with self._lock:
            ages_s, recent = tuple(self._ages_s), sum(now_s - ended_s <= FPS_OVER_S for ended_s in self._ended_s)
            since_s = 0.0 if self._began_s is None else now_s - self._began_s
            seen, gated, failed = self._seen, self._gated, self._failed
        p50_s, p99_s = np.quantile(ages_s, (0.5, 0.99), method="inverted_cdf").tolist() if ages_s else (None, None)
        return Account(
            name=self.name, source=self.source, state=status.state, reason=status.reason or self._trouble, target_fps=self.camera.fps,
            fps=recent / min(FPS_OVER_S, max(since_s, 1 / self.camera.fps)), seen=seen, gated=gated,
            dropped=status.late + self.mailbox.dropped, failed=failed, restarts=status.restarts,
            people=None if latest is None else latest.sight.report.people, age_p50_s=p50_s, age_p99_s=p99_s,
        )  # fmt: skip


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 1)
