"""The batch that is looked at: which detector takes it, what lies on the canvas, and that its heads are one's own."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lib.pipelines.retail.camera import Frame
from lib.pipelines.retail.looker import Looker
from tests.pipelines.retail.null import Detector, Eye, frame


class Counting(Detector):
    """Puts the number of the call into its one buffer of heads."""

    def infer(self, x: NDArray[Any]) -> NDArray[np.float32]:
        heads = super().infer(x)
        heads[:] = len(self.sizes)
        return heads


class Watch:
    def __init__(self, eye: Eye | None = None) -> None:
        self.eye, self.errors = eye or Eye(), list[Exception]()

    def failed(self, error: Exception) -> None:
        self.errors.append(error)


def taken(*shades: int, eye: Eye | None = None) -> list[Any]:
    return [(Watch(eye), Frame(frame(shade), 0, 0, 0.0, 0.0, 0.0)) for shade in shades]


def test_heads_stay_what_they_were() -> None:
    looker = Looker([Counting(warm=False)], now=perf_counter)
    first, second = looker.look(taken(1)), looker.look(taken(2))
    picture = looker.look_at(lambda out: None)
    values = [head[0, 0] for batch in (first, second) for _, _, head in batch.frames if head is not None]
    assert [*values, picture[0, 0]] == [1, 2, 3]


@pytest.mark.parametrize(("waiting", "room"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 4), (7, 4), (9, 4)])
def test_no_batch_is_larger_than_what_waits(waiting: int, room: int) -> None:
    assert Looker([Detector(4), Detector(1), Detector(2)], now=perf_counter).room(waiting) == room


@pytest.mark.parametrize(("n", "size"), [(1, 1), (2, 2), (3, 4), (4, 4)])
def test_the_smallest_detector_that_holds_them_looks(n: int, size: int) -> None:
    detectors = [Detector(size, warm=False) for size in (1, 2, 4)]
    batch = Looker(detectors, now=perf_counter).look(taken(*range(10, 10 + n)))
    assert [detector.sizes for detector in detectors if detector.sizes] == [[size]]
    looked = next(detector.inputs[0] for detector in detectors if detector.inputs)
    assert looked[:n, 0, 0, 0].tolist() == list(range(10, 10 + n))
    assert (batch.size, len(batch.frames)) == (n, n)
    assert batch.taken_s <= batch.fitted_s <= batch.inferred_s


def test_those_that_rest_take_no_place() -> None:
    detector = Detector(2, warm=False)
    still, moving = taken(1, eye=Eye(still=True)), taken(2)
    batch = Looker([detector], now=perf_counter).look(still + moving)
    assert detector.inputs[0][0, 0, 0, 0] == 2
    assert batch.size == 1
    assert {watch: head is None for watch, _, head in batch.frames} == {still[0][0]: True, moving[0][0]: False}


def test_a_detector_that_fails_fails_those_it_was_given() -> None:
    still, moving = taken(1, eye=Eye(still=True)), taken(2)
    batch = Looker([Detector(2, fails=1, warm=False)], now=perf_counter).look(still + moving)
    assert str(batch.error) == "the detector tripped"
    assert [watch for watch, _, _ in batch.frames] == [still[0][0]]
    assert (still[0][0].errors, len(moving[0][0].errors)) == ([], 1)
