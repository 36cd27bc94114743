"""Batches grow until a pass is too long or memory ends; what was not tried says why, and what was measured before stays."""

from __future__ import annotations

import json
import mmap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from lib.profiling import sweeper

ASKED = {"batches": [1, 2, 4, 8], "hw": [8, 8], "budget_s": 0.01, "rounds": 2, "limit_s": 1.0}


def engine(seconds: float, *, most: int = 99) -> sweeper.Load:
    def load(batch: int) -> Callable[[Any], Any]:
        def infer(x: Any) -> None:
            assert x.shape == (batch, 3, 8, 8) and x.dtype == np.float32
            if batch > most:
                raise MemoryError(f"{batch} pictures do not fit\nand a long story")
            time.sleep(seconds * batch)

        return infer

    return load


def test_every_size_is_timed_in_rounds() -> None:
    rows = sweeper.swept(ASKED, engine(0.002))
    assert [row["batch"] for row in rows] == [1, 2, 4, 8] and all(len(row["ns"]) == 2 for row in rows)
    assert all(len(taken) >= 1 and min(taken) >= 2e6 * row["batch"] for row in rows for taken in row["ns"])
    assert all(row["peak_bytes"] > 1e6 for row in rows)


def test_sizes_take_turns_forth_and_back() -> None:
    seen: list[int] = []

    def load(batch: int) -> Callable[[Any], Any]:
        return lambda x: seen.append(batch)

    rows = sweeper.swept({**ASKED, "batches": [1, 2, 4], "budget_s": 1e-9}, load)
    assert seen[6:] == [1, 1, 2, 2, 4, 4, 4, 4, 2, 2, 1, 1], "each size twice when it is tried, then two turns, a pass before each"
    assert [len(row["ns"]) for row in rows] == [2, 2, 2]


def test_what_would_take_too_long_is_not_tried() -> None:
    rows = sweeper.swept({**ASKED, "limit_s": 0.1}, engine(0.03))
    assert ["ns" in row for row in rows] == [True, True, False, False]
    assert rows[2]["lacks"].startswith("a pass would take 0.") and rows[2]["lacks"].endswith("0.1 s are the limit")


def test_what_does_not_fit_is_a_row_and_ends_it() -> None:
    rows = sweeper.swept(ASKED, engine(0.001, most=2))
    assert [row["batch"] for row in rows] == [1, 2, 4]
    assert rows[2] == {"batch": 4, "lacks": "MemoryError: 4 pictures do not fit"}


def test_a_real_network_in_a_file(tmp_path: Path) -> None:
    asked = {**ASKED, "engine": "PyTorch", "network": "resnet18", "threads": 1, "batches": [1, 2], "hw": [64, 64], "precision": "f32",
             "file": ""}  # fmt: skip
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    sweeper.main(str(tmp_path / "asked.json"), str(tmp_path / "answer.json"))
    rows = json.loads((tmp_path / "answer.json").read_text())
    assert [row["batch"] for row in rows] == [1, 2] and rows[1]["peak_bytes"] >= 11_000_000 * 4


@settings(max_examples=10, deadline=None)  # each has the rests between turns, and their collections of garbage
@given(st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True))
def test_rows_are_in_the_order_that_was_asked(batches: list[int]) -> None:
    def load(batch: int) -> Callable[[Any], Any]:
        return lambda x: None

    asked = {**ASKED, "batches": batches, "budget_s": 1e-6}
    assert [row["batch"] for row in sweeper.swept(asked, load)] == batches


def test_the_kernel_s_count_is_begun_anew() -> None:
    host = sweeper.Host()
    host.forget()  # what other tests of this process held at their most
    block = mmap.mmap(-1, 40_000_000)  # the system's, for an allocator might give what it kept of other tests
    np.frombuffer(block, np.uint8)[:] = 1
    high = host.peak()
    block.close()
    host.forget()
    assert high - host.peak() == approx(40_000_000, rel=0.5)
