"""Who is who from frame to frame: made-up walks with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from lib.pipelines.retail.tracking import Tracker, Tracks
from lib.vision.boxes import Boxes, none


def boxes(*found: tuple[float, float, float]) -> Boxes:
    """(x, y of the feet, score): boxes 30 wide and 80 tall."""
    corners = np.array([[x - 15, y - 80, x + 15, y] for x, y, _ in found], np.float32).reshape(-1, 4)
    return Boxes(corners, np.array([score for *_, score in found], np.float32), np.zeros(len(found), np.int32))


def walked(*frames: Boxes, fps: float = 10, every: int = 1) -> list[Tracks]:
    tracker = Tracker(fps=fps)
    return [tracker.update(seen, number / fps) for number, seen in enumerate(frames) if number % every == 0]


def test_a_person_keeps_their_number_and_is_known_from_the_second_frame_on() -> None:
    told = walked(*(boxes((100 + 5 * n, 200, 0.9)) for n in range(10)))
    assert [len(tracks) for tracks in told] == [0, *[1] * 9]
    assert len({int(tracks.ids[0]) for tracks in told[1:]}) == 1


def test_two_people_are_two() -> None:
    told = walked(*(boxes((100 + 5 * n, 200, 0.9), (400 - 5 * n, 300, 0.8)) for n in range(10)))
    assert all(sorted(tracks.ids.tolist()) == sorted(told[1].ids.tolist()) for tracks in told[1:])
    assert len(told[-1]) == 2


def test_an_unsure_box_goes_on_with_a_track_but_begins_none() -> None:
    told = walked(*(boxes((100 + 5 * n, 200, 0.9 if n < 5 else 0.15), (400, 300, 0.15)) for n in range(10)))
    assert [len(tracks) for tracks in told[5:]] == [1] * 5


def test_behind_a_lamp_post_a_person_stays_who_they_are() -> None:
    frames = [none() if 8 <= n < 14 else boxes((100 + 4 * n, 200, 0.9)) for n in range(24)]
    told = walked(*frames)
    assert told[7].ids.tolist() == told[-1].ids.tolist() != []


def test_skipped_frames_are_time_that_passes() -> None:
    told = walked(*(boxes((100 + 4 * n, 200, 0.9)) for n in range(24)), every=2)
    assert len({int(tracks.ids[0]) for tracks in told[1:]}) == 1


def test_an_empty_floor_is_empty_and_feet_are_at_the_lower_edge() -> None:
    assert [len(tracks) for tracks in walked(none(), none())] == [0, 0]
    told = walked(boxes((100, 200, 0.9)), boxes((100, 200, 0.9)))[-1]
    assert told.feet.tolist() == [[100, 200]]


def test_time_does_not_run_backwards() -> None:
    tracker = Tracker(fps=10)
    tracker.update(none(), 1.0)
    with pytest.raises(ValueError, match=r"1\.000 s"):
        tracker.update(none(), 1.0)
