"""35 numbers in their places; and the windows say what a plain definition of them says, over the whole stream."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lib import fetch
from lib.pipelines.fraud import data, features
from lib.pipelines.fraud.model import Model


def made(seconds: list[int], cents: list[int]) -> data.Ledger:
    n = len(seconds)
    return data.Ledger(np.array(seconds), np.array(cents), np.arange(n * 28.0).reshape(n, 28), np.zeros(n, np.bool_))


def window(second: NDArray[np.int64], cents: NDArray[np.int64], width_s: int) -> NDArray[np.float64]:
    """(n, 2): count and mean of those before each in its last 60 buckets of `width_s`, for a stream in order."""
    bucket, before = second // width_s, np.concatenate([[0], np.cumsum(cents)])
    here = np.arange(len(second))
    first = np.searchsorted(bucket, bucket - 59)
    n, total = here - first, before[here] - before[first]
    return np.column_stack([n, np.divide(total, n, out=np.zeros(len(n)), where=n > 0) / 100])


def test_every_feature_is_in_its_place() -> None:
    rows = features.matrix(made([86_400 + 30, 86_400 + 31], [500, 2_000]), [(1, 2.0, 3, 0.0), (4, 5.0, 6, 8.0)])
    assert rows.shape == (2, 35) == (2, len(features.NAMES))
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    assert rows[1, :28].tolist() == list(range(28, 56))
    assert dict(zip(features.NAMES[28:], rows[1, 28:].tolist(), strict=True)) == {
        "amount": 20, "second_of_day": 31, "n_60s": 4, "mean_60s": 5, "n_3600s": 6, "mean_3600s": 8, "amount_over_mean": 2.5}
    assert rows[0, -1] == 0  # there is no mean


def test_history_by_hand() -> None:
    seconds, cents = [0, 0, 59, 60, 3_599, 3_600], [100, 300, 200, 400, 1_000, 5]
    assert [tuple(one) for one in features.history(made(seconds, cents))] == [
        (0, 0.0, 0, 0.0), (1, 1.0, 1, 1.0), (2, 2.0, 2, 2.0),  # 0 is just inside
        (1, 2.0, 3, 2.0),  # 1 … 60: both of second 0 are gone
        (0, 0.0, 4, 2.5), (1, 10.0, 2, 7.0)]  # minutes 1 … 60: those of minute 0 are gone


def test_rows_that_are_not_contiguous_come_out_so() -> None:
    stream = made([1, 2, 3, 4], [1, 2, 3, 4])[::2]
    assert features.matrix(stream, features.history(stream)).strides == (140, 4)


def test_windows_agree_with_their_definition_over_the_whole_ledger(built: Model) -> None:
    if not fetch.sources()[data.SOURCE].path.exists():
        pytest.skip("the ledger is not fetched on this machine yet")
    whole = data.ledger()
    plain = np.column_stack([window(whole.second, whole.cents, 1), window(whole.second, whole.cents, 60)])
    assert np.array_equal(features.matrix(whole, plain), built.rows())
