"""Counters, gauges and histograms that a hot path can afford, in Prometheus' text format.

prometheus_client's `observe` takes a lock and well over a microsecond; here it is a bisection and two additions, for one thread. Children
of labels are made once and kept by whoever counts. Refuses labels that were not announced.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import inf, isfinite
from typing import Protocol

Labels = tuple[str, ...]


class Meter(Protocol):
    """Something `text` can print."""

    name: str
    help: str
    kind: str

    def lines(self) -> list[str]: ...


class Value:
    """One number of a counter or a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, n: float = 1) -> None:
        self.value += n

    def set(self, value: float) -> None:
        self.value = value


class Counter:
    """Only grows. Without labels it has one child, `child()`."""

    kind = "counter"

    def __init__(self, name: str, help: str, labels: Labels = (), children: Sequence[Labels] = ()) -> None:
        self.name, self.help, self._labels = name, help, labels
        self._children = {values: Value() for values in children or ((),)}

    def child(self, *values: str) -> Value:
        """The number under these label values. Raises KeyError for values that were not announced."""
        return self._children[values]

    def lines(self) -> list[str]:
        return [f"{self.name}{_labelled(self._labels, values)} {_number(child.value)}" for values, child in self._children.items()]


class Gauge(Counter):
    """Goes up and down."""

    kind = "gauge"


class Buckets:
    """One distribution: counts below bounds, in the bounds' unit."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = tuple(bounds), [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float, n: int = 1) -> None:
        """`n` observations of `value`; a value on a bound belongs below it, as Prometheus has it."""
        self.counts[bisect_left(self.bounds, value)] += n
        self.total += value * n

    def quantile(self, q: float) -> float | None:
        """As Prometheus' histogram_quantile: linear inside the bucket, the last bound for what lies beyond; None when empty.

        Raises ValueError unless 0 ≤ q ≤ 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"no quantile {q}: it must lie between 0 and 1")
        rank, below, lower = q * sum(self.counts), 0, 0.0
        if not sum(self.counts):
            return None
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and below + count >= rank:
                return lower + (bound - lower) * (rank - below) / count
            below, lower = below + count, bound
        return self.bounds[-1]


class Histogram:
    """A distribution, or one for each child."""

    kind = "histogram"

    def __init__(self, name: str, help: str, bounds: Sequence[float], labels: Labels = (), children: Sequence[Labels] = ()) -> None:
        if not bounds or list(bounds) != sorted(set(bounds)) or not all(map(isfinite, bounds)):
            raise ValueError(f"{name}: bounds must rise, at least one, all finite: {bounds}")
        self.name, self.help, self._labels = name, help, labels
        self._children = {values: Buckets(bounds) for values in children or ((),)}

    def child(self, *values: str) -> Buckets:
        """The distribution under these label values. Raises KeyError for values that were not announced."""
        return self._children[values]

    def lines(self) -> list[str]:
        out = []
        for values, child in self._children.items():
            seen = 0
            for bound, count in zip((*child.bounds, inf), child.counts, strict=True):
                seen += count
                out.append(f"{self.name}_bucket{_labelled((*self._labels, 'le'), (*values, _number(bound)))} {seen}")
            told = _labelled(self._labels, values)
            out += [f"{self.name}_sum{told} {_number(child.total)}", f"{self.name}_count{told} {seen}"]
        return out


def text(meters: Sequence[Meter]) -> bytes:
    """All of them in the exposition format, version 0.0.4."""
    lines: list[str] = []
    for meter in meters:
        lines += [f"# HELP {meter.name} {_escaped(meter.help)}", f"# TYPE {meter.name} {meter.kind}", *meter.lines()]
    return ("\n".join(lines) + "\n").encode()


def _labelled(names: Labels, values: Labels) -> str:
    told = ",".join(f'{name}="{_escaped(value, quotes=True)}"' for name, value in zip(names, values, strict=True))
    return f"{{{told}}}" if told else ""


def _escaped(told: str, *, quotes: bool = False) -> str:
    told = told.replace("\\", "\\\\").replace("\n", "\\n")
    return told.replace('"', '\\"') if quotes else told


def _number(value: float) -> str:
    if not isfinite(value):
        return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
