"""The straight line of a batch: bytes in → parse → history → features → inference → verdict → log → bytes out.

A batch is one transaction or many; nothing here waits for more. An answer exists only once its decision is in the log, so what was
acknowledged survives a kill. Refuses a transaction alone, not its batch; an id that was answered before gets the same answer again and
is neither scored, counted nor logged twice.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter_ns, time_ns
from typing import Protocol

import numpy as np

from lib.pipelines.fraud import transaction
from lib.pipelines.fraud.features import NAMES
from lib.pipelines.fraud.forest import Scorer
from lib.pipelines.fraud.journal import Decision, JournalFull
from lib.pipelines.fraud.model import Model
from lib.pipelines.fraud.transaction import Refused, Transaction
from lib.pipelines.fraud.verdict import Costs, Verdict, calibrated, decide, reasons
from lib.pipelines.fraud.windows import Event, Stats, Unavailable, Windows

STAGES = ("parse", "history", "features", "inference", "verdict", "log", "answer")
LATE_S, AHEAD_S = 3600, 86_400  # a time outside of these, against the newest one, would see or make a wrong history
PAUSE_NS = 1_000_000_000  # between attempts at a full log: each that fails takes its batch out of the history again
WORDS = {verdict: verdict.name.lower() for verdict in Verdict}


@dataclass(frozen=True, slots=True)
class Reply:
    """What one body gets: an HTTP status and a JSON body. `probability` and `verdict` of what was scored now, not of a repetition."""

    status: int
    body: bytes
    probability: float | None = None
    verdict: Verdict | None = None


class Log(Protocol):
    """What the pipeline asks of a decision log (journal.py)."""

    @property
    def fault(self) -> str | None: ...
    def append(self, decisions: Sequence[Decision]) -> None: ...
    def recent(self, n: int) -> list[Decision]: ...
    def window(self, seconds: int) -> Iterable[Event]: ...
    def close(self) -> None: ...


class Recent:
    """The newest decisions by id, at least `most` of them and an eighth more at most.

    In generations, the oldest dropped whole: forgetting costs nothing, and no table grows so large that its growing is a pause (a
    dictionary of 200,000 entries takes 2.6 ms to double).
    """

    GENERATIONS = 8

    def __init__(self, most: int) -> None:
        self._size = -(-most // self.GENERATIONS)
        self._generations: list[dict[str, Decision]] = [{}]

    def get(self, id_: str) -> Decision | None:
        for generation in self._generations:
            if found := generation.get(id_):
                return found
        return None

    def put(self, decision: Decision) -> None:
        if len(self._generations[0]) >= self._size:
            self._generations = [{}, *self._generations[: self.GENERATIONS]]
        self._generations[0][decision.id] = decision


class Pipeline:
    """A scorer, the stream's windows and the decision log, made one. Not for several threads at a time."""

    def __init__(
        self,
        *,
        model: Model,
        scorer: Scorer,
        windows: Callable[[Iterable[Event]], Windows],
        journal: Log,
        costs: Costs = Costs(),  # noqa: B008 - frozen
        capacity: int = 1024,
        remembered: int = 200_000,
    ) -> None:
        """`windows` makes them from the events of the last hour; `capacity`: rows a batch; `remembered`: ids that stay idempotent."""
        self.model, self.scorer, self.journal, self.costs, self.capacity = model, scorer, journal, costs, capacity
        self._full: Reply | None = None  # what is answered while the log has no room
        self._again_ns = 0
        self.stamps_ns: tuple[int, ...] = ()  # of the last batch: its start, then the end of each of STAGES
        self._resume = windows
        self.windows = windows(journal.window(LATE_S))
        self._newest = self.windows.newest()
        self._recent = Recent(remembered)
        for decision in journal.recent(remembered):
            self._recent.put(decision)
        self._raw = bytearray(4 * len(NAMES) * capacity)
        self._rows = np.frombuffer(self._raw, np.float32).reshape(capacity, len(NAMES))
        self._pack = struct.Struct(f"={len(NAMES)}f").pack_into

    def decided(self, id_: str) -> Decision | None:
        """The decision of a transaction among those remembered."""
        return self._recent.get(id_)

    def decide(self, bodies: Sequence[bytes]) -> list[Reply]:
        """A reply for each body, in order. At most `capacity` of them."""
        if len(bodies) > self.capacity:
            raise ValueError(f"{len(bodies)} bodies in a batch, there is room for {self.capacity}")
        stamps = [perf_counter_ns()]
        stamp = stamps.append
        replies: list[Reply | None] = [None] * len(bodies)
        fresh, again = self._parse(bodies, replies)
        stamp(perf_counter_ns())
        failed = self._full if perf_counter_ns() < self._again_ns else None
        try:
            history = self.windows.observe([(t.id, int(t.time), t.cents) for _, t in fresh]) if fresh and not failed else []
        except Unavailable as error:  # other statistics in their place would be other decisions
            failed, history = Reply(503, Refused(503, "no_history", str(error)).body()), []
        stamp(perf_counter_ns())
        for row, ((_, one), stats) in enumerate(zip(fresh, history, strict=failed is None)):
            self._pack(self._raw, row * 4 * len(NAMES), *one.v, *context(one, stats))
        stamp(perf_counter_ns())
        margins = self.scorer.margins(self._rows[: len(history)]).tolist() if history else []
        stamp(perf_counter_ns())
        decisions = [self._verdict(row, fresh[row][1], margin) for row, margin in enumerate(margins)]
        stamp(perf_counter_ns())
        failed = failed or self._log(decisions)
        stamp(perf_counter_ns())
        if failed is None:
            for (place, _), decision in zip(fresh, decisions, strict=True):
                replies[place] = Reply(200, told(decision), decision.probability, Verdict(decision.verdict))
                self._recent.put(decision)
        else:
            for place, _ in fresh:
                replies[place] = failed
        for place, one in again:
            replies[place] = self._repeated(one) or failed
        stamp(perf_counter_ns())
        self.stamps_ns = tuple(stamps)
        return [reply for reply in replies if reply is not None]

    def spent_ns(self) -> dict[str, int]:
        """What each stage of the last batch took."""
        return {stage: end - begin for stage, (begin, end) in zip(STAGES, pairwise(self.stamps_ns), strict=True)}

    def close(self) -> None:
        self.windows.close()
        self.journal.close()

    def _parse(
        self, bodies: Sequence[bytes], replies: list[Reply | None]
    ) -> tuple[list[tuple[int, Transaction]], list[tuple[int, Transaction]]]:
        """What is to be scored and what repeats an id, each with its place; what is refused gets its reply at once."""
        fresh: list[tuple[int, Transaction]] = []
        again: list[tuple[int, Transaction]] = []
        seen: set[str] = set()
        newest = self._newest
        for place, body in enumerate(bodies):
            try:
                one = transaction.parse(body)
                if one.model is not None and one.model != self.model.version:
                    raise Refused(404, "unknown_model", f"Model {one.model!r} is not served here; {self.model.version!r} is")
                if one.id in seen or self._recent.get(one.id):
                    again.append((place, one))
                    continue
                second = int(one.time)
                if newest is not None and not newest - LATE_S < second <= newest + AHEAD_S:
                    raise Refused(
                        422,
                        "out_of_time",
                        f"Expected a time between an hour before and a day after the stream's newest, {newest}, "
                        f"got {one.time!r} - at `$.time`",
                    )
            except Refused as why:
                replies[place] = Reply(why.status, why.body())
                continue
            newest = second if newest is None or second > newest else newest
            seen.add(one.id)
            fresh.append((place, one))
        self._newest = newest
        return fresh, again

    def _verdict(self, row: int, one: Transaction, margin: float) -> Decision:
        a, b = self.model.calibration
        probability = calibrated(margin, a, b)
        verdict = decide(probability, one.amount, self.costs)
        why = None if verdict is Verdict.APPROVE else ",".join(reasons(self._rows[row], self.model.typical, self.scorer.margins))
        return Decision(one.id, int(one.time), one.cents, probability, int(verdict), why, self.model.version, time_ns())

    def _log(self, decisions: list[Decision]) -> Reply | None:
        """Write the batch; where there is no room, take it out of the history again and say so."""
        try:
            if decisions:
                self.journal.append(decisions)
        except JournalFull as error:
            self._full, self._again_ns = Reply(503, Refused(503, "log_full", str(error)).body()), perf_counter_ns() + PAUSE_NS
            self.windows.close()
            self.windows = self._resume(self.journal.window(LATE_S))
            self._newest = self.windows.newest()
            return self._full
        self._full = None
        return None

    def _repeated(self, one: Transaction) -> Reply | None:
        """The first answer again; a conflict where the same id comes with another amount or time."""
        if (known := self._recent.get(one.id)) is None:
            return None
        if (known.second, known.cents) != (int(one.time), one.cents):
            return Reply(409, Refused(409, "conflict", f"Id {one.id!r} was used by another transaction").body())
        return Reply(200, told(known))


def context(one: Transaction, stats: Stats) -> tuple[float, ...]:
    """The features after V1…V28, in the order of features.NAMES."""
    n_60s, mean_60s, n_3600s, mean_3600s = stats
    return one.amount, one.time % 86_400, n_60s, mean_60s, n_3600s, mean_3600s, one.amount / mean_3600s if mean_3600s else 0.0


def told(decision: Decision) -> bytes:
    """A decision as its client gets it."""
    why = decision.reasons.split(",") if decision.reasons else []
    return transaction.answer(decision.id, WORDS[Verdict(decision.verdict)], decision.probability, why, decision.model)
