"""What readers are told follows from hand-made numbers, and nothing measured is nothing told."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from lib.llm import batch_readings, memory_readings, mix, quant_readings, readings, saturation, throughput, ways
from lib.llm.metrics import Slo
from lib.llm.model import Shape

SHAPE = Shape(layers=2, hidden=64, intermediate=128, heads=2, kv_heads=1, head_dim=32, vocab=1000, context=4096, tied=True)
RATES = {"read bandwidth, 1 thread": 1e9, "matmul float32": 1e10}
PLAN = throughput.Plan(24, 4, (1, 2, 4), (1,), 1, mix.CONVERSATION.scaled(1 / 64), (2,), (0.5, 1.5), 0.4, (0, 1.0), 2)


def load(contender: str, level: float, tok_s: float | None, user: float | None, *, kind: str = "closed", **more: Any) -> dict[str, Any]:
    return {"origin": "this run", "machine_id": "m", "contender": contender, "engine": contender.split()[0], "precision": "16-bit",
            "work": "24 → 4", "kind": kind, "level": level, "tok_s": tok_s, "tok_s_hi": tok_s, "tok_s_whole": tok_s,
            "req_s": 1.0, "tok_s_user": user, "tried": 8,
            "ttft_p50_ms": 10.0, "ttft_p90_ms": None, "tpot_p50_ms": 5.0, "tpot_p90_ms": None, "attainment_server": 1.0,
            "attainment_interactive": 0.5, "goodput_server": 1.0, "goodput_interactive": 0.5, "jain": 0.9,
            "worst": 0.7, **more}  # fmt: skip


# --- throughput ---


def test_the_roof_is_the_ceiling_of_every_number_of_streams() -> None:
    roof = readings.roof(SHAPE, RATES, PLAN)
    assert roof["streams"].tolist() == [1, 2, 4]
    at_most = saturation.ceiling(
        SHAPE, RATES, stored="bf16", weights_bytes=2 * SHAPE.parameters, prompt_tokens=24, output_tokens=4, streams=4
    )
    assert roof["tokens/s at most"].iloc[-1] == at_most["tok_s"]
    assert roof["tokens/s each, at most"].iloc[-1] == pytest.approx(float(at_most["tok_s"]) / 4)


def test_a_trade_is_told_of_the_engine_with_most_tokens() -> None:
    closed = pd.DataFrame([load("a 16-bit", 1, 100.0, 100.0), load("a 16-bit", 8, 250.0, 50.0), load("b 16-bit", 8, 200.0, 90.0)])
    assert readings.trade(closed) == "a 16-bit: 2.5× the tokens/s of one user at 8, each of whom reads at 50% of the pace"
    assert "no closed loop" in readings.trade(closed.assign(tok_s=None))


def test_open_loops_are_shares_of_their_own_engines_capacity_and_overload_is_told_of_the_hardest_hit() -> None:
    opened = pd.DataFrame([load("a 16-bit", 2.0, None, None, kind="open"),
                           load("a 16-bit", 6.0, None, None, kind="pooled", ttft_p50_ms=90.0),
                           load("b 16-bit", 2.0, None, None, kind="open")])  # fmt: skip
    points = pd.DataFrame([{"what": "capacity", "status": "ok", "run_id": "r", "engine": "a", "precision": "16-bit",
                            "facts": {"requests_per_s": 4.0}}])  # fmt: skip
    shared = readings.shared(opened, points)
    assert shared["share"].iloc[:2].tolist() == [0.5, 1.5]
    assert shared["share"].isna().tolist() == [False, False, True]
    assert readings.overload(shared) == "a 16-bit: from 50% to 150% of its capacity the median first token takes 9× as long"
    assert readings.overload(shared.iloc[:0]) == "No open loop was measured"


def test_what_omission_hides_is_told_of_the_engine_where_it_hides_most() -> None:
    rows = [{"contender": name, "load": "schedule, pool of connections", "n": 9, "req_s": 5.0, "asked_req_s": 9.0, "sent_p50_ms": 100.0,
             "sched_p50_ms": sched} for name, sched in (("a", 300.0), ("b", 900.0))]  # fmt: skip
    told = readings.hidden(pd.DataFrame(rows))
    assert (told["contender"], told["times"]) == ("b", 9.0)
    assert readings.hidden(pd.DataFrame(columns=["load", "sched_p50_ms"])) == {}


@pytest.mark.parametrize(("fields", "words"), [
    ({"first": "a", "users": 4.0, "or_more": "", "second": "b", "second_users": 2.0}, "a carries 4 users, b 2"),
    ({"first": "a", "users": 4.0, "or_more": "at least "}, "a carries at least 4 users; no other engine qualifies"),
    ({"nearest": "b", "at": 1.0, "attainment": 0.5, "n": 8, "missed": "TTFT"}, "none qualifies; the nearest is b at 1 user with 50% of 8"),
])  # fmt: skip
def test_who_carries_how_many_or_that_nobody_does(fields: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation, "carries", lambda cells, slo, work: fields)
    sentence, told = readings.carried(pd.DataFrame(), Slo(1, 1), work="w")
    assert sentence.format(**told).startswith(words)


def test_knees_are_told_or_that_there_is_none() -> None:
    table = pd.DataFrame(
        [{"contender": "a", "knee": 4, "share": 0.9, "tried": 16}, {"contender": "b", "knee": None, "share": None, "tried": 8}]
    )
    assert readings.bend(table) == "a bends at 4 streams (90% of its best); b does not bend up to 8"


# --- batching ---


def way(name: str, waste: float | None, **kinds: float) -> dict[str, Any]:
    return {
        "machine_id": "m",
        "name": name,
        "size": 8,
        "waste": waste,
        **dict.fromkeys(("padding", "straggler", "waiting", "empty"), 0.0),
        **kinds,
    }


def test_waste_is_told_from_the_most_to_the_least_and_by_its_largest_kind() -> None:
    table = pd.DataFrame([way("a, waves", 0.4, straggler=0.3, empty=0.1), way("a, continuous", 0.1, empty=0.1), way("b", None)])
    assert batch_readings.wasted(table, size=8) == "a, waves wastes 40% of its places' time, a, continuous 10%"
    assert batch_readings.largest_waste(table, size=8) == "a, waves: stragglers are its largest waste, 30% of its places' time"
    assert "No account" in batch_readings.largest_waste(table, size=4)
    assert "One way alone" in batch_readings.wasted(table.iloc[:1], size=8)


def test_cutting_prompts_is_told_of_the_engine_where_it_does_most() -> None:
    rows = [{"name": name, "step": step, "gap_ms": gap, "wait_ms": wait} for name, step, gap, wait in (
        ("a", "the engine's default", 400.0, 410.0), ("a", "128 tokens a step", 100.0, 500.0),
        ("b", "the engine's default", 90.0, 300.0), ("b", "128 tokens a step", 80.0, 310.0))]  # fmt: skip
    told = batch_readings.chunked(pd.DataFrame(rows))
    assert told == "a: steps of 128 tokens take the largest gap from 400 to 100 ms; the newcomer waits 500 instead of 410 ms"
    assert "not both measured" in batch_readings.chunked(pd.DataFrame(rows[:1]))
    assert "not both measured" in batch_readings.chunked(pd.DataFrame(columns=["name", "step", "gap_ms", "wait_ms"]))


def test_gains_that_were_not_measured_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    gains = {("vLLM", "waves"): 1.5, ("llama.cpp", "waves"): None, ("llama.cpp", "static"): 1.2}
    monkeypatch.setattr(ways, "gain", lambda points, engine, over, size: {"engine": engine, "over": over, "ratio": gains[engine, over]})
    told = batch_readings.faster(pd.DataFrame(), size=8)
    assert told == "At 8 at a time continuous batching writes 1.50× waves in vLLM, 1.20× static in llama.cpp"


# --- memory ---


def test_what_does_not_fit_is_said_and_what_does_is_not() -> None:
    said = memory_readings.refusals(Shape(32, 4096, 14336, 32, 8, 128, 128256, 131072, False))
    assert said["said"].iloc[0].startswith("needs 16.1 GB of weights and 1.1 GB for the cache")
    assert "fits" in said["said"].tolist()


def test_what_happens_past_the_edge() -> None:
    edges = pd.DataFrame([{"name": "a", "then": "refused", "failed": 13, "over": 13},
                          {"name": "b", "then": "preempted", "failed": 0, "over": 8},
                          {"name": "c", "then": "held, waited", "failed": 0, "over": 9}])  # fmt: skip
    assert memory_readings.past(edges) == "a: 13 of 13 requests are refused; b: somebody is thrown out and computed again"
    assert memory_readings.past(edges.iloc[:0]) == ""


def test_an_eight_bit_cache_is_weighed_against_the_same_engine_and_model() -> None:
    table = pd.DataFrame([{"engine": "a", "model": "m", "kv": kv, "kv_bytes_said": said, "kv_tokens_said": 100.0}
                          for kv, said in (("16-bit", 2000.0), ("8-bit", 1000.0))])  # fmt: skip
    assert memory_readings.eight_bit(table) == {"contender": "a", "times": 2.0, "large": 20.0, "small": 10.0}
    assert memory_readings.eight_bit(table.iloc[:1]) == {}


def test_a_model_without_users_has_short_words() -> None:
    users = [1200, "none: needs 9 GB of weights", "none: made for 4", "none: 9 heads do not split over 8 GPUs"]
    told = memory_readings.known(pd.DataFrame({"model": ["a"] * 4, "users, 1 × 80 GB": users}))
    assert told["users, 1 × 80 GB"].tolist() == ["1,200", "too large", "too short a context", "heads do not split"]


def test_a_saving_that_was_not_measured_is_not_told() -> None:
    assert memory_readings.saved({}) == "No prefix cache was measured on and off here"


# --- precision ---


def form(precision: str, **more: Any) -> dict[str, Any]:
    return {"machine_id": "m", "engine": "a", "precision": precision, "name": f"a {precision}", **more}


def test_speedups_are_told_from_the_best_to_the_worst() -> None:
    ratios = pd.DataFrame([form("INT8", what="decode", ratio=1.5), form("INT4", what="decode", ratio=0.8),
                           form("INT8", what="prefill", ratio=0.9),
                           form("INT4", what="prefill", ratio=0.4)])  # fmt: skip
    told = quant_readings.fastest(ratios)
    assert told == "a INT8 writes a token 1.5× as fast as its 16-bit parent; a INT4 gives a first token at 0.40× its parent's pace"
    assert quant_readings.ranked(ratios)["name"].tolist() == ["a INT8", "a INT4"]
    assert quant_readings.ranked(ratios)["throughput"].isna().all()
    assert "No quantised form" in quant_readings.fastest(ratios.iloc[:0])


def test_where_fewer_bytes_cost_more_than_they_save() -> None:
    explained = pd.DataFrame(
        [form("INT4", saved_ms=3.0, added_ms=5.0), form("Q4_1", saved_ms=3.0, added_ms=1.0), form("INT8", saved_ms=0.0, added_ms=9.0)]
    )
    assert quant_readings.spent(explained) == "a INT4 reads 3.0 ms less a token than 16 bit and spends 5.0 ms more on all else"
    assert "saves more reading" in quant_readings.spent(explained.iloc[1:2])


def test_quality_is_told_of_the_least_and_the_most_changed_and_the_parent_is_no_form() -> None:
    told = pd.DataFrame([form("16-bit", kld=0.0, top1=1.0), form("INT8", kld=0.004, top1=0.98), form("INT4", kld=0.2, top1=0.8)])
    assert quant_readings.worst(told) == "a INT8 says the same top word 98.0% of the time, a INT4 80.0%"
    assert quant_readings.worst(told.iloc[:1]) == "No quantised form was scored here"
    assert quant_readings.floor(told) == {}
    assert quant_readings.control(pd.DataFrame({"what": ["perplexity"], "status": ["ok"], "facts": [{"ours": 2.0, "theirs": 2.02}]})) == {
        "ours": 2.0, "theirs": 2.02, "off": pytest.approx(0.0099, abs=1e-4)}  # fmt: skip
