"""What an engine is: a module that knows how to be started, asked and read, and nothing of metrics.

Adding one is one file of this shape and one entry in engines.toml. Modules satisfy the Protocol as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from prometheus_client.parser import text_string_to_metric_families

from lib import install
from lib.llm.memory import Cache
from lib.llm.model import Model


class Unavailable(ValueError):
    """This engine cannot serve this spec; the message is the reason a reader sees in the row."""


@dataclass(frozen=True, slots=True)
class Options:
    """What an experiment changes, in words that mean the same for every engine; each says in flags of its own, or refuses.

    `kv`: how the KV cache is stored. `chunk_tokens`: how many tokens one step computes at most, so that a long prompt is cut into
    pieces between which others go on; None is the engine's default, 0 never cuts. `continuous`: new requests join a running
    batch. `cache_tokens`: how many tokens the KV cache holds altogether, where not `slots` × `context`. `tensor_parallel`: over how
    many GPUs each layer is split, `pipeline_parallel`: over how many such groups the layers are dealt out.
    """

    kv: str = "16-bit"
    prefix_cache: bool = False
    chunk_tokens: int | None = None
    continuous: bool = True
    cache_tokens: int | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1

    def __post_init__(self) -> None:
        if self.kv not in ("16-bit", "8-bit"):
            raise ValueError(f"a KV cache of {self.kv!r}; there are 16-bit and 8-bit")
        if (self.chunk_tokens or 0) < 0 or (self.cache_tokens is not None and self.cache_tokens < 1):
            raise ValueError(f"{self}: steps of 0 tokens (never cut) or more, a cache of at least 1")
        if self.tensor_parallel < 1 or self.pipeline_parallel < 1:
            raise ValueError(f"{self}: a model is on one GPU at least")

    @property
    def gpus(self) -> int:
        """Devices that the model is spread over."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def setting(self) -> dict[str, str | bool | int]:
        """What differs from the defaults."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}


DEFAULT = Options()


@dataclass(frozen=True, slots=True)
class Spec:
    """What to serve and with how much. `context` is tokens a slot, `slots` sequences at a time; `device` is "cpu" or "cuda"."""

    model: Model
    precision: str = "16-bit"
    context: int = 2048
    slots: int = 1
    threads: int = 1
    device: str = "cpu"
    extra: tuple[str, ...] = ()
    options: Options = DEFAULT

    def __post_init__(self) -> None:
        if self.context < 2 or self.slots < 1 or self.threads < 1:
            raise ValueError(f"context {self.context}, slots {self.slots}, threads {self.threads}: all must be positive")
        if self.context > self.model.shape.context:
            raise ValueError(f"{self.model.name} was made for {self.model.shape.context} tokens of context, not {self.context}")


@dataclass(frozen=True, slots=True)
class Command:
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """Members of an engine's module."""

    NAME: str
    HEALTH: str  # path that answers 200 once the engine can generate
    METRICS: str  # path of its Prometheus metrics
    KEEPS_ALIVE: bool  # whether a connection survives a streamed answer

    def available(self) -> str | None:
        """None when it can run on this machine, else the reason that a reader will see in its row."""

    def version(self) -> str: ...

    def stored(self, spec: Spec) -> str:
        """The form of the weights it reads for this spec ("bf16", "q4_1"). Raises Unavailable for a precision it lacks."""

    def command(self, spec: Spec, port: int) -> Command: ...

    def request(self, spec: Spec, prompt: list[int], tokens: int) -> tuple[str, bytes]:
        """Path and body of one completion of exactly `tokens` tokens after token ids."""

    def tokens_in(self, event: Mapping[str, Any]) -> int | None:
        """Output tokens up to and with this event; None where the engine does not say."""

    def counters(self, exposition: str) -> dict[str, float]:
        """What the engine counted itself since its start, in the project's words."""

    TELLS: tuple[str, ...]  # options that make it write into its log what it allocates

    def kv_cache(self, spec: Spec) -> Cache | None:
        """The KV cache that it will allocate for this spec; None where it grows as it goes, or takes what memory is left."""

    def allocated(self, log: str, spec: Spec) -> dict[str, float]:
        """What its log says it allocated: of weights_bytes, repacked_bytes, kv_bytes, kv_tokens, compute_bytes those that it tells."""


def missing(name: str) -> str | None:
    """Why the engine called `name` in engines.toml is not installed here; None when it is."""
    found = install.find(name)
    return found.reason if isinstance(found, install.Missing) else None


def installed(name: str) -> install.Install:
    """The engine called `name` in engines.toml. Raises Unavailable with the reason why it is not there."""
    found = install.find(name)
    if isinstance(found, install.Missing):
        raise Unavailable(found.reason)
    return found


def on_gpus(engine: str, spec: Spec) -> None:
    """Raises Unavailable for a model that is to be spread over several GPUs where there are none."""
    if spec.options.gpus > 1 and spec.device != "cuda":
        raise Unavailable(f"{engine} is to span {spec.options.gpus} GPUs; there is none here")


def completion(prompt: list[int], tokens: int, **more: Any) -> dict[str, Any]:
    """The body of an OpenAI completion of exactly `tokens` greedy tokens after token ids, streamed with usage."""
    if not prompt or tokens < 1:
        raise ValueError(f"a prompt of {len(prompt)} tokens and an answer of {tokens}: both must be positive")
    return {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, **more}


def usage_so_far(event: Mapping[str, Any]) -> int | None:
    """Output tokens so far where the server puts a running usage into every chunk."""
    usage = event.get("usage")
    return None if not usage else usage.get("completion_tokens")


def scraped(exposition: str, names: Mapping[str, str]) -> dict[str, float]:
    """Sums over label sets of the wanted samples: `names` maps our word to the engine's metric. Absent ones stay absent."""
    wanted = {theirs: ours for ours, theirs in names.items()}
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if ours := wanted.get(sample.name):
                found[ours] = found.get(ours, 0.0) + sample.value
    return found
