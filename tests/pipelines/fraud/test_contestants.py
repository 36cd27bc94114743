"""The bake-off with a forest of one line of C: ours is measured, wrong answers are seen, what is not installed says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lib import install
from lib.measured import Skipped
from lib.pipelines.caller import Calls
from lib.pipelines.fraud import contestants
from lib.pipelines.fraud.servers import task
from tests.pipelines.fraud.linear import BODIES, compiled


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("forest"))


def margin(body: bytes) -> float:
    """By hand: float32 features in the wire's order, then what the forest above does."""
    asked = json.loads(body)
    row = np.zeros(35, np.float32)
    row[:28], row[28], row[29] = asked["v"], asked["amount"], asked["time"] % 86_400
    return float((np.arange(1, 36) * row.astype(np.float64)).sum()) / 1e5


def test_the_task_is_the_forests_answer_one_by_one_and_in_rows(library: Path) -> None:
    forest = task.Forest(str(library))
    told = [json.loads(forest.answer(body)) for body in BODIES]
    wanted = [1 / (1 + np.exp(-margin(body))) for body in BODIES]
    assert [one["id"] for one in told] == [f"tx-{i}" for i in range(40)]
    assert [one["probability"] for one in told] == pytest.approx(wanted, abs=1e-12)
    asked = [json.loads(body) for body in BODIES]
    rows = np.array([[*one["v"], one["amount"], one["time"]] for one in asked])
    assert forest.probabilities(rows).tolist() == [one["probability"] for one in told]


def check(name: str, library: Path, logs: Path) -> None:
    found = contestants.bake(name, library, seconds=0.4, logs=logs, server=None, client=None, bodies=BODIES, rate_per_s=200)
    facts = found.facts
    assert not any(found.checks.values()), found.checks
    assert facts["closed_per_s"] > 50 and facts["cpu_us"] != 0 and facts["memory_bytes"] > 1e6 and facts["p50_ms"] > 0
    assert facts["beyond_loopback"] is False and facts["idle_cores"] < 1
    assert len(found.series["calls"]) == 80  # type: ignore[index, arg-type]


def test_ours_is_measured(library: Path, tmp_path: Path) -> None:
    check("ours", library, tmp_path)


@pytest.mark.engine
@pytest.mark.parametrize("name", [name for name in contestants.NAMES if name != "ours"])
def test_each_contestant_answers_as_the_forest_does(name: str, library: Path, tmp_path: Path) -> None:
    if isinstance(missing := install.find(str(contestants.CONTESTANTS[name].environment)), install.Missing):
        pytest.skip(missing.reason)
    check(name, library, tmp_path)


def test_a_contestant_without_its_environment_is_skipped(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "find", lambda name: install.Missing(name, f"{name} is not built"))
    with pytest.raises(Skipped, match="pytriton is not built"):
        contestants.bake("Triton", library, seconds=1, logs=tmp_path, server=None, client=None, bodies=BODIES)


@pytest.mark.parametrize("planted", ["probability", "id", None])
def test_an_answer_that_is_not_the_forests_is_seen(library: Path, planted: str | None) -> None:
    forest = task.Forest(str(library))
    answers = [json.loads(forest.answer(body)) for body in BODIES]
    if planted == "probability":
        answers[7]["probability"] += 1e-6
    if planted == "id":
        answers[7]["id"] = answers[8]["id"]
    n = len(BODIES)
    calls = Calls(np.zeros(n, np.int64), np.zeros(n, np.int64), np.ones(n, np.int64), np.full(n, 200, np.int16), np.zeros(n, np.bool_),
                  [json.dumps(one).encode() for one in answers], 0.0, 1.0, 1)
    assert contestants._wrong(calls, BODIES, library) == (f"1 of {n} answers are not the forest's" if planted else None)


def test_cpu_that_the_kernel_hardly_counts_is_unknown() -> None:
    assert contestants._each_us(0.5, 1000) == pytest.approx(500)
    assert contestants._each_us(0.04, 1000) is None


@pytest.mark.parametrize(("ip", "wanted"), [
    ("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("0.0.0.0", False), ("::", False), ("192.0.2.2", False),
    ("::ffff:192.0.2.2", False),
])  # fmt: skip
def test_what_is_loopback(ip: str, wanted: bool) -> None:
    assert contestants._loopback(ip) is wanted


def test_triton_is_asked_in_its_own_words() -> None:
    tensor = json.loads(contestants._tensors(BODIES[3]))["inputs"][0]
    assert tensor["shape"] == [1, len(tensor["data"])] == [1, 30] and tensor["data"][28:] == [0.03, 100_003]
