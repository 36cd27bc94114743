"""One model, every precision: a family of weights that descends from a single parent, made once a machine.

The quick profile's parent is a Q4_1 GGUF, so its 16-bit forms are that file's own expansion, and quality is judged
against them. Refuses weights that could run code (only safetensors and GGUF are read, no code of a model's own), and a
family whose tokenizer or first words differ between its forms.

    python -m lib.llm.weights [NAME]
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from lib import child, fetch, home, lock
from lib.child import Say
from lib.llm.engines import install

RECIPE = 1  # raise it when what is made here changes
QUANTS = ("q8_0", "q4_0", "q4_k_m")
PROMPT, ANSWER = "The capital of France is", "Paris"
SAMPLES = (PROMPT, "Größe: 3 µm – naïve café, 42 %", "你好，世界！\n\tdef f(x): return x ** 2", "<|im_start|>user\nHi<|im_end|>\n")


class NotReady(Exception):
    """Weights that cannot be used yet, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Family:
    """One model in all its forms: `hf` is a directory (bf16 safetensors, tokenizer, config), `gguf` files by precision."""

    name: str
    hf: Path
    gguf: dict[str, Path]
    parent: str
    licence: str


def family(name: str = "smollm2-135m") -> Family:
    """The prepared family `name`. Instant; raises NotReady with what to do, fetch.Refused for an unknown name."""
    source = _source(name)
    root = _root(name, source.member_sha256)
    if not (root / "ok.json").exists():
        raise NotReady(f"the weights of {name} are not prepared on this machine yet; ./run_all.sh prepares them")
    return _family(root, name, parent=f"{Path(source.member).name} ({source.package} {source.version})", licence=source.licence)


def prepare(name: str = "smollm2-135m", *, say: Say = print) -> Family:
    """The family `name`, fetched, expanded, converted and proven where that is still to be done. Raises NotReady or Refused."""
    source = _source(name)
    root = _root(name, source.member_sha256)
    if not (root / "ok.json").exists():
        parent = fetch.fetch(name, say=say)
        _make(root, name, say=say, parent=parent, quants=QUANTS, answer=ANSWER)
    return family(name)


def local(path: Path, *, say: Say = print, quants: Sequence[str] = QUANTS) -> Family:
    """The family of a model of one's own: a Hugging Face directory with safetensors, or a GGUF file. Raises NotReady.

    What is not there in the directory (GGUF forms) is made in the cache; the directory itself is left as it is.
    """
    if path.is_dir():
        if not (path / "config.json").exists() or not any(path.glob("*.safetensors")):
            raise NotReady(f"{path} is no model this can read: it needs config.json and *.safetensors (pickled weights are refused)")
        files = sorted([*path.glob("*.safetensors"), *path.glob("*.json")])
    elif path.suffix == ".gguf" and path.exists():
        files = [path]
    else:
        raise NotReady(f"{path} is neither a directory with safetensors nor a .gguf file")
    name = re.sub(r"[^\w.-]", "-", path.resolve().stem if path.is_file() else path.resolve().name)
    root = _root(name, json.dumps([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]))
    if not (root / "ok.json").exists():
        _make(root, name, say=say, **({"hf": path} if path.is_dir() else {"parent": path}), quants=quants, answer=None)
    return _family(root, name, parent=path.name, licence="the model's own; see its card")


def named(model: str, *, say: Say = print) -> Family:
    """The family behind --model: a prepared name, a local path, or a hub id (OWNER/NAME) where a hub can be reached."""
    if model in fetch.sources():
        return prepare(model, say=say)
    if Path(model).expanduser().exists():
        return local(Path(model).expanduser(), say=say)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise NotReady(f"no model {model!r}: neither a path here, nor OWNER/NAME of a hub, nor one of {', '.join(fetch.sources())}")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    say(f"{model}: fetching safetensors, tokenizer and config from the hub")
    try:
        got = huggingface_hub.snapshot_download(model, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"])
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise NotReady(f"{model} could not be fetched: {str(error).splitlines()[0]}; give a local path to --model") from error
    return local(Path(got), say=say)


def expand(parent: Path, to: Path) -> None:
    """A GGUF file as bf16 safetensors with tokenizer and config in directory `to`.

    transformers keeps a mark of the GGUF in the config and refuses to save such a model, so a fresh one takes its weights.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(parent.parent, gguf_file=parent.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(parent.parent, gguf_file=parent.name)
    config = read.config
    del config.quantization_config
    config.bos_token_id, config.eos_token_id, config.pad_token_id = (
        tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(read.state_dict())
    fresh.tie_weights()
    fresh.to(torch.bfloat16).save_pretrained(to)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(to)


def speak(hf: Path) -> None:
    """Print, as JSON, the samples' token ids and the greedy continuation of PROMPT by the safetensors in `hf`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(hf)
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.bfloat16)
    prompt = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False)
    said = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1]:]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in SAMPLES]
    print(json.dumps({"ids": ids, "says": tokenizer.decode(said)}))


# The same by llama.cpp's binding, which lives in an environment of its own and gets samples and paths as arguments.
SPEAK_GGUF = """
import json, llama_cpp, sys
path, samples = sys.argv[1], json.loads(sys.argv[2])
model = llama_cpp.Llama(path, n_ctx=256, verbose=False)
ids = [model.tokenize(text.encode(), add_bos=False, special=True) for text in samples]
says = model.create_completion(ids[0], max_tokens=8, temperature=0)["choices"][0]["text"]
print(json.dumps({"ids": ids, "says": says}))
"""


def _source(name: str) -> fetch.Source:
    known = fetch.sources()
    if name not in known:
        raise fetch.Refused(f"no model {name!r}; there are: {', '.join(sorted(known))}")
    return known[name]


def _root(name: str, identity: str) -> Path:
    """Where the family lies: keyed by its parent's identity, this recipe and the versions of what converts."""
    made_of = [identity, RECIPE, version("transformers"), install.pinned("llamacpp")]
    return home.cache() / "weights" / f"{name}-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]}"


def _family(root: Path, name: str, *, parent: str, licence: str) -> Family:
    made = json.loads((root / "ok.json").read_text())
    return Family(name, root / "hf", {kind: root / f"{kind}.gguf" for kind in made["gguf"]}, parent, licence)


def _make(
    root: Path,
    name: str,
    *,
    say: Say,
    quants: Sequence[str],
    answer: str | None,
    parent: Path | None = None,
    hf: Path | None = None,
) -> None:
    """Every form of the family, each written beside its place and moved there when it is whole; the marker last."""
    if isinstance(llamacpp := install.provision("llamacpp", say=say), install.Missing):
        raise NotReady(f"the weights of {name} need llama.cpp's tools: {llamacpp.reason}")
    root.mkdir(parents=True, exist_ok=True)
    log, part = root / "make.log", root / "part"

    def run(*command: str | Path, what: str) -> tuple[str, ...]:
        return child.run(command, what=f"{name}, {what}", log=log, say=say, cwd=home.ROOT, env={"HF_HUB_OFFLINE": "1"})

    def made(target: Path, *command: str | Path) -> None:
        if not target.exists():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            say(f"{name}: making {target.name}")
            run(*command, what=target.name)
            (part / target.name).rename(target)

    python, here = sys.executable, "import sys; from pathlib import Path; from lib.llm.weights import expand, speak; "
    try:
        with lock.held(root / "lock", say=say, what=name):
            if hf is not None and not (root / "hf").exists():
                (root / "hf").symlink_to(hf.resolve())
            if parent is not None:
                made(root / "hf", python, "-c", here + "expand(Path(sys.argv[1]), Path(sys.argv[2]))", parent, part / "hf")
            made(root / "f16.gguf", python, llamacpp.root / "convert_hf_to_gguf.py", root / "hf", "--outtype", "f16",
                 "--outfile", part / "f16.gguf")
            for kind in quants:
                made(root / f"{kind}.gguf", llamacpp.tool("llama-quantize"), root / "f16.gguf", part / f"{kind}.gguf", kind.upper())
            kinds = ["f16", *quants]
            if parent is not None and (found := _kind(parent)) not in kinds:
                (root / f"{found}.gguf").unlink(missing_ok=True)
                (root / f"{found}.gguf").symlink_to(parent.resolve())
                kinds.append(found)
            told = [json.loads(run(*command, what="proof")[-1]) for command in (
                [python, "-c", here + "speak(Path(sys.argv[1]))", root / "hf"],
                [llamacpp.tool("python"), "-c", SPEAK_GGUF, root / "f16.gguf", json.dumps(SAMPLES)])]
            if flaw := flawed(*told, answer=answer):
                raise NotReady(f"{name}: {flaw}; see {log}")
            shutil.rmtree(part, ignore_errors=True)
            (root / "ok.part").write_text(json.dumps({"gguf": kinds, "says": [form["says"] for form in told]}))
            (root / "ok.part").replace(root / "ok.json")
    except child.Failed as failed:
        raise NotReady("\n  ".join([str(failed), *failed.tail])) from failed
    except OSError as error:
        raise NotReady(f"{name}: {error.strerror or error}; make room or set INFERENCE_CACHE") from error
    say(f"{name}: ready in {', '.join(['bf16', *kinds])}")


def flawed(hf: dict[str, object], gguf: dict[str, object], *, answer: str | None) -> str | None:
    """Why two forms of a family are not one model, or None. Each is what `speak` prints."""
    if hf["ids"] != gguf["ids"]:
        return "the tokenizers of the safetensors and the GGUF split the same text differently"
    for form, told in (("bf16", hf), ("f16.gguf", gguf)):
        if answer is not None and answer not in str(told["says"]):
            return f"{form} continues {PROMPT!r} with {told['says']!r}, not with {answer}"
    return None


def _kind(gguf: Path) -> str:
    """The precision of most of a GGUF's weights, as in "q4_1"."""
    from gguf import GGUFReader

    sizes: dict[str, int] = {}
    for tensor in GGUFReader(gguf).tensors:
        kind = tensor.tensor_type.name.lower()
        sizes[kind] = sizes.get(kind, 0) + int(tensor.n_elements)
    return max(sizes, key=lambda kind: sizes[kind])


if __name__ == "__main__":
    try:
        named(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m", say=lambda line: print(line, flush=True))
    except (NotReady, fetch.Refused) as error:
        sys.exit(str(error))
