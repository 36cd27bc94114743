"""Bucket edges of the set's histograms: preferred numbers of the E12 series, twelve a decade, each a fifth above the one before.

A percentile from buckets is wrong by at most the bucket's width: here never more than WORST of the true value up to 10 s, and on average
far less (percentiles.py compares them with exact ones). Edges of others have buckets in which it may be wrong by 150 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

E12 = (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2)
WORST = 0.25  # from 1.2 to 1.5


def e12(first: int, last: int) -> tuple[float, ...]:
    """From 10 ** first to 10 ** last, both included."""
    return (*(float(f"{m}e{decade}") for decade in range(first, last) for m in E12), float(f"1e{last}"))


def worst(edges: Sequence[float]) -> float:
    """The largest error, as a share of the true value, of a percentile that lies between the first edge and the last."""
    return max(above / below - 1 for below, above in pairwise(edges))


BEYOND = (15.0, 22.0, 33.0, 47.0, 68.0)  # coarser, where all is lost
TOKEN_S = e12(-4, 1)  # 0.1 ms to 10 s, of a token after the first
REQUEST_S = (*TOKEN_S, *BEYOND)  # of requests: a transaction is scored in less than a millisecond
FIRST_TOKEN_S = (*e12(-3, 1), *BEYOND)  # 1 ms to 68 s
