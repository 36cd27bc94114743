"""A camera keeps its schedule, loses late frames instead of piling them up, and comes back from what its source does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from threading import Event
from typing import Any

import pytest

from lib.pipelines.retail import camera as cameras
from lib.pipelines.retail.camera import Camera, Frame, State, slots_lost
from tests.pipelines.retail.null import Roll, until

FAST = 200.0  # frames a second


@pytest.fixture
def begin() -> Iterator[Callable[..., Camera]]:
    begun: list[Camera] = []

    def start(*args: Any, **options: Any) -> Camera:
        begun.append(Camera("cam", *args, **{"fps": FAST, "first_wait_s": 0.01, **options}))
        return begun[-1]

    yield start
    assert all(camera.stop() for camera in begun)
    assert not [thread for thread in threading.enumerate() if thread.name == "camera cam"]


@pytest.mark.parametrize(("late_s", "lost"), [(-1, 0), (0, 0), (0.099, 0), (0.101, 1), (0.35, 3), (60.05, 600)])
def test_only_whole_slots_are_lost(late_s: float, lost: int) -> None:
    assert slots_lost(5.0, 5.0 + late_s, fps=10) == lost


def test_frames_come_in_order_with_rising_stamps(begin: Callable[..., Camera]) -> None:
    seen: list[Frame] = []
    begin(lambda: Roll(), seen.append)
    until(lambda: len(seen) >= 10)
    for one in seen:
        assert one.captured_s <= one.woken_s <= one.decoded_s
        assert one.image[0, 0, 0] == one.place % 256
    for a, b in pairwise(tuple(seen)):
        assert b.captured_s - a.captured_s == pytest.approx((b.number - a.number) / FAST)
        assert b.place - a.place == b.number - a.number


class Clock:
    """Time that passes only when a source takes it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Slow(Roll):
    """Each read takes `took_s` of the clock; the last one blocks, so that a test can look."""

    def __init__(self, clock: Clock, took_s: list[float]) -> None:
        super().__init__()
        self.clock, self.took_s, self.done = clock, took_s, Event()

    def read(self) -> Any:
        if not self.took_s:
            self.done.set()
            self.hang = self.hang or Event()
            return super().read()
        self.clock.now_s += self.took_s.pop(0)
        return super().read()


def run_out(begin: Callable[..., Camera], took_s: list[float], **options: Any) -> tuple[list[Frame], Slow, Camera]:
    """A camera at 10 frames/s whose source takes so long for each frame, until they are used up."""
    clock, seen = Clock(), list[Frame]()
    source = Slow(clock, took_s)
    camera = begin(lambda: source, seen.append, fps=10, now=clock, **options)
    assert source.done.wait(10)
    return seen, source, camera


def finish(source: Slow) -> None:
    assert source.hang is not None
    source.hang.set()


def test_slots_that_passed_are_lost_and_the_footage_goes_on(begin: Callable[..., Camera]) -> None:
    # 0.35 s for the first frame: the slots of 0.1 and 0.2 are over when it is done, the one of 0.3 is late but there
    seen, source, camera = run_out(begin, [0.35, 0.0, 0.0, 0.0])
    assert [frame.number for frame in seen] == [0, 3]
    assert [frame.place for frame in seen] == [0, 3]
    assert [frame.captured_s for frame in seen] == pytest.approx([100.0, 100.3])
    assert (camera.status().late, source.skipped) == (2, 2)
    finish(source)


def test_who_is_far_behind_does_not_read_through_it(begin: Callable[..., Camera]) -> None:
    seen, source, camera = run_out(begin, [5.05, 0.0])
    assert [frame.number for frame in seen] == [0, 50]
    assert [frame.place for frame in seen] == [0, 1]
    assert (camera.status().late, source.skipped) == (49, 0)
    finish(source)


def test_footage_loops(begin: Callable[..., Camera]) -> None:
    seen: list[Frame] = []
    source = Roll(3)
    begin(lambda: source, seen.append)
    until(lambda: source.rewound >= 3)
    assert {one.place for one in seen} <= {0, 1, 2}
    numbers = [one.number for one in seen]
    assert numbers == sorted(set(numbers))


def test_footage_that_ends_ends_the_camera(begin: Callable[..., Camera]) -> None:
    source = Roll(3)
    camera = begin(lambda: source, lambda _: None, loop=False)
    until(lambda: camera.status().state is State.ENDED)
    until(lambda: source.closed)
    assert camera.status().reason == "the footage is at its end"
    assert camera.status().frames + camera.status().late >= 3


def test_a_source_that_fails_is_opened_again_by_itself(begin: Callable[..., Camera]) -> None:
    opened: list[Roll] = []

    def open() -> Roll:
        if len(opened) == 1:
            opened.append(Roll())
            raise OSError("nobody answers")
        opened.append(Roll(broken=None if opened else 2))
        return opened[-1]

    camera = begin(open, lambda _: None, first_wait_s=0.2)
    until(lambda: camera.status().state is State.FAILED)
    assert "OSError: the lens fell off; opened again after 0.2 s" in str(camera.status().reason)
    until(lambda: "nobody answers; opened again after 0.4 s" in str(camera.status().reason))
    until(lambda: camera.status().state is State.RUNNING)
    assert camera.status().reason is None
    assert camera.status().restarts == 2
    assert opened[0].closed


def test_footage_without_frames_is_no_endless_loop(begin: Callable[..., Camera]) -> None:
    source = Roll(0)
    camera = begin(lambda: source, lambda _: None, first_wait_s=5)
    until(lambda: camera.status().state is State.FAILED)
    assert "holds no frame" in str(camera.status().reason)
    assert source.rewound == 1


def test_a_read_that_hangs_shows_and_passes(begin: Callable[..., Camera]) -> None:
    source = Roll()
    camera = begin(lambda: source, lambda _: None, stall_s=0.05)
    until(lambda: camera.status().state is State.RUNNING)
    source.hang = Event()
    until(lambda: camera.status().state is State.STALLED)
    assert str(camera.status().reason).startswith("no frame for 0.")
    source.hang.set()
    until(lambda: camera.status().state is State.RUNNING)


def test_one_that_hangs_for_good_is_left_behind_and_delivers_nothing() -> None:
    source, seen = Roll(), list[Frame]()
    source.hang = Event()
    camera = Camera("hung", lambda: source, seen.append, fps=FAST)
    assert not camera.stop(within_s=0.05)
    source.hang.set()
    assert camera.stop()
    assert seen == []


def test_a_wait_before_the_next_try_does_not_hold_up_the_end() -> None:
    camera = Camera("cam", lambda: Roll(broken=0), lambda _: None, fps=FAST, first_wait_s=cameras.MOST_WAIT_S)
    until(lambda: camera.status().state is State.FAILED)
    assert camera.stop(within_s=1)


@pytest.mark.parametrize("fps", [0, -1, 241, float("nan")])
def test_no_camera_has_such_a_rate(fps: float) -> None:
    with pytest.raises(ValueError, match="frames a second"):
        Camera("cam", Roll, lambda _: None, fps=fps)
