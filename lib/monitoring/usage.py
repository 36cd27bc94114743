"""What an LLM's answer tells while it passes: when its first and last token came, how many there were, and what they cost. Pure.

Reads OpenAI-style answers, streamed or whole, of llama.cpp (`timings`) and vLLM (`usage`), in whatever pieces they arrive; a chunk that
carries only a role or nothing is no token. Refuses to guess: what the engine does not say is None (a vLLM that is to say all of it whatever
its clients ask runs with --enable-force-include-usage and --enable-prompt-tokens-details). Bytes of any kind make it raise nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from lib.llm.events import UNREADABLE

MOST_EVENT_BYTES = 1 << 20  # of a stream without an end of line; beyond it is not read any more
SAID = ("content", "reasoning_content", "tool_calls")  # where a chat's delta or message carries tokens


class Usage:
    """An answer so far. Tokens are None until told; `input_cached` is None where an engine never tells (vLLM unless asked to)."""

    __slots__ = ("_first_count", "_rest", "error", "events", "first_s", "input_cached", "input_tokens", "last_s", "output_tokens")

    def __init__(self) -> None:
        self._rest, self._first_count = b"", 1
        self.error = False  # the answer says so itself, under a status of 200
        self.events = 0  # that carried a token
        self.first_s: float | None = None
        self.last_s: float | None = None
        self.input_tokens: int | None = None
        self.input_cached: int | None = None
        self.output_tokens: int | None = None

    def feed(self, data: bytes, at_s: float) -> None:
        """A piece of a stream of server-sent events, and when it arrived."""
        for payload in self._payloads(data):
            if payload != b"[DONE]":
                self._event(payload, at_s)

    def whole(self, body: bytes) -> None:
        """An answer in one piece: when its tokens came nobody outside can know."""
        self._event(body, None)

    @property
    def output(self) -> int:
        """Output tokens, as the engine counted them, else the events that carried any."""
        return self.events if self.output_tokens is None else self.output_tokens

    @property
    def tpot_s(self) -> float | None:
        """Mean time of the tokens after the first event's; None where there are none."""
        after = self.output - self._first_count
        return None if self.first_s is None or self.last_s is None or after <= 0 else (self.last_s - self.first_s) / after

    @property
    def tokens(self) -> tuple[int | None, int | None, int]:
        """By what they cost: input that was not cached, that was, output. Input that is not said to be cached was not."""
        if self.input_tokens is None:
            return None, None, self.output
        cached = min(self.input_cached or 0, self.input_tokens)
        return self.input_tokens - cached, cached, self.output

    def _payloads(self, data: bytes) -> Iterator[bytes]:
        """Data of the events that are complete; both engines send each on one line."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest if len(self._rest) <= MOST_EVENT_BYTES else b""
        yield from (line[5:].strip() for line in lines if line.startswith(b"data:"))

    def _event(self, payload: bytes, at_s: float | None) -> None:
        try:
            event = msgspec.json.decode(payload)
            self.error = self.error or event.get("error") is not None
            choices = event.get("choices") or ()
            usage, timings = event.get("usage") or {}, event.get("timings") or {}
            so_far = _count(timings.get("predicted_n", usage.get("completion_tokens")))
            self._input(usage, timings)
            counted = so_far is not None and (self.output_tokens is not None or not self.events)  # not by the last event alone
            carries = (so_far or 0) > (self.output_tokens or 0) if counted else any(map(_carries, choices))
        except UNREADABLE:
            return
        if carries:
            if at_s is not None and self.first_s is None:
                self.first_s, self._first_count = at_s, so_far or 1
            self.events, self.last_s = self.events + 1, at_s
        if so_far is not None:
            self.output_tokens = so_far

    def _input(self, usage: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        if (computed := _count(timings.get("prompt_n"))) is not None:
            self.input_cached = _count(timings.get("cache_n")) or 0
            self.input_tokens = computed + self.input_cached
        elif (told := _count(usage.get("prompt_tokens"))) is not None:
            self.input_tokens = told
            if (cached := _count((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))) is not None:
                self.input_cached = cached


def _carries(choice: Mapping[str, Any]) -> bool:
    said = choice.get("delta") or choice.get("message") or {}
    return bool(choice.get("text")) or any(said.get(key) for key in SAID)


def _count(told: object) -> int | None:
    return told if type(told) is int and 0 <= told < 2**53 else None
