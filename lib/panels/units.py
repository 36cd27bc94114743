"""Numbers as Grafana writes them: scaled within their unit, three digits that matter. Refuses a unit that it does not know."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import ceil, floor, isinf, isnan, log10

SHORT = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"), (1.0, ""))
SCALES: dict[str, tuple[str, Sequence[tuple[float, str]], str]] = {  # before the number, (from, what follows it), after that
    "none": ("", ((1.0, ""),), ""),
    "short": ("", SHORT, ""),
    "percentunit": ("", ((0.01, "%"),), ""),
    "s": ("", ((86_400.0, " day"), (3600.0, " hour"), (60.0, " min"), (1.0, " s"), (1e-3, " ms"), (1e-6, " µs"), (1e-9, " ns")), ""),
    "ms": ("", ((86_400e3, " day"), (3600e3, " hour"), (60e3, " min"), (1e3, " s"), (1.0, " ms"), (1e-3, " µs")), ""),
    "bytes": ("", ((2.0**40, " TiB"), (2.0**30, " GiB"), (2.0**20, " MiB"), (2.0**10, " KiB"), (1.0, " B")), ""),
    "watt": ("", ((1e3, " kW"), (1.0, " W"), (1e-3, " mW")), ""),
    "currencyUSD": ("$", SHORT, ""),
    "reqps": ("", SHORT, " req/s"),
    "cps": ("", SHORT, " c/s"),
}


def formatted(value: float, unit: str, decimals: int | None = None) -> str:
    """`value` in `unit` ("s", "percentunit", …, or "suffix: tok/s") as a panel shows it. Raises ValueError for another unit."""
    if isnan(value):
        return "NaN"
    before, scale, after = _scale(unit)
    if isinf(value):
        return "∞" if value > 0 else "-∞"
    size, word = next(((size, word) for size, word in scale if abs(value) >= size), scale[-1] if value else _resting(scale))
    told = value / size
    told_decimals = _decimals(told) if decimals is None else decimals
    sign = "-" if told < 0 else ""
    return f"{sign}{before}{abs(told):.{told_decimals}f}{word}{after}"


def ticks(lo: float, hi: float, unit: str, *, most: int = 5) -> tuple[list[float], list[str]]:
    """At most `most` round values from `lo` to `hi` and how they are written."""
    base = 1024.0 ** floor(log10(max(hi, 1)) / log10(1024)) if unit == "bytes" else 60.0 if unit == "s" and hi >= 300 else 1.0
    step = base * _nice((hi - lo) / base / (most - 1))
    values = [step * n for n in range(ceil(lo / step - 1e-9), floor(hi / step + 1e-9) + 1)]
    return values, [_trimmed(formatted(0.0 if abs(value) < step / 1e6 else value, unit)) for value in values]


def decades(lo: float, hi: float, unit: str) -> tuple[list[float], list[str]]:
    """The same for a logarithmic axis."""
    values = [10.0**n for n in range(floor(log10(lo)), ceil(log10(hi)) + 1)]
    return values, [_trimmed(formatted(value, unit)) for value in values]


def _scale(unit: str) -> tuple[str, Sequence[tuple[float, str]], str]:
    if unit.startswith("suffix:"):
        return "", ((1.0, ""),), unit.removeprefix("suffix:")
    if unit not in SCALES:
        raise ValueError(f"no unit {unit!r}; known are {', '.join(SCALES)} and suffix:…")
    return SCALES[unit]


def _resting(scale: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """What zero is written in: the unit itself."""
    return next(((size, word) for size, word in scale if size == 1), scale[-1])


def _decimals(value: float) -> int:
    """Three digits that matter, none for a whole number."""
    return 0 if value % 1 == 0 else max(0, 2 - floor(log10(abs(value))))


def _nice(step: float) -> float:
    if step <= 0 or isnan(step):
        return 1.0
    power = 10.0 ** floor(log10(step))
    return next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= step * (1 - 1e-9))


def _trimmed(text: str) -> str:
    """Without zeros at a fraction's end."""
    return re.sub(r"(\.\d*?)0+(?!\d)", lambda found: found[1].rstrip("."), text)
