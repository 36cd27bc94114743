"""Bytes as servers send and networks cut them: the same text, the same tokens, the right stamps, and never a crash."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.llm.client import Exchange
from lib.llm.engines.engine import usage_so_far
from lib.llm.events import Answer, answer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
MS = 1_000_000
SENT_NS = 7 * MS


def silent(_: Mapping[str, Any]) -> int | None:
    return None


def event(text: str = " a", **more: object) -> bytes:
    return data({"choices": [{"index": 0, "text": text, "finish_reason": None}], **more})


def data(payload: object) -> bytes:
    said = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
    return f"data: {said}\n\n".encode()


def usage(tokens: int, prompt: int = 4) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}}


DONE = data("[DONE]")
LAST = b"0\r\n\r\n"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


def read(*reads: bytes, tokens_in: Any = silent, error: str | None = None, head: bytes = HEAD, **more: Any) -> Answer:
    """The answer of raw `reads`, the first with the head before it, one every 10 ms after the request was sent."""
    raw = [head + reads[0], *reads[1:]] if reads else []
    stamped = [(SENT_NS + (i + 1) * 10 * MS, one) for i, one in enumerate(raw)]
    return answer(Exchange(0, SENT_NS - 3 * MS, SENT_NS, stamped, error), tokens_in, **more)


def stream(*events: bytes, tokens_in: Any = silent, **more: Any) -> Answer:
    """One event a read, then the end."""
    return read(*map(chunk, events), chunk(DONE) + LAST, tokens_in=tokens_in, **more)


def test_an_answer_with_all_there_is_to_know() -> None:
    got = stream(event(" a"), event(" b", timings={"prompt_ms": 5}), data({"choices": [], **usage(2)}))
    assert got.error is None
    assert (got.text, got.tokens, got.tokens_from, got.prompt_tokens) == (" a b", 2, "usage", 4)
    assert got.stamps_s == (0.010, 0.020)
    assert (got.due_s, got.sent_s) == (-0.003, 0.007)
    assert got.server == {"prompt_ms": 5.0}


@pytest.mark.parametrize("empty", [
    data({"choices": [{"delta": {"role": "assistant"}}]}),
    data({"choices": [{"delta": {"role": "assistant", "content": ""}}]}),
    data({"choices": [{"delta": {"content": None}}]}),
    data({"choices": [{"index": 0, "text": ""}]}),
    data({"choices": []}),
    b": a comment, no event\n\n",
])  # fmt: skip
def test_an_event_without_a_token_is_not_the_first_token(empty: bytes) -> None:
    got = stream(empty, event(), event())
    assert got.stamps_s == (0.020, 0.030)


def test_an_event_that_counts_a_token_without_text_is_one() -> None:
    """Half a character: the text comes with the next token, the token came now."""
    got = stream(event("", **usage(1)), event("日", **usage(2)), tokens_in=usage_so_far)
    assert (got.stamps_s, got.counts, got.text) == ((0.010, 0.020), (1, 2), "日")


def test_text_without_a_new_token_is_no_event_of_a_token() -> None:
    got = stream(event(**usage(1)), event("", **usage(1)), data({"choices": [], **usage(1)}), tokens_in=usage_so_far)
    assert (got.stamps_s, got.counts) == ((0.010,), (1,))


def test_several_tokens_in_an_event_are_counted() -> None:
    got = stream(event(" a b c", **usage(3)), event(" d", **usage(4)), event(" e f", **usage(6)), tokens_in=usage_so_far)
    assert (got.counts, got.tokens, len(got.stamps_s)) == ((3, 4, 6), 6, 3)


def test_an_event_is_stamped_when_its_last_byte_is_in() -> None:
    whole = chunk(event("日"))
    cut = whole.index("日".encode()) + 1
    got = read(chunk(event()), whole[:cut], whole[cut:] + chunk(DONE) + LAST)
    assert (got.text, got.stamps_s, got.error) == (" a日", (0.010, 0.030), None)


def test_two_events_in_one_read_share_its_stamp() -> None:
    got = read(chunk(event(" a")) + chunk(event(" b")), chunk(event(" c") + event(" d")) + chunk(DONE) + LAST)
    assert (got.text, got.stamps_s) == (" a b c d", (0.010, 0.010, 0.020, 0.020))


def test_usage_that_never_comes_is_unknown_and_never_the_length_asked_for() -> None:
    got = stream(event(), event())
    assert (got.tokens, got.tokens_from, got.prompt_tokens, got.counts) == (None, None, None, ())


def test_unknown_length_is_counted_from_the_text_and_flagged() -> None:
    got = stream(event(" two words"), event(" more"), retokenise=lambda text: len(text.split()))
    assert (got.tokens, got.tokens_from) == (3, "retokenised")


def test_what_the_server_says_goes_before_our_own_count() -> None:
    got = stream(event(**usage(1)), data({"choices": [], **usage(5)}), retokenise=lambda _: 99)
    assert (got.tokens, got.tokens_from) == (5, "usage")


def test_usage_may_ride_in_the_last_choice() -> None:
    got = stream(event(), data({"choices": [{"text": " b", **usage(2)}]}))
    assert (got.text, got.tokens, got.tokens_from) == (" a b", 2, "usage")


def test_counts_of_the_events_stand_in_for_usage() -> None:
    got = stream(event(timings={"predicted_n": 1}), event(timings={"predicted_n": 3}),
                 tokens_in=lambda e: e["timings"]["predicted_n"])  # fmt: skip
    assert (got.tokens, got.tokens_from, got.counts) == (3, "events", (1, 3))


def test_counts_that_only_some_events_tell_are_not_used_as_if_all_did() -> None:
    got = stream(event(), event(**usage(2)), tokens_in=usage_so_far)
    assert (got.counts, got.tokens, len(got.stamps_s)) == ((), 2, 2)


def test_cached_tokens_are_told() -> None:
    said = {"prompt_tokens": 64, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 48}}
    assert stream(event(), data({"choices": [], "usage": said})).cached_tokens == 48
    assert stream(event(), data({"choices": [], **usage(1)})).cached_tokens is None


def test_fewer_tokens_than_asked_are_what_they_are() -> None:
    got = stream(event(**usage(1)), event(**usage(2)), tokens_in=usage_so_far)
    assert (got.tokens, got.error) == (2, None)


def test_an_error_event_under_status_200_is_a_failure_and_keeps_what_came() -> None:
    got = stream(event(**usage(1)), data({"error": {"message": "out of memory", "code": 500}}), tokens_in=usage_so_far)
    assert got.error == "error event: out of memory"
    assert (got.text, got.stamps_s, got.tokens) == (" a", (0.010,), 1)


def test_a_null_error_is_none() -> None:
    assert stream(event(error=None), event()).error is None


def whole(status: int, body: bytes) -> Answer:
    return read(b"", head=b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))


@pytest.mark.parametrize(("status", "body", "said"), [
    (503, b'{"error":{"message":"still loading"}}', "HTTP 503: still loading"),
    (404, b'{"error":"no such model"}', "HTTP 404: no such model"),
    (422, b'{"detail":"ignore_eos"}', 'HTTP 422: {"detail":"ignore_eos"}'),
    (502, b"<h1>Bad gateway</h1>", "HTTP 502: <h1>Bad gateway</h1>"),
    (500, b"[1]", "HTTP 500: [1]"),
    (200, b'{"error":{"message":"in disguise"}}', "an answer without events: in disguise"),
])  # fmt: skip
def test_refusals_carry_the_servers_words(status: int, body: bytes, said: str) -> None:
    got = whole(status, body)
    assert got.error == said
    assert (got.stamps_s, got.tokens) == ((), None)


def test_long_errors_are_cut() -> None:
    assert len(str(whole(500, b"x" * 10_000).error)) < 300


def test_a_connection_dropped_half_way_keeps_its_tokens() -> None:
    events = [chunk(event(**usage(n))) for n in (1, 2, 3)]
    got = read(*events[:2], events[2][:20], tokens_in=usage_so_far,
               error="connection lost: closed by the server")  # fmt: skip
    assert got.error == "connection lost: closed by the server"
    assert (got.text, got.counts, got.tokens, got.stamps_s) == (" a a", (1, 2), 2, (0.010, 0.020))


def test_an_answer_that_stops_short_is_not_complete_even_if_nobody_noticed() -> None:
    assert read(chunk(event())).error == "the answer is not complete"
    assert read().error == "the answer is not complete"
    assert str(read(b"zz\r\n").error).startswith("not HTTP")


# --- whatever the cut, whatever the bytes ---

TEXTS = ("The", " capital", " 日本", "é", " 🦙", "\n\n", "data: x", " end")
EVENTS = [event(text, **usage(i + 1)) for i, text in enumerate(TEXTS)]
RAW = HEAD + b"".join(map(chunk, EVENTS)) + chunk(data({"choices": [], **usage(len(TEXTS))})) + chunk(DONE) + LAST
CRLF = HEAD + b"".join(chunk(e.replace(b"\n", b"\r\n")) for e in [*EVENTS, DONE]) + LAST


def pieces(raw: bytes, cuts: Sequence[int]) -> list[tuple[int, bytes]]:
    places = [0, *sorted({cut % len(raw) for cut in cuts} - {0}), len(raw)]
    return [(SENT_NS + i * MS, raw[a:b]) for i, (a, b) in enumerate(pairwise(places))]


@given(st.lists(st.integers(0, 10_000), max_size=60), st.sampled_from([RAW, CRLF]))
def test_any_cut_of_the_same_bytes_gives_the_same_answer(cuts: list[int], raw: bytes) -> None:
    reads = pieces(raw, cuts)
    got = answer(Exchange(0, SENT_NS, SENT_NS, reads), usage_so_far)
    assert (got.text, got.tokens, got.error) == ("".join(TEXTS), len(TEXTS), None)
    assert got.counts == tuple(range(1, len(TEXTS) + 1))
    assert list(got.stamps_s) == sorted(got.stamps_s)
    assert set(got.stamps_s) <= {(at - SENT_NS) / 1e9 for at, _ in reads}


def test_byte_by_byte_gives_the_same_answer() -> None:
    got = answer(Exchange(0, SENT_NS, SENT_NS, pieces(RAW, range(len(RAW)))), usage_so_far)
    assert (got.text, got.counts) == ("".join(TEXTS), tuple(range(1, len(TEXTS) + 1)))


@given(st.integers(0, len(RAW) - 1))
def test_any_stop_short_is_a_failure_with_a_beginning_of_the_text(stop: int) -> None:
    got = answer(Exchange(0, SENT_NS, SENT_NS, [(SENT_NS, RAW[:stop])]), usage_so_far)
    assert got.error
    assert "".join(TEXTS).startswith(got.text)


@given(st.lists(st.binary(max_size=200), max_size=6), st.booleans())
def test_garbage_is_a_failure_and_never_a_crash(garbage: list[bytes], after_head: bool) -> None:
    reads = [(SENT_NS + i, one) for i, one in enumerate([HEAD, *garbage] if after_head else garbage)]
    got = answer(Exchange(0, SENT_NS, SENT_NS, reads), usage_so_far)
    assert got.error


@given(st.binary(max_size=400))
def test_garbage_in_well_framed_answers_never_crashes(garbage: bytes) -> None:
    read(chunk(event()), chunk(garbage) if garbage else b"", LAST, tokens_in=usage_so_far)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([
                        "choices", "text", "delta", "content", "usage", "completion_tokens", "prompt_tokens", "timings",
                        "prompt_tokens_details", "error", "message"]), inner, max_size=4), max_leaves=12)  # fmt: skip


@given(st.lists(JSON, max_size=4))
def test_json_of_any_shape_never_crashes(payloads: list[object]) -> None:
    got = stream(*(data(json.dumps(payload)) for payload in payloads), tokens_in=usage_so_far)
    assert got.tokens is None or isinstance(got.tokens, int)
    assert got.error is not None or all(isinstance(payload, dict) for payload in payloads)


@pytest.mark.parametrize("bad", ["3", "[]", '"text"', "{", '{"choices":[3]}', '{"usage":7}', "[" * 100_000,
                                 '{"usage":{"completion_tokens":"x"}}', '{"timings":{"prompt_ms":1' + "0" * 400 + "}}"])  # fmt: skip
def test_an_event_that_cannot_be_read_is_a_failure_that_quotes_it(bad: str) -> None:
    got = stream(event(), data(bad), event())
    assert str(got.error).startswith("an event cannot be read")
    assert bad[:20] in str(got.error)
    assert got.text == " a a"


def test_an_upgrade_is_not_an_answer() -> None:
    assert read(b"", head=b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxyz").error
