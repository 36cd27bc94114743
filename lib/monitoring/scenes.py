"""What targets tell, as it might have been: series made of a few numbers, for rules to be tried on without waiting for days.

A world is a level for every series: what a gauge shows, how much a counter rises a second. A scene is a world and what changes in it from
when to when; rendered, it is what promtool takes for its unit tests. Knows nothing of rules.
Refuses a change of a series that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lib.monitoring.prometheus import series


@dataclass(frozen=True, slots=True)
class Level:
    """A gauge's value, or a counter's rise per second; None: the target does not tell it."""

    value: float | None
    counter: bool = False


STALE = inf  # no series here is infinite
World: TypeAlias = Mapping[str, Level]  # by the series' text


@dataclass(frozen=True, slots=True)
class Change:
    """From `since_s` until `until_s` these levels hold instead."""

    since_s: float
    until_s: float
    levels: World


@dataclass(frozen=True, slots=True)
class Scene:
    """`length_s` of a world, scraped every `step_s`, and what went wrong with that, counted in scrapes.

    `lost`: Prometheus looked at nothing. `failed`: it looked, and no target answered: `up` is 0, and what they told is stale.
    `restart_s`: every counter begins anew. What is not told any more is stale at once, as when a target is gone.
    """

    world: World
    length_s: float
    step_s: float
    changes: tuple[Change, ...] = ()
    lost: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    restart_s: float | None = None

    def __post_init__(self) -> None:
        for change in self.changes:
            if strange := set(change.levels) - set(self.world):
                raise ValueError(f"nothing to change: {sorted(strange)[:3]}; the world has no such series")

    def values(self) -> dict[str, str]:
        """Series → its values, as promtool writes them."""
        return {name: told(values) for name, values in self.samples().items()}

    def samples(self) -> dict[str, NDArray[np.float64]]:
        """Series → what each scrape found; NaN where there was nothing, STALE where it ended."""
        times = np.arange(int(self.length_s / self.step_s) + 1, dtype=np.float64) * self.step_s
        return {name: self._sampled(name, level, times) for name, level in self.world.items()}

    def _sampled(self, name: str, level: Level, times: NDArray[np.floating]) -> NDArray[np.float64]:
        levels = np.full(len(times), np.nan if level.value is None else float(level.value))
        for change in self.changes:
            if name in change.levels:
                value = change.levels[name].value
                levels[(times >= change.since_s) & (times < change.until_s)] = np.nan if value is None else value
        found = levels
        if level.counter:  # what it rose by between two scrapes is what held at the first of them
            found = np.concatenate([[0.0], np.cumsum(np.nan_to_num(levels[:-1]) * np.diff(times))])
            if self.restart_s is not None:
                found = found - np.where(times >= self.restart_s, found[np.searchsorted(times, self.restart_s)], 0)
            found[np.isnan(levels)] = np.nan
        found[list(self.failed)] *= 0 if name.startswith("up{") else np.nan
        gone = np.isnan(found)
        found[gone & ~np.concatenate([[True], gone[:-1]])] = STALE
        found[list(self.lost)] = np.nan
        return found


def told(values: NDArray[np.float64]) -> str:
    """Values as promtool writes them: "0+15x8 _x2 150+15x3 stale"; NaN is "_". A value and its steady rise become one word."""
    words, at = [], 0
    while at < len(values):
        end = at + 1
        if values[at] == STALE:
            words.append("stale")
        elif np.isnan(values[at]):
            while end < len(values) and np.isnan(values[end]):
                end += 1
            words.append(f"_x{end - at}")
        else:
            rise = values[end] - values[at] if end < len(values) and np.isfinite(values[end]) else 0.0
            while (end < len(values) and np.isfinite(values[end])
                   and abs(values[at] + rise * (end - at) - values[end]) <= 1e-9 * max(1.0, abs(values[end]))):
                end += 1
            words.append(f"{values[at]:.12g}" + (f"{rise:+.12g}x{end - at - 1}" if end - at > 1 else ""))
        at = end
    return " ".join(words)


def counter(name: str, per_s: float | None, **labels: str) -> World:
    return {series({"__name__": name, **labels}): Level(per_s, counter=True)}


def gauge(name: str, value: float | None, **labels: str) -> World:
    return {series({"__name__": name, **labels}): Level(value)}


def histogram(name: str, per_s: float, shares: Mapping[str, float], **labels: str) -> World:
    """`shares`: how much of what is observed lies at or below each upper edge; the last of them is +Inf and all."""
    if list(shares.values()) != sorted(shares.values()) or list(shares)[-1:] != ["+Inf"] or shares["+Inf"] != 1:
        raise ValueError(f"{name}: shares rise to 1 at +Inf: {shares}")
    edges = [0.0, *(float(edge) for edge in shares)]
    middle = sum((share - before) * (low + (high if high < inf else 2 * low)) / 2 for share, before, low, high in
                 zip(shares.values(), [0.0, *shares.values()], edges, edges[1:], strict=False))
    return together(*(counter(f"{name}_bucket", per_s * share, le=edge, **labels) for edge, share in shares.items()),
                    counter(f"{name}_count", per_s, **labels), counter(f"{name}_sum", per_s * middle, **labels))


def together(*worlds: World) -> World:
    """All of them; of two with the same series the later counts."""
    return {name: level for world in worlds for name, level in world.items()}


def scaled(world: World, by: float, names: Sequence[str] = ()) -> World:
    """Its counters `by` times as quick; only those whose text begins with one of `names`, where there are any."""
    return {name: Level(level.value * by, counter=True) if level.counter and level.value is not None
            and (not names or name.startswith(tuple(names))) else level for name, level in world.items()}


def none(world: World, *names: str) -> World:
    """Those whose text begins with one of `names`: not told any more."""
    return {name: Level(None, level.counter) for name, level in world.items() if name.startswith(names)}
