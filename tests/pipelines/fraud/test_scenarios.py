"""LoadGen over scorers of known speed: what it counts is what they did, and what they raise comes out."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from lib.pipelines.fraud import scenarios

pytest.importorskip("mlperf_loadgen")
ROWS = np.arange(500 * 35, dtype=np.float32).reshape(500, 35)
SLEEP_S = 0.002


class Sleeper:
    """Takes 2 ms a call, and remembers how many rows each call had and which ones."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.seen: set[float] = set()

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        assert rows.dtype == np.float32 and rows.shape[1] == 35
        self.sizes.append(len(rows))
        self.seen |= set(rows[:, 0].tolist())
        time.sleep(SLEEP_S)
        return np.zeros(len(rows))


def test_a_single_stream_waits_for_each_answer() -> None:
    score = Sleeper()
    found = scenarios.measured("SingleStream", score, ROWS, seconds=0.5)
    latency_s = found.series["queries"]["latency_ns"] / 1e9  # type: ignore[index]
    assert found.facts["valid"] and found.facts["n"] == len(latency_s) <= 0.8 / SLEEP_S
    assert (latency_s >= SLEEP_S).all() and found.facts["p90_s"] >= SLEEP_S
    assert found.facts["p90_s"] == pytest.approx(float(np.quantile(latency_s, 0.9)), rel=0.2)
    assert len(score.seen) > 20  # many different rows
    assert found.facts["scored_per_s"] <= 1 / SLEEP_S and found.facts["submission"] is False


def test_a_server_counts_from_the_schedule() -> None:
    found = scenarios.measured("Server", Sleeper(), ROWS, seconds=0.5, target_per_s=2 / SLEEP_S)  # twice what it can do
    latency_ms = found.series["queries"]["latency_ns"].to_numpy() / 1e6  # type: ignore[index]
    assert not found.facts["valid"] and "Performance constraints" in found.facts["unmet"]
    assert len(latency_ms) == found.facts["n"] > 300
    assert latency_ms[-50:].mean() > 200 and latency_ms[:10].mean() < 100  # the queue grows, which from issued to done is not seen


def test_a_server_at_low_load_is_valid() -> None:
    found = scenarios.measured("Server", lambda rows: np.zeros(len(rows)), ROWS, seconds=1.0, target_per_s=2000)
    assert found.facts["target_per_s"] == 2000 and 1500 < found.facts["n"] < 2500 and found.facts["per_s"] > 1000
    assert found.facts["issue_delay_s"] >= 0


def test_offline_scores_in_chunks() -> None:
    sizes: list[int] = []

    def score(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        sizes.append(len(rows))
        time.sleep(2e-5 * len(rows))
        return np.zeros(len(rows))

    found = scenarios.measured("Offline", score, np.tile(ROWS, (20, 1)), seconds=0.3)
    chunks = -(-int(found.facts["n"]) // scenarios.CHUNK)
    assert found.facts["valid"] and found.facts["n"] >= 0.3 * found.facts["per_s"]
    assert len(found.series["queries"]) == chunks and sum(sizes[-chunks:]) == found.facts["n"]  # type: ignore[index]
    assert found.facts["per_s"] <= found.facts["scored_per_s"] <= 1 / 2e-5


@pytest.mark.parametrize("scenario", scenarios.SCENARIOS)
def test_what_the_scorer_raises_comes_out(scenario: str) -> None:
    calls = 0

    def fails(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        nonlocal calls
        calls += 1
        if not np.isfinite(rows).all():
            raise ArithmeticError("a row is not finite")
        time.sleep(0.0001)
        return np.zeros(len(rows))

    rows = ROWS[:300].copy()
    rows[290:] = np.nan  # beyond what is probed before LoadGen starts
    with pytest.raises(ArithmeticError, match="not finite"):
        scenarios.measured(scenario, fails, rows, seconds=0.3, target_per_s=1000)


def test_too_few_margins_are_an_error() -> None:
    with pytest.raises(ValueError, match="0 margins for 1 rows"):
        scenarios.measured("SingleStream", lambda rows: np.zeros(0), ROWS, seconds=0.1)


@pytest.mark.parametrize(("scenario", "seconds", "n"), [("MultiStream", 1, 5), ("Server", 0, 5), ("Server", 1, 0)])
def test_nonsense_is_refused(scenario: str, seconds: float, n: int) -> None:
    with pytest.raises(ValueError, match="scenarios are SingleStream"):
        scenarios.measured(scenario, Sleeper(), ROWS[:n], seconds=seconds)
