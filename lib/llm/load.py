"""Loads: how requests are sent. Refuses, before anything starts, a load that cannot be run or would not be measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Closed:
    """`streams` users, each sending its next request when the last is answered. The first `warmup` requests are not measured."""

    streams: int
    warmup: int = 0

    def check(self, requests: int) -> None:
        if self.streams < 1:
            raise ValueError(f"streams must be at least 1, not {self.streams}")
        if self.warmup < 0:
            raise ValueError(f"warm-up must be at least 0, not {self.warmup}")
        if requests <= self.warmup or requests < self.streams:
            raise ValueError(f"{requests} requests are too few for {self.streams} streams and {self.warmup} of warm-up")
        if 0 < self.warmup < self.streams:
            raise ValueError(f"a warm-up of {self.warmup} does not reach all {self.streams} streams")


@dataclass(frozen=True, slots=True)
class Open:
    """Poisson arrivals at `rate_per_s`, whatever the server does. Latency counts from the schedule."""

    rate_per_s: float
    seed: int = 0
    warmup: int = 0
    connections: int = 64  # opened before the clock starts; more are opened when all are busy

    def check(self, requests: int) -> None:
        if self.warmup < 0 or self.connections < 1:
            raise ValueError(f"a warm-up of {self.warmup} and {self.connections} connections: must be at least 0 and 1")
        if not 0 < self.rate_per_s < float("inf"):
            raise ValueError(f"the arrival rate must be positive, not {self.rate_per_s}")
        if requests <= self.warmup:
            raise ValueError(f"{requests} requests are too few for a warm-up of {self.warmup}")

    def arrivals_ns(self, requests: int) -> list[int]:
        """When each request is due, ns after the start: exponential gaps, not rescaled to hit the rate on the nose."""
        gaps = np.random.default_rng(self.seed).exponential(1 / self.rate_per_s, requests)
        return [int(t) for t in np.cumsum(gaps) * 1e9]
