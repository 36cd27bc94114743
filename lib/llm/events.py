"""From raw reads to timed token events, after the run. Pure: the same bytes always give the same events.

HTTP framing, server-sent events, JSON and UTF-8 are undone here, each in whatever pieces it arrived. Refuses to guess: a number of
tokens that the server did not say stays None until somebody counts the text, and then says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import httptools

from lib.llm.stream import Exchange

# How many output tokens the answer holds up to and with this event, if the event says so.
TokensIn: TypeAlias = Callable[[Mapping[str, Any]], int | None]

# What reading an event of another shape than ours raises: no JSON, numbers where objects should be, nested too deep.
UNREADABLE = (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request got. Times in seconds after it was sent; `due_s` ≤ 0 is how long before that it should have been.

    `stamps_s` are the events that carried at least one token and `counts` the tokens up to each (empty where the server does not
    say). `tokens` is the length of the answer and `tokens_from` who says so: "usage", "events", "retokenised" or None.
    """

    number: int
    due_s: float
    sent_s: float
    stamps_s: tuple[float, ...]
    counts: tuple[int, ...]
    text: str
    tokens: int | None
    tokens_from: str | None
    prompt_tokens: int | None
    cached_tokens: int | None
    server: Mapping[str, float]
    error: str | None


class _Body:
    """Collects the body of one HTTP answer, each piece with the stamp of the read that completed it."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bytes]] = []
        self.status = 0
        self.complete = False
        self.now = 0

    def on_body(self, body: bytes) -> None:
        self.pieces.append((self.now, body))

    def on_message_complete(self) -> None:
        self.complete = True


def body(reads: list[tuple[int, bytes]]) -> tuple[int, list[tuple[int, bytes]], str | None]:
    """Status, stamped pieces of the body, and what is wrong with the framing, if anything."""
    answer = _Body()
    parser = httptools.HttpResponseParser(answer)
    wrong = None
    for answer.now, data in reads:
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            wrong = f"not HTTP: {error}"
            break
    answer.status = parser.get_status_code() if reads else 0
    return answer.status, answer.pieces, wrong or (None if answer.complete else "the answer is not complete")


def sse(pieces: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Data of whole server-sent events with the arrival of their last byte, however they were cut or glued on the way."""
    rest = b""
    for arrived_ns, data in pieces:
        *events, rest = (rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            lines = [line[5:].lstrip(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield arrived_ns, b"\n".join(lines)


def answer(exchange: Exchange, tokens_in: TokensIn, *, start_ns: int = 0, retokenise: Callable[[str], int] | None = None) -> Answer:
    """Read an exchange as an OpenAI-style stream of completions (`text`) or chat (`delta.content`). Never raises for bad bytes."""
    status, pieces, wrong = body(exchange.reads)
    error = exchange.error or (f"HTTP {status}: {_said(pieces)}" if status not in (0, 200) else wrong)
    stamps: list[float] = []
    counts: list[int] = []
    texts: list[str] = []
    usage: dict[str, int] = {}
    cached: int | None = None
    events = 0
    server: dict[str, float] = {}
    for arrived_ns, payload in sse(pieces) if status == 200 else ():
        if payload == b"[DONE]":
            break
        events += 1
        try:
            event = json.loads(payload)
            if event.get("error") is not None:
                error = error or f"error event: {_message(event['error'])}"
                continue
            choices = event.get("choices") or ()
            said = event.get("usage") or next((c["usage"] for c in choices if c.get("usage")), None) or {}
            told = {key: int(said[key]) for key in ("prompt_tokens", "completion_tokens") if said.get(key) is not None}
            cached = (said.get("prompt_tokens_details") or {}).get("cached_tokens", cached)
            timings = {k: float(v) for k, v in (event.get("timings") or {}).items() if isinstance(v, int | float)}
            text = "".join(c.get("text") or (c.get("delta") or {}).get("content") or "" for c in choices)
            count = None if (so_far := tokens_in(event)) is None else int(so_far)
        except UNREADABLE as bad:
            error = error or f"an event cannot be read ({type(bad).__name__}: {str(bad)[:100]}): {payload[:100].decode(errors='replace')}"
            continue
        usage.update(told)
        server.update(timings)
        texts.append(text)
        if (count > (counts[-1] if counts else 0)) if count is not None else bool(text):
            stamps.append((arrived_ns - exchange.sent_ns) / 1e9)
            if count is not None:
                counts.append(count)
    if status == 200 and not error and not events:
        error = f"an answer without events: {_said(pieces)}"
    joined = "".join(texts)
    tokens, source = usage.get("completion_tokens"), "usage"
    if tokens is None and counts:
        tokens, source = counts[-1], "events"
    if tokens is None and retokenise is not None and joined:
        tokens, source = retokenise(joined), "retokenised"
    return Answer(number=exchange.number, due_s=(exchange.due_ns - exchange.sent_ns) / 1e9, sent_s=(exchange.sent_ns - start_ns) / 1e9,
                  stamps_s=tuple(stamps), counts=tuple(counts) if len(counts) == len(stamps) else (), text=joined, tokens=tokens,
                  tokens_from=source if tokens is not None else None, prompt_tokens=usage.get("prompt_tokens"),
                  cached_tokens=cached, server=server, error=error)


def _said(pieces: list[tuple[int, bytes]]) -> str:
    """The first words of an error's body."""
    raw = b"".join(data for _, data in pieces).decode(errors="replace")
    try:
        return _message(json.loads(raw).get("error", raw))
    except UNREADABLE:
        return raw[:200]


def _message(error: object) -> str:
    return str(error.get("message", error) if isinstance(error, dict) else error)[:200]
