"""Who wins a contest, by how much, and whether the repeats can tell it from luck: pure functions of tables of a hand's size.

A repeat is a round in which all were asked in turn, or a run of its own, never a single request: requests of one round share its mood.
Ratios are formed inside a repeat and counted by their logarithm, for noise multiplies; the interval is Student's. So these intervals are
wider than those that pool requests. Refuses to name a winner where the interval holds 1, where the margin lies under the machine's own
noise, and where there was but one repeat; refuses values that are not positive.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from math import exp, inf, isfinite, log, sqrt

from lib import stats

WINS, TIE, ALONE, UNTESTED, NOTHING = "wins", "no significant difference", "alone", "not tested", "nothing recorded"


@dataclass(frozen=True, slots=True)
class Contest:
    """One need on one machine: who reached what in which repeat, and where that is recorded.

    `evidence`: notebook → run. `samples`: contender → repeat → value, less is better unless `higher`; `told` formats a value. `floor`: the
    machine's noise, a share: a smaller margin is none. `met` makes it a contest of loads: a value is then the largest load that kept a
    promise, `met` says of the winner's load how many of how many requests kept it, by contender; for `open_ended` ones it was the largest
    that was tried. `absent`: who is not in it, and why; `why`: why nobody is.
    """

    key: str
    need: str
    machine_id: str
    evidence: Mapping[str, str]
    told: str = "{:.3g}"
    samples: Mapping[str, Mapping[Hashable, float]] = field(default_factory=dict)
    higher: bool = False
    repeats: str = "rounds"
    floor: float = 0.0
    met: Mapping[str, tuple[int, int]] | None = None
    open_ended: frozenset[str] = frozenset()
    absent: Mapping[str, str] = field(default_factory=dict)
    why: str | None = None

    def __post_init__(self) -> None:
        for name, values in self.samples.items():
            if not values or not all(value > 0 and isfinite(value) for value in values.values()):
                raise ValueError(f"{self.need}: {name} has {dict(values)}; a ratio wants positive values, and one at least")


@dataclass(frozen=True, slots=True)
class Settled:
    """How a contest ended. `margin` ≥ 1 says how much better `first` is than `second`; `rivals` are those not told apart from `first`.

    `word` is WINS, TIE, ALONE, UNTESTED or NOTHING; `lo`–`hi` the 95 % interval of the margin, None where it has none; `n` its repeats, or
    for a contest of loads the requests at the winner's. `reason` says what else a reader has to know.
    """

    contest: Contest
    word: str
    first: str | None = None
    value: float | None = None
    second: str | None = None
    second_value: float | None = None
    margin: float | None = None
    lo: float | None = None
    hi: float | None = None
    n: int | None = None
    rivals: tuple[str, ...] = ()
    reason: str | None = None


def settle(contest: Contest) -> Settled:
    """The winner, or that there is none, and why."""
    ranked = sorted(contest.samples, key=lambda name: typical(contest, name) * (-1 if contest.higher else 1))
    if not ranked:
        return Settled(contest, NOTHING, reason=contest.why or "no run of this machine says anything of it")
    first, value = ranked[0], typical(contest, ranked[0])
    if len(ranked) == 1:
        return Settled(contest, ALONE, first, value, n=len(contest.samples[first]), reason=contest.why or "nobody else was measured here")
    second, theirs = ranked[1], typical(contest, ranked[1])
    if contest.met is not None:
        return _of_loads(contest, ranked)
    found = margin(contest, first, second)
    rivals = tuple(other for other in ranked[1:] if not _told(contest, margin(contest, first, other)))
    if found is None or found.lo is None:
        reason = "they share no repeat" if found is None else f"{contest.repeats}: one alone has no interval"
        return Settled(contest, UNTESTED, first, value, second, theirs, found.value if found else None,
                       n=found.n if found else 0, rivals=rivals, reason=reason)  # fmt: skip
    word = WINS if _told(contest, found) else TIE
    under = found.lo > 1 and word == TIE
    return Settled(contest, word, first, value, second, theirs, found.value, found.lo, found.hi, found.n, rivals,
                   f"less than the {contest.floor:.1%} by which two copies of one engine differ here" if under else None)  # fmt: skip


def typical(contest: Contest, name: str) -> float:
    """The geometric mean of a contender's repeats, in its unit."""
    values = contest.samples[name].values()
    return exp(sum(map(log, values)) / len(values))


def margin(contest: Contest, first: str, other: str) -> stats.Estimate | None:
    """How many times better `first` is than `other`: the geometric mean of the ratios inside repeats that both have, with its interval.

    None where they share none; without an interval for a single one.
    """
    ours, theirs = contest.samples[first], contest.samples[other]
    sign = 1 if contest.higher else -1
    found = stats.mean([sign * (log(ours[turn]) - log(theirs[turn])) for turn in ours if turn in theirs])
    if found is None:
        return None
    lo, hi = (None if end is None else exp(end) if end < 700 else inf for end in (found.lo, found.hi))
    return stats.Estimate(exp(found.value), lo, hi, found.n, "geometric mean of ratios inside repeats, Student t of their logarithms")


def _told(contest: Contest, found: stats.Estimate | None) -> bool:
    return found is not None and found.lo is not None and found.lo > 1 and found.value > 1 + contest.floor


def _of_loads(contest: Contest, ranked: list[str]) -> Settled:
    """Loads are few and far apart, so what is tested is what both did at the winner's: the shares of requests that kept the promise."""
    met, (first, second) = contest.met or {}, ranked[:2]
    value, theirs = typical(contest, first), typical(contest, second)
    gaps = {other: difference(met[first], met[other]) for other in ranked[1:] if first in met and other in met and theirs < value}
    rivals = tuple(other for other in ranked[1:] if other not in gaps or gaps[other][0] <= 0)
    at = (contest, first, value, second, theirs, value / theirs)
    if theirs == value:
        return _loads(*at, TIE, rivals, "both carry the same")
    if second not in gaps:
        return _loads(*at, UNTESTED, rivals, f"{second} was not asked so much at once")
    (ours, n), (others, m), (lo, hi) = met[first], met[second], gaps[second]
    shares = f"there {ours} of {n} requests kept it, {others} of {m} with {second}"
    return _loads(*at, WINS if lo > 0 else TIE, rivals, f"{shares}; 95 % of the difference: {100 * lo:.0f} to {100 * hi:.0f} points")


def _loads(contest: Contest, first: str, value: float, second: str, theirs: float, times: float, word: str, rivals: tuple[str, ...],
           reason: str) -> Settled:  # fmt: skip
    n = (contest.met or {}).get(first, (0, 0))[1]
    return Settled(contest, word, first, value, second, theirs, times, n=n or None, rivals=rivals, reason=reason)


def difference(ours: tuple[int, int], theirs: tuple[int, int]) -> tuple[float, float]:
    """The 95 % interval of the difference of two shares, (hits, tries) each: Newcombe's, of two Wilson intervals (Stat. Med. 17, 1998)."""
    (a, a_lo, a_hi), (b, b_lo, b_hi) = (_wilson(*one) for one in (ours, theirs))
    return a - b - sqrt((a - a_lo) ** 2 + (b_hi - b) ** 2), a - b + sqrt((a_hi - a) ** 2 + (b - b_lo) ** 2)


def _wilson(hits: int, tries: int) -> tuple[float, float, float]:
    found = stats.share(hits, tries, how="wilson")
    assert found.lo is not None and found.hi is not None, "a share that was tried has an interval"
    return found.value, found.lo, found.hi
