"""Memory: arithmetic that published models and engines' own logs confirm, users counted as each cache hands out its room."""

from __future__ import annotations

import os
from math import inf
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import measured
from lib.llm import blank, breakdown, capacity, footprint, memory, prefix
from lib.llm.client import Traffic
from lib.llm.contender import Contender
from lib.llm.engines import llamacpp, trtllm, vllm_
from lib.llm.engines.engine import Options, Spec
from lib.llm.events import Answer
from lib.llm.model import Model, Shape
from lib.llm.stream import Exchange
from lib.llm.weights import Family
from lib.llm.workload import Request

SMOLLM2 = Shape(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head_dim=64, vocab=49152, context=8192, tied=True)
MODEL = Model("smollm2-135m", SMOLLM2, Family("smollm2-135m", Path(), {}, "", ""))

LLAMACPP = """
0.00.503.836 I load_tensors:   CPU_Mapped model buffer size =    85.30 MiB
0.00.503.837 I load_tensors:   CPU_REPACK model buffer size =    56.95 MiB
0.00.507.532 I llama_context:        CPU  output buffer size =     0.75 MiB
0.00.507.733 I llama_kv_cache:        CPU KV buffer size =    45.00 MiB
0.00.543.579 I llama_kv_cache: size =   45.00 MiB (   512 cells,  30 layers,  4/4 seqs), K (f16):   22.50 MiB, V (f16):   22.50 MiB
0.00.547.866 I sched_reserve:        CPU compute buffer size =    14.01 MiB
"""
VLLM = """
(Worker pid=1) INFO [weight_utils.py:1108] Filesystem type for checkpoints: EXT4. Checkpoint size: 0.25 GiB. Available RAM: 21.65 GiB.
(Worker pid=1) INFO [cpu_worker.py:260] Explicitly set (1.0/14.71) GiB for KV cache on node 0.
(EngineCore pid=2) INFO [kv_cache_utils.py:2327] CPU KV cache size: 46,592 tokens, Maximum concurrency for 2,048 tokens per request: 22.75x
"""
TRTLLM = "[TensorRT-LLM][INFO] [MemUsageChange] Allocated 0.56 GiB for max tokens in paged KV cache (8224)."


def spec(**options: Any) -> Spec:
    return Spec(MODEL, context=320, slots=8, options=Options(**options))


def test_weights_of_published_models_are_what_their_makers_count() -> None:
    known = memory.shapes()
    assert len(known) >= 12
    for one in known:
        assert memory.weights_bytes(one.shape, "bf16") == pytest.approx(2 * one.parameters, rel=5e-4), one.name
    assert max(one.parameters for one in known) > 4e11


@pytest.mark.parametrize(("form", "megabytes"), [("bf16", 269.03), ("q8_0", 143.03), ("q4_0", 89.94)])
def test_forms_weigh_what_their_files_hold(form: str, megabytes: float) -> None:
    assert memory.weights_bytes(SMOLLM2, form) / 1e6 == pytest.approx(megabytes, rel=0.003)


def test_a_form_without_a_formula_is_refused() -> None:
    with pytest.raises(KeyError):
        memory.weights_bytes(SMOLLM2, "q4_k_m")


def test_the_engines_words_are_read() -> None:
    mib = 2**20
    assert llamacpp.allocated(LLAMACPP, spec()) == pytest.approx({
        "weights_bytes": 85.30 * mib, "repacked_bytes": 56.95 * mib, "kv_bytes": 45 * mib, "compute_bytes": 14.76 * mib, "kv_tokens": 2048})
    assert vllm_.allocated(VLLM, spec()) == {"weights_bytes": 0.25 * 2**30, "kv_bytes": 2**30, "kv_tokens": 46592}
    assert "kv_bytes" not in vllm_.allocated(VLLM, spec(cache_tokens=2048))  # it still speaks of the room, but takes less
    assert trtllm.allocated(TRTLLM, spec()) == {"kv_bytes": 0.56 * 2**30, "kv_tokens": 8224}


@given(st.text())
def test_any_log_can_be_read(log: str) -> None:
    for engine in (llamacpp, vllm_, trtllm):
        assert set(engine.allocated(log, spec())) <= {"weights_bytes", "repacked_bytes", "kv_bytes", "kv_tokens", "compute_bytes"}


def test_a_cache_is_full_as_it_is_handed_out_not_by_its_bytes() -> None:
    """2,048 tokens, users of 167: 12 by division, 12 in one room, 7 in blocks of 128 of which one is kept, 8 in shares of 256."""
    each = memory.stored_tokens(120, 48)
    assert each == 167
    assert memory.Cache(2048, 32).users(each) == 12
    assert memory.Cache(2048, 32, block=128, kept=128).users(each) == 7
    assert memory.Cache(2048, 8, divided=True).users(each) == 8
    assert memory.Cache(2048, 8, divided=True).users(257) == 0
    assert memory.Cache(2048, 3).users(each) == 3


@given(st.integers(1, 10**6), st.integers(1, 512), st.integers(1, 256), st.integers(1, 5000))
def test_what_was_promised_fits(tokens: int, slots: int, block: int, each: int) -> None:
    room = memory.Cache(tokens, slots, block=block)
    users = room.users(each)
    assert users * memory.blocks(each, block) * block <= tokens
    assert users == slots or (users + 1) * memory.blocks(each, block) > tokens // block


def test_engines_lay_out_what_their_logs_confirm() -> None:
    shares = llamacpp.kv_cache(spec())
    assert (shares.tokens, shares.divided, shares.bytes(SMOLLM2)) == (8 * 512, True, 90 * 2**20)
    small = llamacpp.kv_cache(Spec(MODEL, context=4096, slots=2, options=Options(kv="8-bit")))
    assert small.bytes(SMOLLM2) / 2**20 == pytest.approx(95.62, abs=0.01)
    paged = vllm_.kv_cache(spec(cache_tokens=2048))
    assert paged is not None
    assert (paged.tokens, paged.block, paged.users(167)) == (2048, 128, 7)
    assert vllm_.kv_cache(Spec(MODEL, device="cuda")) is None


def test_what_does_not_fit_is_said_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert memory.lacks(weights=1e9, cache=1e9, free=2e9) is None
    assert memory.lacks(weights=16.1e9, cache=2.1e9, free=12.3e9) == (
        "needs 16.1 GB of weights and 2.1 GB for the cache, 12.3 GB are free")
    monkeypatch.setattr(footprint, "free_bytes", lambda device: 1e8)
    monkeypatch.setattr(Model, "weights_bytes", lambda self, form: 269_000_000)
    there = Spec(Model("m", SMOLLM2, Family("m", tmp_path, {"f16": tmp_path / "f16.gguf"}, "", "")), context=512)
    assert footprint.lacks(llamacpp, there) == "m needs 0.3 GB of weights and 0.0 GB for the cache, 0.1 GB are free"


def test_well_known_models_find_their_users_or_the_reason() -> None:
    table = memory.well_known().set_index("model")
    assert table.loc["Llama-3.1-8B", "KV a token, kB"] == pytest.approx(131.072)
    assert 50 < table.loc["Llama-3.1-8B", "users, 1 × 80 GB, 16 bit"] < 60
    assert "811.7 GB" in table.loc["Llama-3.1-405B", "users, 8 × 80 GB, 16 bit"]
    assert "heads" in table.loc["Qwen2.5-7B", "users, 8 × 80 GB, 16 bit"]
    assert "4,096" in table.loc["Llama-2-7B", "users, 1 × 80 GB, 16 bit"]
    claim = memory.largest(memory.well_known(), "users, 8 × 80 GB, 16 bit")
    assert (claim["model"], claim["too_large"]) == ("Mistral-Large-2407", "Llama-3.1-405B")
    wide = Shape(layers=1, hidden=64, intermediate=64, heads=8, kv_heads=2, head_dim=8, vocab=10, context=64, tied=True)
    alone = memory.users(wide, 1e6, 64, gpus=4)
    two_heads = memory.users(Shape(1, 64, 64, 8, 4, 8, 10, 64, tied=True), 1e6, 64, gpus=4)
    assert alone == pytest.approx(two_heads, rel=0.02)  # two KV heads on four cards lie there twice, so as many as four would take


def answer(number: int, first_s: float | None, last_s: float, error: str | None = None) -> Answer:
    stamps = () if first_s is None else (first_s, last_s)
    return Answer(number, 0.0, 0.0, stamps, (), "", None, None, None, None, {}, error)


def test_what_became_of_a_burst() -> None:
    together = [answer(0, 0.1, 1.0), answer(1, 0.9, 1.5)]
    assert capacity.outcome(together, {"preemptions": 0.0}) == capacity.HELD
    assert capacity.outcome(together, {"preemptions": 1.0}) == capacity.PREEMPTED
    assert capacity.outcome([answer(0, 0.1, 1.0), answer(1, 1.1, 2.0)], {}) == capacity.WAITED
    assert capacity.outcome([answer(0, 0.1, 1.0), answer(1, None, inf, "Context size has been exceeded.")], {}) == capacity.REFUSED
    assert capacity.at_once([answer(0, 0.1, 1.0), answer(1, 0.2, 1.0), answer(2, 1.1, 2.0)]) == 2


def test_our_own_patience_is_no_refusal_of_the_engine() -> None:
    class Impatient:
        def run(self, port: int, requests: list[bytes], load: object, *, reuse: bool) -> Traffic:
            return Traffic((Exchange(0, 0, error="no complete answer within 120 s"),), (), 0.0, 120.0, 0)

    class Slow:
        engine, spec, port = llamacpp, spec(), 0

        def counters(self) -> dict[str, float]:
            return {}

        def check(self) -> None:
            pass

    with pytest.raises(measured.Broke, match="no complete answer"):
        capacity.burst(Impatient(), Slow(), [Request((1, 2, 3), 4)])  # type: ignore[arg-type]


def bursts(outcomes: dict[int, list[str]]) -> pd.DataFrame:
    cache = {"tokens": 2048, "slots": 9, "block": 128, "kept": 128, "divided": False, "element_bytes": 2}
    return pd.DataFrame([
        {"what": "capacity", "status": "ok", "origin": "this run", "machine_id": "m", "engine": "vLLM", "precision": "16-bit", "room": 2048,
         "prompt_tokens": 120, "output_tokens": 48, "users": users, "round": turn, "samples": {"error": [None] * users},
         "facts": {"cache": cache, "predicted": 7, "outcome": what, "served_at_once": 7, "counters": {}, "peaks": {}, "errors": []}}
        for users, seen in outcomes.items() for turn, what in enumerate(seen)])


def test_an_edge_is_where_all_repeats_agree() -> None:
    frame = bursts({7: ["held"] * 3, 8: ["preempted", "waited", "preempted"]})
    row = capacity.edges(frame).iloc[0]
    assert (row["naive"], row["predicted"], row["held"], row["over"], row["then"], row["repeats"]) == (12, 7, 7, 8, "preempted, waited", 3)
    assert capacity.verdict(frame)["right"] == 1
    mixed = bursts({7: ["held", "waited", "held"], 8: ["held", "preempted", "held"]})
    assert capacity.edges(mixed).iloc[0][["held", "over"]].tolist() == [None, None]
    assert capacity.verdict(mixed)["right"] == 0


def weighed(tokens: int, held: float, **said: float) -> dict[str, Any]:
    return {"what": "memory", "status": "ok", "origin": "this run", "machine_id": "m", "model": "a", "engine": "llama.cpp",
            "precision": "16-bit", "slots": 2, "context": tokens // 2,
            "samples": {"resident_bytes": [held], "file_bytes": [1.0], "gpu_bytes": [None]},
            "facts": {"stored": "f16", "weights_bytes": 1000.0, "said": {"weights_bytes": 1000.0, "kv_bytes": 10.0 * tokens, **said},
                      "predicted": {"weights_bytes": 990.0, "kv_bytes": 10.0 * tokens, "kv_tokens": tokens}, "cache": {"divided": True}}}


def test_memory_is_taken_apart_and_prediction_is_held_against_words_and_counts() -> None:
    frame = pd.DataFrame([weighed(100, 2500.0, compute_bytes=300.0), weighed(300, 4520.0, compute_bytes=320.0)])
    table = breakdown.servers(frame)
    pieces = breakdown.parts(table)
    assert pieces["runtime_mb"].tolist() == pytest.approx([200e-6, 200e-6])
    checked = breakdown.validation(table)
    assert checked["what"].tolist() == ["weights", "KV cache"] * 2
    assert breakdown.verdict(frame)["worst"] == pytest.approx(0.01)
    slope = breakdown.slopes(table).iloc[0]
    assert (slope["predicted"], slope["counted"]) == (10.0, 10.0)
    assert breakdown.verdict(frame.iloc[:0]) == {}


def test_who_reserves_no_cache_has_a_runtime_all_the_same() -> None:
    grows = weighed(100, 2500.0)
    grows["facts"] |= {"said": {}, "cache": None, "predicted": {"weights_bytes": 990.0, "kv_bytes": None, "kv_tokens": None}}
    pieces = breakdown.parts(breakdown.servers(pd.DataFrame([grows, weighed(300, 4520.0, compute_bytes=320.0)])))
    assert pieces["runtime_mb"].tolist() == pytest.approx([1500e-6, 200e-6])  # 2500 less the file's 1000


def test_a_resident_size_below_the_weights_is_no_server_at_work() -> None:
    assert memory.holds(1e9, 1e9) is None
    assert "weights alone" in (memory.holds(0.5e9, 1e9) or "")
    mine = footprint.resident([os.getpid()])
    assert mine["anonymous_bytes"] > 1e6
    assert mine["resident_bytes"] == mine["anonymous_bytes"] + mine["file_bytes"]
    assert footprint.resident([os.getpid(), os.getpid()])["file_bytes"] == pytest.approx(mine["file_bytes"], rel=0.2)  # counted once


def test_a_shared_beginning_is_shared_and_the_rest_is_not() -> None:
    work = prefix.Shared(64, 16, 4, 5)
    asked = work.asks(tuple(range(5000)), context=84)
    assert len({one.prompt[:64] for one in asked}) == 1
    assert len({one.prompt[64:] for one in asked}) == 5
    assert {len(one.prompt) for one in asked} == {80}
    assert prefix.Shared(64, 16, 4, 5, seed=1).asks(tuple(range(5000)))[0].prompt[:64] != asked[0].prompt[:64]
    with pytest.raises(ValueError, match="do not fit"):
        work.asks(tuple(range(5000)), context=83)


def test_what_a_prefix_cache_saves() -> None:
    def cell(on: bool, ttfts: list[float], cached: float) -> dict[str, Any]:
        return {"what": "prefix", "status": "ok", "origin": "this run", "machine_id": "m", "method": 1, "engine": "vLLM",
                "precision": "16-bit", **({"prefix_cache": True} if on else {}), "prefix_tokens": 80, "prompt_tokens": 100,
                "samples": {"ttft_s": [9.0, *ttfts], "prompt_tokens": [100] * (1 + len(ttfts))},
                "facts": {"warmup": 1, "counters": {"cached_tokens": cached}}}

    frame = pd.DataFrame([cell(False, [1.0, 1.1, 1.2], 0.0), cell(True, [0.2, 0.25, 0.3], 240.0)])
    table = prefix.table(frame)
    assert table["looked_up"].tolist() == [0.0, 0.8]
    said = prefix.verdict(frame)
    assert said["ratio"] == pytest.approx(1.1 / 0.25)
    assert (said["prefix_tokens"], said["looked_up"]) == (80, 0.8)


def test_a_blank_model_has_the_tensors_its_shape_says() -> None:
    sizes = blank.tensors(blank.SHAPE)
    matrices = sum(a * b for a, b in (size for size in sizes.values() if len(size) == 2))
    assert matrices == blank.SHAPE.parameters
    assert {blank.told(name) for name in sizes} >= {"blk.3.ffn_up.weight", "token_embd.weight", "output.weight", "output_norm.weight"}


def test_layouts_are_asked_as_each_engine_has_them() -> None:
    ways = capacity.layouts([Contender(llamacpp), Contender(vllm_)], capacity.PLANS["quick"])
    assert [(way.engine.NAME, way.options.cache_tokens) for way in ways] == [("llama.cpp", 2048), ("vLLM", 2048), ("llama.cpp", None)]
