"""Who competes: an engine at a precision, by the names a user types."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lib import record
from lib.llm.engines import llamacpp, transformers_, trtllm, vllm_
from lib.llm.engines.engine import DEFAULT, Engine, Options

ENGINES: dict[str, Engine] = {"vllm": vllm_, "llamacpp": llamacpp, "transformers": transformers_, "trtllm": trtllm}


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine at a precision, with what an experiment changes. `copy` tells two of the same apart, for A/A runs."""

    engine: Engine
    precision: str = "16-bit"
    copy: int = 0
    options: Options = DEFAULT

    @property
    def name(self) -> str:
        changed = "".join(f", {key.replace('_', ' ')} {value}" for key, value in self.options.setting.items())
        return f"{self.engine.NAME} {self.precision}{changed}" + (f" ({self.copy})" if self.copy else "")

    @property
    def setting(self) -> dict[str, record.Scalar]:
        twin = {"copy": self.copy} if self.copy else {}
        return {"engine": self.engine.NAME, "precision": self.precision, **twin, **self.options.setting}


def contenders(*wanted: str, among: list[str] | None = None) -> list[Contender]:
    """From "vllm" or "llamacpp:Q4_1"; `among`: only these (`spread`), where given. Raises ValueError with the valid names."""
    chosen = []
    for one in wanted:
        name, _, precision = one.partition(":")
        if name not in ENGINES:
            raise ValueError(f"unknown engine {one!r}; there are {', '.join(ENGINES)}")
        for asked, options in map(spread, among or [name]):
            if asked == name:
                chosen.append(Contender(ENGINES[name], precision or "16-bit", options=options))
    return chosen


def spread(word: str) -> tuple[str, Options]:
    """An engine as a user names it, and over how many GPUs: "vllm", "vllm:tp4", "vllm:tp2pp2". Raises ValueError."""
    name, _, split = word.partition(":")
    told = re.fullmatch(r"(?:tp([1-9]\d?))?(?:pp([1-9]\d?))?", split)
    if name not in ENGINES or not told:
        raise ValueError(f"unknown engine {word!r}; there are: {', '.join(ENGINES)}; each may be followed by :tp2, :pp2 or :tp2pp2")
    return name, Options(tensor_parallel=int(told[1] or 1), pipeline_parallel=int(told[2] or 1))


def versions() -> dict[str, str]:
    """The engines that can run here, by name."""
    return {engine.NAME: engine.version() for engine in ENGINES.values() if engine.available() is None}
