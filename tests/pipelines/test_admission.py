"""The door, with made-up numbers: it lets in what can be answered in time, recovers from a bad moment, never makes anyone wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.pipelines.admission import Admission


def room(door: Admission) -> int:
    """How many may wait before the next is refused."""
    return next(n for n in range(1_000_000) if not door.admits(n))


def test_before_anything_is_known_a_number_bounds_it() -> None:
    assert room(Admission(first=10)) == 10


def test_then_it_is_time() -> None:
    door = Admission(target_s=0.004)
    door.served(100, 100 * 50e-6)
    assert door.cost_s == pytest.approx(50e-6)
    assert room(door) == pytest.approx(81, abs=1)  # 80 who wait are 4 ms, so the 81st still comes in
    slow = Admission(target_s=0.004)
    slow.served(100, 100 * 500e-6)
    assert room(slow) == pytest.approx(9, abs=1)


def test_memory_is_bounded_however_quick_it_is() -> None:
    door = Admission(most=500)
    door.served(64, 64e-9)
    assert room(door) == 500


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 10)), max_size=20))
def test_an_idle_service_takes_anybody(batches: list[tuple[int, float]]) -> None:
    door = Admission()
    for n, seconds in batches:
        door.served(n, seconds)
    assert door.admits(0)
    refused = [n for n in range(0, 6000, 50) if not door.admits(n)]
    assert refused == list(range(refused[0], 6000, 50)) if refused else not batches  # who is refused behind n is refused behind more


def test_a_pause_of_the_machine_is_not_what_a_request_costs() -> None:
    door = Admission(target_s=0.004)
    for _ in range(20):
        door.served(50, 50 * 20e-6)
    before = room(door)
    door.served(1, 0.1)  # a hiccup of 100 ms in a batch of one
    assert before > room(door) > 0.85 * before


def test_a_lasting_change_for_the_worse_is_believed_in_a_few_batches() -> None:
    door = Admission(target_s=0.004)
    for _ in range(20):
        door.served(50, 50 * 20e-6)
    for _ in range(8):
        door.served(50, 50 * 1e-3)
    assert room(door) <= 6


def test_it_follows_what_a_request_takes() -> None:
    door = Admission(target_s=0.004)
    for _ in range(50):
        door.served(40, 40 * 20e-6)
    assert room(door) == pytest.approx(201, abs=1)
    for _ in range(5):
        door.served(40, 40 * 80e-6)
    assert room(door) == pytest.approx(51, abs=1)


def test_under_twice_the_load_it_stays_full_and_in_time() -> None:
    """A made-up server: 20 µs a request, 100 µs a batch, arrivals at twice that rate, for a second of made-up time."""
    door, target_s, per_s = Admission(target_s=0.004), 0.004, 2 / 20e-6
    now, arrived, waiting, done, worst_s, idle_s = 0.0, 0, [], 0, 0.0, 0.0
    while now < 1:
        while arrived / per_s <= now:
            if door.admits(len(waiting)):
                waiting.append(arrived / per_s)
            arrived += 1
        if not waiting:
            now, idle_s = now + 1 / per_s, idle_s + 1 / per_s
            continue
        batch, waiting = waiting, []
        took_s = 100e-6 + len(batch) * 20e-6
        now += took_s
        worst_s = max(worst_s, now - batch[0])
        door.served(len(batch), took_s)
        done += len(batch)
    assert idle_s < 0.001
    assert done > 0.95 / 20e-6
    assert worst_s < 2 * target_s + 0.0002  # the batch at work and one's own


@pytest.mark.parametrize("wrong", [{"target_s": 0}, {"target_s": float("nan")}, {"most": 0}, {"first": 0}])
def test_a_door_that_lets_nobody_in_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Admission(**wrong)  # type: ignore[arg-type]
