"""Times along an axis: of the day where they are Unix seconds, else counted from 0, as minutes and seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from math import ceil, floor

STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800)
EPOCH_S = 1e9  # later than this it is a date


def hours(start_s: float, end_s: float, *, most: int) -> tuple[list[float], list[str]]:
    """At most `most` round times from `start_s` to `end_s` and how they are written."""
    step = next((one for one in STEPS_S if (end_s - start_s) / one <= most), STEPS_S[-1])
    values = [float(step * n) for n in range(ceil(start_s / step), floor(end_s / step) + 1)]
    return values, [_told(value, step) for value in values]


def _told(at_s: float, step_s: int) -> str:
    if at_s > EPOCH_S:
        return datetime.fromtimestamp(at_s, UTC).strftime("%m-%d" if step_s >= 86_400 else "%H:%M" if step_s >= 60 else "%H:%M:%S")
    minutes, seconds = divmod(abs(round(at_s)), 60)
    return f"{'-' if at_s < 0 else ''}{minutes}:{seconds:02d}"
