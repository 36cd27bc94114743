"""Every experiment's options in every engine's own flags, or a refusal that says why: contract tests, no engine runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib import install
from lib.llm import footprint
from lib.llm.cell import rise
from lib.llm.contender import Contender, contenders
from lib.llm.engines import llamacpp, trtllm, vllm_
from lib.llm.engines.engine import Engine, Options, Spec, Unavailable
from lib.llm.model import Model, Shape
from lib.llm.weights import Family

SHAPE = Shape(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head_dim=64, vocab=49152, context=8192, tied=True)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin").mkdir()
    for name in ("llama-server", "vllm", "trtllm-serve"):
        (tmp_path / "bin" / name).write_text("")
    monkeypatch.setattr(install, "find", lambda name: install.Install(name, "cpu", "1.2.3", tmp_path))
    return tmp_path


def spec(root: Path, options: Options, *, precision: str = "16-bit", device: str = "cpu", context: int = 512) -> Spec:
    made = {form: root / form for form in ("w8a8", "w4a16", "modelopt-fp8")}
    family = Family("small", root / "hf", {"f16": root / "f16.gguf"}, "", "", made)
    return Spec(Model("small", SHAPE, family), precision, context, 4, 2, device, options=options)


def flags(engine: Engine, root: Path, options: Options, **how: str | int) -> list[str]:
    """What the options add to the plain command (or, of TensorRT-LLM, to its file of options)."""
    if engine is trtllm:
        trtllm.command(spec(root, options, **how), 7)  # type: ignore[arg-type]
        return (root / "serve-7.yaml").read_text().splitlines()
    plain = engine.command(spec(root, Options(), **how), 7).argv  # type: ignore[arg-type]
    return [part for part in engine.command(spec(root, options, **how), 7).argv if part not in plain]  # type: ignore[arg-type]


@pytest.mark.parametrize(("engine", "options", "words"), [
    (vllm_, Options(tensor_parallel=4), ["--tensor-parallel-size", "4", "--pipeline-parallel-size", "1"]),
    (vllm_, Options(tensor_parallel=2, pipeline_parallel=3), ["--tensor-parallel-size", "2", "--pipeline-parallel-size", "3"]),
    (trtllm, Options(tensor_parallel=2, pipeline_parallel=3), ["--tp_size", "2", "--pp_size", "3"]),
    (llamacpp, Options(tensor_parallel=3), ["--split-mode", "row", "--tensor-split", "1,1,1"]),
    (llamacpp, Options(pipeline_parallel=2), ["--split-mode", "layer", "--tensor-split", "1,1"]),
])  # fmt: skip
def test_a_model_over_several_gpus(engine: Engine, options: Options, words: list[str], root: Path) -> None:
    argv = list(engine.command(spec(root, options, device="cuda"), 7).argv)
    at = argv.index(words[0])
    assert argv[at:at + len(words)] == words
    assert words[0] not in engine.command(spec(root, Options(), device="cuda"), 7).argv
    with pytest.raises(Unavailable, match=f"{engine.NAME} is to span {options.gpus} GPUs; there is none here"):
        engine.command(spec(root, options), 7)


def test_llamacpp_splits_one_way() -> None:
    with pytest.raises(Unavailable, match="not both"):
        llamacpp._flags(spec(Path(), Options(tensor_parallel=2, pipeline_parallel=2), device="cuda"))


def test_more_gpus_than_there_are_is_a_reason(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "weights_bytes", lambda self, form: 4 * 2**30)
    monkeypatch.setattr(footprint, "free_bytes", lambda device: 3.0 * 2**30)
    monkeypatch.setattr(footprint, "gpus", lambda: 2)
    assert footprint.lacks(vllm_, spec(root, Options(tensor_parallel=4), device="cuda")) == "it spans 4 GPUs, this machine has 2"
    assert footprint.lacks(vllm_, spec(root, Options(tensor_parallel=2), device="cuda")) is None
    assert footprint.lacks(vllm_, spec(root, Options(), device="cuda")) is not None


@pytest.mark.parametrize(("word", "split"), [("vllm", (1, 1)), ("vllm:tp4", (4, 1)), ("vllm:pp2", (1, 2)), ("vllm:tp2pp3", (2, 3))])
def test_a_user_says_over_how_many_gpus(word: str, split: tuple[int, int]) -> None:
    [one] = contenders("vllm", "llamacpp", among=[word])
    assert (one.options.tensor_parallel, one.options.pipeline_parallel) == split
    assert ("tensor_parallel" in one.setting) == (split[0] > 1)
    assert [rival.options.gpus for rival in contenders("vllm", among=["vllm", word])] == [1, split[0] * split[1]]


@pytest.mark.parametrize("word", ["vllm:tp0", "vllm:4", "vllm:pp2tp2", "vllm:tp-1", "sglang:tp2"])
def test_a_split_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="each may be followed by :tp2, :pp2 or :tp2pp2"):
        contenders("vllm", among=[word])


@pytest.mark.parametrize(("engine", "options", "words"), [
    (llamacpp, Options(kv="8-bit"), ["-ctk", "q8_0", "-ctv", "q8_0"]),
    (vllm_, Options(kv="8-bit"), ["--kv-cache-dtype", "fp8"]),
    (trtllm, Options(kv="8-bit"), ["  dtype: fp8"]),
    (vllm_, Options(prefix_cache=True), ["--enable-prefix-caching"]),
    (trtllm, Options(prefix_cache=True), ["  enable_block_reuse: true"]),
    (llamacpp, Options(chunk_tokens=128), ["-b", "128", "-ub", "128"]),
    (vllm_, Options(chunk_tokens=128), ["--enable-chunked-prefill", "--max-num-batched-tokens", "128"]),
    (vllm_, Options(chunk_tokens=0), ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "2048"]),
    (trtllm, Options(chunk_tokens=128), ["enable_chunked_prefill: true"]),
    (trtllm, Options(chunk_tokens=0), ["enable_chunked_prefill: false"]),
    (llamacpp, Options(continuous=False), ["--no-cont-batching"]),
    (llamacpp, Options(cache_tokens=1024), ["1024", "--kv-unified"]),
    (vllm_, Options(cache_tokens=1024), ["--block-size", "128", "--num-gpu-blocks-override", "8"]),
    (trtllm, Options(cache_tokens=1024), ["  max_tokens: 1024"]),
])  # fmt: skip
def test_options_in_an_engines_own_words(engine: Engine, options: Options, words: list[str], root: Path) -> None:
    told = flags(engine, root, options)
    assert told == words if engine is not trtllm else set(words) <= set(told)


def test_llamacpp_looks_prompts_up_only_when_asked(root: Path) -> None:
    for wanted in (False, True):
        assert json.loads(llamacpp.request(spec(root, Options(prefix_cache=wanted)), [1], 1)[1])["cache_prompt"] is wanted


@pytest.mark.parametrize(("engine", "flag"), [(vllm_, "--max-num-batched-tokens"), (llamacpp, "-b"), (llamacpp, "-ub")])
def test_an_uncut_prompt_needs_a_step_that_holds_it(engine: Engine, flag: str, root: Path) -> None:
    argv = engine.command(spec(root, Options(chunk_tokens=0), context=4096), 7).argv
    assert argv[argv.index(flag) + 1] == "4096"


@pytest.mark.parametrize("engine", [vllm_, trtllm])
def test_an_engine_without_static_batches_says_so(engine: Engine, root: Path) -> None:
    with pytest.raises(Unavailable, match="no other way"):
        engine.command(spec(root, Options(continuous=False)), 7)


@pytest.mark.parametrize(("engine", "precision", "device", "stored"), [
    (vllm_, "INT8", "cpu", "w8a8"), (vllm_, "INT4", "cpu", "w4a16"), (vllm_, "FP8", "cuda", "fp8"), (trtllm, "FP8", "cuda", "modelopt-fp8"),
])  # fmt: skip
def test_quantised_forms_are_what_is_loaded(engine: Engine, precision: str, device: str, stored: str, root: Path) -> None:
    asked = spec(root, Options(), precision=precision, device=device)
    assert engine.stored(asked) == stored
    argv = engine.command(asked, 7).argv
    assert str(root / ("hf" if stored == "fp8" else stored)) in argv
    assert ("--quantization" in argv) == (stored == "fp8")


@pytest.mark.parametrize(("engine", "precision", "why"), [
    (vllm_, "FP8", "needs a GPU"), (vllm_, "Q4_K_M", "16 bit, INT8, INT4 here, not Q4_K_M"), (trtllm, "INT8", "trtllm-build"),
    (trtllm, "INT4", "ModelOpt"),
])  # fmt: skip
def test_a_precision_that_an_engine_lacks_is_a_reason(engine: Engine, precision: str, why: str, root: Path) -> None:
    with pytest.raises(Unavailable, match=why):
        engine.stored(spec(root, Options(), precision=precision))


@pytest.mark.parametrize("wrong", [{"kv": "4-bit"}, {"chunk_tokens": -1}, {"cache_tokens": 0}])
def test_impossible_options_are_refused(wrong: dict[str, str | int]) -> None:
    with pytest.raises(ValueError, match=r"there are 16-bit and 8-bit|at least 1"):
        Options(**wrong)  # type: ignore[arg-type]


def test_a_contender_carries_what_differs_from_the_default() -> None:
    assert Contender(vllm_).setting == {"engine": "vLLM", "precision": "16-bit"}
    changed = Contender(vllm_, options=Options(kv="8-bit", prefix_cache=True))
    assert changed.setting == {"engine": "vLLM", "precision": "16-bit", "kv": "8-bit", "prefix_cache": True}
    assert changed.name == "vLLM 16-bit, kv 8-bit, prefix cache True"


def test_counters_rise_gauges_stand_and_the_batch_is_that_of_these_steps() -> None:
    before, after = {"steps": 10.0, "running_per_step": 1.0, "kv_usage": 0.9}, {"steps": 30.0, "running_per_step": 3.0, "kv_usage": 0.2}
    assert rise(before, after) == {"steps": 20.0, "running_per_step": 4.0, "kv_usage": 0.2}  # (30 × 3 − 10 × 1) / 20
    assert rise({}, {"steps": 4.0, "output_tokens": 12.0})["running_per_step"] == 3.0
    assert rise({}, {"steps": 0.0}) == {"steps": 0.0}
    assert rise({}, {}) == {}
