"""The same work for every engine: seeded, unique, hashed, and refused before anything starts where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.home import INPUTS
from lib.llm import weights
from lib.llm.workload import PREFIX, Workload, corpus, digest

TEXT = tuple((i * i * 7919 + i // 3) % 49_152 for i in range(20_000))


def test_one_seed_one_work() -> None:
    work = Workload(104, 64, 50, seed=3)
    assert digest(work.prompts(TEXT)) == digest(Workload(104, 64, 50, seed=3).prompts(TEXT)) == "5bb48b39db50"


@pytest.mark.parametrize("other", [(104, 64, 50, 4), (104, 32, 50, 3), (96, 64, 50, 3)])
def test_another_seed_or_shape_is_other_work(other: tuple[int, int, int, int]) -> None:
    work, other_work = Workload(104, 64, 50, seed=3), Workload(*other)
    assert digest(work.prompts(TEXT)) != digest(other_work.prompts(TEXT))
    assert work.prompts(TEXT)[0][:96] != other_work.prompts(TEXT)[0][:96]


def test_more_requests_of_one_seed_go_on_where_fewer_end() -> None:
    assert Workload(64, 8, 20).prompts(TEXT)[:5] == Workload(64, 8, 5).prompts(TEXT)


@given(length=st.integers(1, 300), requests=st.integers(1, 100), seed=st.integers(0, 2**32))
def test_prompts_are_as_long_as_they_say_and_begin_alike_nowhere(length: int, requests: int, seed: int) -> None:
    prompts = Workload(length, 8, requests, seed).prompts(TEXT, context=308)
    assert [len(prompt) for prompt in prompts] == [length] * requests
    assert len({tuple(prompt[:PREFIX]) for prompt in prompts}) == requests


def test_prompts_are_windows_of_the_text() -> None:
    told = " ".join(map(str, TEXT))
    assert all(" ".join(map(str, prompt)) in told for prompt in Workload(40, 8, 10).prompts(TEXT))


def test_what_does_not_fit_the_context_is_refused() -> None:
    assert len(Workload(448, 64, 2).prompts(TEXT, context=512)) == 2
    with pytest.raises(ValueError, match=r"449 \+ 64 tokens do not fit a context of 512"):
        Workload(449, 64, 2).prompts(TEXT, context=512)


def test_a_short_text_is_refused() -> None:
    with pytest.raises(ValueError, match="a text of 400 tokens is too short for 100 unique prompts of 32"):
        Workload(32, 8, 100).prompts(TEXT[:400])
    with pytest.raises(ValueError, match="too short for 1 unique prompts of 1000"):
        Workload(1000, 8, 1).prompts(TEXT[:400])


def test_a_text_that_repeats_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="repeats itself too much for 6 unique prompts"):
        Workload(32, 8, 6).prompts((1, 2, 3, 4, 5) * 100)
    assert len(Workload(32, 8, 5).prompts((1, 2, 3, 4, 5) * 100)) == 5


@pytest.mark.parametrize("bad", [(0, 8, 1), (8, 0, 1), (8, 8, 0), (-1, 8, 1)])
def test_nothing_to_do_is_refused(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Workload(*bad)


def test_equal_digests_equal_work() -> None:
    assert digest([[1, 2], [3]]) == digest([[1, 2], [3]])
    assert len({digest(d) for d in ([[1, 2], [3]], [[1], [2, 3]], [[1, 2, 3]], [[3], [1, 2]], [[12], [3]])}) == 5


def test_a_corpus_is_token_ids_without_special_ones(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    words = Tokenizer(WordLevel({"[BOS]": 0, "the": 1, "café": 2, "closes": 3, "?": 4}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="[BOS] $0", special_tokens=[("[BOS]", 0)])
    words.save(str(tmp_path / "tokenizer.json"))
    (text := tmp_path / "text.txt").write_text("the café closes the café", encoding="utf-8")
    assert corpus(tmp_path, text=text) == (1, 2, 3, 1, 2)


def test_the_prose_is_long_enough_for_a_day_of_prompts(tmp_path: Path) -> None:
    try:
        family = weights.family()
    except weights.NotReady as why:
        pytest.skip(str(why))
    ids = corpus(family.hf)
    assert 60_000 < len(ids) < 120_000
    assert len(Workload(1024, 64, 1000).prompts(ids, context=8192)) == 1000

    from tokenizers import Tokenizer

    decoded = Tokenizer.from_file(str(family.hf / "tokenizer.json")).decode(list(ids[:200]))
    assert (INPUTS / "prose.txt").read_text(encoding="utf-8").startswith(decoded[:300])
