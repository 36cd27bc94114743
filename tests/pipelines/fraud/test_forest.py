"""Every engine scores the same trees: one row, many, and rows that lie on the thresholds. What is not the engine asked for is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from lib.pipelines.fraud import forest, parity
from lib.pipelines.fraud.forest import Compiled, Native, NativeFast, OneDal, Onnx, Scorer, Tl2cgen, WrongDevice
from lib.pipelines.fraud.model import Model, NotReady

FLOAT32 = 2e-5  # what leaves summed in float32 are good to, in log-odds
ENGINES = [(NativeFast, 0.0), (Onnx, FLOAT32), (Tl2cgen, 0.0), (OneDal, FLOAT32), (Compiled, 1e-12)]
engines = pytest.mark.parametrize(("make", "within"), ENGINES, ids=[make.__name__ for make, _ in ENGINES])


@engines
@pytest.mark.parametrize("n", [1, 2, 600])
def test_margins_are_the_native_ones(grown: Model, make: Callable[[Model], Scorer], within: float, n: int) -> None:
    rows = np.ascontiguousarray(grown.rows()[-n:])
    found, native = make(grown).margins(rows), Native(grown).margins(rows)
    assert found.shape == native.shape == (n,)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, native, rtol=0, atol=within)
    assert n < 600 or native.std() > 0.5


@engines
def test_a_value_on_a_threshold_takes_the_native_branch(grown: Model, make: Callable[[Model], Scorer], within: float) -> None:
    rows = parity.near_thresholds(grown, np.random.default_rng(1), 500)
    np.testing.assert_allclose(make(grown).margins(rows), Native(grown).margins(rows), rtol=0, atol=within)


@engines
def test_the_real_forest_on_its_thresholds(built: Model, make: Callable[[Model], Scorer], within: float) -> None:
    told = parity.compared(built, parity.near_thresholds(built, np.random.default_rng(2)), Native(built), make(built))
    assert told["max_margin_difference"] <= within
    assert told["flips"] == 0


@pytest.mark.parametrize("make", [Native, Onnx, OneDal, Tl2cgen])
def test_more_threads_say_the_same(grown: Model, make: Callable[..., Scorer]) -> None:
    rows = np.ascontiguousarray(grown.rows())
    one = make(grown, threads=1).margins(rows).copy()
    np.testing.assert_allclose(make(grown, threads=2).margins(rows), one, rtol=0, atol=FLOAT32)


def test_compiled_takes_more_rows_than_its_buffers_hold_and_keeps_no_memory_of_them(grown: Model) -> None:
    scorer, rows = Compiled(grown, capacity=7), np.ascontiguousarray(grown.rows()[:30])
    np.testing.assert_allclose(scorer.margins(rows), Native(grown).margins(rows), rtol=0, atol=1e-12)
    first = scorer.margins(rows[:1])
    kept = first.copy()
    scorer.margins(rows[1:2])
    assert not np.array_equal(first, kept)  # as documented: the next call overwrites it
    assert np.array_equal(scorer.margins(rows[:1]), kept)


def test_onnx_on_a_device_that_is_not_there_is_refused(grown: Model) -> None:
    import onnxruntime

    with pytest.raises(WrongDevice, match=r"has no NoSuchExecutionProvider here; it has .*CPUExecutionProvider"):
        Onnx(grown, provider="NoSuchExecutionProvider")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime is not built for CUDA")
    with pytest.raises(WrongDevice, match="CUDAExecutionProvider"):  # it has no tree kernels, on a GPU as well
        Onnx(grown, provider="CUDAExecutionProvider")


@pytest.mark.parametrize(("make", "file"), [(Compiled, "forest.so"), (Tl2cgen, "tl2cgen.so")])
def test_what_could_not_be_built_says_why(grown: Model, make: Callable[[Model], Scorer], file: str) -> None:
    with pytest.raises(NotReady, match="no compiler"):
        make(replace(grown, missing={file: "no compiler"}))


def test_every_engine_is_tested_and_has_a_name_of_its_own() -> None:
    ours = [one for one in vars(forest).values() if isinstance(one, type) and one.__module__ == forest.__name__]
    classes = [one for one in ours if "margins" in vars(one)]
    assert set(classes) == {Scorer, Native, *(make for make, _ in ENGINES)}
    assert len({one.name for one in classes if one is not Scorer}) == len(classes) - 1
