"""measure(): time a piece of work in this process. Budgets are seconds, raw samples are kept, unrest is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np


@dataclass(frozen=True, slots=True)
class Timing:
    """Raw samples (s) in the order they were taken."""

    samples_s: tuple[float, ...]
    warmups: int

    @property
    def median_s(self) -> float:
        return float(np.median(self.samples_s))

    @property
    def unrest(self) -> str | None:
        """Why the samples should not be trusted, or None: a drift from first to second half, or a wide middle half."""
        half = len(self.samples_s) // 2
        drift = float(np.median(self.samples_s[half:]) / np.median(self.samples_s[:half]) - 1) if half >= 5 else 0.0
        if abs(drift) > 0.1:  # before the width, which a drift widens too: this reason is the more telling one
            return f"the second half is {drift:+.0%} against the first"
        low, mid, high = np.quantile(self.samples_s, [0.25, 0.5, 0.75])
        return f"interquartile range is {(high - low) / mid:.0%} of the median" if high - low > 0.1 * mid else None


def measure(work: Callable[[], object], *, budget_s: float = 2.0, warmup_s: float = 0.3, at_least: int = 5,
            sync: Callable[[], object] | None = None, now: Callable[[], int] = perf_counter_ns) -> Timing:
    """Run `work` for `warmup_s`, then for `budget_s` (at least `at_least` times), one sample a call.

    `sync` waits for a device (torch.cuda.synchronize), inside every sample. Raises ValueError for no budget.
    """
    if not budget_s > 0 or at_least < 1:  # NaN is no budget either
        raise ValueError(f"nothing to measure: budget {budget_s} s, at least {at_least} samples")

    def once() -> float:
        started = now()
        work()
        if sync is not None:
            sync()
        return (now() - started) / 1e9

    warmups, until = 0, now() + int(warmup_s * 1e9)
    while warmups == 0 or now() < until:
        once()
        warmups += 1
    samples: list[float] = []
    until = now() + int(budget_s * 1e9)
    while len(samples) < at_least or now() < until:
        samples.append(once())
    return Timing(tuple(samples), warmups)


def resolution_s(*, now: Callable[[], int] = perf_counter_ns) -> tuple[float, float]:
    """Smallest step the clock shows and the median cost of reading it, both in seconds."""
    reads = np.array([now() for _ in range(20_001)])
    steps = np.diff(reads)
    return float(steps[steps > 0].min()) / 1e9, float((reads[-1] - reads[0]) / (len(reads) - 1)) / 1e9
