"""What tokens cost, from the request log and from the counters, and whether the two agree. Pure but for the price list.

A prompt's tokens that were cached are cheaper, and no others: two ways to get that wrong are beside it. The naive bill prices the whole
prompt and the cached tokens once more; the plain one knows of no cached price. A counter that falls began anew: nothing is negative.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lib.monitoring.request_log import Entry
from lib.pipelines.cost import prices

TYPES = ("input_uncached", "input_cached", "output")
HOSTED = "GPT-4.1 nano"  # a small model that others host, by whose prices tokens are counted here
UNITS = {"input_uncached": "Mtoken-input", "input_cached": "Mtoken-input-cached", "output": "Mtoken-output"}


@dataclass(frozen=True, slots=True)
class Card:
    """USD a token, by type."""

    usd: Mapping[str, float]

    def __post_init__(self) -> None:
        if set(self.usd) != set(TYPES) or not all(0 < usd < float("inf") for usd in self.usd.values()):
            raise ValueError(f"a card has a positive price for each of {', '.join(TYPES)}, not {dict(self.usd)}")


def card(name: str = HOSTED, known: Mapping[str, prices.Price] | None = None) -> Card:
    """The prices of `name` in data/prices.csv. Raises LookupError for one that is not there whole."""
    found = {p.unit: p.usd / 1e6 for p in (known or prices.prices()).values() if p.name.startswith(f"{name} ")}
    if lacks := [unit for unit in UNITS.values() if unit not in found]:
        raise LookupError(f"{name!r} has no price for {', '.join(lacks)} in {prices.TABLE.name}")
    return Card({kind: found[unit] for kind, unit in UNITS.items()})


def logged(entries: Iterable[Entry | None]) -> dict[str, int]:
    """Tokens by type of all that the log holds; lines that cannot be read are not in it."""
    counts = dict.fromkeys(TYPES, 0)
    for entry in (one for one in entries if one is not None):
        for kind, n in zip(TYPES, (entry.input_uncached, entry.input_cached, entry.output), strict=True):
            counts[kind] += n or 0
    return counts


def increase(samples: Sequence[float]) -> float:
    """How much a counter rose over samples in the order of time. One that falls began anew at 0, and what it had until then is kept."""
    if any(not value >= 0 for value in samples):
        raise ValueError("a counter is never below 0, nor NaN")
    return sum(now - before if now >= before else now for before, now in pairwise(samples))


def cost_usd(tokens: Mapping[str, float], card: Card) -> dict[str, float]:
    """By type: each token once, at its own price."""
    return {kind: tokens[kind] * card.usd[kind] for kind in TYPES}


def naive_usd(tokens: Mapping[str, float], card: Card) -> float:
    """The bill that counts cached tokens twice: the prompt whole at the full price, and its cached part again at the cached one."""
    return sum(cost_usd(tokens, card).values()) + tokens["input_cached"] * card.usd["input_uncached"]


def plain_usd(tokens: Mapping[str, float], card: Card) -> float:
    """The bill without a cached price: the prompt whole at the full price."""
    whole = tokens["input_uncached"] + tokens["input_cached"]
    return whole * card.usd["input_uncached"] + tokens["output"] * card.usd["output"]


@dataclass(frozen=True, slots=True)
class Reconciled:
    """`share`: by how much the counters' cost differs from the log's; None where the log has none. Others: the bills that are wrong."""

    log_usd: float
    counters_usd: float
    naive_usd: float
    plain_usd: float

    @property
    def share(self) -> float | None:
        return self.counters_usd / self.log_usd - 1 if self.log_usd else None


def reconcile(log: Mapping[str, float], counters: Mapping[str, float], card: Card) -> Reconciled:
    """Tokens by type, of the log and as the counters rose over the same time, at one card's prices."""
    return Reconciled(sum(cost_usd(log, card).values()), sum(cost_usd(counters, card).values()), naive_usd(log, card), plain_usd(log, card))
