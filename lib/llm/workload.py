"""What is asked of an engine: token ids, the same for every engine, unique, seeded and hashed.

Prompts are windows of real English prose at random places, so that what an engine writes is text too. Ids are sent,
never text: a prompt has the length it says, whatever the tokenizer. Refuses workloads that cannot be unique or do not
fit the context.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from lib.home import INPUTS

PREFIX = 16  # no two prompts share their first 16 tokens: a prefix cache works in blocks of that size or more


@dataclass(frozen=True, slots=True)
class Workload:
    """`requests` prompts of `prompt_tokens` tokens, each to be answered with `output_tokens`."""

    prompt_tokens: int
    output_tokens: int
    requests: int
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.output_tokens, self.requests) < 1:
            raise ValueError(f"{self}: tokens and requests must be at least 1")

    @property
    def context(self) -> int:
        return self.prompt_tokens + self.output_tokens

    def prompts(self, corpus: tuple[int, ...], *, context: int | None = None) -> list[list[int]]:
        """Prompts cut from `corpus` (ids). Raises ValueError when they do not fit `context` or cannot be unique."""
        if context is not None and self.context > context:
            raise ValueError(f"{self.prompt_tokens} + {self.output_tokens} tokens do not fit a context of {context}")
        places = len(corpus) - self.prompt_tokens
        if places < 4 * self.requests:
            raise ValueError(f"a text of {len(corpus)} tokens is too short for {self.requests} unique prompts of "
                             f"{self.prompt_tokens}")
        rng = np.random.default_rng([self.seed, self.prompt_tokens, self.output_tokens])
        seen: set[tuple[int, ...]] = set()
        chosen: list[list[int]] = []
        for place in rng.permutation(places):
            prompt = list(corpus[place:place + self.prompt_tokens])
            if (start := tuple(prompt[:PREFIX])) not in seen:
                seen.add(start)
                chosen.append(prompt)
            if len(chosen) == self.requests:
                return chosen
        raise ValueError(f"the text repeats itself too much for {self.requests} unique prompts")


def digest(prompts: list[list[int]]) -> str:
    """A short hash of token ids: equal digests, equal work."""
    return hashlib.sha256(repr(prompts).encode()).hexdigest()[:12]


@cache
def corpus(tokenizer: Path, *, text: Path = INPUTS / "prose.txt") -> tuple[int, ...]:
    """The prose as token ids of the tokenizer in directory `tokenizer`, without special tokens."""
    from tokenizers import Tokenizer

    words = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    return tuple(words.encode(text.read_text(encoding="utf-8"), add_special_tokens=False).ids)
