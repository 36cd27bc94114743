"""The labels are read as they stand, refused when they cannot be true, and hold against the pixels of the clip where it was fetched."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lib import fetch, home
from lib.vision import labels
from lib.vision.boxes import iou
from lib.vision.clip import frames
from lib.vision.coco import NAMES, PERSON
from lib.vision.labels import BadLabels, Crossing, Labels

TOLD: dict[str, Any] = {
    "clip": {"name": "some.avi", "frames": 100, "height": 60, "width": 80},
    "frames": {"0": [[1, 2, 11, 42.5], [0, 0, 80, 60]], "27": []},
    "lines": [{"x": 40, "top": 10, "bottom": 60, "crossings": [[3, "left"], [3, "right"], [99, "left"]]}],
    "quiet_view": {"x": 40, "y": 20, "width": 40, "height": 30, "present": [[10, 19], [30, 30]]},
    "pictures": [{"name": "shelf.jpg", "height": 20, "width": 30, "things": [["cup", [0, 0, 5, 5]], ["bottle", [5, 5, 30, 20]]]}],
}


def told(*path: str | int, to: object) -> dict[str, Any]:
    """TOLD with the value at `path` set."""
    changed = deepcopy(TOLD)
    *there, last = path
    place: Any = changed
    for step in there:
        place = place[step]
    place[last] = to
    return changed


def test_what_is_told_is_what_is_read() -> None:
    read = labels.parse(TOLD)
    assert {index: boxes.tolist() for index, boxes in read.frames.items()} == {0: [[1, 2, 11, 42.5], [0, 0, 80, 60]], 27: []}
    assert read.frames[27].shape == (0, 4) and read.frames[0].dtype == np.float32
    assert read.line(40).crossings == (Crossing(3, "left"), Crossing(3, "right"), Crossing(99, "left"))
    assert (read.line(40).count("left"), read.line(40).count("right")) == (2, 1)
    assert read.quiet_view.share == pytest.approx(11 / 100)
    assert read.pictures[0].counts == {"cup": 1, "bottle": 1}
    assert read.pictures[0].things.xyxy.tolist() == [[0, 0, 5, 5], [5, 5, 30, 20]]


def test_persons_are_boxes_that_are_sure() -> None:
    persons = labels.parse(TOLD).persons(0)
    assert len(persons) == 2 and set(persons.label) == {PERSON} and set(persons.score) == {1}
    assert len(labels.parse(TOLD).persons(27)) == 0
    with pytest.raises(KeyError):
        labels.parse(TOLD).persons(1)


def test_the_quiet_view_is_cut_where_it_says() -> None:
    frame = np.zeros((60, 80, 3), np.uint8)
    frame[20:50, 40:80] = 7
    assert labels.parse(TOLD).quiet_view.of(frame).shape == (30, 40, 3)
    assert (labels.parse(TOLD).quiet_view.of(frame) == 7).all()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (told("frames", "0", 0, to=[1, 2, 81, 42]), r"frame 0: the box \[1, 2, 81, 42\] is not inside 80 × 60"),
        (told("frames", "0", 0, to=[-1, 2, 11, 42]), "frame 0: the box .* is not inside"),
        (told("frames", "0", 0, to=[11, 2, 1, 42]), "frame 0: the box .* is not inside"),
        (told("frames", "0", 0, to=[1, 2, 11, float("nan")]), "frame 0: the box .* is not inside"),
        (told("frames", "0", 0, to=[1, 2, 11]), "frame 0: a box is left, top, right, bottom"),
        (told("frames", "0", 0, to=[1, 2, 11, "42"]), "frame 0: a box is left, top, right, bottom"),
        (told("frames", "0", 0, to=[1, 2, 11, 26.5]), "frame 0: a person 24.5 px tall is below the rule's 25 px"),
        (told("frames", "100", to=[]), "frame 100: the clip has frames 0 to 99"),
        (told("frames", "-1", to=[]), "frames: boxes by frame index"),
        (told("frames", to=[]), "frames: boxes by frame index"),
        (told("lines", 0, "x", to=80), "line at x = 80 .* not inside 80 × 60"),
        (told("lines", 0, "top", to=60), "line at x = 40 from 60 to 60"),
        (told("lines", 0, "crossings", 2, to=[100, "left"]), "frame 100: the clip has"),
        (told("lines", 0, "crossings", 0, to=[3, "up"]), "frame 3: nobody goes 'up'"),
        (told("lines", 0, "crossings", 0, to=[4, "left"]), "line at x = 40: crossings are not in order"),
        (told("quiet_view", "width", to=41), "quiet_view .* not inside 80 × 60"),
        (told("quiet_view", "present", to=[[10, 30], [20, 40]]), "quiet_view: the spans .* overlap"),
        (told("quiet_view", "present", to=[[10, 100]]), "frame 100"),
        (told("pictures", 0, "things", 0, to=["person", [0, 0, 5, 5]]), "shelf.jpg: 'person' is on no shelf of ours"),
        (told("pictures", 0, "things", 0, to=["kiwi", [0, 0, 5, 5]]), "shelf.jpg: 'kiwi' is on no shelf"),
        (told("pictures", 0, "things", 0, to=["cup", [0, 0, 31, 5]]), "shelf.jpg: the box .* is not inside 30 × 20"),
        (told("pictures", 0, "shelf", to=1), "picture: wants exactly name, height, width, things"),
        (told("notes", to=""), "labels: wants exactly clip, frames, lines, quiet_view, pictures"),
        ([], "labels: wants exactly"),
    ],
)  # fmt: skip
def test_what_cannot_be_true_is_refused_where_it_stands(wrong: object, why: str) -> None:
    with pytest.raises(BadLabels, match=why):
        labels.parse(wrong)


def test_a_file_that_is_no_json_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text('{"clip": ')
    with pytest.raises(BadLabels, match=r"half\.json is no JSON: .*line 1"):
        labels.load(tmp_path / "half.json")


@cache
def real() -> Labels:
    return labels.load()


def test_every_27th_frame_of_the_clip_is_labelled() -> None:
    assert list(real().frames) == list(range(0, 795, 27)) and len(real().frames) == 30
    assert all(2 <= len(boxes) <= 9 for boxes in real().frames.values())
    assert sum(map(len, real().frames.values())) == 182


def test_nobody_is_labelled_twice() -> None:
    for boxes in real().frames.values():
        shared = iou(boxes, boxes)
        np.fill_diagonal(shared, 0)
        assert shared.max() < 0.7  # the closest two: one man half behind the other


def test_both_lines_leave_the_same_people_unexplained() -> None:
    """From one labelled frame to the next, the people left of a line change by those who cross it. The rest came, left or hid: by name."""
    hid = {108: -1, 135: 1}  # a man behind the sign, too little of him to be labelled
    came_or_left = {81: 1, 189: -1, 243: -1, 297: -1, 594: -1, 621: 1, 756: -1}  # at the left edge, all of them
    for line in real().lines:
        left = {index: int(((boxes[:, 0] + boxes[:, 2]) / 2 <= line.x).sum()) for index, boxes in real().frames.items()}
        crossed = [(event.frame, 1 if event.direction == "left" else -1) for event in line.crossings]
        rest = {b: left[b] - left[a] - sum(people for frame, people in crossed if a < frame <= b) for a, b in pairwise(left)}
        assert {index: people for index, people in rest.items() if people} == came_or_left | hid, line.x


def test_the_two_lines_lie_apart_and_nobody_counted_at_a_third() -> None:
    assert [(line.x, line.count("left"), line.count("right")) for line in real().lines] == [(440, 19, 14), (520, 21, 16)]
    with pytest.raises(BadLabels, match=r"x = 440, 520, not at 480"):
        real().line(480)


def test_the_quiet_view_is_quiet_and_of_the_clip_s_shape() -> None:
    view = real().quiet_view
    assert view.share <= 0.30 and view.width * 3 == view.height * 4 and view.height >= 216


def test_the_shelf_pictures_hold_fruit_or_nothing() -> None:
    assert sum(bool(picture.counts) for picture in real().pictures) == 3 and sum(not picture.counts for picture in real().pictures) == 5
    assert {name for picture in real().pictures for name in picture.counts} == {"apple", "orange", "banana"} < set(NAMES)


def test_labels_say_of_each_thing_only_what_is_read() -> None:
    """Compact rows are for the eye; nothing stands in the file that the loader drops."""
    file = json.loads((home.INPUTS / "retail" / "labels.json").read_text(encoding="utf-8"))
    assert {int(index): boxes for index, boxes in file["frames"].items()} == {i: b.tolist() for i, b in real().frames.items()}


@pytest.fixture(scope="module")
def samples() -> Path:
    path = fetch.sources()["opencv-samples"].path
    if not path.exists():
        pytest.skip("OpenCV's sample data has not been fetched on this machine")
    return path


@pytest.fixture(scope="module")
def clip(samples: Path) -> NDArray[np.uint8]:
    """Every third frame: (265, h, w, 3)."""
    return np.stack([frame for _, frame in frames(samples / "vtest.avi", every=3)])


def changed(pictures: NDArray[np.uint8], *, by: int) -> NDArray[np.bool_]:
    """Which pixels differ by more than `by` from what the scene mostly shows: (n, h, w)."""
    scene = np.median(pictures[::4], axis=0).astype(np.uint8)
    return np.stack([cv2.absdiff(picture, scene).max(axis=2) > by for picture in pictures])


def test_every_box_holds_movement_and_nobody_moves_outside_of_them(clip: NDArray[np.uint8]) -> None:
    for (index, boxes), moved in zip(real().frames.items(), changed(clip[::9], by=40), strict=True):
        thick = cv2.morphologyEx(moved.astype(np.uint8), cv2.MORPH_OPEN, np.ones((7, 5), np.uint8))  # no barrier tape
        thick[:100, 730:] = 0  # a parked car, whose boot is opened and behind which somebody less than 25 px tall stands
        for left, top, right, bottom in boxes.round().astype(int):
            assert moved[top:bottom, left:right].mean() > 0.1, (index, left)  # the least: a man behind the lamp post and its sign
            thick[top:bottom, left:right] = 0
        assert thick.sum() < 80, index  # the least of a person who stands free is 93


def test_somebody_is_in_the_quiet_view_when_it_says_so_and_only_then(clip: NDArray[np.uint8]) -> None:
    view = real().quiet_view
    pixels = changed(clip[:, view.y : view.y + view.height, view.x : view.x + view.width], by=60).sum(axis=(1, 2))
    there = np.array([any(first <= index <= last for first, last in view.present) for index in range(0, 795, 3)])
    assert pixels[there].min() > 5 >= pixels[~there].max()


def test_the_shelf_pictures_are_as_large_as_their_labels_say(samples: Path) -> None:
    for picture in real().pictures:
        read = cv2.imread(str(samples / picture.name))
        assert read is not None and read.shape[:2] == (picture.height, picture.width)
