"""The conductor on the null server: points a cell, rows with reasons, reruns that measure only what is missing, an audit that bites."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from lib import machine, record
from lib.llm import bench, calibration, cell, latency, noise, peers, planted, throughput
from lib.llm.contender import Contender, contenders
from lib.llm.engines import null
from lib.llm.engines.engine import Command, Spec, Unavailable
from lib.llm.load import Closed, Waves
from lib.llm.memory import Cache
from lib.llm.model import Model, Shape
from lib.llm.session import Session, session
from lib.llm.weights import Family
from lib.llm.workload import Workload
from lib.session import MODES, NothingRecorded, Opened

pytestmark = pytest.mark.skipif(null.available() is not None, reason=null.available() or "")
SHAPE = Shape(layers=2, hidden=64, intermediate=128, heads=2, kv_heads=1, head_dim=32, vocab=1000, context=4096, tied=True)
PLAN = bench.Plan((16, 64), 4, 2, 2)
QUICK = null.Truth(ttft_s=0.02, tpot_s=0.005)


@dataclass(frozen=True)
class Tiny(Model):
    """A model without files: 16 bit, as its shape weighs."""

    def weights_bytes(self, precision: str) -> int:
        return 2 * self.shape.parameters

    def bits_per_weight(self, precision: str) -> float:
        return 16.0


@dataclass(frozen=True)
class Fake:
    """The null server as an engine that says what it is told to say."""

    NAME: str = "null"
    reason: str | None = None
    truth: null.Truth = QUICK
    dies: bool = False
    drops: bool = False  # every second answer is cut after two events
    asks_for: int = 0  # tokens beyond what was ordered: a server that does not keep to lengths
    HEALTH: str = "/health"
    METRICS: str = ""
    KEEPS_ALIVE: bool = True
    TELLS: tuple[str, ...] = ()
    cache_tokens: int = 1024
    started: list[int] = field(default_factory=list, compare=False)
    asked: list[int] = field(default_factory=list, compare=False)

    def available(self) -> str | None:
        return self.reason

    def version(self) -> str:
        return "1"

    def stored(self, spec: Spec) -> str:
        if spec.precision != "16-bit":
            raise Unavailable(f"null serves 16-bit, not {spec.precision}")
        return "bf16"

    def command(self, spec: Spec, port: int) -> Command:
        self.started.append(port)
        if self.dies:
            return Command((sys.executable, "-c", "print('no such layer'); raise SystemExit(3)"))
        return null.command(replace(spec, extra=null.arguments(self.truth)), port)

    def request(self, spec: Spec, prompt: list[int], tokens: int) -> tuple[str, bytes]:
        path, body = null.request(spec, prompt, tokens + self.asks_for)
        self.asked.append(1)
        if self.drops and len(self.asked) % 2 == 0:
            body = json.dumps({**json.loads(body), "user": "drop:2"}).encode()
        return path, body

    def tokens_in(self, event: Mapping[str, Any]) -> int | None:
        return None

    def counters(self, exposition: str) -> dict[str, float]:
        return {}

    def kv_cache(self, spec: Spec) -> Cache:
        return Cache(tokens=self.cache_tokens, slots=spec.slots)

    def allocated(self, log: str, spec: Spec) -> dict[str, float]:
        return {}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session on this machine, with ceilings far above what the null server does, whatever else runs here."""
    monkeypatch.setattr(bench, "corpus", lambda hf: tuple(range(5000)))
    monkeypatch.setattr(cell, "LAG_BUDGET_S", 1.0)
    monkeypatch.setattr(cell.audit, "undisturbed", lambda host, cores: None)
    seen = machine.here()
    run = record.begin("99_test", parameters={}, environment=seen.environment(), root=tmp_path)
    for name, unit in (("read bandwidth, 1 thread", "B/s"), ("matmul float32", "FLOP/s")):
        facts = {"rate": 1e12, "unit": unit, "amount": 1.0}
        run.add(record.Point({"what": "ceiling", "name": name, "device": "cpu"}, "ok", None, {}, facts, {"repeats": None}))
    run.add(record.Point({"what": "model"}, "ok", None, {}, {"shape": {name: getattr(SHAPE, name) for name in SHAPE.__slots__}}))
    return Session(Opened(run, (), seen), Tiny("tiny", SHAPE, Family("tiny", tmp_path, {}, "", "")))


def cells(s: Session) -> list[record.Point]:
    return [p for p in s.run.points() if p.setting["what"] == "cell"]


def test_every_contender_length_and_round_is_a_point_and_a_rerun_measures_only_what_is_missing(here: Session) -> None:
    engine = Fake()
    frame = bench.latency(here, [Contender(engine)], PLAN)
    assert [p.status for p in cells(here)] == ["ok"] * 4, [p.reason for p in cells(here)]
    assert len(engine.started) == 1
    assert len(latency.requests(frame)) == 4 * PLAN.requests  # warm-up is in the samples, not among the requests
    bench.latency(here, [Contender(engine)], PLAN)
    assert len(engine.started) == 1
    lines = (here.run.path / "points.jsonl").read_text().splitlines(keepends=True)
    (here.run.path / "points.jsonl").write_text("".join(lines[:-1]))  # a kill before the last point
    bench.latency(here, [Contender(engine)], PLAN)
    assert len(engine.started) == 2
    assert (here.run.path / "points.jsonl").read_text().count("\n") == len(lines) + 1  # the start, and the one that was missing


def test_the_truth_of_the_null_server_comes_out_and_raw_stamps_are_kept(here: Session) -> None:
    frame = bench.latency(here, [Contender(Fake())], PLAN)
    table = latency.summary(frame, SHAPE, here.ceilings())
    assert table["ttft_ms"].between(20, 30).all()
    assert table["tpot_ms"].between(4, 8).all()
    [first, *_] = cells(here)
    import pandas as pd

    stamps = pd.read_parquet(here.run.path / str(first.facts["events"]))
    assert len(stamps) == 4 * (PLAN.requests + 1)
    assert first.samples["ttft_s"][0] == pytest.approx(stamps["stamp_s"][0])


def test_what_cannot_run_is_a_row_and_the_others_go_on(here: Session) -> None:
    rivals = [Contender(Fake("absent", reason="needs an NVIDIA GPU")), Contender(Fake("broken", dies=True)), Contender(Fake()),
              Contender(Fake("narrow"), "INT8")]
    frame = bench.latency(here, rivals, bench.Plan((16,), 4, 1, 2))
    starts = latency.starts(frame).set_index("engine")
    assert starts.loc["absent 16-bit", "why not"] == "needs an NVIDIA GPU"
    assert "no such layer" in starts.loc["broken 16-bit", "why not"]
    assert starts.loc["narrow INT8", "why not"] == "null serves 16-bit, not INT8"
    assert starts.loc["null 16-bit", "cells ok"] == "1 of 1"
    assert latency.verdict(frame, prompt_tokens=16)["first"] == "null"


def test_an_answer_of_another_length_is_invalid_and_in_no_average(here: Session) -> None:
    frame = bench.latency(here, [Contender(Fake(asks_for=2))], bench.Plan((16,), 4, 1, 2))
    [point] = cells(here)
    assert point.status == "invalid"
    assert "asked for 4 output tokens, got 6" in str(point.reason)
    assert latency.requests(frame).empty
    assert len(latency.invalid(frame)) == 1


def test_one_lost_answer_is_told_and_the_survivors_are_not_averaged(here: Session) -> None:
    frame = bench.latency(here, [Contender(Fake(drops=True))], bench.Plan((16,), 4, 1, 2))
    [point] = cells(here)
    assert point.status == "invalid"
    assert "1 of 2 requests failed: connection lost" in str(point.reason)
    assert latency.requests(frame).empty


def test_faster_than_memory_is_caught(here: Session) -> None:
    slow = {p.setting["name"]: p for p in here.run.points() if p.setting["what"] == "ceiling"}["read bandwidth, 1 thread"]
    here.run.add(record.Point(slow.setting, "ok", None, {}, {**slow.facts, "rate": 1e6}, slow.audit))
    monkey = replace(here, opened=replace(here.opened, here=replace(here.here, l3_bytes=0)))  # type: ignore[arg-type]
    bench.latency(monkey, [Contender(Fake())], bench.Plan((16,), 4, 1, 2))
    [point] = cells(here)
    assert point.status == "invalid"
    assert "below the" in str(point.audit["3 decode"])


def test_a_disturbed_cell_is_tried_once_more(here: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = iter(["somebody else", None])
    monkeypatch.setattr(cell.audit, "undisturbed", lambda host, cores: next(verdicts))
    bench.latency(here, [Contender(Fake())], bench.Plan((16,), 4, 1, 2))
    assert [p.status for p in cells(here)] == ["ok"]
    assert '"somebody else"' in (here.run.path / "points.jsonl").read_text()  # the first try stays in the file


def test_bad_settings_are_refused_before_anything_starts(here: Session) -> None:
    engine = Fake()
    for plan, words in ((bench.Plan((4096,), 64, 1, 1), "4096|tokens of context"), (bench.Plan((16,), 4, 1, 4999), "too short"),
                        (bench.Plan((0,), 4, 1, 1), "at least 1")):
        with pytest.raises(ValueError, match=words):
            bench.latency(here, [Contender(engine)], plan)
    assert not engine.started


def test_a_recorded_run_of_another_machine_is_in_no_table_of_this_one(here: Session, tmp_path: Path) -> None:
    bench.latency(here, [Contender(Fake())], PLAN)
    elsewhere = here.run.environment | {"machine_id": "another"}
    other = record.begin("99_test", parameters={}, environment=elsewhere, root=tmp_path / "other")
    for point in here.run.points():
        other.add(point)
    both = replace(here, opened=Opened(here.run, (other,), here.here))
    assert other.machine_id == "another" and len(both.frame()) == len(here.frame())
    assert set(both.frame()["run_id"]) == set(throughput.cells(both)["run_id"]) == {here.run.run_id}


def test_no_ratio_across_machines(here: Session) -> None:
    frame = bench.latency(here, [Contender(Fake("a")), Contender(Fake("b"))], bench.Plan((16,), 4, 1, 3))
    two = latency.verdict(frame, prompt_tokens=16)
    assert two["lo"] <= two["ratio"] <= two["hi"]
    rows = frame[frame["what"] == "cell"].to_dict("records")
    with pytest.raises(record.NotComparable):
        record.comparable(rows[0], {**rows[1], "machine_id": "another"})


def test_two_copies_give_the_noise_floor_and_a_planted_half_is_seen(here: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(noise.ENGINES, "null", Fake())
    points = noise.measure(here, bench.Plan((16,), 8, 2, 3), engine="null")
    floor = noise.floor(points)
    assert floor["median"].tolist() == ["TTFT", "TPOT"]
    assert all(0 <= v < 0.5 for v in noise.verdict(floor).values() if v is not None)
    cell = latency.cells(points).iloc[0]
    table = planted.halved_tpot(cell, SHAPE, bandwidth=2 * SHAPE.parameters / 0.004, cache_bytes=0)
    assert table["verdict"].tolist()[:2] == ["passes", "passes"]
    assert not any(verdict == "passes" for verdict in table["verdict"].tolist()[2:])


def test_the_client_is_calibrated_and_what_is_held_is_not_measured_again(here: Session) -> None:
    plan = calibration.Plan((1, 8), 1, 1, (0.010,))
    calibration.calibrate(here, plan)
    table = calibration.summary(here.frame())
    assert table["streams"].tolist() == [1, 8]
    assert table["ttft_error_ms"].between(0, 20).all()
    assert calibration.stepping(here.frame())["read_ns"] > 0
    before = (here.run.path / "points.jsonl").read_text()
    calibration.calibrate(here, plan)
    again = [p for p in here.run.points() if p.setting["what"] == "calibration"]
    if all(p.status == "ok" for p in again):
        assert (here.run.path / "points.jsonl").read_text() == before


def test_peers_are_compared_at_one_load_only() -> None:
    import pandas as pd

    table = pd.DataFrame([{"client": "ours", "streams": 64, "ttft_error_ms": 0.2, "cpu_us_per_token": 6.0},
                          {"client": "a", "streams": 64, "ttft_error_ms": -3.0, "cpu_us_per_token": 30.0},
                          {"client": "b", "streams": 64, "ttft_error_ms": 9.0, "cpu_us_per_token": 24.0}])
    found = peers.against(table, streams=64)
    assert (found["nearest"], found["cheapest"], found["times"]) == ("a", "b", 4.0)
    with pytest.raises(ValueError, match="no comparison at 256"):
        peers.against(table, streams=256)


def test_names_of_contenders() -> None:
    assert [c.name for c in contenders("llamacpp:Q4_1", "vllm")] == ["llama.cpp Q4_1", "vLLM 16-bit"]
    assert [c.name for c in contenders("llamacpp", "vllm", among=["vllm"])] == ["vLLM 16-bit"]
    with pytest.raises(ValueError, match="unknown engine 'sglang'; there are vllm, llamacpp, transformers, trtllm"):
        contenders("sglang")


@pytest.mark.parametrize("bad", [{"profile": "huge"}, {"mode": "dream"}])
def test_a_session_names_the_valid_words(bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="there are " + ("smoke, quick, full" if "profile" in bad else ", ".join(MODES))):
        session("99_test", **{"profile": "quick", "mode": "recorded", **bad})


def test_nothing_recorded_is_said() -> None:
    with pytest.raises(NothingRecorded, match=r"no recorded run of 99_test .* ./run_all.sh measures one"):
        session("99_test", profile="quick", mode="recorded")


def test_each_contender_is_asked_its_own_trials_in_turn_after_the_plan(here: Session, capsys: pytest.CaptureFixture[str]) -> None:
    few, many = Contender(Fake("few")), Contender(Fake("many"))
    work = Workload(16, 4, 16)
    trials = {few: [bench.Trial(work, Closed(1))], many: [bench.Trial(work, Closed(2)), bench.Trial(work, Waves(4))]}
    bench.sweep(here, trials, rounds=2)
    asked = [(p.setting["engine"], p.setting.get("streams") or p.setting["wave"], p.setting["round"]) for p in cells(here)]
    assert asked == [("few", 1, 0), ("many", 2, 0), ("many", 4, 0), ("few", 1, 1), ("many", 2, 1), ("many", 4, 1)]
    assert [len(p.samples["ttft_s"]) for p in cells(here)] == [8] * 6
    assert len({p.facts["prompts"] for p in cells(here)}) == 2  # a round's own prompts, the same for all who are asked
    assert "6 cells to measure (0 measured before), 2 engines to start: about" in capsys.readouterr().out
    bench.sweep(here, trials, rounds=2)
    assert len(cells(here)) == 6
    assert not capsys.readouterr().out.strip()


def test_what_does_not_fit_is_said_before_it_is_loaded(here: Session) -> None:
    engine = Fake(cache_tokens=10**15)
    bench.sweep(here, {Contender(engine): [bench.Trial(Workload(16, 4, 4), Closed(1))]}, rounds=1)
    [start] = [p for p in here.run.points() if p.setting["what"] == "start"]
    assert start.status == "skipped"
    assert re.fullmatch(r"tiny needs 0\.0 GB of weights and [\d.]+ GB for the cache, [\d.]+ GB are free", start.reason or "")
    assert engine.started == []
