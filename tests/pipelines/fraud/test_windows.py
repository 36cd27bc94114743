"""The windows against a list of everything that ever happened: late, equal and jumping times; resumed from any log of the last hour."""

from __future__ import annotations

from time import perf_counter

from hypothesis import example, given
from hypothesis import strategies as st

from lib.pipelines.fraud.windows import HOUR_S, Embedded, Event, Stats

# Steps of event time: mostly forward a little, some backwards, some to the edges of the windows, some by years.
STEPS = st.one_of(st.integers(0, 3), st.integers(-4000, 0), st.sampled_from([58, 59, 60, 61, 3539, 3540, 3599, 3600, 3661]),
                  st.integers(0, 10**9))


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    second, events = draw(st.integers(0, 10_000)), []
    for number, (step, cents) in enumerate(draw(st.lists(st.tuples(STEPS, st.integers(0, 10**8)), max_size=60))):
        second = max(0, second + step)
        events.append((f"t{number}", second, cents))
    return events


def brute(events: list[Event]) -> list[Stats]:
    """The definition, read aloud: no state but the list."""
    told = []
    for number, (_, second, _) in enumerate(events):
        now = max(second, *(s for _, s, _ in events[:number]), 0)
        minute = [c for _, s, c in events[:number] if now - 59 <= s <= now]
        hour = [c for _, s, c in events[:number] if now // 60 - 59 <= s // 60 <= now // 60]
        told.append((len(minute), sum(minute) / len(minute) / 100 if minute else 0.0,
                     len(hour), sum(hour) / len(hour) / 100 if hour else 0.0))
    return told


@given(events=streams(), cut=st.integers(0, 60))
@example(events=[("a", 0, 100), ("b", 59, 300), ("c", 60, 500), ("d", 3599, 0), ("e", 3600, 1), ("f", 0, 7), ("g", 59, 9)], cut=3)
def test_the_windows_are_what_the_definition_says(events: list[Event], cut: int) -> None:
    windows = Embedded()
    assert windows.observe(events[:cut]) + windows.observe(events[cut:]) == brute(events)
    assert windows.newest() == max((second for _, second, _ in events), default=None)


@given(events=streams(), more=streams(), rotate=st.integers(0, 60))
def test_the_last_hour_of_the_log_suffices_in_any_order(events: list[Event], more: list[Event], rotate: int) -> None:
    whole = Embedded()
    whole.observe(events)
    newest = whole.newest() or 0
    logged = [event for event in events if event[1] > newest - HOUR_S]
    resumed = Embedded.resumed(iter(logged[rotate:] + logged[:rotate]))
    assert resumed.newest() == whole.newest()
    assert resumed.observe(more) == whole.observe(more)


def test_an_event_finds_the_others_and_not_itself() -> None:
    windows = Embedded()
    assert windows.newest() is None
    assert windows.observe([("a", 100, 1000), ("b", 100, 2000), ("c", 159, 0), ("d", 160, 0)]) == [
        (0, 0.0, 0, 0.0), (1, 10.0, 1, 10.0), (2, 15.0, 2, 15.0), (1, 0.0, 3, 10.0)]


def test_a_late_event_sees_now_and_counts_where_it_belongs() -> None:
    windows = Embedded()
    windows.observe([("new", 7300, 500)])
    assert windows.observe([("late", 7242, 100)]) == [(1, 5.0, 1, 5.0)]
    assert windows.observe([("too late for the hour", 3659, 100)]) == [(2, 3.0, 2, 3.0)]
    assert windows.observe([("then", 7300, 0)]) == [(2, 3.0, 2, 3.0)]


def test_a_jump_of_ages_takes_one_turn() -> None:
    windows = Embedded()
    windows.observe([("a", 1, 100)])
    started = perf_counter()
    assert windows.observe([("b", 10**12, 100), ("c", 10**12, 100)]) == [(0, 0.0, 0, 0.0), (1, 1.0, 1, 1.0)]
    assert perf_counter() - started < 1  # a loop over the years would take a day
