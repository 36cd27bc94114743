"""Adaptive throttling on the client's side, after Google's SRE book ("Handling Overload"): who is mostly refused asks less often.

A server that must turn everybody away itself pays for it: reading and refusing a request costs a good part of answering it, so at some
load it does nothing else. Clients that notice refusals and keep a share of their requests to themselves leave it time to work. Pure: time
comes in as an argument.
"""

from __future__ import annotations

import random
from collections import deque

BUCKET_NS = 100_000_000


class Throttle:
    """Rejects with probability max(0, (requests − K·accepts) ÷ (requests + 1)) over a sliding window of `window_s`.

    A request counts when its outcome is known, or when it is rejected here: counted at sending, those in flight would look like
    refusals in the first milliseconds of a run.
    """

    def __init__(self, *, k: float = 1.1, window_s: float = 2.0, seed: int = 0) -> None:
        if not (k >= 1 and window_s > 0):
            raise ValueError(f"K = {k}, window {window_s} s: K below 1 would reject requests of a healthy server")
        self.k, self._window_ns = k, int(window_s * 1e9)
        self._random = random.Random(seed).random
        self._buckets: deque[list[int]] = deque()  # [begin_ns, requests, accepts]
        self._requests = self._accepts = 0

    @property
    def chance(self) -> float:
        return max(0.0, (self._requests - self.k * self._accepts) / (self._requests + 1))

    def rejects(self, now_ns: int) -> bool:
        """Whether the request that is due now stays here."""
        bucket = self._bucket(now_ns)
        if (chance := self.chance) > 0 and self._random() < chance:
            bucket[1] += 1
            self._requests += 1
            return True
        return False

    def learn(self, now_ns: int, *, accepted: bool) -> None:
        """The outcome of a request that was sent."""
        bucket = self._bucket(now_ns)
        bucket[1] += 1
        self._requests += 1
        if accepted:
            bucket[2] += 1
            self._accepts += 1

    def _bucket(self, now_ns: int) -> list[int]:
        buckets = self._buckets
        while buckets and buckets[0][0] <= now_ns - self._window_ns:
            _, requests, accepts = buckets.popleft()
            self._requests -= requests
            self._accepts -= accepts
        if not buckets or now_ns - buckets[-1][0] >= BUCKET_NS:
            buckets.append([now_ns, 0, 0])
        return buckets[-1]
