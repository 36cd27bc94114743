"""What every engine scores: one float32 row of 35 features a transaction, the same bytes for all of them.

28 components as they came, the amount, the time of day, and what the stream's windows said before the transaction was added.
The service packs the same row one at a time (pipeline.py); here it is made for many at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.pipelines.fraud.data import COMPONENTS, Ledger
from lib.pipelines.fraud.windows import Embedded, Stats

CONTEXT = ("amount", "second_of_day", "n_60s", "mean_60s", "n_3600s", "mean_3600s", "amount_over_mean")
NAMES = (*(name.lower() for name in COMPONENTS), *CONTEXT)
DAY_S = 86_400


def history(ledger: Ledger) -> Sequence[Stats]:
    """What the windows say of each transaction of a stream that begins with this ledger."""
    return Embedded().observe(ledger.events())


def matrix(ledger: Ledger, history: ArrayLike) -> NDArray[np.float32]:
    """(n, 35), C-contiguous, in the order of NAMES. `history`: (n, 4) of n_60s, mean_60s, n_3600s, mean_3600s (units of the amount)."""
    known = np.asarray(history, dtype=np.float64).reshape(len(ledger), 4)
    mean_3600s = known[:, 3]
    over = np.divide(ledger.amount, mean_3600s, out=np.zeros(len(ledger)), where=mean_3600s > 0)
    rows = np.empty((len(ledger), len(NAMES)), dtype=np.float32)  # filled, not stacked: stacking may give columns a stride of their own
    rows[:, :28] = ledger.v
    rows[:, 28], rows[:, 29], rows[:, 30:34], rows[:, 34] = ledger.amount, ledger.second % DAY_S, known, over
    return rows
