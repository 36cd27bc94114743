"""What the load asks of each service: real transactions, photographs, prompts of prose that begin alike.

A prompt is SHARED_TOKENS of a system prompt that all have in common, so that an engine's prefix cache has something to find, and prose
from anywhere; or such prose alone. A body may be cut off, as a client's bad release sends it. Refuses nothing itself: what a service's
inputs lack on this machine is raised by those who keep them.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

SHARED_TOKENS = 24
JUDGED = 0.8  # the share of the ledger after which the model was judged: what is replayed is what its scores are compared with
MODEL = "smollm2-135m"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request through the gateway."""

    path: str
    body: bytes
    kind: str
    streamed: bool = False


    def cut(self) -> Ask:
        """Half of it: not valid for any service."""
        return replace(self, body=self.body[: len(self.body) // 2])


Maker = Callable[[int, int, int], Ask]  # of prompt tokens, output tokens, shared tokens, which only the LLM's looks at


def fraud() -> Maker:
    """Card transactions in their order. No two runs share an id. Raises fetch.Refused."""
    from lib import fetch
    from lib.pipelines.fraud.data import SOURCE, Ledger, read
    from lib.pipelines.fraud.replay import Replay

    whole = read(fetch.fetch(SOURCE))
    part = slice(int(JUDGED * len(whole)), None)
    judged = Ledger(whole.second[part].copy(), whole.cents[part].copy(), whole.v[part].copy(), whole.fraud[part].copy())
    del whole  # 50 MB
    stream = Replay(judged, f"load-{time.time_ns()}")
    return lambda *_: Ask("/fraud/v1/score", stream.bodies(1)[0], "application/json")


def retail() -> Maker:
    """Photographs, one after another. Raises NotReady."""
    from lib.pipelines.retail.footage import footage
    from lib.vision.photographs import JUDGE, SAMPLES

    pictures = cycle([(footage() / name).read_bytes() for name in JUDGE[SAMPLES] if name.endswith(".jpg")])
    return lambda *_: Ask("/retail/v1/pictures", next(pictures), "image/jpeg")


def llm(*, seed: int = 0) -> Maker:
    """Prompts as token ids, streamed and greedy. Raises weights.NotReady."""
    from lib.llm import weights, workload

    return llm_of(workload.corpus(weights.family(MODEL).hf), seed=seed)


def llm_of(prose: Sequence[int], *, seed: int = 0) -> Maker:
    """The same of this prose, as token ids."""
    places = random.Random(seed)

    def ask(prompt_tokens: int, output_tokens: int, shared_tokens: int) -> Ask:
        own = prompt_tokens - shared_tokens
        at = places.randrange(SHARED_TOKENS, len(prose) - own)
        prompt = [*prose[:shared_tokens], *prose[at:at + own]]
        body = {"model": MODEL, "prompt": prompt, "max_tokens": output_tokens, "ignore_eos": True, "temperature": 0, "cache_prompt": True,
                "stream": True, "stream_options": {"include_usage": True}}  # fmt: skip
        return Ask("/llm/v1/completions", json.dumps(body).encode(), "application/json", streamed=True)

    return ask


MAKERS: dict[str, Callable[[], Maker]] = {"fraud": fraud, "retail": retail, "llm": llm}


@dataclass(slots=True)
class Answer:
    """What became of one request. Times in s of the monotonic clock. `status` None: under way; 0: no answer.

    `tokens` of the answer, `prompt` and `cached`: as the engine counts them, where it does.
    """

    due: float
    sent: float
    first: float | None = None
    last: float | None = None
    done: float | None = None
    status: int | None = None
    error: str | None = None
    tokens: int | None = None
    prompt: int | None = None
    cached: int | None = None

    def read(self, event: bytes, at: float) -> None:
        """One server-sent event of a stream of completions."""
        if not event.startswith(b"data: {"):
            return
        told = json.loads(event[6:])
        if any(choice.get("text") for choice in told.get("choices", ())):
            self.first, self.last = self.first or at, at
        if usage := told.get("usage"):
            self.tokens, self.prompt = usage["completion_tokens"], usage["prompt_tokens"]
            self.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        if told.get("error"):
            self.error = "error event"

    def json(self, number: int, service: str, *, unix_less_monotonic_s: float) -> dict[str, object]:
        """As the log has it, times in unix seconds."""
        stamps = {name: getattr(self, name) for name in ("due", "sent", "first", "last", "done")}
        told = {f"{name}_s": at and round(at + unix_less_monotonic_s, 6) for name, at in stamps.items()}
        return {"n": number, "service": service, **told, "status": self.status, "error": self.error, "tokens": self.tokens,
                "prompt": self.prompt, "cached": self.cached}  # fmt: skip
