"""A load and its answers, as every benchmark of a language model knows them: what other tools' files are written from and read into.

Refuses what a schema cannot say rather than write something near it, and a file of another version than the one that is read, by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lib import record
from lib.llm import metrics
from lib.llm.events import Answer


class OtherVersion(ValueError):
    """A file of another version than the one that is read here; the message names it."""


class Inexpressible(ValueError):
    """The schema has no words for what was measured."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One load and the answers that count (warm-up is left out). `setting` is empty where a file does not tell it."""

    model: str
    streams: int | None  # at most so many requests at a time
    rate_per_s: float | None  # None: a request is sent as soon as it may be
    utc: str
    answers: tuple[Answer, ...]
    setting: Mapping[str, Any]
    facts: Mapping[str, Any]
    run_id: str | None = None

    @property
    def good(self) -> list[Answer]:
        return [a for a in self.answers if a.error is None and a.stamps_s]

    @property
    def wall_s(self) -> float:
        """From the first sending to the last token. Raises Inexpressible where none came: there is no rate of nothing."""
        if not self.good:
            raise Inexpressible("no request was answered, and the schema has rates for what took no time")
        return max(a.sent_s + a.stamps_s[-1] for a in self.good) - min(a.sent_s for a in self.answers)


def benchmarks(run: record.Run) -> list[Benchmark]:
    """Every load of a run that may be quoted and whose events were kept."""
    found = []
    for point in run.points():
        if point.status != "ok" or not {"events", "warmup"} <= set(point.facts):
            continue
        samples = {"number": list(range(len(point.samples["sent_s"]))), **point.samples}  # the first runs had one stream and no numbers
        answers = metrics.recorded(samples, _stamps(run.path / point.facts["events"]))[point.facts["warmup"]:]
        streams = next((point.setting[key] for key in ("streams", "wave", "pool") if key in point.setting), None)
        rate = point.setting.get("rate_per_s")
        found.append(Benchmark(str(run.parameters.get("model", "")), int(streams) if streams else None, float(rate) if rate else None,
                               point.utc, tuple(answers), point.setting, point.facts, run.run_id))  # fmt: skip
    return found


def length(answer: Answer) -> int:
    """Output tokens as these tools count: none of a failure. Raises Inexpressible where nobody knows."""
    if answer.error is not None or not answer.stamps_s:
        return 0
    if answer.tokens is None:
        raise Inexpressible(f"the length of answer {answer.number} is not known, and the schema has no word for that")
    return answer.tokens


def steps_s(answers: Sequence[Answer]) -> list[float]:
    """Seconds a token after the first, one value an answer, as these tools define it: one token in the first event, whatever it held."""
    return [(a.stamps_s[-1] - a.stamps_s[0]) / (n - 1) for a in answers if (n := length(a)) > 1]


def gaps_s(answers: Sequence[Answer]) -> list[float]:
    return [gap for a in answers for gap in metrics.icl_s(a.stamps_s)]


def _stamps(path: Path) -> dict[int, list[tuple[float, float | None]]]:
    """A load's events by request: stamp, and tokens up to it where the server counts."""
    found: dict[int, list[tuple[float, float | None]]] = {}
    for number, stamp, tokens in pd.read_parquet(path, columns=["request", "stamp_s", "tokens"]).itertuples(index=False, name=None):
        found.setdefault(int(number), []).append((float(stamp), None if pd.isna(tokens) else float(tokens)))
    return found
