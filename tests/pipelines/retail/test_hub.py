"""Who listens hears what concerns them, slow ones lose the oldest, and there is a bound on listeners."""

from __future__ import annotations

import pytest

from lib.pipelines.retail.hub import Event, Full, Hub


def event(n: int, camera: str | None = "a") -> Event:
    return Event("sight", camera, str(n).encode())


def test_everybody_hears_what_concerns_them() -> None:
    hub = Hub()
    with hub.subscribed("a", int) as a, hub.subscribed("b", int) as b, hub.subscribed(None, int) as both:
        for one in (event(1, "a"), event(2, "b"), event(3, None)):
            hub.publish(one)
        heard = [[item.told for item in iter(box.take, None)] for box in (a, b, both)]
    assert heard == [[b"1", b"3"], [b"2", b"3"], [b"1", b"2", b"3"]]
    assert len(hub) == 0


def test_a_slow_subscriber_loses_its_oldest_and_nobody_elses() -> None:
    hub = Hub(depth=3)
    with hub.subscribed(None, int) as slow, hub.subscribed(None, int) as quick:
        for n in range(10):
            hub.publish(event(n))
            assert quick.take() == event(n)
        assert [item.told for item in iter(slow.take, None)] == [b"7", b"8", b"9"]
        assert hub.lost == 7
    assert hub.lost == 7  # also when they are gone


def test_there_are_so_many_places_and_they_are_given_back() -> None:
    hub = Hub(most=1)
    with hub.subscribed(None, int), pytest.raises(Full, match="1 subscribers listen already"), hub.subscribed(None, int):
        pass
    with hub.subscribed(None, int):
        assert len(hub) == 1


def test_closing_wakes_who_listens_and_takes_nobody_more() -> None:
    hub, rung = Hub(), []
    with hub.subscribed(None, lambda: rung.append(hub.closed)):
        hub.close()
    assert rung == [True]
    with pytest.raises(Full, match="ending"), hub.subscribed(None, int):
        pass
