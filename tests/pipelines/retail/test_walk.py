"""A made-up clip walked through the pipeline with a network that finds what it is told: nothing is lost, all time is accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lib.pipelines.retail import floor as floors
from lib.pipelines.retail import walk
from lib.pipelines.retail.floor import Floor
from lib.pipelines.retail.pipeline import Eye, WrongFrame
from lib.vision.boxes import Boxes, none

NET_HW, FRAME_HW, FRAMES = (96, 128), (72, 96), 24
ANCHORS = 12 * 16 + 6 * 8 + 3 * 4


class Follower:
    """Finds the one bright block of a canvas, as a person; `takes` as a real detector."""

    name, batch, net_hw = "follower", 1, NET_HW

    def __init__(self, takes: Literal["canvas", "tensor"] = "canvas") -> None:
        self.takes = takes
        self.calls = 0

    def infer(self, x: NDArray[Any]) -> NDArray[np.float32]:
        self.calls += 1
        grey = x[0].mean(axis=2) if self.takes == "canvas" else x[0].mean(axis=0) * 255
        rows, columns = np.nonzero(grey > 128)
        raw = np.zeros((1, 84, ANCHORS), np.float32)
        if len(rows):
            left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
            raw[0, :5, 7] = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top, 0.9)
        return raw


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A block walks to the left for 12 frames, stands still for 12."""
    path = tmp_path_factory.mktemp("clip") / "walk.avi"
    out = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, FRAME_HW[::-1])
    for number in range(FRAMES):
        frame = np.zeros((*FRAME_HW, 3), np.uint8)
        x = 70 - 4 * min(number, 11)
        frame[20:56, x : x + 16] = 255
        out.write(frame)
    out.release()
    return path


@pytest.fixture
def floor() -> Floor:
    return floors.parse({"frame": [96, 72], "line": {"start": [48, 70], "end": [48, 10]},
                         "zones": [{"name": "left", "corners": [[0, 0], [47, 0], [47, 71], [0, 71]]}]})  # fmt: skip


def test_a_walk_sees_every_frame_and_tells_what_happened(clip: Path, floor: Floor) -> None:
    walked = walk.serial(clip, floor, Follower(), fps=10, frames=FRAMES)
    assert walked.outcomes == ("seen",) * FRAMES
    last = walked.sights[-1].report
    assert (last.entries, last.exits, last.people, last.zones["left"].count) == (1, 0, 1, 1)
    assert len({number for sight in walked.sights for number in sight.tracks.ids.tolist()}) == 1


def test_stages_follow_on_each_other_and_lie_inside_the_wall(clip: Path, floor: Floor) -> None:
    walked = walk.serial(clip, floor, Follower(), fps=10, frames=FRAMES, every=2)
    spans = np.diff(walked.stamps_ns, axis=1)
    assert spans.shape == (FRAMES, len(walk.STAGES)) and (spans >= 0).all()
    assert (walked.stamps_ns[1:, 0] >= walked.stamps_ns[:-1, -1]).all()
    assert spans.sum() <= walked.wall_s * 1e9
    infer = walk.STAGES.index("infer")
    assert (spans[::2, infer] > 0).all() and (spans[1::2, infer] == 0).all()


@pytest.mark.parametrize("takes", ["canvas", "tensor"])
@pytest.mark.parametrize("lanes", [1, 3])
def test_overlapping_changes_nothing_of_what_is_told(clip: Path, floor: Floor, takes: Literal["canvas", "tensor"], lanes: int) -> None:
    one = walk.serial(clip, floor, Follower(), fps=10, frames=FRAMES)
    other = walk.overlapped(clip, floor, Follower(takes), fps=10, frames=FRAMES, lanes=lanes)
    assert [sight.report for sight in one.sights] == [sight.report for sight in other.sights]
    assert one.outcomes == other.outcomes
    assert (other.stamps_ns[:, 1] > other.stamps_ns[:, 0]).all() and (np.diff(other.stamps_ns[:, 1]) > 0).all()


def test_written_plainly_it_tells_the_same(clip: Path, floor: Floor) -> None:
    one = walk.serial(clip, floor, Follower("tensor"), fps=10, frames=FRAMES)
    other = walk.serial(clip, floor, Follower("tensor"), fps=10, frames=FRAMES, plain=True)
    assert [sight.report for sight in one.sights] == [sight.report for sight in other.sights]


@pytest.mark.parametrize("lanes", [0, 2])
def test_skipped_frames_are_not_looked_at_and_hold_what_was_seen(clip: Path, floor: Floor, lanes: int) -> None:
    network = Follower()
    walked = (walk.overlapped(clip, floor, network, fps=10, frames=FRAMES, lanes=lanes, every=3) if lanes else
              walk.serial(clip, floor, network, fps=10, frames=FRAMES, every=3))  # fmt: skip
    assert network.calls == walked.outcomes.count("seen") == FRAMES / 3
    assert [sight.report.people for sight in walked.sights[3:]] == [1] * (FRAMES - 3)
    assert [len(sight.boxes) for sight in walked.sights] == [1, 0, 0] * (FRAMES // 3)


def test_a_gated_camera_looks_while_something_moves_and_once_a_second(clip: Path, floor: Floor) -> None:
    walked = walk.serial(clip, floor, Follower(), fps=10, frames=FRAMES, gated=True)
    assert walked.outcomes[:12] == ("seen",) * 12
    assert walked.outcomes[12:] == ("gated",) * 9 + ("seen",) + ("gated",) * 2
    assert walked.sights[-1].report.people == 1


def test_an_event_is_a_line_of_json(clip: Path, floor: Floor) -> None:
    told = json.loads(walk.serial(clip, floor, Follower(), fps=10, frames=FRAMES).sights[-1].event("cam-1"))
    assert told["camera"] == "cam-1" and told["people"] == 1 and told["zones"]["left"]["count"] == 1
    (person,) = told["tracks"]
    left, top, right, bottom = person["box"]
    assert 20 <= left < right <= 48 and 18 <= top < bottom <= 58


def test_a_clip_that_is_too_short_says_so_and_leaves_no_thread(clip: Path, floor: Floor) -> None:
    for walked in (lambda: walk.serial(clip, floor, Follower(), fps=10, frames=FRAMES + 1),
                   lambda: walk.overlapped(clip, floor, Follower(), fps=10, frames=FRAMES + 1, lanes=2),
                   lambda: walk.serial(clip, floor, Follower(), fps=10, frames=FRAMES + 2, every=2)):  # fmt: skip
        with pytest.raises(EOFError, match=rf"walk\.avi ends after {FRAMES} frames"):
            walked()


def test_a_network_that_fails_in_a_lane_ends_the_walk(clip: Path, floor: Floor) -> None:
    class Broken(Follower):
        def infer(self, x: NDArray[Any]) -> NDArray[np.float32]:
            raise RuntimeError("the detector tripped")

    with pytest.raises(RuntimeError, match="tripped"):
        walk.overlapped(clip, floor, Broken(), fps=10, frames=FRAMES, lanes=2)


def test_frames_of_another_size_are_refused(floor: Floor) -> None:
    eye = Eye(floor, net_hw=NET_HW, fps=10)
    with pytest.raises(WrongFrame, match="100 × 50 pixels, but the floor was drawn on 96 × 72"):
        eye.canvas(np.zeros((50, 100, 3), np.uint8), np.zeros((*NET_HW, 3), np.uint8))


def test_an_eye_that_is_not_gated_always_looks_and_rests_where_it_stood(floor: Floor) -> None:
    eye = Eye(floor, net_hw=NET_HW, fps=10)
    still = np.zeros((*FRAME_HW, 3), np.uint8)
    assert all(eye.moved(still) for _ in range(30))
    person = Boxes(np.array([[10, 10, 30, 60]], np.float32), np.array([0.9], np.float32), np.zeros(1, np.int32))
    for at in (0.0, 0.1):
        eye.report(eye.track(person, at), at)
    assert [eye.rest(0.2).report.people, eye.hold(0.3).report.people] == [1, 1]
    assert eye.track(none(), 0.4).ids.tolist() == []
