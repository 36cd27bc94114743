"""Cells and the search for what they carry: options that the services know, rates that are found, a box that leaks."""

from __future__ import annotations

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.measured import Skipped
from lib.pipelines.cost import boxes, fraud_cell, limits, retail_cell
from lib.pipelines.cost.boxes import Spent, within
from lib.pipelines.cost.cells import DEFAULTS, FRAUD, LADDERS, RETAIL, Cell, search
from lib.pipelines.cost.plan import PLANS
from lib.pipelines.fraud import service as fraud
from lib.pipelines.retail import service as retail

ALL = (*FRAUD, *RETAIL, *DEFAULTS.values(), *(cell for rungs in LADDERS.values() for _, cell in rungs), *limits.EDGES)


@pytest.mark.parametrize("cell", dict.fromkeys(ALL), ids=lambda cell: f"{cell.service} on {cell.cpus:g}: {cell.name}")
def test_the_services_know_every_option_of_a_cell(cell: Cell) -> None:
    known = inspect.signature((fraud if cell.service == "fraud" else retail).main).parameters
    for word in cell.options:
        if word.startswith("--"):
            assert re.sub("^no_", "", word[2:].replace("-", "_")) in known
    if cell.service == "retail":
        assert (retail.Engine(cell.engine), retail.Precision(cell.precision)) in retail.FILES


def test_names_tell_cells_apart() -> None:
    assert len({(cell.service, cell.cpus, cell.name) for cell in ALL}) == len(set(ALL))


def test_the_default_and_the_ladder_are_measured() -> None:
    assert DEFAULTS["fraud"] in FRAUD
    assert DEFAULTS["retail"] in RETAIL
    assert set(PLANS) == {"smoke", "quick", "full"}


@given(st.floats(1, 1e5), st.floats(0.05, 20))
def test_a_search_finds_what_is_carried(capacity: float, off: float) -> None:
    tried: list[float] = []

    def carries(rate: float) -> bool:
        tried.append(rate)
        return rate <= capacity

    found = search(carries, capacity * off)
    assert len(tried) <= 14
    if found is None:
        assert min(tried) > capacity
    else:
        assert found <= capacity
        if off > 0.5:  # from far below it gives up on its way
            assert found >= capacity / 1.15 / 1.01
    assert found is None or found in tried


@pytest.mark.parametrize("guess", [0.0, -1.0, float("inf"), float("nan")])
def test_a_search_begins_at_a_rate(guess: float) -> None:
    with pytest.raises(ValueError, match="cannot begin"):
        search(lambda rate: True, guess)


@pytest.mark.parametrize(("edge", "expected"), [(1, 8), (8, 8), (9, 16), (100, 104), (1024, 1024), (1025, None)])
def test_the_smallest_memory_is_found_by_halves(edge: int, expected: int | None) -> None:
    tried: list[int] = []

    def survives(limit: int) -> bool:
        tried.append(limit)
        return limit >= edge

    assert limits.narrow(survives, step=8, first=1024) == expected
    assert len(tried) <= 8


def test_what_could_not_be_tried_has_no_edge() -> None:
    assert limits.narrow(lambda limit: None, step=8, first=1024) is None
    assert limits.narrow(lambda limit: True if limit == 1024 else None, step=8, first=1024) is None


def test_a_box_that_leaks_is_seen() -> None:
    assert within(Spent(2.0, 1.0, 20, 0, 0.0), 0.5) is None
    assert "leaks" in str(within(Spent(2.0, 2.0, 20, 0, 0.0), 0.5))
    assert within(Spent(2.0, 4.0, 20, 0, 0.0), None) is None


def test_frames_that_never_fell_due_are_missed() -> None:
    window = {"per_s": 40.0, "seconds": 2.0, "due": 80.0}
    assert retail_cell.books([window]) is None
    assert "should have fallen due" in str(retail_cell.books([{**window, "due": 40.0}]))


def test_the_client_has_a_processor_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fraud_cell.os, "sched_getaffinity", lambda _: {0, 1})
    assert fraud_cell.split(0.5) == ((0,), (1,))
    with pytest.raises(Skipped, match="this machine has 2"):
        fraud_cell.split(2.0)


def test_without_control_groups_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: object) -> None:
        raise boxes.Unboxed("control groups cannot be made here")

    monkeypatch.setattr(boxes, "boxed", refused)
    with pytest.raises(Skipped, match="control groups"), boxes.serving("fraud", (), cpus=1.0):
        pass
