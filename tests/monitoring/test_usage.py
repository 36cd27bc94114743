"""What an LLM's answer tells, as both engines tell it, however it is cut on its way."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.monitoring.usage import Usage


def sse(*events: dict[str, Any] | str, end: str = "\n\n") -> bytes:
    return "".join(f"data: {e if isinstance(e, str) else json.dumps(e)}{end}" for e in events).encode()


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"text": said}], **more}


LLAMACPP = sse(*(text(said, timings={"predicted_n": n, "prompt_n": 8, "cache_n": 40}) for n, said in ((1, "a"), (2, "b"), (3, "ü"))),
               text("", timings={"predicted_n": 3, "prompt_n": 8, "cache_n": 40}), "[DONE]")  # fmt: skip
LLAMACPP_LAST_ONLY = sse(text("a"), text("b"), text("c", timings={"predicted_n": 3, "prompt_n": 48, "cache_n": 0}), "[DONE]")
VLLM = sse(*(text(said, usage={"prompt_tokens": 48, "completion_tokens": n}) for n, said in ((1, "a"), (2, ""), (3, "c"))),
           {"choices": [], "usage": {"prompt_tokens": 48, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 32}}})
VLLM_LAST_ONLY = sse(text("a"), text("b"), {"choices": [], "usage": {"prompt_tokens": 48, "completion_tokens": 3}}, "[DONE]")
CHAT = sse({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, {"choices": [{"delta": {"content": "a"}}]},
           {"choices": [{"delta": {"reasoning_content": "b"}}]}, {"choices": [{"delta": {"tool_calls": [{}]}}]}, "[DONE]", end="\r\n\r\n")


@pytest.mark.parametrize(("stream", "tokens", "events"), [
    (LLAMACPP, (8, 40, 3), 3),
    (LLAMACPP_LAST_ONLY, (48, 0, 3), 3),
    (VLLM, (16, 32, 3), 3),
    (VLLM_LAST_ONLY, (48, 0, 3), 2),  # the last event tells of tokens and carries none
    (CHAT, (None, None, 3), 3),
    (sse(text(""), "[DONE]"), (None, None, 0), 0),
    (sse(text("", usage={"completion_tokens": 4})), (None, None, 4), 1),  # tokens without a text of their own
], ids=["llama.cpp", "llama.cpp, told at the end", "vLLM", "vLLM, told at the end", "chat", "no token", "silent tokens"])  # fmt: skip
def test_tokens_as_each_engine_tells_them(stream: bytes, tokens: tuple[int, int, int], events: int) -> None:
    (seen := Usage()).feed(stream, 1.0)
    assert (seen.tokens, seen.events, seen.error) == (tokens, events, False)
    assert (seen.first_s is None) == (events == 0)


@given(st.lists(st.integers(1, len(LLAMACPP) - 1), max_size=12), st.sampled_from([LLAMACPP, VLLM, CHAT]))
def test_however_it_is_cut(places: list[int], stream: bytes) -> None:
    cuts = [0, *sorted(set(places)), len(stream)]
    (whole := Usage()).feed(stream, 0.0)
    pieces = Usage()
    for begin, end in pairwise(cuts):
        pieces.feed(stream[begin:end], float(end))
    assert (pieces.tokens, pieces.events, pieces.input_cached) == (whole.tokens, whole.events, whole.input_cached)


def test_times_are_of_events_that_carry_tokens() -> None:
    seen = Usage()
    seen.feed(sse({"choices": [{"delta": {"role": "assistant"}}]}), 1.0)
    for at_s in (2.0, 2.1, 2.3):
        seen.feed(sse(text("a")), at_s)
    seen.feed(sse(text("", timings={"predicted_n": 3, "prompt_n": 1, "cache_n": 0}), "[DONE]"), 9.0)
    assert (seen.first_s, seen.last_s, seen.tpot_s) == (2.0, 2.3, pytest.approx(0.15))


def test_several_tokens_in_the_first_event_are_no_time_after_it() -> None:
    seen = Usage()
    for at_s, n in ((1.0, 4), (2.0, 6)):
        seen.feed(sse(text("x", usage={"completion_tokens": n})), at_s)
    assert seen.tpot_s == pytest.approx(0.5)  # one second, two tokens


@pytest.mark.parametrize("n", [0, 1])
def test_of_no_token_or_one_there_is_no_time_between(n: int) -> None:
    seen = Usage()
    for _ in range(n):
        seen.feed(sse(text("a")), 1.0)
    assert seen.tpot_s is None


def test_of_a_whole_answer_no_times_are_known() -> None:
    (seen := Usage()).whole(json.dumps(text("a b", usage={"prompt_tokens": 5, "completion_tokens": 2})).encode())
    assert (seen.tokens, seen.first_s, seen.tpot_s) == ((5, 0, 2), None, None)


SNAPSHOTS = Path(__file__).with_name("snapshots")


@pytest.mark.parametrize(("engine", "tokens"), [("llama.cpp", (8, 160, 12)), ("vLLM", (40, 128, 12))])
def test_streams_as_real_engines_sent_them(engine: str, tokens: tuple[int, int, int]) -> None:
    """Twelve tokens after 168, of which most were in the prefix cache: recorded behind the gateway."""
    (seen := Usage()).feed((SNAPSHOTS / f"{engine}.sse").read_bytes(), 1.0)
    assert (seen.tokens, seen.events, seen.error) == (tokens, 12, False)


def test_cached_tokens_that_an_engine_does_not_tell_are_unknown_and_priced_in_full() -> None:
    (seen := Usage()).feed(VLLM_LAST_ONLY, 1.0)
    assert seen.input_cached is None and seen.tokens[0] == 48


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([b"data: ", b"\n\n", b"[DONE]", b"{", b"null", LLAMACPP])), max_size=20))
def test_bytes_of_any_kind_raise_nothing(pieces: list[bytes]) -> None:
    seen = Usage()
    for piece in pieces:
        seen.feed(piece, 1.0)
    seen.whole(b"".join(pieces))
    assert min(n or 0 for n in seen.tokens) >= 0


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                           lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                               st.sampled_from(["choices", "usage", "timings", "text", "delta", "prompt_tokens", "completion_tokens",
                                                "predicted_n", "prompt_n", "cache_n", "error", "content"]), inner, max_size=4))  # fmt: skip


@given(json_values)
def test_json_of_any_shape_raises_nothing(told: object) -> None:
    seen = Usage()
    seen.feed(b"data: " + json.dumps(told).encode() + b"\n\n", 1.0)
    assert min(n or 0 for n in seen.tokens) >= 0


def test_a_line_without_end_is_not_kept() -> None:
    seen = Usage()
    for _ in range(40):
        seen.feed(b"x" * (1 << 16), 1.0)
    assert len(seen._rest) <= 1 << 20
