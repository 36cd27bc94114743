"""Quantised safetensors for vLLM, made by llm-compressor in an environment of its own: which schemes, by what method, on which texts.

Calibration reads one half of the prose, quality is judged on the other. Refuses to quantise what is computed once a token only (the
output head, which this model shares with its embedding): it stays in 16 bit, so a "4-bit" model is larger than 4 bits a weight.

    python -m lib.llm.compress SCHEME HF_DIRECTORY TEXT DIRECTORY

with the Python of llm-compressor; how it was made, and what it says to the family's proof, lies in the directory as JSON.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from lib.llm.forms import PROMPT

RECIPE = 1  # raise it when what is made here changes
RECORD = "made.json"
SCHEMES = ("w8a8", "w4a16")
SAMPLES, LENGTH, AT_ONCE = 64, 256, 8  # calibration windows, their tokens, windows a pass
GROUPS = (128, 64, 32)  # weights that share a scale: the largest that divides every matrix's columns
AFFORDABLE = 1_000_000_000  # parameters: GPTQ on processors takes 15 s for 135 million of them and grows faster than they do


def parted(text: str) -> tuple[str, str]:
    """A text in two halves, cut between paragraphs: what quality is judged on, and what calibration may see."""
    cut = text.index("\n\n", len(text) // 2)
    return text[:cut], text[cut:]


def scheme(name: str, columns: list[int]) -> dict[str, Any]:
    """llm-compressor's words for a scheme, for matrices of these `columns`. Raises ValueError where no group size divides them all.

    w8a8: INT8 weights, a scale a row; activations INT8, a scale a token, found while running. w4a16: INT4 weights, a scale a group.
    """
    if name == "w8a8":
        return {"weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True},
                "input_activations": {"num_bits": 8, "type": "int", "strategy": "token", "symmetric": True, "dynamic": True}}
    group = next((size for size in GROUPS if all(n % size == 0 for n in columns)), None)
    if name != "w4a16" or group is None:
        raise ValueError(f"no scheme {name!r} for matrices of {sorted(set(columns))} columns; there are {', '.join(SCHEMES)}")
    return {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": group, "symmetric": True}}


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor itself multiplies in bfloat16."""
    return bool(re.search(r"^(?:flags|Features)\s*:.*\b(?:avx512_bf16|amx_bf16|bf16)\b", cpuinfo.read_text(), re.M))


def make(name: str, hf: Path, text: Path, to: Path) -> dict[str, Any]:
    """Write the model of `hf` in scheme `name` to directory `to`; how it was made. GPTQ (arXiv:2210.17323), else rounding to nearest."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # A processor without bfloat16 makes it of float32, product by product: eleven minutes on a Zen 3, 80 s on a Zen 4.
    kind = torch.bfloat16 if device == "cuda" or multiplies_bf16() else torch.float32
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=kind, device_map=device)
    tokenizer = AutoTokenizer.from_pretrained(hf)
    inner = [m for where, m in model.named_modules() if isinstance(m, torch.nn.Linear) and where != "lm_head"]
    groups = {"group_0": {"targets": ["Linear"], **scheme(name, [m.in_features for m in inner])}}
    ids = tokenizer(text.read_text(), add_special_tokens=False)["input_ids"]
    step = max(1, (len(ids) - LENGTH) // SAMPLES)
    windows = [ids[i * step:i * step + LENGTH] for i in range(SAMPLES)]
    gptq = device == "cuda" or sum(p.numel() for p in model.parameters()) <= AFFORDABLE
    modifier = (GPTQModifier if gptq else QuantizationModifier)(config_groups=groups, ignore=["lm_head"])
    data = Dataset.from_dict({"input_ids": windows, "attention_mask": [[1] * len(w) for w in windows]})
    oneshot(model=model, dataset=data if gptq else None, recipe=modifier, max_seq_length=LENGTH, num_calibration_samples=SAMPLES,
            batch_size=AT_ONCE)
    prompt = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False).to(device)
    said = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1]:]
    model.to(torch.bfloat16).save_pretrained(to, save_compressed=True)
    tokenizer.save_pretrained(to)
    how = {"method": "GPTQ", "samples": SAMPLES, "sample_tokens": LENGTH} if gptq else {"method": "round to nearest"}
    return {"says": tokenizer.decode(said), "calibrated_in": str(kind).removeprefix("torch."), **how, **groups["group_0"]}


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    told = make(sys.argv[1], *map(Path, sys.argv[2:5]))
    (Path(sys.argv[4]) / RECORD).write_text(json.dumps(told))  # last: with it the directory is whole
