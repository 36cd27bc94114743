"""The stopwatch under a clock of our own: budgets hold, samples are the work's, unrest is named."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Sequence
from itertools import chain, cycle, repeat

import pytest

from lib.clock import Timing, measure, resolution_s

MS = 1_000_000


class Clock:
    """Time passes when somebody works, and not otherwise."""

    def __init__(self, durations_ms: Iterator[float]) -> None:
        self.t_ns, self.durations_ms, self.calls = 0, durations_ms, 0

    def __call__(self) -> int:
        return self.t_ns

    def work(self) -> None:
        self.calls += 1
        self.t_ns += int(next(self.durations_ms) * MS)


def test_warm_up_and_budget_are_seconds_of_work() -> None:
    clock = Clock(repeat(10))
    timing = measure(clock.work, budget_s=1, warmup_s=0.3, now=clock)
    assert (timing.warmups, len(timing.samples_s)) == (30, 100)
    assert set(timing.samples_s) == {0.01}
    assert (timing.median_s, timing.unrest) == (0.01, None)


def test_work_longer_than_the_budget_is_still_sampled_often_enough() -> None:
    clock = Clock(repeat(2_000))
    timing = measure(clock.work, budget_s=1, warmup_s=0, at_least=3, now=clock)
    assert (timing.warmups, timing.samples_s) == (1, (2.0, 2.0, 2.0))
    assert clock.t_ns == 8_000 * MS


def test_the_warm_up_is_no_sample() -> None:
    clock = Clock(chain([500], repeat(1)))
    assert measure(clock.work, budget_s=0.05, warmup_s=0.3, now=clock).samples_s == (0.001,) * 50


def test_waiting_for_the_device_is_inside_the_sample() -> None:
    clock = Clock(cycle([1, 4]))  # the call returns after 1 ms, the device is done 4 ms later
    timing = measure(clock.work, budget_s=0.1, sync=clock.work, now=clock)
    assert set(timing.samples_s) == {0.005}
    assert clock.calls == 2 * (timing.warmups + len(timing.samples_s))


@pytest.mark.parametrize("bad", [{"budget_s": 0}, {"budget_s": -1}, {"at_least": 0}, {"budget_s": math.nan}])
def test_no_budget_is_refused_before_any_work(bad: dict[str, float]) -> None:
    clock = Clock(repeat(1))
    with pytest.raises(ValueError, match="nothing to measure"):
        measure(clock.work, now=clock, **bad)  # type: ignore[arg-type]
    assert clock.calls == 0


@pytest.mark.parametrize(("samples_ms", "why"), [
    ([10] * 20, None),
    ([10, 10.4] * 10, None),
    ([10] * 19 + [90], None),  # one outlier is the median's business
    ([10, 12, 12, 10] * 5, "interquartile range is 18% of the median"),
    ([10] * 10 + [12] * 10, r"second half is \+20%"),
    ([12] * 10 + [10] * 10, "second half is -17%"),
    ([10, 11.5, 10, 11.5], "interquartile range"),  # too few for halves
])  # fmt: skip
def test_unrest_is_named(samples_ms: Sequence[float], why: str | None) -> None:
    unrest = Timing(tuple(ms / 1e3 for ms in samples_ms), 1).unrest
    assert (unrest is None) == (why is None)
    assert re.search(why or "", unrest or "")


def test_a_clock_shows_its_step_and_its_price() -> None:
    ticks = cycle([0, 0, 0, 100])
    clock = Clock(repeat(0))

    def read() -> int:
        clock.t_ns += next(ticks)
        return clock.t_ns

    step, cost = resolution_s(now=read)
    assert (step, cost) == (pytest.approx(100e-9), pytest.approx(25e-9))


def test_the_real_clock_sees_a_real_wait() -> None:
    timing = measure(lambda: threading.Event().wait(0.005), budget_s=0.03, warmup_s=0, at_least=3)
    assert 0.005 <= min(timing.samples_s) < 0.5
    step, cost = resolution_s()
    assert 0 < step < 1e-4 and 0 < cost < 1e-4
