"""Needs read from records: hand-made ones of two machines, and those that the repository stands behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lib import machine as computer
from lib import record
from lib.session import NothingRecorded
from lib.verdict import headlines, needs, speaking, standing
from lib.verdict.contest import ALONE, NOTHING, WINS
from lib.verdict.speaking import Speaking
from tests import executed

RECORDED = Speaking()


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for recorded runs, and one beside it for this clone's own."""
    monkeypatch.setattr(speaking, "REFERENCE", tmp_path / "reference")
    monkeypatch.setattr(speaking, "RUNS", tmp_path / "runs")
    return tmp_path


def latency_run(root: Path, machine: str, engines: dict[str, float], **parameters: Any) -> record.Run:
    """Two rounds of two requests after one of warm-up; first tokens after so many seconds, a tenth more in the second round."""
    environment = {**computer.here().environment(), "machine_id": machine, "gpus": []}
    run = record.begin(needs.LATENCY, parameters={"profile": "quick", **parameters}, environment=environment, root=root)
    for engine, ttft_s in engines.items():
        who = {"engine": engine, "precision": "16-bit"}
        run.add(record.Point({"what": "start", **who}, "ok", samples={"ready_s": [ttft_s * 10]},
                             facts={"bits_per_weight": 16.0, "weights_bytes": 1e6}, audit={"x": None}))  # fmt: skip
        for turn in range(2):
            samples = {"ttft_s": [9.0, ttft_s * (1 + turn / 10), ttft_s * (1 + turn / 10)], "tpot_s": [9.0, 0.01, 0.01],
                       "output_tokens": [16] * 3}  # fmt: skip
            facts = {"warmup": 1, "stored": "bf16", "weights_bytes": 1e6, "host": {"tree_rss_max_bytes": 1e8}}
            run.add(record.Point({"what": "cell", **who, "prompt_tokens": 32, "round": turn}, "ok", samples=samples, facts=facts))
    run.add(record.Point({"what": "start", "engine": "TensorRT-LLM", "precision": "16-bit"}, "skipped", "needs an NVIDIA GPU"))
    return run


def test_nothing_recorded_is_no_machine_and_a_row_for_every_part(shelf: Path) -> None:
    assert needs.settled(RECORDED) == {} and needs.environments(RECORDED) == {}
    told = headlines.headlines(RECORDED)
    assert [one.notebook for one in told] == [part[0] for part in headlines.PARTS]
    assert all(one.run is None and "no recorded run" in one.text for one in told)
    assert standing.standing([]).empty and "Nothing" in standing.backed(standing.standing([]))
    with pytest.raises(NothingRecorded):
        RECORDED.newest(needs.LATENCY)


def test_each_machine_is_settled_by_itself(shelf: Path) -> None:
    latency_run(shelf / "reference", "one", {"vLLM": 0.1, "llama.cpp": 0.2})
    latency_run(shelf / "reference", "two", {"llama.cpp": 0.01})
    found = needs.settled(RECORDED)
    assert set(found) == {"one", "two"}
    first, alone = ({one.contest.key: one for one in found[machine]} for machine in ("one", "two"))
    assert (first["first-32"].word, first["first-32"].first, first["first-32"].n) == (WINS, "vLLM", 2)
    assert first["first-32"].margin == pytest.approx(2)
    assert first["first-32"].value == pytest.approx(100 * 1.1**0.5)  # ms, warm-up left out
    assert (alone["first-32"].word, alone["first-32"].first) == (ALONE, "llama.cpp")
    assert all(one.contest.evidence.get(needs.LATENCY, "").startswith("20") for one in (first["first-32"], alone["start"]))


def test_a_notebook_that_no_run_speaks_of_is_a_contest_without_contenders(shelf: Path) -> None:
    latency_run(shelf / "reference", "one", {"vLLM": 0.1})
    missing = {one.contest.key: one for one in needs.settled(RECORDED)["one"]}[needs.LOAD]
    assert missing.word == NOTHING
    assert missing.reason == "no run of 11_llm_throughput on this machine"


def test_engines_that_did_not_run_are_named_with_their_reason(shelf: Path) -> None:
    latency_run(shelf / "reference", "one", {"vLLM": 0.1, "llama.cpp": 0.2})
    assert all(one.contest.absent == {"TensorRT-LLM": "needs an NVIDIA GPU"} for one in needs.settled(RECORDED)["one"]
               if one.word != NOTHING)  # fmt: skip


def test_own_runs_speak_only_when_asked_and_only_of_that_profile(shelf: Path) -> None:
    latency_run(shelf / "runs", "mine", {"vLLM": 0.1})
    latency_run(shelf / "runs", "mine", {"vLLM": 0.7}, profile="smoke")
    assert RECORDED.runs(needs.LATENCY) == []
    assert [run.parameters["profile"] for run in Speaking("quick", "auto").runs(needs.LATENCY)] == ["quick"]
    with pytest.raises(ValueError, match="unknown mode"):
        Speaking("quick", "dream")


def test_the_newest_run_of_a_machine_speaks_and_an_empty_one_never(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(f"2026-11-2{day}T10:00:00Z" for day in range(1, 10) for _ in range(20))
    old = latency_run(shelf / "reference", "one", {"vLLM": 0.1})
    monkeypatch.setattr(record, "_now", lambda: next(moments).replace("2026", "2027"))
    new = latency_run(shelf / "reference", "one", {"vLLM": 0.2}, model="x")
    monkeypatch.setattr(record, "_now", lambda: "2028-01-01T00:00:00Z")
    record.begin(needs.LATENCY, parameters={"profile": "full"}, environment=dict(new.environment), root=shelf / "reference")
    assert old.run_id != new.run_id
    assert [run.run_id for run in RECORDED.runs(needs.LATENCY)] == [new.run_id]


def test_what_is_recorded_is_settled_need_by_need() -> None:
    found = needs.settled(RECORDED)
    assert found
    for machine, mine in found.items():
        assert {one.contest.machine_id for one in mine} == {machine}
        for one in mine:
            assert one.word == NOTHING or (one.contest.evidence and one.first in one.contest.samples)
            assert one.word != WINS or one.lo is None or (one.lo > 1 and one.margin is not None and one.margin >= one.lo)
            assert all(value > 0 for values in one.contest.samples.values() for value in values.values())


def test_a_point_counts_once_however_often_its_run_is_named(shelf: Path) -> None:
    run = latency_run(shelf / "reference", "one", {"vLLM": 0.1})
    table = standing.standing([run, run])
    assert table["points"].tolist() == [4]  # a start, two cells, one that was skipped
    assert table["ok"].tolist() == [75] and table["checks"].tolist() == [1]
    assert standing.backed(table) == "1 checks stand behind 4 recorded points; 75% of them may be quoted"


@pytest.mark.parametrize("engines", [{}, {"llama.cpp": 0.1}], ids=["nothing recorded", "one engine"])
def test_the_notebook_ends_well_whatever_is_recorded(engines: dict[str, float], shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if engines:
        latency_run(shelf / "reference", "one", engines)
    said = "\n".join(executed.said("90_verdict", shelf, monkeypatch))
    if engines:
        assert "Only llama.cpp was measured for the earliest first token after 32 tokens" in said
        assert "Of TensorRT-LLM nothing can be said: needs an NVIDIA GPU." in said
    else:
        assert "TL;DR: No run of a language model's engine is recorded" in said
