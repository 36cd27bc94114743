"""Checkpoints of a well-known model's shape with random weights, in the forms that engines read: speed is real, quality is not measured.

Speed does not depend on what weights say as long as they are not zero, so where no hub can be reached a shape is enough. Weights are
seeded and random, a block of them again and again. Refuses to pass for the model: its parent says what it is; and a disk without room.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lib import child, home, install, lock
from lib.child import Say
from lib.llm import blank, byte_pairs, memory
from lib.llm.model import Model, Shape
from lib.llm.weights import Family, NotReady

RECIPE = 1  # raise it when what is made here changes
BLOCK = 2**22  # weights that are drawn; the rest repeats them
SPREAD = 0.02  # of weights around zero
GROUP = 128  # weights that share a scale in w4a16
TINY = Shape(layers=2, hidden=256, intermediate=512, heads=4, kv_heads=2, head_dim=64, vocab=8448, context=8192, tied=False)
SAFETENSORS, GGUF = ("bf16", "w8a8", "w4a16"), ("f16", "q8_0", "q4_k_m")
BITS = {"q4_k_m": 4.95}  # of a weight, roughly, where memory.py knows no formula: for the room on the disk
_INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
SCHEMES: dict[str, dict[str, Any]] = {
    "w8a8": {"format": "int-quantized", "weights": {**_INT8, "strategy": "channel", "dynamic": False},
             "input_activations": {**_INT8, "strategy": "token", "dynamic": True}},
    "w4a16": {"format": "pack-quantized", "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP,
                                                      "symmetric": True, "dynamic": False}},
}  # fmt: skip


def shape(name: str) -> Shape:
    """ "8b" is Llama 3.1 8B's; "tiny" is for seeing that a way is whole. Raises NotReady for others."""
    if name == "tiny":
        return TINY
    if name != "8b":
        raise NotReady(f"no shape {name!r}; there are 8b, tiny")
    return next(known.shape for known in memory.shapes() if known.name == "Llama-3.1-8B")


def model(name: str, forms: Sequence[str] = (), *, say: Say = print) -> Model:
    """The model in the forms that are there, after those in `forms` were made. Raises NotReady with the reason."""
    root, of = home.cache() / "weights" / f"synthetic-{name}-{RECIPE}", shape(name)
    with lock.held(root.with_suffix(".lock"), say=say, what=name):
        for form in ("bf16", *forms):  # everything asks for the tokenizer, which lies beside the 16-bit form
            if not _place(root, form).exists():
                _make(root, of, form, say)
    there = {form for form in (*SAFETENSORS, *GGUF) if _place(root, form).exists()}
    family = Family(f"{name}-shape", _place(root, "bf16"), {form: _place(root, form) for form in GGUF if form in there},
                    f"{name} shape, random weights, quality not measured", "none: random numbers",
                    {form: _place(root, form) for form in SAFETENSORS[1:] if form in there})
    return Model(family.name, of, family)


def needed_bytes(of: Shape, form: str) -> float:
    """Of a form on the disk; forms that are quantised from F16 need that as well."""
    if form in BITS:
        return of.parameters * BITS[form] / 8
    return memory.weights_bytes(of, form, group=GROUP)


def _place(root: Path, form: str) -> Path:
    return root / (f"{form}.gguf" if form in GGUF else form)


def _make(root: Path, of: Shape, form: str, say: Say) -> None:
    """Whole or not at all."""
    if form not in (*SAFETENSORS, *GGUF):
        raise NotReady(f"no form {form!r}; there are {', '.join((*SAFETENSORS, *GGUF))}")
    if form in GGUF[1:] and not _place(root, "f16").exists():
        _make(root, of, "f16", say)
    root.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(root).free) < 1.05 * needed_bytes(of, form):
        raise NotReady(f"{form} needs {needed_bytes(of, form) / 1e9:.1f} GB on the disk, {free / 1e9:.1f} GB are free")
    say(f"{root.name}: writing {form}, {needed_bytes(of, form) / 1e9:.1f} GB")
    part = root / f"part-{form}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    target = part / _place(root, form).name
    try:
        if form == "f16":
            _gguf(target, of, root.name)
        elif form in GGUF:
            _quantized(root, target, form, say)
        else:
            target.mkdir()
            _safetensors(target, of, form)
    except OSError as error:
        raise NotReady(f"{form}: {error.strerror or error}") from error
    target.rename(_place(root, form))
    shutil.rmtree(part)


def _safetensors(to: Path, of: Shape, form: str) -> None:
    """A directory that vLLM and transformers load: config, tokenizer, one file of tensors."""
    words = byte_pairs.write(of.vocab, to)
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": of.hidden, "intermediate_size": of.intermediate,
        "num_hidden_layers": of.layers, "num_attention_heads": of.heads, "num_key_value_heads": of.kv_heads, "head_dim": of.head_dim,
        "vocab_size": of.vocab, "max_position_embeddings": of.context, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu",
        "tie_word_embeddings": of.tied, "attention_bias": False, "mlp_bias": False, "torch_dtype": "bfloat16",
        "bos_token_id": words.begin, "eos_token_id": words.end}  # fmt: skip
    if form in SCHEMES:
        scheme = {"targets": ["Linear"], **{key: value for key, value in SCHEMES[form].items() if key != "format"}}
        config["quantization_config"] = {"quant_method": "compressed-tensors", "format": SCHEMES[form]["format"],
                                         "quantization_status": "compressed", "ignore": ["lm_head"], "config_groups": {"group_0": scheme}}
    (to / "config.json").write_text(json.dumps(config, indent=1))
    tensors, header, at = list(_tensors(of, form)), dict[str, Any](), 0
    for name, kind, size in tensors:
        header[name] = {"dtype": kind, "shape": size, "data_offsets": [at, at := at + int(np.prod(size)) * WIDTH[kind]]}
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    head += b" " * (-len(head) % 8)
    blocks = _blocks(form)
    with (to / "model.safetensors").open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        for name, kind, size in tensors:
            if name.endswith("weight_shape"):
                out.write(np.array(_parent(of, name), np.int64).tobytes())
            else:
                what = "norm" if len(size) == 1 else "scale" if name.endswith("_scale") else kind
                _tiled(out, blocks[what], int(np.prod(size)) * WIDTH[kind])


WIDTH = {"BF16": 2, "I8": 1, "I32": 4, "I64": 8}  # bytes of a number


def _tensors(of: Shape, form: str) -> Iterator[tuple[str, str, list[int]]]:
    """Name, kind and size of all that a form stores; a quantised matrix brings its scales, a packed one its shape."""
    for name, size in blank.tensors(of).items():
        rows, columns = (*size, 0)[:2]
        if form == "bf16" or len(size) == 1 or not name.startswith("model.layers."):
            yield name, "BF16", list(size)
        elif form == "w8a8":
            yield name, "I8", [rows, columns]
            yield f"{name}_scale", "BF16", [rows, 1]
        else:
            yield f"{name}_packed", "I32", [rows, columns // 8]
            yield f"{name}_scale", "BF16", [rows, columns // GROUP]
            yield f"{name}_shape", "I64", [2]


def _parent(of: Shape, name: str) -> tuple[int, ...]:
    return blank.tensors(of)[name.removesuffix("_shape")]


def _blocks(form: str) -> dict[str, bytes]:
    """The bytes that are repeated, by what they are for: weights of a standard deviation of SPREAD, whatever they are stored in."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(BLOCK, dtype=np.float32) * np.float32(SPREAD)
    step = SPREAD / {"w8a8": 73.3, "w4a16": 4.6}.get(form, 1.0)  # uniform integers of 8 and 4 bits deviate by so many steps
    return {"BF16": _bf16(normal), "norm": _bf16(np.ones(BLOCK, np.float32)), "scale": _bf16(np.full(BLOCK, step, np.float32)),
            "I8": rng.integers(-127, 128, BLOCK, dtype=np.int8).tobytes(),
            "I32": rng.integers(0, 2**32, BLOCK, dtype=np.uint32).tobytes()}


def _bf16(values: np.ndarray) -> bytes:
    """The upper half of each float's bits."""
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def _tiled(out: BinaryIO, block: bytes, count: int) -> None:
    """`count` bytes of a block, over and over."""
    for _ in range(count // len(block)):
        out.write(block)
    out.write(memoryview(block)[: count % len(block)])


def _gguf(to: Path, of: Shape, name: str) -> None:
    """f16, norms f32 as llama.cpp's own converter has them."""
    from gguf import GGUFWriter, LlamaFileType

    words, writer, rng = byte_pairs.vocabulary(of.vocab), GGUFWriter(to, "llama"), np.random.default_rng(0)
    for told, value in ((writer.add_name, name), (writer.add_context_length, of.context), (writer.add_embedding_length, of.hidden),
                        (writer.add_block_count, of.layers), (writer.add_feed_forward_length, of.intermediate),
                        (writer.add_head_count, of.heads), (writer.add_head_count_kv, of.kv_heads), (writer.add_key_length, of.head_dim),
                        (writer.add_value_length, of.head_dim), (writer.add_rope_dimension_count, of.head_dim),
                        (writer.add_rope_freq_base, 500000.0), (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_vocab_size, of.vocab),
                        (writer.add_file_type, LlamaFileType.MOSTLY_F16), (writer.add_tokenizer_model, "gpt2"),
                        (writer.add_tokenizer_pre, "llama-bpe"), (writer.add_token_list, [*words.words, *words.special]),
                        (writer.add_token_types, [1] * len(words.words) + [3] * len(words.special)),
                        (writer.add_token_merges, [" ".join(pair) for pair in words.merges]), (writer.add_bos_token_id, words.begin),
                        (writer.add_eos_token_id, words.end), (writer.add_add_bos_token, False)):  # fmt: skip
        told(value)
    block = rng.standard_normal(BLOCK, dtype=np.float32).astype(np.float16) * np.float16(SPREAD)
    drawn: dict[tuple[int, ...], np.ndarray] = {}
    for tensor, size in blank.tensors(of).items():
        if size not in drawn:  # layers share theirs: memory holds one of them
            drawn[size] = np.ones(size, np.float32) if len(size) == 1 else np.resize(block, size)
        writer.add_tensor(blank.told(tensor), drawn[size])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _quantized(root: Path, to: Path, form: str, say: Say) -> None:
    """By llama.cpp's own tool, from F16."""
    if isinstance(engine := install.find("llamacpp"), install.Missing):
        raise NotReady(f"{form} needs llama.cpp's tools: {engine.reason}")
    try:
        child.run([engine.tool("llama-quantize"), _place(root, "f16"), to, form.upper()], what=f"{root.name}, {form}",
                  log=root / "make.log", say=say)
    except child.Failed as failed:
        raise NotReady(str(failed)) from failed
