"""A request on its way through the gateway, and how it ended: the words that the service levels are counted by. Pure.

A success without a prediction is `empty`: the failure that no status tells. An answer of 200 that holds an error failed. What the caller
did wrong (4xx but 429) is no valid request. Whoever leaves before the first token or byte gave up waiting, a `timeout`: were it the fault
of the client, a service that hangs would have no errors while its clients are impatient. Whoever leaves later had what it wanted, as
someone has who stops a chat: `client`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from lib.monitoring.request_log import Entry
from lib.monitoring.usage import Usage

LLM = "llm"


class _Decision(msgspec.Struct):
    decision: str


class _Detections(msgspec.Struct):
    detections: list[msgspec.Raw]


# Where a success must hold a prediction, and what shape that has. An empty list of detections is one: nobody was there.
PREDICTIONS: Mapping[str, tuple[frozenset[str], type | None]] = {
    "fraud": (frozenset({"/v1/score"}), _Decision),
    "retail": (frozenset({"/v1/pictures"}), _Detections),
    LLM: (frozenset({"/v1/completions", "/v1/chat/completions"}), None),
}


@dataclass(slots=True)
class Call:
    """One request. `asked`: its service has it; `status`: what its client was answered, 0 before that. Times in s."""

    service: str
    path: str
    began_s: float
    t_unix: float
    outcome: str = "server"
    status: int = 0
    asked: bool = False
    streamed: bool = False  # whether the client has a part of the answer
    usage: Usage | None = None

    def entry(self, now_s: float) -> Entry:
        """Its line in the request log."""
        made = Entry(self.t_unix, self.service, self.outcome, self.status, now_s - self.began_s)
        if (seen := self.usage) is not None:
            made.ttft_s = None if seen.first_s is None else seen.first_s - self.began_s
            made.tpot_s = seen.tpot_s
            made.input_uncached, made.input_cached, made.output = seen.tokens
        return made

    def left(self) -> str:
        """The outcome where the client does not wait for the end."""
        had = self.streamed and (self.usage is None or self.usage.events)
        return "client" if had or not self.asked else "timeout"

    def ended(self, body: bytes | None) -> str:
        """The outcome of an answer that is complete. `body`: the whole of it, None where it was streamed."""
        if self.status in (429, 503):
            return "refused"
        if self.status // 100 != 2:
            return {502: "unreachable", 504: "timeout"}.get(self.status, "client" if self.status // 100 == 4 else "server")
        paths, shape = PREDICTIONS[self.service]
        if self.path.partition("?")[0] not in paths:
            return "ok"
        if self.usage is not None:
            if body is not None:
                self.usage.whole(body)
            return "server" if self.usage.error else "ok" if self.usage.output else "empty"
        try:
            return "ok" if body and msgspec.json.decode(body, type=shape) else "empty"
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return "empty"
