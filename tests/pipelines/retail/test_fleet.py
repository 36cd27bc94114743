"""Every frame is accounted for: seen, gated, dropped or failed, in order, in one batch with others; and what breaks is told aloud."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from threading import Event, Semaphore
from typing import Any

import numpy as np
import pytest

from lib.pipelines.retail.camera import State
from lib.pipelines.retail.fleet import MOST_FAILURES, BadName, Busy, Fleet, Taken
from lib.pipelines.retail.hub import Full
from lib.pipelines.retail.sample import STAGES
from lib.pipelines.retail.watch import Seen
from tests.pipelines.retail.null import NET_HW, Detector, Eye, Roll, until

FAST = 200.0


@pytest.fixture
def fleets() -> Iterator[Callable[..., Fleet]]:
    before, made = set(threading.enumerate()), list[Fleet]()

    def make(*detectors: Detector, **options: Any) -> Fleet:
        made.append(Fleet(detectors or [Detector()], **options))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()
    until(lambda: set(threading.enumerate()) <= before)


def ready(fleet: Fleet) -> Fleet:
    until(lambda: fleet.ready)
    return fleet


def test_frames_are_seen_in_order_and_their_stages_add_up(fleets: Callable[..., Fleet]) -> None:
    heard: list[tuple[str, Seen]] = []
    fleet, eye = ready(fleets(on_seen=lambda name, seen: heard.append((name, seen)))), Eye()
    with fleet.hub.subscribed("a", int) as mailbox:
        fleet.start("a", Roll, eye, fps=FAST)
        until(lambda: len(heard) >= 20)
        assert mailbox.take().told == b'{"camera": "a", "people": 1}'  # type: ignore[union-attr]
    samples = fleet.samples()[:20]
    assert samples == [seen.sample for _, seen in heard[:20]]
    assert [sample.number for sample in samples] == sorted({sample.number for sample in samples})
    assert eye.order == sorted(eye.order)
    for sample in samples:
        assert len(sample.stages()) == len(STAGES)
        assert min(sample.stages()) >= 0
        assert sum(sample.stages()) == pytest.approx(sample.age_s, abs=1e-9)
        assert (sample.camera, sample.batch, sample.people) == ("a", 1, 1)


def test_the_account_holds_every_frame(fleets: Callable[..., Fleet]) -> None:
    gate = Event()
    fleet = ready(fleets(Detector(gate=gate)))
    fleet.start("a", lambda: Roll(30), Eye(), fps=FAST, loop=False, source="roll")
    until(lambda: fleet.accounts()[0].state is State.ENDED)
    gate.set()
    until(lambda: fleet.accounts()[0].seen >= 1 and not len(fleet.watch("a").mailbox) and not fleet.watch("a").in_flight)
    until(lambda: (one := fleet.accounts()[0]).seen + one.dropped >= 30)
    account = fleet.accounts()[0]
    assert account.dropped >= 27  # the detector held one, the newest waited
    assert account.seen + account.dropped == 30
    assert (account.gated, account.failed, account.people, account.source) == (0, 0, 1, "roll")
    assert account.age_p50_s is not None and account.age_p99_s is not None and 0 < account.age_p50_s <= account.age_p99_s
    assert set(account.json()) >= {"name", "state", "fps", "dropped", "age_p99_ms"}


def test_the_newest_frame_is_looked_at(fleets: Callable[..., Fleet]) -> None:
    gate = Event()
    detector = Detector(gate=gate)
    fleet = ready(fleets(detector))
    fleet.start("a", lambda: Roll(30), Eye(), fps=FAST, loop=False)
    until(lambda: fleet.accounts()[0].state is State.ENDED)
    gate.set()
    until(lambda: fleet.samples() and fleet.samples()[-1].place == 29)
    assert detector.inputs[-1][0, 0, 0, 0] == 29  # and it is that frame's picture


@pytest.mark.parametrize("takes", ["canvas", "tensor"])
def test_cameras_share_a_batch(fleets: Callable[..., Fleet], takes: str) -> None:
    gate = Event()
    one, four = Detector(1, gate=gate, takes=takes), Detector(4, gate=gate, takes=takes)
    fleet = ready(fleets(four, one))
    for name in ("a", "b", "c", "d", "e", "f"):
        fleet.start(name, lambda: Roll(3), Eye(), fps=FAST, loop=False)
        until(lambda: len(fleet.samples()) == 0 and fleet.accounts()[-1].state is State.ENDED)
    gate.set()
    until(lambda: len(fleet.samples()) >= 6)
    # The first camera's frame was taken alone; of the six frames that waited, four fill a batch and the others go one by one
    assert four.sizes == [4]
    assert set(one.sizes) == {1}
    assert Counter(sample.batch for sample in fleet.samples())[4] == 4
    assert all(account.seen >= 1 for account in fleet.accounts())
    if takes == "tensor":
        assert four.inputs[0].shape == (4, 3, *NET_HW)
        assert four.inputs[0].max() <= 1


def test_all_cameras_have_their_turn_when_there_is_too_much_to_do(fleets: Callable[..., Fleet]) -> None:
    turns = Semaphore(1)  # one for the warm-up

    class Slow(Detector):
        def infer(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            turns.acquire(timeout=20)
            return super().infer(x)

    fleet = ready(fleets(Slow()))
    for name in "abc":
        fleet.start(name, Roll, Eye(), fps=FAST)
    for _ in range(9):
        dropped = [account.dropped for account in fleet.accounts()]
        until(lambda dropped=dropped: all(now.dropped > before for now, before in zip(fleet.accounts(), dropped, strict=True)))  # type: ignore[misc]
        turns.release()
    until(lambda: len(fleet.samples()) == 9)
    served = [sample.camera for sample in fleet.samples()]
    assert all(set(served[n : n + 3]) == set("abc") for n in range(7)), served
    turns.release(1000)


def test_a_batch_waits_for_others_but_not_for_long(fleets: Callable[..., Fleet]) -> None:
    fleet = ready(fleets(Detector(2), wait_s=0.02))
    fleet.start("a", Roll, Eye(), fps=10)
    fleet.start("b", Roll, Eye(), fps=10)
    fleet.stop("b")
    until(lambda: sum(sample.camera == "a" for sample in fleet.samples()) >= 3)


def test_a_camera_has_one_frame_with_the_detectors_at_a_time(fleets: Callable[..., Fleet]) -> None:
    held, passing = Event(), Semaphore()

    class FirstIsSlow(Detector):
        def infer(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            if passing.acquire(blocking=False):
                held.wait(20)
            return super().infer(x)

    held.set()
    fleet = ready(fleets(FirstIsSlow(), threads=2))
    held.clear()
    passing.release()
    fleet.start("a", Roll, Eye(), fps=FAST)
    until(lambda: fleet.accounts()[0].dropped >= 10)
    assert fleet.samples() == []  # a later frame did not overtake the one that is held up
    held.set()
    until(lambda: len(fleet.samples()) >= 3)


@pytest.mark.parametrize("threads", [2, 3])
def test_several_detecting_threads_keep_each_cameras_order(fleets: Callable[..., Fleet], threads: int) -> None:
    fleet = ready(fleets(Detector(), threads=threads))
    eyes = [Eye() for _ in range(3)]
    for name, eye in zip("abc", eyes, strict=True):
        fleet.start(name, Roll, eye, fps=FAST)
    until(lambda: min(account.seen for account in fleet.accounts()) >= 30)
    fleet.close()
    for eye in eyes:
        assert eye.order == sorted(eye.order)


def test_what_does_not_move_is_not_looked_at(fleets: Callable[..., Fleet]) -> None:
    detector = Detector()
    fleet = ready(fleets(detector))
    fleet.start("a", Roll, Eye(still=True), fps=FAST)
    until(lambda: fleet.accounts()[0].gated >= 5)
    assert detector.sizes == []
    assert fleet.accounts()[0].seen == 0
    assert {sample.batch for sample in fleet.samples()} == {0}


def test_a_detector_that_trips_loses_its_batch_and_goes_on(fleets: Callable[..., Fleet], capsys: pytest.CaptureFixture[str]) -> None:
    fleet = ready(fleets(Detector(fails=MOST_FAILURES - 1)))
    fleet.start("a", Roll, Eye(), fps=FAST)
    until(lambda: fleet.accounts()[0].seen >= 3)
    account = fleet.accounts()[0]
    assert (account.failed, account.reason, fleet.fault, fleet.ready) == (MOST_FAILURES - 1, None, None, True)
    said = capsys.readouterr().err
    assert said.count('"event": "frame failed"') == 1  # of a row only the first
    assert "the detector tripped" in said


def test_failures_with_successes_between_are_no_fault(fleets: Callable[..., Fleet]) -> None:
    detector = Detector()
    fleet = ready(fleets(detector))
    fleet.start("a", Roll, Eye(), fps=FAST)
    for times in (1, 2):
        detector.fails = MOST_FAILURES - 1
        until(lambda times=times: fleet.accounts()[0].failed == times * (MOST_FAILURES - 1))  # type: ignore[misc]
        seen = fleet.accounts()[0].seen
        until(lambda seen=seen: fleet.accounts()[0].seen > seen)  # type: ignore[misc]
    assert fleet.ready


def test_a_detector_that_fails_on_end_is_a_fault(fleets: Callable[..., Fleet], capsys: pytest.CaptureFixture[str]) -> None:
    fleet = ready(fleets(Detector(fails=1000)))
    fleet.start("a", Roll, Eye(), fps=FAST)
    until(lambda: fleet.fault)
    assert not fleet.ready
    assert "5 batches failed one after another, the last with the detector tripped" in str(fleet.fault)
    assert '"event": "fault"' in capsys.readouterr().err
    with pytest.raises(Busy, match="batches failed"):
        fleet.infer(lambda out: None)
    assert "the detector tripped" in str(fleet.accounts()[0].reason)


def test_a_detector_that_cannot_warm_up_is_a_fault(fleets: Callable[..., Fleet]) -> None:
    fleet = fleets(Detector(fails=1, warm=False))
    until(lambda: fleet.fault)
    assert "tripped" in str(fleet.fault)
    assert not fleet.ready


def test_one_blind_eye_leaves_the_others_theirs(fleets: Callable[..., Fleet]) -> None:
    fleet = ready(fleets(Detector(2), Detector(1)))
    fleet.start("blind", Roll, Eye(broken=True), fps=FAST)
    fleet.start("wide", lambda: Roll(hw=(10, 10)), Eye(), fps=FAST)
    fleet.start("good", Roll, Eye(), fps=FAST)
    until(lambda: min(fleet.watch("good").account().seen, *(fleet.watch(name).account().failed for name in ("blind", "wide"))) >= 5)
    assert fleet.watch("blind").account().reason == "ValueError: blind"
    assert "a frame of (10, 10, 3)" in str(fleet.watch("wide").account().reason)
    assert fleet.watch("good").account().failed == 0
    assert fleet.ready


def test_who_counts_and_breaks_is_a_fault(fleets: Callable[..., Fleet]) -> None:
    def broken(name: str, seen: Seen) -> None:
        raise KeyError(name)

    fleet = ready(fleets(on_seen=broken))
    fleet.start("a", Roll, Eye(), fps=FAST)
    until(lambda: fleet.fault)
    assert "the follower died: KeyError" in str(fleet.fault)


def test_cameras_come_and_go(fleets: Callable[..., Fleet]) -> None:
    fleet = ready(fleets(most_cameras=2))
    fleet.start("a", Roll, Eye(), fps=FAST)
    fleet.start("b", Roll, Eye(), fps=FAST)
    with pytest.raises(Taken, match="a camera a already"):
        fleet.start("a", Roll, Eye(), fps=FAST)
    with pytest.raises(Full, match="2 of at most 2 cameras"):
        fleet.start("c", Roll, Eye(), fps=FAST)
    assert fleet.stop("a")
    with pytest.raises(KeyError):
        fleet.stop("a")
    fleet.start("c", Roll, Eye(), fps=FAST)
    until(lambda: fleet.watch("c").account().seen)
    assert [account.name for account in fleet.accounts()] == ["b", "c"]
    fleet.close()
    assert not fleet.ready
    with pytest.raises(Full):
        fleet.start("d", Roll, Eye(), fps=FAST)


@pytest.mark.parametrize("name", ["", "A", "cam 1", "../etc", "a" * 33, "käse", "a\n"])
def test_no_camera_is_called_that(fleets: Callable[..., Fleet], name: str) -> None:
    with pytest.raises(BadName, match="a-z, 0-9 and -"):
        fleets().start(name, Roll, Eye(), fps=FAST)


def test_a_picture_is_looked_at_between_frames(fleets: Callable[..., Fleet]) -> None:
    detector = Detector(2)
    fleet = ready(fleets(detector))
    fleet.start("a", Roll, Eye(), fps=FAST)
    head = fleet.infer(lambda out: out.fill(201)).result(10)
    assert head.shape[0] == 84
    assert any((x[0] == 201).all() for x in detector.inputs)

    def broken(out: np.ndarray[Any, Any]) -> None:
        raise ValueError("no such picture")

    with pytest.raises(ValueError, match="no such picture"):
        fleet.infer(broken).result(10)
    assert fleet.infer(lambda out: None).result(10) is not None


def test_pictures_do_not_pile_up_and_are_answered_at_the_end(fleets: Callable[..., Fleet]) -> None:
    gate = Event()
    fleet = ready(fleets(Detector(gate=gate)))
    first = fleet.infer(lambda out: None)
    until(first.running)
    waiting: list[Future[Any]] = [fleet.infer(lambda out: None) for _ in range(4)]
    with pytest.raises(Busy, match="more pictures wait"):
        fleet.infer(lambda out: None)
    closing = threading.Thread(target=fleet.close)
    closing.start()
    until(lambda: not fleet.ready)
    gate.set()
    closing.join(10)
    assert first.done()
    for future in waiting:
        assert future.done()


def test_a_fleet_needs_detectors_of_one_geometry(fleets: Callable[..., Fleet]) -> None:
    other = Detector(2)
    other.net_hw = (32, 32)
    with pytest.raises(ValueError, match="one net size"):
        fleets(Detector(), other)
