"""Bucket edges of the set's histograms: preferred numbers of the E12 series, and between them two more where requests end.

A percentile from buckets is wrong by at most the bucket's width. From 1 ms to 1 s, where answers, first tokens and later ones come, that is
never more than WORST of the true value; before and after it is a quarter, up to 10 s (percentiles.py compares them with exact ones, and
tells the same of edges of others, in which it may be 150 %). Refuses to be finer everywhere: each edge is a series a service.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

E12 = (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2)
WORST, WORST_BEYOND = 0.081, 0.25  # both from 1.2 to 1.5, of which a third is 7.7 %, and three digits a little more
PARTS = 3


def e12(first: int, last: int, parts: int = 1) -> tuple[float, ...]:
    """From 10 ** first to 10 ** last, both included; each step in `parts` of the same ratio, told to three digits."""
    fine = [f"{low * (high / low) ** (part / parts):.3g}" for low, high in pairwise((*E12, 10.0)) for part in range(parts)]
    return (*(float(f"{m}e{decade}") for decade in range(first, last) for m in fine), float(f"1e{last}"))


def worst(edges: Sequence[float]) -> float:
    """The largest error, as a share of the true value, of a percentile that lies between the first edge and the last."""
    return max(above / below - 1 for below, above in pairwise(edges))


BEYOND = (15.0, 22.0, 33.0, 47.0, 68.0)  # coarser, where all is lost
_DENSE, _SLOW = e12(-3, 0, PARTS), e12(0, 1)[1:]
FIRST_TOKEN_S = (*_DENSE, *_SLOW, *BEYOND)  # 1 ms to 68 s
TOKEN_S = (*e12(-4, -3)[:-1], *_DENSE, *_SLOW)  # 0.1 ms to 10 s, of a token after the first
REQUEST_S = (*TOKEN_S, *BEYOND)  # of requests: a transaction is scored in less than a millisecond
