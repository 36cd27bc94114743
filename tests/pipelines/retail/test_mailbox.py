"""The newest wins, what is lost is counted, and whoever writes never waits."""

from __future__ import annotations

from collections import deque
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.pipelines.retail.mailbox import Mailbox


def test_the_newest_wins_and_the_lost_are_counted() -> None:
    box: Mailbox[int] = Mailbox(depth=2)
    assert box.take() is None
    for item in range(5):
        box.put(item)
    assert (len(box), box.dropped) == (2, 3)
    assert [box.take(), box.take(), box.take()] == [3, 4, None]
    assert box.dropped == 3


@given(depth=st.integers(1, 4), does=st.lists(st.booleans(), max_size=60))
def test_it_is_a_queue_that_forgets_its_oldest(depth: int, does: list[bool]) -> None:
    box: Mailbox[int] = Mailbox(depth=depth)
    model: deque[int] = deque()
    put = taken = 0
    for writes in does:
        if writes:
            box.put(put)
            model.append(put)
            put += 1
            if len(model) > depth:
                model.popleft()
        else:
            taken += bool(model)
            assert box.take() == (model.popleft() if model else None)
    assert put == taken + box.dropped + len(box)


def test_it_rings_after_each_item_is_there() -> None:
    heard: list[int | None] = []
    box: Mailbox[int] = Mailbox(ring=lambda: heard.append(box.take()))
    box.put(7)
    box.put(8)
    assert heard == [7, 8]
    assert box.dropped == 0


def test_nothing_is_counted_wrong_between_threads() -> None:
    box: Mailbox[int] = Mailbox(depth=3)
    n, taken = 5000, 0
    writers = [Thread(target=lambda: [box.put(i) for i in range(n)]) for _ in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        taken += box.take() is not None
    assert taken + box.dropped + len(box) == 3 * n


def test_a_mailbox_holds_something() -> None:
    with pytest.raises(ValueError, match="depth 0"):
        Mailbox(depth=0)
