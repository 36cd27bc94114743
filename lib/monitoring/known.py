"""The metrics that exist: what every exporter of the set exposes, so that a rule or a panel cannot ask for what nobody tells.

`monitoring/metrics.csv` is the table, a line for an exporter's metric: name, type, unit, labels. A label with values after it ("outcome=ok|
empty") has no others; one without is open. Tests hold running exporters against it. Refuses a table that contradicts itself.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

from lib.home import ROOT

TABLE = ROOT / "monitoring" / "metrics.csv"
TYPES = ("counter", "gauge", "histogram", "summary", "untyped")
PARTS = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}  # what a family's series are called


@dataclass(frozen=True, slots=True)
class Metric:
    """A family. `labels`: the values that each may have, none where any may; `le`, `quantile`, `job` and `instance` are not among them."""

    name: str
    exporters: tuple[str, ...]
    type: str
    unit: str
    labels: Mapping[str, tuple[str, ...]]
    help: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names that can be queried."""
        return tuple(self.name + part for part in PARTS.get(self.type, ("",)))


def metrics() -> Mapping[str, Metric]:
    """All families by name. Raises ValueError naming the line of a table that is not well formed."""
    return _read(TABLE)


def find(series: str) -> Metric | None:
    """The family that a queried name ("x_bucket", "y_total") belongs to, if there is one."""
    return _by_series(TABLE).get(series)


@cache
def _by_series(table: Path) -> dict[str, Metric]:
    return {name: metric for metric in _read(table).values() for name in metric.series}


@cache
def _read(table: Path) -> Mapping[str, Metric]:
    found: dict[str, Metric] = {}
    with table.open(newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            try:
                made = Metric(row["metric"], (row["exporter"],), row["type"], row["unit"], _labels(row["labels"]), row["help"])
                if not (made.name and made.help and row["exporter"]) or made.type not in TYPES:
                    raise ValueError(f"a metric has an exporter, a name, a help and a type of {', '.join(TYPES)}")
                if known := found.get(made.name):
                    if (known.type, known.unit, known.labels) != (made.type, made.unit, made.labels) or row["exporter"] in known.exporters:
                        raise ValueError(f"{made.name} is told twice, or otherwise before")
                    made = replace(known, exporters=(*known.exporters, row["exporter"]))
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise ValueError(f"{table.name}, line {line}: {error}") from error
            found[made.name] = made
    return MappingProxyType(found)


def _labels(told: str) -> Mapping[str, tuple[str, ...]]:
    parts = [part.partition("=") for part in told.split()]
    return MappingProxyType({name: tuple(values.split("|")) if values else () for name, _, values in parts})
