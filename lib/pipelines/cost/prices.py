"""What computing costs: prices of others with unit, source and date, from data/prices.csv; or the user's own.

Refuses a price without a source or a date: an undated price is no price.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lib.home import ROOT

TABLE = ROOT / "data" / "prices.csv"
VCPU, MEMORY = "AWS Fargate vCPU", "AWS Fargate memory"  # priced apart, and by the second: what a container asks for is what it pays


@dataclass(frozen=True, slots=True)
class Price:
    """`usd` for one `unit` ("vCPU-hour", "GB-hour", "GPU-hour")."""

    name: str
    unit: str
    usd: float
    of: str
    region: str
    as_of: date
    source: str


def prices(table: Path = TABLE) -> dict[str, Price]:
    """All prices by name. Raises ValueError naming the row for one that is not positive or has no source or date."""
    found: dict[str, Price] = {}
    with table.open(newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            try:
                usd, as_of = float(row["usd"]), date.fromisoformat(row["as_of"])
                if not (0 < usd < float("inf") and row["source"].strip() and row["unit"].strip()):
                    raise ValueError("a price is positive and has a unit and a source")
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise ValueError(f"{table.name}, line {line}: {error}") from error
            found[row["name"]] = Price(row["name"], row["unit"], usd, row["of"], row["region"], as_of, row["source"])
    return found


def priced(name: str, own_usd: float | None = None) -> Price:
    """The price of this name, or the user's own in its place. Raises LookupError, ValueError."""
    known = prices()
    if name not in known:
        raise LookupError(f"no price {name!r} in {TABLE.name}; there are: {', '.join(known)}")
    if own_usd is None:
        return known[name]
    if not 0 < own_usd < float("inf"):
        raise ValueError(f"a price of {own_usd} USD is none")
    return Price(name, known[name].unit, own_usd, known[name].of, "yours", date.today(), "the notebook's parameters")
