"""Who gets in: a bound on waiting time, known at the door.

Work is done in batches, and what comes meanwhile waits for the next one. So whoever comes waits for at most the batch at work and for
those who wait already; with what a request takes, that is known when it comes. Beyond the target it is refused at once: a refusal after
microseconds is worth more to a client than an answer that comes too late. CoDel drops at the head of a queue after it has seen waiting go
wrong; with one server, one queue and a known cost the door can foresee what CoDel must find out. Nobody is made to wait.
"""

from __future__ import annotations

SMOOTH = 0.1  # weight of the newest batch: some ten batches to follow a change, which is milliseconds
STEP = 2.0  # how much dearer than believed a request may seem at once: a pause of the machine in a batch of one is not what a request costs


class Admission:
    """`target_s`: how much work may wait. `most`: how many requests, before it is known what one takes and as a bound of memory after."""

    def __init__(self, *, target_s: float = 0.003, most: int = 4096, first: int = 64) -> None:
        if not target_s > 0 or most < 1 or first < 1:
            raise ValueError(f"a target of {target_s} s, {most} and {first} requests: all must be positive")
        self._target_s, self._most, self._first = target_s, most, first
        self.cost_s: float | None = None  # of a request, smoothed

    def admits(self, waiting: int) -> bool:
        """Whether one more may wait behind `waiting`. An idle service takes anybody."""
        if self.cost_s is None:
            return waiting < self._first
        return waiting == 0 or (waiting < self._most and waiting * self.cost_s <= self._target_s)

    def served(self, n: int, seconds: float) -> None:
        """A batch of `n` took `seconds`. Larger batches are cheaper a request, so each counts by its size: it is them that must fit."""
        cost_s = seconds / n if self.cost_s is None else min(seconds / n, STEP * self.cost_s)
        weight = 1 - (1 - SMOOTH) ** min(n, 64)
        self.cost_s = cost_s if self.cost_s is None else self.cost_s + weight * (cost_s - self.cost_s)
