"""What a reader is told of settled contests: rows, sentences, a frame for a figure; and nothing that was not told apart."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from lib import forests
from lib.verdict import answers
from lib.verdict.contest import Contest, Settled, settle
from lib.verdict.headlines import Headline

PLACE = "2 processors without a GPU"
TRT = {"TensorRT-LLM": "needs an NVIDIA GPU"}


def settled(key: str, need: str, samples: dict[str, dict[Any, float]], machine: str = "m", **more: Any) -> Settled:
    return settle(Contest(key, need, machine, {"10_llm_latency": "run-1"}, "{:.0f} ms", samples, absent=TRT, **more))


def won(machine: str = "m") -> Settled:
    return settled("first-32", "the earliest first token", {"vLLM": {0: 10, 1: 11}, "llama.cpp": {0: 20, 1: 22}}, machine)


def tied() -> Settled:
    return settled("start", "the soonest start", {"vLLM": {0: 10, 1: 11}, "llama.cpp": {0: 11, 1: 10}, "transformers": {0: 90, 1: 91}})


def lone() -> Settled:
    return settled("memory", "the least memory", {"llama.cpp": {0: 300.0}})


def nobody() -> Settled:
    return settled("cost", "the cheapest million tokens", {}, why="no price of a B300")


def cells(table: str, line: int) -> list[str]:
    return [cell.strip() for cell in table.splitlines()[line + 2].strip("|").split("|")]


def test_a_row_names_the_winner_the_margin_its_interval_the_repeats_and_the_evidence() -> None:
    want, take, reaches, following, better, repeats, evidence = cells(answers.needs([won()]), 0)
    assert (want, take, reaches, following) == ("the earliest first token", "**vLLM**", "10 ms", "llama.cpp, 21 ms")
    assert (better, repeats) == ("2.00× (2.00–2.00)", "2 rounds")
    assert evidence == "[10](10_llm_latency.ipynb) `run-1`"


def test_a_tie_names_all_that_are_not_told_apart_and_who_is() -> None:
    row = cells(answers.needs([tied()]), 0)
    assert row[1] == "vLLM or llama.cpp, not transformers"
    assert "no significant difference" in row[4] and row[4].startswith("1.00× (")


def test_a_lone_engine_and_nothing_recorded_say_so() -> None:
    table = answers.needs([lone(), nobody()])
    assert cells(table, 0)[1] == "**llama.cpp**"
    assert "nobody else was measured here" in cells(table, 0)[4]
    assert cells(table, 1)[1:5] == ["*no price of a B300*", "–", "–", "–"]


def test_an_engine_that_ran_nowhere_has_a_row_that_says_why_in_both_tables() -> None:
    for table in (answers.needs([won(), tied()]), answers.short([won(), tied()], notebooks="notebooks/")):
        assert next(line for line in table.splitlines() if "TensorRT-LLM" in line).startswith(
            "| anything with TensorRT-LLM | *not measured: needs an NVIDIA GPU* |")  # fmt: skip
    ran = settled("first-32", "x", {"TensorRT-LLM": {0: 1.0, 1: 1.0}, "vLLM": {0: 2.0, 1: 2.1}})
    assert "not measured" not in answers.needs([ran])


def test_the_guide_advises_only_where_somebody_won() -> None:
    said = answers.guide([won(), tied(), lone(), nobody()], PLACE)
    assert said == [
        f"On {PLACE} take vLLM if you want the earliest first token (2.00×).",
        "The repeats tell nobody apart, so take what you know, for the soonest start (vLLM or llama.cpp, not transformers).",
        "Only llama.cpp was measured for the least memory: it is compared with nobody.",
        "Of TensorRT-LLM nothing can be said: needs an NVIDIA GPU.",
    ]
    assert answers.guide([], PLACE) == [f"On {PLACE} nothing was recorded that could advise."]


def test_the_headline_counts_wins_and_ties_of_engines_alone() -> None:
    form = settled("bytes", "the most bytes saved", {"vLLM INT8": {0: 1.0, 1: 1.1}, "vLLM INT4": {0: 5.0, 1: 5.1}})
    assert answers.headline([won(), tied(), form], PLACE) == (
        f"of 2 needs on {PLACE} vLLM wins 1 (the earliest first token, 2.00×), the repeats tell nobody apart in 1")
    assert "nothing was recorded" in answers.headline([nobody()], PLACE)
    assert answers.headline([lone()], PLACE) == f"of 1 needs on {PLACE} only one was measured for 1"


def test_two_machines_have_two_tables_and_rows_of_their_own_in_the_figure() -> None:
    environment = {"threads": 2, "gpus": []}
    machines = {"m": environment, "n": {**environment, "threads": 96, "gpus": [{"name": "H200"}]}}
    found = {"m": [won()], "n": [won("n")]}
    page = answers.everywhere(found, machines)
    assert "**2 processors without a GPU** (`m`)" in page and "**96 processors with 1 × H200** (`n`)" in page
    assert answers.forest(found)["need"].tolist() == ["the earliest first token, m", "the earliest first token, n"]
    assert answers.everywhere({}, {}) == f"*{answers.NOBODY}*"


def test_the_figure_marks_who_is_told_apart_and_draws_no_bar_where_there_is_none() -> None:
    counted = settle(Contest("users", "users", "m", {}, samples={"vLLM": {"c": 16.0}, "llama.cpp": {"c": 8.0}}, higher=True,
                             met={"vLLM": (48, 48), "llama.cpp": (0, 48)}))  # fmt: skip
    frame = answers.forest({"m": [won(), tied(), counted, lone()]})
    assert frame["told"].tolist() == [True, False, True]
    fig = forests.forest(frame, y="need", by="winner", told="told", x_title="times")
    [trace] = fig.data
    assert list(trace.marker.symbol) == ["circle", "circle-open", "circle"]
    assert list(trace.error_x.array)[2] == 0
    assert "2 of 3" in answers.forested(frame)


def test_an_empty_page_is_drawn_and_told() -> None:
    frame = answers.forest({})
    assert not forests.forest(frame, y="need", by="winner", told="told", x_title="times").data
    assert "Nothing" in answers.forested(frame)
    assert answers.left_out([]).empty


def test_who_is_in_no_contest_at_all_has_one_row() -> None:
    more = settled("speed", "speed", {"vLLM INT8": {0: 1.0}})
    table = answers.left_out([won(), more])
    assert table.to_dict("records") == [{"who": "TensorRT-LLM", "is not asked for": "anything", "for": "needs an NVIDIA GPU"}]


def test_published_figures_are_only_of_engines_that_did_not_run() -> None:
    table = pd.DataFrame({"engine": ["TensorRT-LLM 1.0", "vLLM"], "result": ["27,911 output tok/s", "TTFT 514 ms"]})
    assert answers.elsewhere(table, [won()])["engine"].tolist() == ["TensorRT-LLM 1.0"]
    assert answers.elsewhere(table, []).empty


def test_a_part_of_which_nothing_is_recorded_has_a_row_that_says_so() -> None:
    told = [Headline("10_llm_latency", "a clock", reason="no recorded run"), Headline("11_llm_throughput", "a clock", "{x} a second", {})]
    table = answers.parts(told, {"10_llm_latency": "10 · Who?"}, notebooks="notebooks/")
    assert cells(table, 0) == ["[10 · Who?](notebooks/10_llm_latency.ipynb)", "*no recorded run*", "–", "–"]
    assert "not among" in cells(table, 1)[1]


@pytest.mark.parametrize(("words", "told"), [(["a"], "a"), (["a", "b"], "a or b"), (["a", "b", "c"], "a, b or c")])
def test_words_are_listed_as_people_do(words: list[str], told: str) -> None:
    assert answers._listed(words) == told
