"""What a request pays for the way beyond one machine, from rounds that were made up so that the answer is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lib import record
from lib.figures import filled
from lib.measured import Found, keep
from lib.pipelines.cost import beyond, beyond_views
from lib.pipelines.cost.beyond import FOREST, OURS, RAY, SLOW

HOW_MUCH = {(OURS, 1): (20.0, 0.3, 20_000.0), (RAY, 1): (5020.0, 4.3, 200.0), (RAY, 2): (6020.0, 5.3, 190.0)}


class Session:
    """A run as the views see it."""

    def __init__(self, run: record.Run) -> None:
        self.run, self.model = run, SimpleNamespace()

    def frame(self) -> pd.DataFrame:
        return self.run.frame()


def found(server: str, replicas: int, name: str, turn: int, *, wrong: str | None = None) -> Found:
    cpu_us, p50_ms, per_s = HOW_MUCH[server, replicas]
    slow_ms = 30.0 if name == SLOW else 0.0
    facts = {"closed_per_s": per_s if name == FOREST else 30.0 * replicas, "cpu_us": cpu_us + 10 * turn * (server == RAY), "p99_ms": None,
             "rate_per_s": 100, "p50_ms": p50_ms + slow_ms, "open_cpu_us": cpu_us, "idle_cores": 0.05 if name == FOREST else None,
             "memory_bytes": int(7e8 if server == RAY else 5e7), "ready_s": 9.0, "version": "2.60.0" if server == RAY else None,
             "binds": "0.0.0.0", "beyond_loopback": False}  # fmt: skip
    calls = pd.DataFrame({"latency_us": np.full(300, (p50_ms + slow_ms) * 1e3, np.int32), "status": np.full(300, 200, np.int16)})
    return Found({}, facts, {"7 answers": wrong}, {"calls": calls})


@pytest.fixture
def run(tmp_path: Path) -> record.Run:
    return record.begin("03_pipeline_cost", parameters={}, root=tmp_path, environment={"machine_id": "m", "stack_id": "s"})


def measured(run: record.Run, rounds: int, **more: Any) -> Session:
    for turn in range(rounds):
        for server, replicas in beyond.SERVERS:
            for name in (FOREST, SLOW):
                setting = beyond._setting(server, replicas, name, turn)
                keep(run, setting, lambda s=server, r=replicas, n=name, t=turn: found(s, r, n, t, **more), timed=False)  # type: ignore[misc]
    return Session(run)


def test_what_a_request_pays_with_its_interval_and_where_it_is_nothing_any_more(run: record.Run) -> None:
    told = beyond_views.overhead(measured(run, 3))  # type: ignore[arg-type]
    assert told["added_us"] == pytest.approx(5010) and told["added_us_lo"] < 5010 < told["added_us_hi"]
    assert told["added_ms"] == pytest.approx(4.0) and told["slow_added_ms"] == pytest.approx(4.0)
    assert told["slow_share"] == pytest.approx(4 / 30) and told["times"] == pytest.approx(5030 / 20)
    assert told["even_ms"] == pytest.approx(100.2) and told["even_latency_ms"] == pytest.approx(80)
    assert told["even_ms_lo"] < told["even_ms"] < told["even_ms_hi"]
    assert told["memory_times"] == pytest.approx(14) and told["rounds"] == 3 and told["version"] == "2.60.0"
    sentence = "{added_us:,.0f} µs ({added_us_lo:,.0f}–{added_us_hi:,.0f}), {times:.0f}×, below {share:.0%} from {even_ms:.0f} ms"
    assert "from 100 ms" in filled(sentence, **told)
    assert beyond_views.overhead(Session(run), replicas=2)["added_us"] == pytest.approx(6010)  # type: ignore[arg-type]


def test_a_second_replica(run: record.Run) -> None:
    told = beyond_views.scaling(measured(run, 3))  # type: ignore[arg-type]
    assert (told["one"], told["two"], told["times"], told["rounds"]) == (30, 60, 2, 3)


def test_one_round_has_no_interval(run: record.Run) -> None:
    told = beyond_views.overhead(measured(run, 1))  # type: ignore[arg-type]
    assert told["added_us"] == pytest.approx(5000) and told["added_us_lo"] is None and told["added_us_hi"] is None


def test_the_table_pools_calls_and_says_why_something_is_missing(run: record.Run) -> None:
    rows = beyond_views.table(measured(run, 3)).set_index(["server", "replicas", "task"])  # type: ignore[arg-type]
    assert len(rows) == 6 and tuple(rows.columns) == beyond_views.COLUMNS[3:]
    ray = rows.loc[(RAY, 1, FOREST)]
    assert ray["CPU, µs a request"] == pytest.approx(5030) and ray["p95, ms"] == ray["p99, ms"] == pytest.approx(4.3) and ray["rounds"] == 3
    assert not rows.loc[(OURS, 1, SLOW)]["beyond loopback"] and pd.isna(rows.loc[(OURS, 1, SLOW)]["idle, cores"])
    assert rows["why not"].isna().all()


def test_what_may_not_be_quoted_is_not(run: record.Run) -> None:
    s = measured(run, 2, wrong="3 of 50 answers are not the forest's")
    rows = beyond_views.table(s)  # type: ignore[arg-type]
    assert rows["CPU, µs a request"].isna().all() and rows["why not"].str.contains("not the forest's").all()
    assert beyond_views.overhead(s)["added_us"] is None and beyond_views.scaling(s)["times"] is None  # type: ignore[arg-type]


def test_an_empty_run_has_empty_views(run: record.Run) -> None:
    empty: Any = Session(run)
    assert beyond_views.table(empty).empty and beyond_views.overhead(empty)["rounds"] == 0
