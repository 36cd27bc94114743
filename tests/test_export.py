"""Results in other tools' files: shaped as their own code writes them, with their statistics, and read back to the same answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from lib import record
from lib.llm import export, metrics
from lib.llm.events import Answer
from lib.llm.foreign import aiperf, llama_bench, vllm_bench
from lib.llm.foreign.benchmark import Benchmark, Inexpressible, OtherVersion, benchmarks
from lib.record import Point, Run

HERE = {"machine_id": "epyc-2c-abc123", "stack_id": "s1", "cpu": "AMD EPYC (family 26, model 2)", "threads": 2, "gpus": [],
        "packages": {"llama.cpp": "llama-cpp-python 0.3.36"}}  # fmt: skip
SHAPE = {"layers": 30, "hidden": 576, "intermediate": 1536, "heads": 9, "kv_heads": 3, "head_dim": 64, "vocab": 49152, "context": 8192,
         "tied": True}  # fmt: skip


def answered(number: int, sent_s: float, *stamps_s: float, tokens: int | None = -1, counts: tuple[int, ...] = (), due_s: float = 0.0,
             error: str | None = None) -> Answer:  # fmt: skip
    length = (counts[-1] if counts else len(stamps_s)) if tokens == -1 else tokens
    return Answer(number, due_s, sent_s, stamps_s, counts, "", None if error else length, None, 128, None, {}, error)


FAILED = answered(2, 0.2, error="HTTP 503: busy")
THREE = (answered(0, 0.0, 0.2, 0.3, 0.4), answered(1, 0.1, 0.3, 0.5, counts=(1, 3), due_s=-0.05), FAILED)


def load(*answers: Answer, **setting: Any) -> Benchmark:
    return Benchmark("smollm2-135m", 2, None, "2026-11-23T19:18:21Z", answers, setting, {}, "20261123T191637-2509ba")


def run(root: Path, cells: Sequence[tuple[dict[str, Any], Sequence[Answer]]], *, warmup: int = 1, status: record.Status = "ok") -> Run:
    """A run as lib/llm/cell.py writes it."""
    made = record.begin("11_llm_throughput", parameters={"model": "smollm2-135m"}, environment=HERE, root=root, fresh=True)
    made.add(Point({"what": "model"}, "ok", facts={"shape": SHAPE}))
    for i, (setting, answers) in enumerate(cells):
        stamps = [(a.number, stamp, a.counts[n] if a.counts else None) for a in answers for n, stamp in enumerate(a.stamps_s)]
        made.series(f"events-{i}", pd.DataFrame(stamps, columns=["request", "stamp_s", "tokens"]))
        facts = {"warmup": warmup, "events": f"events-{i}.parquet", "stored": "f16", "weights_bytes": 269100288}
        made.add(Point({"what": "cell", **setting}, status, None, metrics.samples(answers), facts, utc="2026-11-23T19:18:21Z"))
    return made


LLAMA = {"engine": "llama.cpp", "precision": "16-bit", "prompt_tokens": 128, "output_tokens": 3, "streams": 1}
ONE = [answered(0, 0.0, 9.0, 9.1, counts=(1, 2)), answered(1, 9.2, 0.2, 0.3, 0.4, counts=(1, 2, 3)),
       answered(2, 9.7, 0.25, 0.35, 0.47, counts=(1, 2, 3))]  # fmt: skip


# --- from a record ---


def test_a_run_gives_its_quotable_loads_without_their_warm_up(tmp_path: Path) -> None:
    found = benchmarks(run(tmp_path, [({**LLAMA, "round": 0}, ONE), ({"engine": "vLLM", "rate_per_s": 2.5, "pool": 16}, THREE)]))
    assert [(b.streams, b.rate_per_s, len(b.answers)) for b in found] == [(1, None, 2), (16, 2.5, 2)]
    assert found[0].answers[0].stamps_s == (0.2, 0.3, 0.4)
    assert found[0].answers[0].counts == (1, 2, 3)
    assert found[1].answers[1].error == "HTTP 503: busy"
    assert found[0].wall_s == approx(9.7 + 0.47 - 9.2)
    assert benchmarks(run(tmp_path, [(LLAMA, ONE)], status="invalid")) == []


def test_the_first_runs_had_no_numbers(tmp_path: Path) -> None:
    made = run(tmp_path, [(LLAMA, ONE)])
    lines = [json.loads(line) for line in (made.path / "points.jsonl").read_text().splitlines()]
    del lines[-1]["samples"]["number"]
    (made.path / "points.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [a.stamps_s for a in benchmarks(made)[0].answers] == [a.stamps_s for a in ONE[1:]]


# --- vllm bench serve ---

# As vllm/benchmarks/serve.py of 0.32.0 puts it together: three requests, the last of which failed.
VLLM = {
    "date": "20261123-191821", "endpoint_type": "openai", "backend": "openai", "label": None, "model_id": "smollm2-135m",
    "tokenizer_id": "smollm2-135m", "num_prompts": 3, "request_rate": "inf", "burstiness": 1.0, "max_concurrency": 2,
    "duration": 0.6, "completed": 2, "failed": 1, "total_input_tokens": 256, "total_output_tokens": 6, "request_throughput": 2 / 0.6,
    "request_goodput": None, "output_throughput": 10.0, "total_token_throughput": 262 / 0.6, "input_lens": [128, 128, 128],
    "output_lens": [3, 3, 0], "ttfts": [0.2, 0.3, 0.0], "itls": [[0.1, 0.1], [0.2], []], "latencies": [0.4, 0.5, 0.0],
    "start_times": [5000.0, 5000.1, 5000.2], "queue_times": [0.0, 0.05, 0.0], "generated_texts": ["a b c", "a b c", ""],
    "errors": ["", "", "HTTP 503: busy"], "max_output_tokens_per_s": 5.0, "max_concurrent_requests": 2, "rtfx": 0.0,
    "mean_ttft_ms": 250.0, "median_ttft_ms": 250.0, "std_ttft_ms": 50.0, "p50_ttft_ms": 250.0, "p90_ttft_ms": 290.0, "p99_ttft_ms": 299.0,
    "mean_tpot_ms": 100.0, "median_tpot_ms": 100.0, "std_tpot_ms": 0.0, "p50_tpot_ms": 100.0, "p90_tpot_ms": 100.0, "p99_tpot_ms": 100.0,
    "mean_itl_ms": 400 / 3, "median_itl_ms": 100.0, "std_itl_ms": 47.14045207910317, "p50_itl_ms": 100.0, "p90_itl_ms": 180.0,
    "p99_itl_ms": 198.0, "mean_e2el_ms": 450.0, "median_e2el_ms": 450.0, "std_e2el_ms": 50.0, "p50_e2el_ms": 450.0, "p90_e2el_ms": 490.0,
    "p99_e2el_ms": 499.0,
}  # fmt: skip


def test_a_vllm_result_has_their_fields_in_their_order_and_their_statistics() -> None:
    mine = vllm_bench.written(load(*THREE, engine="vLLM"))
    metadata = ("vllm_version", "run_id", "setting")
    assert [name for name in mine if name not in metadata] == list(VLLM)
    assert [mine[name] for name in metadata] == ["0.32.0", "20261123T191637-2509ba", '{"engine":"vLLM"}']
    assert all(isinstance(mine[name], str) for name in metadata)  # as --metadata KEY=VALUE makes them
    ours = {"generated_texts": ["", "", ""], "start_times": [0.0, 0.1, 0.2]}  # texts are not recorded; seconds have no origin
    for name, value in {**VLLM, **ours}.items():
        if name == "itls":
            assert [gap for gaps in mine[name] for gap in gaps] == approx([0.1, 0.1, 0.2])
        else:
            assert mine[name] == (approx(value) if not isinstance(value, str | None) and name != "errors" else value), name


def test_a_vllm_result_is_read_as_answers() -> None:
    (read,) = vllm_bench.read(json.dumps(VLLM))
    assert (read.model, read.streams, read.rate_per_s, read.setting, read.run_id) == ("smollm2-135m", 2, None, {}, None)
    first, second, failed = read.answers
    assert first.stamps_s == approx((0.2, 0.3, 0.4))
    assert metrics.tpot_s(first) == approx(0.1)
    assert (second.tokens, second.prompt_tokens, second.text) == (3, 128, "a b c")
    assert metrics.ttft_sched_s(second) == approx(0.35)
    assert [a.sent_s for a in read.answers] == approx([0.0, 0.1, 0.2])
    assert (failed.error, failed.stamps_s, failed.tokens) == ("HTTP 503: busy", (), None)
    assert metrics.attainment(read.answers, metrics.SERVER) == approx(2 / 3)


def test_a_failure_that_gives_no_reason_is_one() -> None:
    (read,) = vllm_bench.read(json.dumps(VLLM | {"errors": ["", "", ""]}))
    assert read.answers[2].error == "failed, and did not say why"


finite = st.floats(1e-4, 100.0)


@st.composite
def loads(draw: st.DrawFn) -> Benchmark:
    made = []
    for number in range(draw(st.integers(1, 6))):
        gaps = draw(st.lists(finite, min_size=1, max_size=12))
        stamps = tuple(sum(gaps[:i + 1]) for i in range(len(gaps)))
        error = draw(st.sampled_from([None, None, "connection lost"])) if number else None
        made.append(answered(number, draw(finite), *stamps, tokens=draw(st.integers(len(gaps), 50)), due_s=-draw(finite), error=error))
    return load(*made, engine=draw(st.text(max_size=5)), streams=draw(st.integers(1, 64)))


@given(st.lists(loads(), min_size=1, max_size=3))
def test_what_is_written_for_vllm_is_read_back_the_same(written: list[Benchmark]) -> None:
    text = "\n".join(json.dumps(vllm_bench.written(b), allow_nan=False) for b in written)  # --append-result
    for back, b in zip(vllm_bench.read(text), written, strict=True):
        for name in ("model", "streams", "rate_per_s", "setting", "run_id"):
            assert getattr(back, name) == getattr(b, name)
        began = min(a.sent_s for a in b.answers)
        for theirs, a in zip(back.answers, b.answers, strict=True):
            assert theirs.error == a.error
            assert theirs.stamps_s == approx(a.stamps_s)
            assert (theirs.tokens, theirs.prompt_tokens) == (a.tokens, a.prompt_tokens)
            assert (theirs.sent_s, theirs.due_s) == approx((a.sent_s - began, a.due_s), abs=1e-9)
            assert metrics.tpot_s(theirs) == (None if a.error or a.tokens == 1 else approx(metrics.tpot_s(a)))


def test_a_recorded_run_goes_out_and_comes_back(tmp_path: Path) -> None:
    made = run(tmp_path, [({**LLAMA, "round": turn}, ONE) for turn in range(2)])
    export.main([str(made.path), "--to", "vllm", str(tmp_path / "all.jsonl")])
    back = vllm_bench.read((tmp_path / "all.jsonl").read_text())
    assert [b.setting for b in back] == [{"what": "cell", **LLAMA, "round": turn} for turn in range(2)]
    assert [a.stamps_s for a in back[0].answers] == [approx(a.stamps_s) for a in ONE[1:]]


@pytest.mark.parametrize(("change", "refusal", "why"), [
    ({"vllm_version": "0.11.0"}, OtherVersion, r"a result of vLLM 0\.11\.0; those of 0\.32\.0"),
    ({"queue_times": ...}, OtherVersion, r"another vLLM than 0\.32\.0: it lacks queue_times"),
    ({"failed": ..., "request_goodput": ...}, OtherVersion, "it lacks failed, request_goodput"),
    ({"itls": ..., "ttfts": ..., "errors": ...}, ValueError, "without --save-detailed"),
    ({"total_input_sequences": 3}, ValueError, "pooling"),
    ({"completed": 3}, ValueError, "2 answers and 1 failures are not the 3 and 1"),
    ({"ttfts": [0.2, 0.3]}, ValueError, "shorter"),
    ({"duration": ...}, ValueError, "no result of vllm bench serve"),
])  # fmt: skip
def test_a_vllm_result_that_is_another_or_not_whole_is_refused(change: dict[str, Any], refusal: type[Exception], why: str) -> None:
    document = {name: value for name, value in (VLLM | change).items() if value is not ...}
    with pytest.raises(refusal, match=why):
        vllm_bench.read(json.dumps(document))


def test_what_is_no_json_is_refused() -> None:
    for text in ("[]", '{"a": 1', "hello"):
        with pytest.raises(ValueError, match=r"no result|Expecting|delimiter"):
            vllm_bench.read(text)


def test_what_the_schemas_cannot_say_is_not_written() -> None:
    unknown, silent = load(answered(0, 0.0, 0.2, 0.3, tokens=None)), load(FAILED)
    for write in (vllm_bench.written, lambda b: aiperf.written(b, label="x")):
        with pytest.raises(Inexpressible, match="length of answer 0"):
            write(unknown)
        with pytest.raises(Inexpressible, match="no request was answered"):
            write(silent)


def test_the_busiest_second() -> None:
    """Three requests, sent at 0, 0.5 and 1.5 s: in the first second two run, in the second all three."""
    answers = [answered(0, 0.0, 0.1, 0.9, 1.8), answered(1, 0.5, 0.2, 1.4), answered(2, 1.5, 0.1)]
    told = vllm_bench.written(load(*answers))
    assert (told["max_output_tokens_per_s"], told["max_concurrent_requests"]) == (3.0, 3)


# --- AIPerf ---


def test_an_aiperf_export_has_their_names_units_and_statistics() -> None:
    told = aiperf.written(load(*THREE, engine="vLLM", streams=2), label="two")
    assert told["schema_version"] == aiperf.SCHEMA
    ttft = told["time_to_first_token"]
    assert list(ttft) == ["unit", "avg", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "min", "max", "std", "count", "sum"]
    assert {name: ttft[name] for name in ("avg", "p50", "p90", "min", "max", "std", "count", "sum")} == approx(
        {"avg": 250.0, "p50": 250.0, "p90": 290.0, "min": 200.0, "max": 300.0, "std": 50.0, "count": 2, "sum": 500.0})  # fmt: skip
    units = {tag: block["unit"] for tag, block in told.items() if isinstance(block, dict) and "unit" in block}
    assert units == {
        "time_to_first_token": "ms", "time_to_second_token": "ms", "request_latency": "ms", "inter_token_latency": "ms",
        "inter_chunk_latency": "ms", "output_token_throughput_per_user": "tokens/sec/user", "output_sequence_length": "tokens",
        "output_token_count": "tokens", "input_sequence_length": "tokens", "request_throughput": "requests/sec",
        "output_token_throughput": "tokens/sec", "request_count": "requests", "error_request_count": "requests",
        "total_output_tokens": "tokens", "total_osl": "tokens", "total_isl": "tokens", "benchmark_duration": "sec"}  # fmt: skip
    single = {"request_throughput": 2 / 0.6, "output_token_throughput": 10.0, "request_count": 2, "error_request_count": 1,
              "benchmark_duration": 0.6}  # fmt: skip
    assert all(set(told[tag]) == {"unit", "avg"} for tag in single)  # no count: it would be taken for the requests'
    assert {tag: told[tag]["avg"] for tag in single} == approx(single)
    assert told["inter_token_latency"]["avg"] == approx(100.0)
    assert told["inter_chunk_latency"]["count"] == 3
    assert told["time_to_second_token"]["max"] == approx(200.0)
    assert told["error_summary"] == [{"error_details": {"message": "HTTP 503: busy"}, "count": 1}]
    assert (told["run_info"]["run_label"], told["run_info"]["variation_values"]) == ("two", {"engine": "vLLM", "streams": 2})
    assert "aiperf_version" not in told  # no AIPerf measured this


def test_without_failures_there_is_no_count_of_them_and_a_single_token_has_no_pace() -> None:
    told = aiperf.written(load(answered(0, 0.0, 0.2)), label="x")
    assert told["error_summary"] == []
    assert not {"error_request_count", "inter_token_latency", "inter_chunk_latency", "time_to_second_token"} & set(told)


# --- llama-bench ---

# As llama-bench of the pinned llama.cpp prints it with -o json -p 512 -n 0 -r 2, with rounder numbers.
LLAMA_BENCH = """[
  {
    "build_commit": "0c1e570",
    "build_number": 1,
    "cpu_info": "AMD EPYC",
    "gpu_info": "",
    "backends": "CPU",
    "model_filename": "smollm2-135m.f16.gguf",
    "model_type": "llama 256M F16",
    "model_size": 269100288,
    "model_n_params": 134515008,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_threads": 2,
    "cpu_mask": "0x0",
    "cpu_strict": false,
    "poll": 50,
    "type_k": "f16",
    "type_v": "f16",
    "n_gpu_layers": 0,
    "n_cpu_moe": 0,
    "split_mode": "layer",
    "main_gpu": 0,
    "no_kv_offload": false,
    "flash_attn": 1,
    "devices": "auto",
    "tensor_split": "0.00",
    "tensor_buft_overrides": "none",
    "load_mode": "auto",
    "lazy_mode": "auto",
    "embeddings": false,
    "no_op_offload": 0,
    "no_host": false,
    "repack": true,
    "fit_target": 0,
    "fit_min_ctx": 0,
    "n_prompt": 512,
    "n_gen": 0,
    "n_depth": 0,
    "test_time": "2026-11-23T19:47:29Z",
    "avg_ns": 650000000,
    "stddev_ns": 70710678,
    "avg_ts": 792.380952,
    "stddev_ts": 86.199994,
    "samples_ns": [ 600000000, 700000000 ],
    "samples_ts": [ 853.333, 731.429 ]
  }
]
"""


def test_llama_bench_is_read_as_seconds_of_a_phase() -> None:
    (phase,) = llama_bench.read(LLAMA_BENCH)
    assert (phase.prompt_tokens, phase.output_tokens, phase.depth, phase.threads) == (512, 0, 0, 2)
    assert phase.samples_s == approx((0.6, 0.7))
    assert phase.tokens_per_s == approx([853.333, 731.429], rel=1e-5)


def test_llama_cpp_with_one_stream_becomes_a_prompt_test_and_a_generation_test_at_its_depth(tmp_path: Path) -> None:
    made = run(tmp_path, [({**LLAMA, "round": turn}, ONE) for turn in range(2)])
    prompt, answer = llama_bench.written(made, benchmarks(made))
    assert list(prompt) == list(json.loads(LLAMA_BENCH)[0])
    assert [type(value) for value in prompt.values()] == [type(value) for value in json.loads(LLAMA_BENCH)[0].values()]
    assert (prompt["n_prompt"], prompt["n_gen"], prompt["n_depth"]) == (128, 0, 0)
    assert prompt["samples_ns"] == [200_000_000, 250_000_000] * 2
    assert (prompt["avg_ns"], prompt["stddev_ns"]) == (225_000_000, 28_867_513)
    assert prompt["samples_ts"] == [640.0, 512.0] * 2
    assert (prompt["avg_ts"], prompt["stddev_ts"]) == approx((576.0, 73.900835))
    assert (answer["n_prompt"], answer["n_gen"], answer["n_depth"]) == (0, 2, 128)
    assert answer["samples_ns"] == [200_000_000, 220_000_000] * 2
    assert (answer["build_commit"], answer["n_threads"], answer["model_n_params"]) == ("llama-cpp-python 0.3.36", 2, 134479872)


def test_what_is_written_for_llama_bench_is_read_back_the_same(tmp_path: Path) -> None:
    made = run(tmp_path, [({**LLAMA, "round": 0, "kv": "8-bit"}, ONE)])
    export.main([str(made.path), "--to", "llama-bench", str(tmp_path / "bench.json")])
    prompt, answer = llama_bench.read((tmp_path / "bench.json").read_text())
    assert prompt.samples_s == approx([a.stamps_s[0] for a in ONE[1:]])
    assert answer.tokens_per_s == approx([1 / metrics.tpot_s(a) for a in ONE[1:]])  # type: ignore[operator]
    assert json.loads((tmp_path / "bench.json").read_text())[0]["type_k"] == "q8_0"


def test_a_first_event_of_several_tokens_is_not_counted_as_one(tmp_path: Path) -> None:
    made = run(tmp_path, [(LLAMA, [answered(0, 0.0, 0.2, 0.5, counts=(3, 8))])], warmup=0)
    assert llama_bench.written(made, benchmarks(made))[1]["n_gen"] == 5


@pytest.mark.parametrize("setting", [{**LLAMA, "streams": 4}, {**LLAMA, "engine": "vLLM"}, {**LLAMA, "streams": None, "rate_per_s": 2.0}])
def test_what_llama_bench_does_not_know_is_not_written(setting: dict[str, Any], tmp_path: Path) -> None:
    made = run(tmp_path, [(setting, ONE)])
    with pytest.raises(Inexpressible, match="a single stream"):
        llama_bench.written(made, benchmarks(made))


@pytest.mark.parametrize(("change", "refusal", "why"), [
    ({"load_mode": ..., "use_mmap": True, "build_commit": "b3c75936", "build_number": 6097}, OtherVersion,
     r"build b3c75936 \(6097\) is not the llama-bench of llama-cpp-python 0\.3\.36: it lacks load_mode; it has use_mmap"),
    ({"n_new": 1}, OtherVersion, "it has n_new"),
    ({"avg_ns": 1}, ValueError, "do not have the mean of 1 ns"),
    ({"samples_ns": []}, ValueError, "0 repetitions"),
    ({"samples_ns": ...}, ValueError, "no output of llama-bench"),
])  # fmt: skip
def test_another_llama_bench_is_refused_by_its_build(change: dict[str, Any], refusal: type[Exception], why: str) -> None:
    test = {name: value for name, value in (json.loads(LLAMA_BENCH)[0] | change).items() if value is not ...}
    with pytest.raises(refusal, match=why):
        llama_bench.read(json.dumps([test]))
    with pytest.raises(ValueError, match="no output of llama-bench"):
        llama_bench.read(json.dumps(test))


# --- the command line ---


def test_loads_are_chosen_and_go_to_standard_output_with_what_was_left_out_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run(tmp_path, [({**LLAMA, "round": turn}, ONE) for turn in range(3)])
    made.add(Point({"what": "cell", "round": 9}, "invalid", "8 quiet: busy"))
    export.main([str(made.path), "--to", "vllm", "--where", "round=1"])
    said = capsys.readouterr()
    assert [b.setting["round"] for b in vllm_bench.read(said.out)] == [1]
    assert said.err == f"1 of 3 loads of {made.run_id}; 1 points may not be quoted and are left out\n"


def test_several_loads_for_aiperf_are_a_folder_of_files(tmp_path: Path) -> None:
    made = run(tmp_path, [({**LLAMA, "round": turn}, ONE) for turn in range(2)])
    export.main([str(made.path), "--to", "aiperf", str(tmp_path / "out")])
    files = sorted((tmp_path / "out").glob("*/profile_export_aiperf.json"))
    assert [json.loads(file.read_text())["run_info"]["variation_values"]["round"] for file in files] == [0, 1]
    assert files[0].parent.name == "engine_llama.cpp-precision_16_bit-prompt_tokens_128-output_tokens_3-streams_1-round_0"
    export.main([str(made.path), "--to", "aiperf", "--where", "round=1", str(tmp_path / "one.json")])
    assert json.loads((tmp_path / "one.json").read_text()) == json.loads(files[1].read_text())
    for words in ([], [str(tmp_path / "two.json")]):
        with pytest.raises(SystemExit, match=r"not exported: .* one load a file and these are 2"):
            export.main([str(made.path), "--to", "aiperf", *words])


def test_what_cannot_be_exported_is_refused_with_the_reason(tmp_path: Path) -> None:
    empty = run(tmp_path, [])
    with pytest.raises(SystemExit, match=r"not exported: .* 0 loads"):
        export.main([str(empty.path), "--to", "vllm"])
    with pytest.raises(SystemExit, match="not exported"):
        export.main([str(tmp_path / "nowhere"), "--to", "vllm"])
    with pytest.raises(SystemExit):
        export.main([str(empty.path), "--to", "guidellm"])
    with pytest.raises(KeyError, match="there are vllm, aiperf, llama-bench"):
        export.written("guidellm", empty, [])
