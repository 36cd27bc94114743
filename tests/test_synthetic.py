"""Random checkpoints are what they say: as many bytes as the shape implies, one tokenizer in both forms, never zero, the same twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lib.llm import blank, byte_pairs, memory, synthetic
from lib.llm.model import Model
from lib.llm.weights import NotReady


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Model:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFERENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return synthetic.model("tiny", ("w8a8", "w4a16", "f16"), say=quiet)


@pytest.mark.parametrize("form", ["bf16", "w8a8", "f16"])
def test_a_form_weighs_what_the_shape_implies(made: Model, form: str) -> None:
    assert made.weights_bytes(form) == pytest.approx(memory.weights_bytes(made.shape, form), rel=0.01)


def test_four_bits_are_packed_eight_to_a_word(made: Model) -> None:
    raw = (made.family.compressed["w4a16"] / "model.safetensors").read_bytes()
    header = json.loads(raw[8:8 + int.from_bytes(raw[:8], "little")])
    name = "model.layers.1.mlp.down_proj.weight"
    assert header[f"{name}_packed"]["shape"] == [256, 512 // 8] and header[f"{name}_scale"]["shape"] == [256, 512 // synthetic.GROUP]
    start, end = header[f"{name}_shape"]["data_offsets"]
    data = 8 + int.from_bytes(raw[:8], "little")
    assert np.frombuffer(raw[data + start:data + end], np.int64).tolist() == [256, 512]
    assert "lm_head.weight" in header, "the head stays at 16 bits"


def test_eight_bits_are_random_and_their_scales_keep_the_spread(made: Model) -> None:
    import torch
    from safetensors.torch import load_file

    found = load_file(made.family.compressed["w8a8"] / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    whole = found[name].float() * found[f"{name}_scale"].float()
    assert found[name].dtype == torch.int8 and float(whole.std()) == pytest.approx(synthetic.SPREAD, rel=0.05)


def test_transformers_loads_the_sixteen_bit_form_and_it_answers(made: Model) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(made.family.hf, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(made.family.hf)
    text = "Größe: 3 µm – naïve café, 42 % 你好"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text and max(ids) < made.shape.vocab
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits
    assert logits.shape == (1, len(ids), made.shape.vocab) and float(logits.std()) > 0 and bool(torch.isfinite(logits).all())


def test_gguf_has_the_same_words_merges_and_tensors(made: Model) -> None:
    from gguf import GGUFReader

    reader, words = GGUFReader(made.family.gguf["f16"]), byte_pairs.vocabulary(made.shape.vocab)
    assert reader.fields["tokenizer.ggml.tokens"].contents() == [*words.words, *words.special]
    assert reader.fields["tokenizer.ggml.merges"].contents()[0] == " ".join(words.merges[0])
    assert {t.name: tuple(reversed([int(n) for n in t.shape])) for t in reader.tensors} == {
        blank.told(name): size for name, size in blank.tensors(made.shape).items()}
    weights = next(t for t in reader.tensors if t.name == "blk.1.ffn_up.weight").data
    assert float(np.std(weights)) == pytest.approx(synthetic.SPREAD, rel=0.05)


def test_the_same_twice_and_it_says_what_it_is(made: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))
    again = synthetic.model("tiny", say=quiet)
    assert (again.family.hf / "model.safetensors").read_bytes() == (made.family.hf / "model.safetensors").read_bytes()
    assert again.family.parent == "tiny shape, random weights, quality not measured" and not again.family.gguf


def test_eight_billion_is_llamas_shape_and_its_forms_are_known_before_they_are_written() -> None:
    shape = synthetic.shape("8b")
    assert (shape.layers, shape.hidden, shape.vocab) == (32, 4096, 128256)
    assert synthetic.needed_bytes(shape, "bf16") == pytest.approx(16.06e9, rel=0.01)
    assert synthetic.needed_bytes(shape, "q4_k_m") == pytest.approx(4.9e9, rel=0.03)
    words = byte_pairs.vocabulary(shape.vocab)
    assert len(words.words) + len(words.special) == shape.vocab and len(set(words.words)) == 128000


def test_no_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10_000_000_000})())
    with pytest.raises(NotReady, match=r"bf16 needs 16\.1 GB on the disk, 10\.0 GB are free"):
        synthetic.model("8b", say=quiet)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(("name", "form", "said"), [("70b", "bf16", "no shape '70b'"), ("tiny", "nf4", "no form 'nf4'")])
def test_unknown_shapes_and_forms_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str, said: str) -> None:
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))
    with pytest.raises(NotReady, match=said):
        synthetic.model(name, (form,), say=quiet)


@pytest.mark.parametrize("size", [0, 511, 10**8])
def test_a_vocabulary_has_a_least_and_a_most(size: int) -> None:
    with pytest.raises(ValueError, match=f"vocabulary of {size}"):
        byte_pairs.vocabulary(size)
