"""A tokenizer that nobody trained: byte-level BPE of any size, as large as a real one's table and as correct, but it knows no words.

For checkpoints of random weights, where speed is measured and nobody reads the answers: a vocabulary of the true size makes embedding and
head as large as they are. The same table goes into tokenizer.json and GGUF. Refuses sizes that do not even hold the bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain, islice, product
from pathlib import Path

BYTES = 256
SPECIAL = 256  # as Llama 3 has: begin, end, and reserved ones
MOST_FREQUENT = b"etaoinshrdlcumwfgypbvkjxqz"
THIRD = 64  # how many of the bytes follow a pair


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`words` in the order of their ids, `merges` in the order in which they are tried, `special` after the words."""

    words: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    special: tuple[str, ...]

    @property
    def begin(self) -> int:
        return len(self.words)

    @property
    def end(self) -> int:
        return len(self.words) + 1


def vocabulary(size: int) -> Vocabulary:
    """Bytes, pairs of bytes, then triples, the letters of English first. Raises ValueError."""
    shown, room = _shown(), size - SPECIAL - BYTES
    if room < 0 or room > BYTES**2 + BYTES**2 * THIRD:
        raise ValueError(f"a vocabulary of {size} words: from {SPECIAL + BYTES} to {SPECIAL + BYTES + BYTES**2 * (1 + THIRD)}")
    order = [shown[b] for b in sorted(range(BYTES), key=lambda b: (b not in MOST_FREQUENT, MOST_FREQUENT.find(b), b != 32, b))]
    pairs = product(order, order)
    triples = ((a + b, c) for a, b in product(order, order) for c in order[:THIRD])
    merges = tuple(islice(chain(pairs, triples), room))
    special = ("<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_{n}|>" for n in range(SPECIAL - 2)))
    return Vocabulary((*shown, *(a + b for a, b in merges)), merges, special)


def write(size: int, to: Path) -> Vocabulary:
    """tokenizer.json and what goes with it, in folder `to`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    made = vocabulary(size)
    tokenizer = Tokenizer(models.BPE(vocab={word: n for n, word in enumerate(made.words)}, merges=list(made.merges), fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in made.special])
    tokenizer.save(str(to / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": made.special[0], "eos_token": made.special[1],
            "clean_up_tokenization_spaces": False, "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}"}
    (to / "tokenizer_config.json").write_text(json.dumps(told))
    (to / "generation_config.json").write_text(json.dumps({"bos_token_id": made.begin, "eos_token_id": made.end}))
    return made


def _shown() -> list[str]:
    """A printable character for each byte, as GPT-2 has it."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(BYTES, 2 * BYTES))
    return [chr(byte if byte in plain else next(others)) for byte in range(BYTES)]
