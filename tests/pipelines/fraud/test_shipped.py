"""The shipped pipeline answers from its own environment, its forest says the same elsewhere, and no other pickle is ever loaded."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from lib import fetch, install
from lib.measured import Skipped
from lib.pipelines.fraud import data, shipped, shipped_worker
from lib.pipelines.fraud.shipped import AMOUNT, COLUMNS, Worker
from lib.process import Died

TWO: dict[str, NDArray[Any]] = {  # amount ≤ 0.1 or not; always 0.5
    "tree": np.array([0, 0, 0, 1]), "node": np.array([0, 1, 2, 0]), "feature": np.array([AMOUNT, -2, -2, -2]),
    "threshold": np.array([0.1, -2, -2, -2]), "left": np.array([1, -1, -1, -1]), "right": np.array([2, -1, -1, -1]),
    "value": np.array([0.6, 0.0, 1.0, 0.5]), "amount": np.array([100.0, 50.0]), "names": np.array(COLUMNS)}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    if not fetch.sources()[data.SOURCE].path.exists():
        pytest.skip("the package is not fetched on this machine yet")
    if isinstance(found := install.find("shipped"), install.Missing):
        pytest.skip(found.reason)
    with shipped.worker() as running:
        yield running


@pytest.fixture
def some(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker that runs already, and a ledger of 3,000 transactions."""
    part = data.ledger()[:3_000]
    monkeypatch.setattr(data, "ledger", lambda: part)
    monkeypatch.setattr(shipped, "worker", lambda: contextlib.nullcontext(worker))


def test_the_graph_averages_its_trees_over_a_standardised_amount() -> None:
    rows = np.zeros((3, len(COLUMNS)))
    rows[:, AMOUNT] = [0, 105, 105.01]  # standardised: −2, 0.1 (whose float32 is above 0.1), more
    assert shipped.Onnx(TWO).score(rows).tolist() == [0.25, 0.75, 0.75]


def test_a_forest_on_other_columns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"takes V8, V14, .*; expected were V14, V8"):
        shipped.onnx_forest({**TWO, "names": np.array(["V8", "V14", *COLUMNS[2:]])})


def test_values_are_in_the_order_of_the_columns() -> None:
    made = data.Ledger(np.array([7]), np.array([1_250]), np.arange(1.0, 29).reshape(1, 28), np.array([False]))
    assert dict(zip(COLUMNS, shipped.values(made)[0].tolist(), strict=True)) == {
        name: 12.5 if name == "Amount" else float(name[1:]) for name in COLUMNS}


def test_another_package_than_the_pinned_one_is_not_loaded(tmp_path: Path) -> None:
    """Its pickle would leave a file behind."""
    with zipfile.ZipFile(tmp_path / "evil.whl", "w") as archive:
        archive.writestr(shipped_worker.PICKLE, b"cbuiltins\nexec\n(Vopen('loaded', 'w')\ntR.")
    command = [sys.executable, "-I", str(shipped.WORKER), str(tmp_path / "evil.whl"), "0" * 64, str(tmp_path), str(tmp_path / "socket")]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "evil.whl is not the package that was pinned" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.whl"]


def test_times_are_of_different_rows_and_as_many_as_asked() -> None:
    seen: list[tuple[int, float]] = []
    rows = np.arange(100.0).reshape(-1, 1)

    def score(part: NDArray[np.float64]) -> None:
        seen.append((len(part), float(part[0, 0])))

    told = shipped_worker.timed(score, rows, singles=50, cold=3, batch_rows=40, budget_s=0)
    assert (len(told["warm"]), len(told["cold"]), len(told["batch_s"])) == (50, 3, 3)
    assert all(ns > 0 for ns in (*told["warm"], *told["cold"]))
    singles, batches = [first for n, first in seen if n == 1], [first for n, first in seen if n == 40]
    assert singles == [*range(shipped_worker.WARMUP), *range(50), *range(3)]
    assert len(set(batches)) == 3


def test_without_its_environment_or_its_package_it_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str) -> Path:
        raise fetch.Refused("no room for the package")

    monkeypatch.setattr(install, "find", lambda name: install.Install(name, "cpu", "1", Path()))
    monkeypatch.setattr(fetch, "fetch", refused)
    with pytest.raises(Skipped, match="no room for the package"):
        shipped.scenario("Offline", seconds=1)
    monkeypatch.setattr(install, "find", lambda name: install.Missing(name, "not built here"))
    for name in shipped.STEPS:
        with pytest.raises(Skipped, match="not built here"):
            shipped.measured(name, rows=1, budget_s=0)


def test_the_forest_says_the_same_with_and_without_pandas_and_in_onnx(worker: Worker) -> None:
    whole = data.ledger()
    rows = shipped.values(whole)[np.concatenate([np.flatnonzero(whole.fraud), np.arange(1_500)])]
    told = worker.score(rows)
    assert told.shape == (1_992,)
    assert np.mean(told[:492] > 0.5) > 0.8  # it knows frauds
    assert np.mean(told[492:] > 0.5) < 0.05
    assert np.array_equal(worker.score(rows, way="numpy"), told)
    np.testing.assert_allclose(shipped.Onnx(worker.forest()).score(rows), told, rtol=0, atol=1e-7)


@pytest.mark.usefixtures("some")
@pytest.mark.parametrize("name", shipped.STEPS)
def test_a_step_brings_times_and_what_it_changes(name: str) -> None:
    found = shipped.measured(name, rows=25, budget_s=0)
    assert found.series is not None
    assert [len(found.series[kept]) for kept in ("warm", "cold")] == [25, 25]
    assert all((frame["ns"] > 0).all() for frame in found.series.values())
    assert len(found.samples["batch_s"]) >= 3
    assert found.facts["batch_rows"] == 1024
    assert found.facts["changed"] == shipped.CHANGED[name]
    json.dumps(dict(found.facts))
    if name == shipped.STEPS[2]:
        assert found.facts["parity"]["rows"] == 3_000
        assert found.facts["parity"]["flips"] == 0
        assert found.checks == {"6 parity": None}


@pytest.mark.usefixtures("some")
def test_classes_that_flip_break_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped.Onnx, "score", lambda self, rows: np.ones(len(rows)))
    found = shipped.measured(shipped.STEPS[2], rows=5, budget_s=0)
    assert "classed otherwise" in str(found.checks["6 parity"])


def test_a_process_that_ends_says_its_last_words_and_leaves_nothing(worker: Worker) -> None:
    with shipped.worker() as broken:
        with pytest.raises(Died, match=r"has ended: .*KeyError: 'no such way'"):
            broken.score(np.zeros((1, 11)), way="no such way")  # type: ignore[arg-type]
        scratch = broken.log.parent
    assert not scratch.exists()
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(scratch) in " ".join(one.info["cmdline"] or [])]
