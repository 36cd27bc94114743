"""Geometry against ultralytics' formula and against pixels; every buffer is written in place, whole, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.vision.letterbox import GREY, Fit, fit, letterbox, normalise_into, normalised

NETS = st.sampled_from([(480, 640), (384, 512), (288, 384), (640, 640), (32, 64)])
SIDES = st.integers(1, 4000)


def ultralytics(frame_hw: tuple[int, int], net_hw: tuple[int, int]) -> tuple[int, int, int, int, int, int]:
    """(width, height, top, bottom, left, right) as LetterBox of ultralytics 8 writes it, with auto=False and scaleup=True."""
    r = min(net_hw[0] / frame_hw[0], net_hw[1] / frame_hw[1])
    width, height = max(round(frame_hw[1] * r), 1), max(round(frame_hw[0] * r), 1)
    dw, dh = (net_hw[1] - width) / 2, (net_hw[0] - height) / 2
    return width, height, round(dh - 0.1), round(dh + 0.1), round(dw - 0.1), round(dw + 0.1)


@given(height=SIDES, width=SIDES, net=NETS)
def test_the_geometry_is_ultralytics(height: int, width: int, net: tuple[int, int]) -> None:
    planned = fit((height, width), net)
    inner_width, inner_height, top, bottom, left, right = ultralytics((height, width), net)
    assert (planned.inner_hw, planned.top, planned.left) == ((inner_height, inner_width), top, left)
    assert (top + inner_height + bottom, left + inner_width + right) == net  # nothing hangs over


@given(height=SIDES, width=SIDES, net=NETS, corners=st.tuples(*[st.floats(0, 1)] * 4))
def test_a_box_comes_back_to_its_place(height: int, width: int, net: tuple[int, int], corners: tuple[float, ...]) -> None:
    planned = fit((height, width), net)
    box = np.array([corners]) * [width, height, width, height]
    down, across = planned.inner_hw[0] / height, planned.inner_hw[1] / width
    there = box * [across, down, across, down] + [planned.left, planned.top, planned.left, planned.top]
    back = planned.to_frame(there.astype(np.float32))
    assert back.dtype == np.float32
    assert np.abs(back - box).max() <= 1 / 1000 * max(1, 1 / planned.scale)


def test_boxes_are_clipped_to_the_frame_and_the_given_ones_stay() -> None:
    planned = fit((100, 200), (480, 640))
    given_xyxy = np.array([[-50, 0, 900, 700]], np.float32)
    assert planned.to_frame(given_xyxy).tolist() == [[0, 0, 200, 100]]
    assert given_xyxy.tolist() == [[-50, 0, 900, 700]]
    assert planned.to_frame(np.empty((0, 4), np.float32)).shape == (0, 4)


def test_footage_of_four_to_three_fills_the_net() -> None:
    assert fit((576, 768), (480, 640)) == Fit((576, 768), (480, 640), (480, 640), 0, 0)
    assert fit((576, 768), (480, 640)).scale == pytest.approx(1 / 1.2)


@pytest.mark.parametrize(("frame", "net"), [((0, 5), (32, 32)), ((5, -1), (32, 32)), ((5, 5), (32, 0))])
def test_a_frame_without_pixels_does_not_fit(frame: tuple[int, int], net: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        fit(frame, net)


@settings(max_examples=40)
@given(height=st.integers(1, 300), width=st.integers(1, 300), net=NETS)
def test_every_pixel_of_the_canvas_is_written(height: int, width: int, net: tuple[int, int]) -> None:
    planned, out = fit((height, width), net), np.full((*net, 3), 7, np.uint8)  # what an earlier frame left
    letterbox(np.full((height, width, 3), 200, np.uint8), planned, out)
    inner = np.zeros(net, bool)
    inner[planned.top :, planned.left :][: planned.inner_hw[0], : planned.inner_hw[1]] = True
    assert (out[inner] == 200).all()
    assert (out[~inner] == GREY).all()


@pytest.mark.parametrize("frame_hw", [(576, 768), (1080, 1920), (700, 300), (1, 4000), (4000, 1), (1, 1)])
def test_what_is_seen_in_the_canvas_is_found_in_the_frame(frame_hw: tuple[int, int]) -> None:
    height, width = frame_hw
    box = [width // 4, height // 4, width - width // 3, height - height // 3]
    frame = np.zeros((height, width, 3), np.uint8)
    frame[box[1] : box[3], box[0] : box[2]] = 255
    planned, out = fit(frame_hw, (480, 640)), np.zeros((480, 640, 3), np.uint8)
    letterbox(frame, planned, out)
    rows, columns = np.nonzero(out[:, :, 0] > 150)
    found = planned.to_frame(np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32))
    assert np.abs(found - box).max() <= 1 + 1 / planned.scale


@pytest.mark.parametrize(("frame", "out"), [
    (np.zeros((10, 21, 3), np.uint8), np.zeros((32, 64, 3), np.uint8)), (np.zeros((10, 20, 3), np.uint8), np.zeros((64, 32, 3), np.uint8)),
    (np.zeros((10, 20), np.uint8), np.zeros((32, 64, 3), np.uint8)), (np.zeros((10, 20, 3), np.uint8), np.zeros((32, 64, 3), np.float32)),
])  # fmt: skip
def test_buffers_that_do_not_fit_are_refused(frame: np.ndarray, out: np.ndarray) -> None:
    with pytest.raises(ValueError, match="was planned"):
        letterbox(frame, fit((10, 20), (32, 64)), out)


@pytest.mark.parametrize("kept", [False, True])
def test_normalising_into_a_buffer_is_the_plain_way_to_the_last_bit(kept: bool) -> None:
    rng = np.random.default_rng(0)
    out, planes = np.full((1, 3, 48, 64), -1, np.float32), np.empty((3, 48, 64), np.uint8)
    for canvas in rng.integers(0, 256, (2, 48, 64, 3), np.uint8):
        normalise_into(canvas, out, planes=planes if kept else None)
        assert np.array_equal(out, normalised(canvas))
    assert normalised(np.full((1, 1, 3), (255, 0, 51), np.uint8)).ravel().tolist() == [np.float32(0.2), 0, 1]  # BGR in, RGB out


def test_a_tensor_of_another_shape_is_refused() -> None:
    for wrong in (np.empty((1, 3, 64, 48), np.float32), np.empty((3, 48, 64), np.float32), np.empty((1, 3, 48, 64), np.float64)):
        with pytest.raises(ValueError, match="is wanted"):
            normalise_into(np.zeros((48, 64, 3), np.uint8), wrong)
