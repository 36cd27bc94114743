"""When an alert ought to arrive, before anything is measured: the burn formula and its like, then what a monitoring stack adds. Pure.

From the moment a fault shows in what is scraped: up to a scrape until it is read, up to an evaluation until a rule looks, `for`, then the
router's wait. Half of the first two is what to expect, the whole of them is how far off one may be without having been wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

from lib.monitoring.timing import Timing


@dataclass(frozen=True, slots=True)
class Due:
    """Seconds after a fault's beginning (or its end): expected at `at_s`, and not wrong within `slack_s` of it."""

    at_s: float
    slack_s: float

    def holds(self, measured_s: float | None) -> bool:
        return measured_s is not None and abs(measured_s - self.at_s) <= self.slack_s


def burnt(*, factor: float, objective: float, window_s: float, share: float) -> float:
    """Seconds until `share` of bad events has burnt a window's part of the budget `factor` times too fast; infinite where it never does.

    SRE workbook, chapter 5: (1 − objective) ÷ share × window × factor.
    """
    return crossed(threshold=factor * (1 - objective), window_s=window_s, level=share)


def crossed(*, threshold: float, window_s: float, level: float, times: float = 1.0) -> float:
    """Seconds until an average over `window_s` of what was 0 and is `level` exceeds `threshold`; infinite where it never does.

    `times`: as many events there are from then on as before; the more, the sooner they outweigh what the window remembers.
    """
    return threshold * window_s / (times * level - (times - 1) * threshold) if level > threshold else inf


def held(*, threshold: float, window_s: float, level: float) -> float:
    """Seconds after the end until that average has fallen below `threshold` again, had it been at `level` for the whole window."""
    return window_s * (1 - threshold / level) if level > threshold else 0.0


def due(signal_s: float, timing: Timing, *, for_: str = "0s", group_wait: str = "30s") -> Due:
    """When a notice arrives whose condition is true in what can be scraped from `signal_s` on."""
    seen_s = signal_s + (timing.scrape_s + timing.evaluation_s) / 2
    pending_s = ceil(timing.seconds(for_) / timing.evaluation_s - 1e-9) * timing.evaluation_s  # `for` is judged at evaluations alone
    return Due(seen_s + pending_s + timing.seconds(group_wait), timing.scrape_s + timing.evaluation_s)


def over(signal_s: float, timing: Timing, *, group_interval: str = "5m") -> Due:
    """When the notice arrives that it is over: after the condition ended, the router tells at its next interval."""
    wait_s = timing.seconds(group_interval)
    seen_s = signal_s + (timing.scrape_s + timing.evaluation_s) / 2
    return Due(seen_s + wait_s / 2, timing.scrape_s + timing.evaluation_s + wait_s / 2)
