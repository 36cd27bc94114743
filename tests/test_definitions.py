"""Five tools' definitions on logs that can be worked out in the head, and on a recorded one worked out again."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.llm import definition_readings, definitions, recorded, throughput
from lib.llm.definitions import Log
from lib.llm.events import Answer


def answer(number: int, sent_s: float, *stamps_s: float, due_s: float = 0.0, counts: tuple[int, ...] | None = None,
           error: str | None = None) -> Answer:  # fmt: skip
    told = tuple(range(1, len(stamps_s) + 1)) if counts is None else counts
    return Answer(number, due_s, sent_s, stamps_s, told, "", told[-1] if told else len(stamps_s), "usage", 8, 0, {}, error)


def by_tool(log: Log) -> dict[str, definitions.Score]:
    return {score.tool: score for score in definitions.scored(log)}


# Due at 0, sent at 1; the first token 1 s after sending, two more 0.5 s apart. The other is sent at 2, and answered in 2 + 1 s.
TWO = Log([answer(0, 1.0, 1.0, 1.5, 2.0, due_s=-1.0), answer(1, 2.0, 2.0, 3.0)], steady_s=(1.5, 5.5))


def test_the_clock_starts_at_the_schedule_or_at_the_sending() -> None:
    scores = by_tool(TWO)
    assert scores["ours"].ttft_s == 2.0  # both waited 2 s, one of them before it was sent; the lower median is observed
    for tool in ("vLLM bench", "AIPerf", "LLMPerf"):
        assert scores[tool].ttft_s == pytest.approx(1.5)  # between 1 and 2, interpolated
    assert scores["GuideLLM"].ttft_s == 1.0  # the first value that half of the weights reach


def test_the_first_tokens_wait_is_in_some_times_per_token() -> None:
    scores = by_tool(TWO)
    assert scores["LLMPerf"].per_token_s == pytest.approx((2 / 3 + 3 / 2) / 2)
    assert scores["GuideLLM"].per_token_s == pytest.approx(2 / 3)  # weighted by tokens: 3 of 5 lie at 2/3
    assert scores["vLLM bench"].between_s == scores["AIPerf"].between_s == pytest.approx((0.5 + 1.0) / 2)
    assert scores["ours"].between_s == 0.5
    assert scores["GuideLLM"].between_s == 0.5  # weights 2 and 1
    assert scores["LLMPerf"].between_s is None and scores["ours"].per_token_s is None


def test_guidellm_lets_long_answers_count_for_more() -> None:
    log = Log([answer(0, 0.0, *(1.0 + i for i in range(9))), *(answer(n, 0.0, 1.0, 1.1) for n in (1, 2))])
    scores = by_tool(log)
    assert scores["GuideLLM"].between_s == pytest.approx(1.0)  # weights 8, 1 and 1
    assert scores["vLLM bench"].between_s == pytest.approx(0.1)


def test_gaps_are_pooled_over_requests() -> None:
    scores = by_tool(TWO)
    assert scores["ours"].gap_s == 0.5
    assert scores["vLLM bench"].gap_s == scores["AIPerf"].gap_s == 0.5  # of 0.5, 0.5 and 1
    assert scores["GuideLLM"].gap_s is None


def test_tokens_are_counted_over_other_times() -> None:
    scores = by_tool(TWO)  # five tokens: at 2, 2.5, 3 and at 4, 5
    assert scores["vLLM bench"].tokens_per_s == scores["AIPerf"].tokens_per_s == scores["LLMPerf"].tokens_per_s == pytest.approx(5 / 4)
    assert scores["GuideLLM"].tokens_per_s == pytest.approx(5 / 3)  # from the first token to the last
    assert scores["ours"].tokens_per_s == pytest.approx(5 / 4)
    narrow = by_tool(replace(TWO, steady_s=(2.2, 4.5)))
    assert narrow["ours"].tokens_per_s == pytest.approx(3 / 2.3)
    assert narrow["vLLM bench"] == scores["vLLM bench"]
    assert by_tool(replace(TWO, steady_s=None))["ours"].tokens_per_s is None


def test_a_first_event_of_several_tokens_deceives_those_who_take_it_for_one() -> None:
    bundled = Log([answer(0, 0.0, 1.0, 2.0, 3.0, counts=(3, 4, 5))])
    scores = by_tool(bundled)
    assert scores["ours"].between_s == pytest.approx(1.0)  # two tokens in two seconds
    for tool in ("vLLM bench", "AIPerf", "GuideLLM"):
        assert scores[tool].between_s == pytest.approx(0.5)


def test_what_failed_is_for_ever_to_us_and_nothing_to_others() -> None:
    broken = Log([answer(0, 0.0, 1.0, 2.0), answer(1, 0.0, error="HTTP 503"), answer(2, 0.0, error="HTTP 503")])
    scores = by_tool(broken)
    assert scores["ours"].ttft_s is None  # the median took for ever: it is not told as a number
    assert {scores[tool].ttft_s for tool in ("vLLM bench", "GuideLLM", "AIPerf", "LLMPerf")} == {1.0}


def test_a_99th_percentile_of_few_is_printed_by_all_but_us() -> None:
    few = Log([answer(n, float(n), 1.0 + n / 100, 2.0) for n in range(100)])
    scores = by_tool(few)
    assert scores["ours"].ttft_p99_s is None
    assert scores["vLLM bench"].ttft_p99_s == scores["LLMPerf"].ttft_p99_s == pytest.approx(1.9801)
    assert scores["GuideLLM"].ttft_p99_s == pytest.approx(1.98)


def test_the_warm_up_is_in_no_latency_and_in_the_rates_of_those_who_take_the_whole_run() -> None:
    warmed, plain = by_tool(Log([answer(0, 0.0, 0.9, 1.0), *TWO.answers], warmup=1, steady_s=TWO.steady_s)), by_tool(TWO)
    for tool, score in warmed.items():
        assert replace(score, tokens_per_s=None) == replace(plain[tool], tokens_per_s=None)
    assert warmed["ours"].tokens_per_s == plain["ours"].tokens_per_s
    assert warmed["vLLM bench"].tokens_per_s == pytest.approx(7 / 5)
    assert warmed["GuideLLM"].tokens_per_s == pytest.approx(7 / (5 - 0.9))


def test_one_token_has_no_time_between_tokens() -> None:
    scores = by_tool(Log([answer(0, 0.0, 1.0)]))
    assert {scores[tool].between_s for tool in scores} == {None}
    assert scores["LLMPerf"].per_token_s == 1.0


def test_a_log_without_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match="without a token"):
        definitions.scored(Log([answer(0, 0.0, error="HTTP 503")]))
    with pytest.raises(ValueError, match="0 answers"):
        definitions.scored(Log([answer(0, 0.0, 1.0)], warmup=1))


@given(st.lists(st.tuples(st.floats(0, 100), st.lists(st.floats(0.001, 5), min_size=2, max_size=8)), min_size=1, max_size=12))
def test_what_holds_of_every_log(requests: list[tuple[float, list[float]]]) -> None:
    answers = [answer(n, sent, *np.cumsum(gaps).tolist()) for n, (sent, gaps) in enumerate(requests)]
    scores = by_tool(Log(answers))
    assert scores["GuideLLM"].tokens_per_s is None or scores["GuideLLM"].tokens_per_s >= scores["AIPerf"].tokens_per_s  # type: ignore[operator]
    assert scores["vLLM bench"].between_s == scores["AIPerf"].between_s
    assert scores["ours"].ttft_s in [a.stamps_s[0] for a in answers]
    one = by_tool(Log(answers[:1]))
    between, whole = one["vLLM bench"].between_s, one["LLMPerf"].per_token_s
    n, first = len(answers[0].stamps_s), answers[0].stamps_s[0]
    assert whole * n == pytest.approx(between * (n - 1) + first)  # type: ignore[operator]


def test_how_far_apart_is_told_with_names() -> None:
    table = definitions.table({"log": [TWO, TWO, TWO]})
    assert table["tool"].tolist() == ["ours", "vLLM bench", "GuideLLM", "AIPerf", "LLMPerf"]
    told = definitions.apart(table).set_index("what")
    row = told.loc["tokens_per_s"]
    assert (row["by"], row["of"], row["tools"]) == ("AIPerf", "GuideLLM", 5)
    assert row["times"] == pytest.approx(4 / 3)
    assert told.loc["per_token_s", "of"] == "LLMPerf"
    assert definition_readings.furthest(definitions.apart(table), ("tokens_per_s",))["high_tool"] == "GuideLLM"
    assert definition_readings.worded(table)["low_tool"] in ("ours", "GuideLLM")
    assert definition_readings.furthest(table.iloc[:0]) == {} == definition_readings.worded(table.iloc[:0])
    shown = definition_readings.scores(table)
    assert shown.set_index("tool").loc["LLMPerf", "gap between events, p50, ms"] == "–"
    assert shown.set_index("tool").loc["ours", "TTFT p50, ms"] == "2,000"


def test_a_recorded_log_worked_out_again_from_its_samples() -> None:
    s = recorded.session(profile="quick", mode="recorded")
    cells = throughput.cells(s)
    cell = cells[cells["ok"] & (cells["kind"] == "closed") & (cells["engine"] == "vLLM")].iloc[0]
    scores = by_tool(Log(cell["answers"], int(cell["warmup"]), throughput.window(cell)))
    frame = s.run.frame()
    raw = next(p for p in frame.to_dict("records") if p["facts"] and p["facts"].get("events") and p["samples"]["sent_s"]
               and [round(a.sent_s, 7) for a in cell["answers"]] == p["samples"]["sent_s"])["samples"]  # fmt: skip
    whole = pd.DataFrame({key: raw[key] for key in ("sent_s", "ttft_s", "last_s", "output_tokens")})
    kept = whole.iloc[int(cell["warmup"]):]
    assert scores["vLLM bench"].ttft_s == pytest.approx(kept["ttft_s"].median())
    assert scores["vLLM bench"].between_s == pytest.approx(((kept["last_s"] - kept["ttft_s"]) / (kept["output_tokens"] - 1)).median())
    assert scores["LLMPerf"].per_token_s == pytest.approx((kept["last_s"] / kept["output_tokens"]).median())
    took = (whole["sent_s"] + whole["last_s"]).max() - whole["sent_s"].min()
    assert scores["AIPerf"].tokens_per_s == pytest.approx(whole["output_tokens"].sum() / took)
    gaps = [b - a for one in cell["answers"][int(cell["warmup"]):] for a, b in pairwise(one.stamps_s)]
    assert scores["vLLM bench"].gap_s == pytest.approx(float(np.median(gaps)))
