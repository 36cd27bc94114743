"""What a GPU box brings home: every planned point is in the tables, with its value or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lib import figures, history, machine, record
from lib.llm import metrics, synthetic
from lib.llm.events import Answer
from lib.pack import bounds, plan, readings, steps
from lib.pack.plan import Ask, Step
from lib.verdict import headlines, needs, speaking
from lib.verdict.speaking import Speaking
from tests import executed

H200 = machine.Gpu("NVIDIA H200", 143771 * 2**20, "580", False)
BOX = machine.Machine("x", 16, 16, (), None, 2**37, None, True, (H200,), "1 GPU", "Linux", "3.12", {})
TPOT_S, TTFT_S = 0.004, 0.02


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (readings, speaking):
        monkeypatch.setattr(module, "REFERENCE", tmp_path / "reference")
        monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    return tmp_path


def begun(root: Path, *, gpus: tuple[machine.Gpu, ...] = (H200,), follows: str = "big") -> record.Run:
    environment = {**BOX.environment(), "gpus": [asdict(gpu) for gpu in gpus]}
    return record.begin(readings.NOTEBOOK, parameters={"shape": "8b", "plan": follows}, environment=environment, root=root)


def answers(ask: Ask) -> Iterator[Answer]:
    """All streams in step: a request each for warm-up, then one that counts; a token an event."""
    assert ask.work is not None and ask.load is not None
    lengths, many = readings.lengths(ask), ask.load.in_flight
    for number in range(2 * many):
        prompt, output = lengths[number % len(lengths)]
        stamps = tuple(TTFT_S + TPOT_S * i for i in range(output))
        sent_s = (number // many) * (TTFT_S + TPOT_S * max(tokens for _, tokens in lengths))
        yield Answer(number, 0.0, sent_s, stamps, tuple(range(1, output + 1)), "", output, None, prompt, 0, {}, None)


def measured(run: record.Run, step: Step, ask: Ask) -> None:
    told = list(answers(ask))
    rows = [(a.number, stamp, count) for a in told for stamp, count in zip(a.stamps_s, a.counts, strict=True)]
    name = f"events-{abs(hash(ask)) % 10**8}"
    run.series(name, pd.DataFrame(rows, columns=["request", "stamp_s", "tokens"]))
    assert ask.load is not None
    steady = metrics.steady(told, ask.load)
    facts = {"warmup": ask.load.in_flight, "events": f"{name}.parquet", "steady_s": list(steady) if steady else None, "stored": "bf16",
             "host": {"gpu_energy_j": 500.0}}  # fmt: skip
    run.add(record.Point(steps.setting(step, ask), "ok", None, metrics.samples(told), facts, {"1 tpot": None}))


def filled(run: record.Run) -> record.Run:
    """What a box records whose time was over after vLLM's first points; FP8 failed."""
    run.add(record.Point({"what": "model"}, "ok", None, {}, {"shape": {}}, {"4 precision": None}))
    for name, rate, unit in (("read bandwidth", 4.0e12, "B/s"), ("matmul bfloat16", 7.5e14, "FLOP/s"), ("matmul int8", 1.4e15, "FLOP/s")):
        run.add(record.Point({"what": "ceiling", "name": name, "device": "cuda"}, "ok", None, {"seconds": [1.0, 1.0]},
                             {"rate": rate, "unit": unit, "amount": 1.0}, {"repeats": None}))  # fmt: skip
    run.add(record.Point({"what": "ceilings", "form": "float8"}, "ok", None, {}, {"rate": 1.5e15}, {"repeats": None}))
    by_name = {step.name: step for step in plan.BIG}
    vllm, fp8 = by_name["vllm"], by_name["vllm-fp8"]
    start = {"what": "start", **steps.rival(vllm).setting}
    run.add(record.Point(start, "ok", None, {"ready_s": [60.0], "rss_bytes": [1e9]},
                         {"weights_bytes": 16.06e9, "allocated": {"weights_bytes": 15.9e9, "kv_tokens": 900_000.0}}, {"4 precision": None}))
    for ask in (vllm.asks[0], vllm.asks[2], *vllm.asks[-2:]):
        measured(run, vllm, ask)
    for ask in fp8.asks:
        run.add(record.Point(steps.setting(fp8, ask), "failed", "vLLM ended with status 1: a test"))
    steps.skip(run, by_name["llamacpp"], by_name["llamacpp"].asks, "no time left: needs about 66 s, 3 s are left of the box")
    form = plan.PICTURES[0]
    run.add(record.Point({"what": "pictures", "form": form}, "ok", None, {"1": [[0.005]] * 3, "256": [[0.1]] * 3}, {}, {"6 books": None}))
    return run


def test_without_a_gpu_every_server_has_its_bound_and_every_point_a_reason(shelf: Path) -> None:
    assert readings.session("recorded") is None and readings.session("auto") is None
    assert readings.session("live") is None, "the main job asks for live measurements on machines without a GPU too"
    table = readings.served(None)
    assert (table["bound"] > 0).all() and set(table["reason"]) == {readings.NEEDS} and table["tok_s"].isna().all()
    servers = {steps.rival(step).name for step in plan.BIG if step.does == "serve"}
    for told in (readings.by_users(table), readings.by_context(table), readings.room(None)):
        assert {name for row in told["server"] for name in row.split("; ")} == servers
    assert readings.missing(None)["points"].tolist() == [sum(len(step.asks) for step in plan.BIG)]
    told = readings.verdict(None, table)
    assert figures.said("{reached}", **told) != figures.said("{one_bf16:.0f}", **told) == "318", "weights and cache over 4.8 TB/s"
    assert readings.waves(table) == {} and readings.NEEDS in str(readings.energy(None)) + str(readings.networks(None))


def test_a_run_of_a_gpu_is_laid_beside_its_own_limits(shelf: Path) -> None:
    run = filled(begun(shelf / "runs"))
    assert readings.session("recorded") is None, "not promoted yet"
    s = readings.session("auto")
    assert s is not None and s.run.run_id == run.run_id
    table = readings.served(s)
    one, sixteen = (table[(table["step"] == "vllm") & (table["users"] == n) & (table["asked"] == readings.USUAL)].iloc[0] for n in (1, 16))
    least_ms = (15.009e9 + 576 * 131072) / 4.0e12 * 1e3  # of weights without the embedding, and the cache
    assert one["token_ms"] == pytest.approx(least_ms, rel=1e-3) and one["tpot_ms"] == pytest.approx(1e3 * TPOT_S)
    assert sixteen["tok_s"] == pytest.approx(16 / TPOT_S, rel=0.1)
    assert sixteen["share"] == pytest.approx(sixteen["tok_s"] / sixteen["bound"])
    assert one["joules"] == pytest.approx(500 / 256)
    told = readings.verdict(s, table)
    assert (told["device"], told["first"]) == ("NVIDIA H200", "vLLM 16-bit")
    assert told["reached"] == pytest.approx(least_ms / 4, rel=1e-3) and told["one"] == pytest.approx(250)
    shown = readings.by_users(table).set_index("server").loc["vLLM 16-bit"]
    assert shown["1 user"].endswith("%)") and shown["4 users"].startswith("at most")
    assert readings.waves(table)["times"] > 1, "who waits for the longest loses"
    assert readings.room(s).set_index("server").loc["vLLM 16-bit", "its log says"] == 900_000
    assert readings.networks(s)["batch 256"].iloc[0] == pytest.approx(2560)
    assert readings.limits(s)["memory, TB/s"].iloc[-1] == 4.0 and "measured in run" in readings.limits(s)["source"].iloc[-1]
    reasons = readings.missing(s).set_index("not measured")["points"]
    assert reasons["no time left"] == len(next(step for step in plan.BIG if step.name == "llamacpp").asks)
    assert reasons["vLLM ended with status 1: a test"] == 5 and reasons.sum() == told["points"] - 6
    assert "failed" in set(table["status"]) and "a test" in readings.beside(table)["vLLM FP8 here"].iloc[0]
    assert "vLLM 16-bit" in set(readings.curves(s, table)["series"])


def test_dry_runs_and_processors_do_not_speak_and_are_not_promoted(shelf: Path) -> None:
    dry = filled(begun(shelf / "runs", follows="dry"))
    filled(begun(shelf / "reference", gpus=()))
    assert readings.session("auto") is None
    with pytest.raises(ValueError, match="is a dry run"):
        record.promote(dry.path, to=shelf / "reference")


def test_once_promoted_the_run_speaks_in_the_verdict_and_breaks_no_other_page(shelf: Path) -> None:
    run = filled(begun(shelf / "runs"))
    (header := run.path / "run.json").write_text(header.read_text().replace('"dirty": true', '"dirty": false'))
    record.promote(run.path, to=shelf / "reference")
    (told,) = headlines.headlines(Speaking(), only=[readings.NOTEBOOK])
    assert told.run is not None and "250 tokens a second" in told.text
    assert needs.settled(Speaking()) == {}
    assert history.history([run]) is not None


def test_bounds_are_memory_for_one_and_arithmetic_for_many() -> None:
    rates = bounds.Rates("d", 1e12, 1e14, 2e14, "a test")
    known = {"form": "bf16", "of": synthetic.TINY, "weights_bytes": 1e9}
    read = bounds.read_bytes(synthetic.TINY, "bf16", 1e9)
    assert read == 1e9 - 2 * synthetic.TINY.vocab * synthetic.TINY.hidden, "an input embedding is looked into, not read"
    assert bounds.tokens_per_s(rates, [(16, 16)], users=1, **known) == pytest.approx(1e12 / read, rel=1e-3)
    assert bounds.token_s(rates, 0, **known) == read / 1e12
    many: Any = [bounds.tokens_per_s(rates, [(16, 16)], users=n, **known) for n in (10**6, 10**7)]
    assert many[0] == many[1] < 1e14 / bounds.decode_flops(synthetic.TINY, 0), "prompts cost as well"
    turn = bounds.balance(rates, [(512, 128)], form="bf16")
    assert turn is not None
    below, at = (bounds.tokens_per_s(rates, [(512, 128)], users=turn * by, form="bf16") for by in (0.5, 1))
    assert below == pytest.approx(at / 2, rel=0.2) and at == pytest.approx(bounds.tokens_per_s(rates, [(512, 128)], users=1e9, form="bf16"))
    assert bounds.balance(bounds.Rates("d", 1.0, 1e14, 1e14, "a test"), [(512, 128)], form="bf16") is None
    with pytest.raises(KeyError, match="no published rates"):
        bounds.sheet("A100-SXM4-80GB")


def test_what_others_publish_lies_below_the_bound_of_its_own_device() -> None:
    others = bounds.published()
    assert len(others) == 6 and others["share"].between(0.2, 1).all()
    asked = {length for step in plan.BIG for ask in step.asks if ask.work for length in readings.lengths(ask)}
    assert {(128, 128), (1000, 1000)} <= asked, "the plan asks what they did"


@pytest.mark.parametrize("there", [False, True], ids=["no GPU", "a run of a GPU"])
def test_the_notebook_ends_well_with_a_run_and_without(there: bool, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if there:
        filled(begun(shelf / "reference"))
    shown = executed.said("40_gpu", shelf, monkeypatch)
    tldr, text = next(line for line in shown if line.startswith("TL;DR")), "\n".join(shown)
    if there:
        assert "on one NVIDIA H200 a stream of vLLM 16-bit runs at 94%" in tldr and "needs an NVIDIA GPU" not in text
    else:
        assert "no GPU has been measured here" in tldr and "318 tokens/s" in tldr and "47 points" in text
