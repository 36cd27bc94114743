"""Batching by hand, by simulation and for real: nobody is lost, nobody overtakes, and the two say the same."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from lib.profiling.batcher import Policy, served, simulated


def test_one_by_one_is_a_queue() -> None:
    told = simulated([0.0, 0.1, 0.2, 5.0], lambda _: 1.0, Policy(1))
    assert told.latency_s.tolist() == approx([1.0, 1.9, 2.8, 1.0]) and told.batches == (1, 1, 1, 1)


def test_who_waits_is_taken_together() -> None:
    told = simulated([0.0, 0.1, 0.2, 0.3], lambda size: 1.0 + 0.1 * size, Policy(8))
    assert told.batches == (1, 3)  # the first one is alone; the others came meanwhile
    assert told.latency_s.tolist() == approx([1.1, 1.1 + 1.3 - 0.1, 1.1 + 1.3 - 0.2, 1.1 + 1.3 - 0.3])
    assert simulated([0.0] * 5, lambda _: 1.0, Policy(2)).batches == (2, 2, 1)


def test_waiting_for_company_ends_when_the_batch_is_full_or_the_oldest_has_waited() -> None:
    full = simulated([0.0, 0.3], lambda _: 1.0, Policy(2, wait_s=0.5))
    assert full.batches == (2,) and full.latency_s.tolist() == approx([1.3, 1.0])
    alone = simulated([0.0, 2.0], lambda _: 1.0, Policy(2, wait_s=0.5))
    assert alone.batches == (1, 1) and alone.latency_s.tolist() == approx([1.5, 1.5])


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60), st.integers(1, 9), st.floats(0, 0.5), st.floats(0.001, 0.5), st.floats(0, 0.1))
def test_nobody_is_lost_and_nobody_answers_two_at_a_time(times: list[float], most: int, wait_s: float, fixed: float, each: float) -> None:
    due = sorted(times)
    told = simulated(due, lambda size: fixed + each * size, Policy(most, wait_s))
    assert sum(told.batches) == len(due) and max(told.batches) <= most
    ends = np.asarray(due) + told.latency_s
    assert (np.diff(ends) >= -1e-9).all(), "who came first is answered first"
    assert (told.latency_s >= fixed + each - 1e-9).all()
    assert told.wall_s >= sum(fixed + each * size for size in told.batches) - 1e-9, "one pass at a time"


def test_for_real_it_goes_as_simulated() -> None:
    due = [0.0, 0.01, 0.02, 0.03, 0.25, 0.26]

    def seconds(size: int) -> float:
        return 0.05 + 0.01 * size

    for policy in (Policy(1), Policy(4), Policy(4, 0.04)):
        real, made = served(due, lambda size: time.sleep(seconds(size)), policy), simulated(due, seconds, policy)
        assert real.batches == made.batches, policy.name
        assert real.passes_s == approx(made.passes_s, abs=0.03) and made.passes_s == tuple(seconds(size) for size in made.batches)
        assert real.latency_s.tolist() == approx(made.latency_s.tolist(), abs=0.03), policy.name


def test_an_engine_that_breaks_is_heard() -> None:
    def broken(size: int) -> None:
        raise MemoryError(f"{size} pictures do not fit")

    with pytest.raises(MemoryError, match="1 pictures do not fit"):
        served([0.0, 0.01, 30.0], broken, Policy(1))
