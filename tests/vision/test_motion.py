"""A still scene is still whatever the sensor's noise; a person of 40 px is seen to walk; change counts from the last look."""

from __future__ import annotations

import numpy as np
import pytest

from lib.vision.motion import Gate, changed

HW = (576, 768)
ONE_PX = 1 / (144 * 192)


def scene(x: int | None = None, y: int = 300, *, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A textured floor with, at `x`, a person of 16×40 px who differs by 60 grey levels."""
    floor = np.random.default_rng(9).integers(90, 130, (*HW, 1)).repeat(3, axis=2).astype(np.float32)
    if x is not None:
        floor[y : y + 40, x : x + 16] -= 60
    rng = np.random.default_rng(seed)
    return np.clip(floor + noise * rng.standard_normal(floor.shape, np.float32), 0, 255).astype(np.uint8)


def looked_at(frame: np.ndarray) -> Gate:
    gate = Gate((frame.shape[0], frame.shape[1]))
    assert gate.moved(frame) == 1  # nothing is known yet
    gate.looked()
    return gate


def test_a_still_scene_is_still() -> None:
    gate = looked_at(scene(200, noise=5, seed=1))
    assert [gate.moved(scene(200, noise=5, seed=seed)) for seed in range(2, 6)] == [0, 0, 0, 0]


@pytest.mark.parametrize("noise", [0, 5])
def test_a_small_person_is_seen_to_come_to_walk_and_to_go(noise: float) -> None:
    gate = looked_at(scene(noise=noise))
    assert gate.moved(scene(200, noise=noise, seed=1)) == pytest.approx(40 * ONE_PX, rel=0.2)  # 4 × 10 px once shrunk
    gate.looked()
    assert gate.moved(scene(208, noise=noise, seed=2)) == pytest.approx(2 * 20 * ONE_PX, rel=0.2)  # where he was and where he is
    gate.looked()
    assert gate.moved(scene(noise=noise, seed=3)) == pytest.approx(40 * ONE_PX, rel=0.2)


def test_slow_movement_adds_up_until_somebody_looks() -> None:
    gate = looked_at(scene(200))
    walked = [gate.moved(scene(200 + step)) for step in (1, 2, 4, 8, 16)]
    assert walked == sorted(walked) and walked[-1] > walked[0]
    gate.looked()
    assert gate.moved(scene(216)) == 0


def test_the_same_frames_give_the_same_answers() -> None:
    frames = [scene(200 + 3 * k, noise=4, seed=k) for k in range(5)]
    first, second = looked_at(frames[0]), looked_at(frames[0])
    assert [first.moved(frame) for frame in frames] == [second.moved(frame) for frame in frames]


def test_the_frame_may_be_overwritten_after_the_look() -> None:
    frame = scene(200)
    gate = looked_at(frame)
    frame[:] = 0
    assert gate.moved(scene(200)) == 0
    assert gate.moved(frame) > 0.99


@pytest.mark.parametrize("hw", [(1, 1), (1, 5000), (5000, 1), (145, 193), (1080, 1920)])
def test_any_size(hw: tuple[int, int]) -> None:
    gate = looked_at(np.zeros((*hw, 3), np.uint8))
    assert gate.moved(np.full((*hw, 3), 255, np.uint8)) == 1
    assert gate.moved(np.zeros((*hw, 3), np.uint8)) == 0


@pytest.mark.parametrize("shape", [(576, 768), (768, 576, 3), (576, 768, 4)])
def test_a_frame_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one size"):
        Gate(HW).moved(np.zeros(shape, np.uint8))


def test_the_share_by_hand() -> None:
    before, now = np.zeros((2, 4), np.uint8), np.array([[0, 12, 13, 255], [0, 0, 0, 0]], np.uint8)
    assert changed(before, now, threshold=12) == changed(now, before, threshold=12) == 2 / 8
