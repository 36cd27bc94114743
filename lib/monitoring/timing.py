"""How fast a monitoring stack looks, and how long its windows are: in production, and in a drill whose hours are seconds.

Every rule is written in production's words ("5m", "1h"); a drill shortens all of them alike, so that what it proves holds for the rules
that are taken home. Names of recorded series keep production's words. Refuses a window that holds fewer than four scrapes: of fewer, a
missing one makes `rate` jump or vanish.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
FEWEST_SCRAPES = 4


@dataclass(frozen=True, slots=True)
class Timing:
    """`speed`: how many times shorter every window, `for` and wait is than it says."""

    scrape_s: float
    evaluation_s: float
    speed: float = 1.0

    def __post_init__(self) -> None:
        if not (min(self.scrape_s, self.evaluation_s) > 0 and self.speed >= 1):
            raise ValueError(f"{self}: times last, and a drill is not slower than life")

    def seconds(self, told: str) -> float:
        """What `told` ("5m") lasts here. Raises ValueError."""
        return seconds(told) / self.speed

    def window(self, told: str) -> str:
        """`told` as a range for PromQL here. Raises ValueError for one with fewer than FEWEST_SCRAPES."""
        if self.seconds(told) < FEWEST_SCRAPES * self.scrape_s:
            raise ValueError(f"[{told}] lasts {self.seconds(told):g} s here, fewer than {FEWEST_SCRAPES} scrapes of {self.scrape_s:g} s")
        return duration(self.seconds(told))

    def wait(self, told: str) -> str:
        """`told` as a duration that no scrape has to fit in: `for`, group_wait, an offset."""
        return duration(self.seconds(told))


PRODUCTION = Timing(scrape_s=15, evaluation_s=15)
DRILL = Timing(scrape_s=0.5, evaluation_s=0.5, speed=150)  # five minutes are two seconds: four scrapes


def seconds(told: str) -> float:
    """A Prometheus duration ("1h30m") in seconds. Raises ValueError."""
    parts = re.findall(r"(\d+)(ms|[smhdw])", told)
    if not parts or "".join(n + unit for n, unit in parts) != told:
        raise ValueError(f"{told!r} is no duration; write 30s, 5m, 1h, 3d or 1h30m")
    return sum(int(n) * UNITS_S[unit] for n, unit in parts)


def duration(s: float) -> str:
    """Seconds as Prometheus writes them, to the millisecond."""
    ms = round(s * 1000)
    if ms < 0:
        raise ValueError(f"a duration of {s} s")
    for unit in ("w", "d", "h", "m", "s"):
        if ms and ms % (size := round(UNITS_S[unit] * 1000)) == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms"
