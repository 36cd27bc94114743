"""A second model to weigh: another shape, random weights. It says nothing sensible and is good for memory only.

It borrows the tokenizer of a family that is prepared already and is written by hand in both forms, so that no hub and no torch is
needed. Refuses to pass for a real model: its parent says what it is.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from lib import home, lock
from lib.child import Say
from lib.llm.model import Model, Shape
from lib.llm.weights import Family

# Qwen2.5-0.5B's widths in four layers, as a Llama with a head of its own: 7 query heads share a KV head, in SmolLM2 3 do.
SHAPE = Shape(layers=4, hidden=896, intermediate=4864, heads=14, kv_heads=2, head_dim=64, vocab=49152, context=8192, tied=False)
NAME = "random-0.15b"
RECIPE = 1  # raise it when what is made here changes
SPREAD = 0.02  # of the weights around zero


def model(like: Family, *, shape: Shape = SHAPE, say: Say = print) -> Model:
    """The model, made in the cache where it is not there yet, with the tokenizer of `like`."""
    root = home.cache() / "weights" / f"{NAME}-{RECIPE}-{shape.layers}-{shape.hidden}-{shape.vocab}"
    with lock.held(root.with_suffix(".lock"), say=say, what=NAME):
        if not (root / "ok").exists():
            say(f"{NAME}: writing random weights")
            shutil.rmtree(root, ignore_errors=True)
            (root / "hf").mkdir(parents=True)
            _safetensors(root / "hf", like.hf, shape)
            _gguf(root / "f16.gguf", like.gguf["f16"], shape)
            (root / "ok").touch()
    return Model(NAME, shape, Family(NAME, root / "hf", {"f16": root / "f16.gguf"}, "random weights, memory only", "none"))


def tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape by its Hugging Face name; one-dimensional ones are norms."""
    wide, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = {"input_layernorm": (shape.hidden,), "post_attention_layernorm": (shape.hidden,), "self_attn.q_proj": (wide, shape.hidden),
             "self_attn.k_proj": (kv, shape.hidden), "self_attn.v_proj": (kv, shape.hidden), "self_attn.o_proj": (shape.hidden, wide),
             "mlp.gate_proj": (shape.intermediate, shape.hidden), "mlp.up_proj": (shape.intermediate, shape.hidden),
             "mlp.down_proj": (shape.hidden, shape.intermediate)}
    every = {f"model.layers.{i}.{part}.weight": size for i in range(shape.layers) for part, size in layer.items()}
    head = {} if shape.tied else {"lm_head.weight": (shape.vocab, shape.hidden)}
    return {"model.embed_tokens.weight": (shape.vocab, shape.hidden), **every, "model.norm.weight": (shape.hidden,), **head}


GGUF = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def _values(size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if len(size) == 1:
        return np.ones(size, np.float32)
    return np.resize(rng.standard_normal(2**16, dtype=np.float32) * np.float32(SPREAD), size)  # repeats: nobody listens to it


def _safetensors(to: Path, like: Path, shape: Shape) -> None:
    """bf16: the upper half of each float's bits."""
    config = json.loads((like / "config.json").read_text())
    config |= {"num_hidden_layers": shape.layers, "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
               "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
               "vocab_size": shape.vocab, "max_position_embeddings": shape.context, "tie_word_embeddings": shape.tied}
    (to / "config.json").write_text(json.dumps(config))
    for file in like.glob("tokenizer*"):
        shutil.copy(file, to)
    rng, header, at = np.random.default_rng(0), {}, 0
    for name, size in tensors(shape).items():
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [at, at := at + 2 * int(np.prod(size))]}
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    head += b" " * (-len(head) % 8)
    with (to / "model.safetensors").open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        for size in tensors(shape).values():
            out.write((_values(size, rng).view(np.uint32) >> 16).astype(np.uint16).tobytes())


def _gguf(to: Path, like: Path, shape: Shape) -> None:
    """f16, norms f32 as llama.cpp's own converter has them; words and merges are copied from `like`."""
    from gguf import GGUFReader, GGUFWriter

    arch = "llama"
    changed = {f"{arch}.block_count": shape.layers, f"{arch}.embedding_length": shape.hidden, f"{arch}.context_length": shape.context,
               f"{arch}.feed_forward_length": shape.intermediate, f"{arch}.attention.head_count": shape.heads,
               f"{arch}.attention.head_count_kv": shape.kv_heads, f"{arch}.attention.key_length": shape.head_dim,
               f"{arch}.attention.value_length": shape.head_dim, f"{arch}.rope.dimension_count": shape.head_dim,
               f"{arch}.vocab_size": shape.vocab, "general.name": NAME}
    writer, rng = GGUFWriter(to, arch), np.random.default_rng(0)
    for name, field in GGUFReader(like).fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            sub = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, changed.get(name, field.contents()), field.types[0], sub)
    for name, size in tensors(shape).items():
        values = _values(size, rng)
        writer.add_tensor(told(name), values if values.ndim == 1 else values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def told(name: str) -> str:
    """A tensor's name in GGUF: "model.layers.3.mlp.up_proj.weight" is "blk.3.ffn_up.weight"."""
    part = name.removesuffix(".weight")
    if not part.startswith("model.layers."):
        return f"{GGUF[part]}.weight"
    number, _, part = part.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{GGUF[part]}.weight"
