"""From bytes to a logged decision: what is answered is logged, once; what is refused leaves no trace; restarts change nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest

from lib.pipelines.fraud import pipeline as module
from lib.pipelines.fraud.features import NAMES
from lib.pipelines.fraud.journal import Decision, Journal, JournalFull
from lib.pipelines.fraud.pipeline import STAGES, Pipeline, Recent, Reply
from lib.pipelines.fraud.verdict import Verdict
from lib.pipelines.fraud.windows import Embedded, Event, Stats, Unavailable
from tests.pipelines.fraud.made import First, body, pipeline


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Pipeline]:
    made = pipeline(tmp_path)
    yield made
    made.close()


def told(reply: Reply) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(reply.body)
    return answer


def logged(line: Pipeline) -> list[str]:
    return [decision.id for decision in line.journal.recent(1000)]


def test_margins_become_verdicts_with_reasons_only_where_they_are_needed(line: Pipeline) -> None:
    replies = line.decide([body("a", margin=-9), body("b", margin=1), body("c", margin=9)])
    answers = [told(reply) for reply in replies]
    assert [answer["decision"] for answer in answers] == ["approve", "review", "decline"]
    assert [reply.verdict for reply in replies] == [Verdict.APPROVE, Verdict.REVIEW, Verdict.DECLINE]
    assert answers[1]["probability"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert [answer["reasons"] for answer in answers] == [[], ["V1_HIGH"], ["V1_HIGH"]]
    assert {answer["model"] for answer in answers} == {"made-1"}
    assert logged(line) == ["a", "b", "c"]


def test_the_row_that_is_scored_holds_every_feature_in_its_place(tmp_path: Path) -> None:
    scorer = First()
    line = pipeline(tmp_path, scorer=scorer)
    line.decide([body("a", time=86_400 + 30.5, amount=20.0), body("b", time=86_400 + 40, amount=5.0)])
    row = dict(zip(NAMES, scorer.seen[0][1].tolist(), strict=True))
    assert row["v1"] == -9
    assert (row["amount"], row["second_of_day"]) == (5, 40)
    assert (row["n_60s"], row["mean_60s"], row["n_3600s"], row["mean_3600s"], row["amount_over_mean"]) == (1, 20, 1, 20, 0.25)
    first = dict(zip(NAMES, scorer.seen[0][0].tolist(), strict=True))
    assert (first["second_of_day"], first["n_60s"], first["amount_over_mean"]) == (30.5, 0, 0)
    line.close()


def test_a_bad_one_is_refused_alone_and_leaves_no_trace(line: Pipeline) -> None:
    replies = line.decide([body("a"), b"{", body("b", model="other"), body("c", amount=-1), body("d")])
    assert [reply.status for reply in replies] == [200, 400, 404, 422, 200]
    assert told(replies[2])["error"]["code"] == "unknown_model"
    assert "made-1" in told(replies[2])["error"]["message"]
    assert logged(line) == ["a", "d"]
    assert told(line.decide([body("e")])[0])["decision"] == "approve"


def test_one_that_is_sent_again_gets_the_same_answer_and_counts_once(line: Pipeline) -> None:
    first = line.decide([body("a", margin=9)])[0]
    again = line.decide([body("a", margin=9), body("b"), body("a", margin=9)])
    assert first.body == again[0].body == again[2].body
    assert again[0].verdict is None
    assert logged(line) == ["a", "b"]
    assert line.windows.observe([("x", 0, 1)])[0][0] == 2


def test_twice_in_one_batch_is_once(line: Pipeline) -> None:
    replies = line.decide([body("a"), body("a")])
    assert replies[0].body == replies[1].body
    assert logged(line) == ["a"]


@pytest.mark.parametrize("other", [{"amount": 11.0}, {"time": 5}])
def test_an_id_used_by_another_transaction_is_a_conflict(line: Pipeline, other: dict[str, float]) -> None:
    line.decide([body("a")])
    reply = line.decide([body("a", **other)])[0]
    assert (reply.status, told(reply)["error"]["code"]) == (409, "conflict")
    assert logged(line) == ["a"]


@pytest.mark.parametrize(
    ("time", "status"), [(10_000 - 3_599, 200), (10_000 - 3_600, 422), (9_000, 200), (10_000 + 86_400, 200), (10_000 + 86_401, 422)]
)
def test_a_clock_that_runs_wrong_is_refused_where_it_would_spoil_the_history(line: Pipeline, time: int, status: int) -> None:
    line.decide([body("a", time=10_000)])
    reply = line.decide([body("b", time=time)])[0]
    assert reply.status == status
    assert status == 200 or "10000" in told(reply)["error"]["message"]
    assert line.decide([body("c", time=10_001)])[0].status == (422 if status == 200 and time > 90_000 else 200)


def test_a_restart_knows_what_was_decided_and_what_the_stream_looked_like(tmp_path: Path) -> None:
    stream = [body(str(n), time=n * 7, amount=n % 50 + 1.0, margin=n % 19 - 9) for n in range(1_500)]
    whole = pipeline(tmp_path / "a" if (tmp_path / "a").mkdir() is None else tmp_path)
    straight = [whole.decide([one])[0].body for one in stream]
    whole.close()
    (tmp_path / "b").mkdir()
    broken: list[bytes] = []
    for part in (stream[:700], stream[650:1_100], stream[1_100:]):  # the second begins with what was sent before
        line = pipeline(tmp_path / "b")
        broken += [line.decide([one])[0].body for one in part][50 if broken and len(broken) == 700 else 0 :]
        line.close()
    assert broken == straight


def test_batches_decide_as_one_by_one(tmp_path: Path) -> None:
    stream = [body(str(n), time=n // 3, amount=n % 50 + 1.0, margin=n % 19 - 9) for n in range(400)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, many = pipeline(tmp_path / "a"), pipeline(tmp_path / "b")
    assert [one.decide([b])[0].body for b in stream] == [
        reply.body for start in range(0, 400, 64) for reply in many.decide(stream[start : start + 64])
    ]
    one.close()
    many.close()


class Full(Journal):
    """A log whose disk is full while `full` is set."""

    full = False

    def append(self, decisions: Sequence[Decision]) -> None:
        if self.full:
            raise JournalFull("no room")
        super().append(decisions)


def test_without_room_in_the_log_nothing_is_answered_or_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_NS", 10**8)
    log = Full(tmp_path / "decisions.sqlite")
    line = pipeline(tmp_path, journal=log)
    line.decide([body("a")])
    log.full = True
    replies = line.decide([body("b"), b"{", body("b"), body("a")])
    assert [reply.status for reply in replies] == [503, 400, 503, 200]
    assert told(replies[0])["error"]["code"] == "log_full"
    log.full = False
    assert line.decide([body("c")])[0].status == 503  # it does not try again at once
    sleep(0.11)
    assert line.windows.observe([("x", 0, 1)])[0][0] == 1
    assert line.decide([body("b")])[0].status == 200
    assert logged(line) == ["a", "b"]
    line.close()


class Gone(Embedded):
    """A store that does not answer."""

    def observe(self, events: Sequence[Event]) -> list[Stats]:
        raise Unavailable("the store is gone: start it")


def test_without_a_history_nothing_is_scored(tmp_path: Path) -> None:
    scorer = First()
    line = pipeline(tmp_path, scorer=scorer, windows=lambda _: Gone())
    replies = line.decide([body("a"), b"{", body("a")])
    assert [reply.status for reply in replies] == [503, 400, 503]
    assert "start it" in told(replies[0])["error"]["message"]
    assert scorer.seen == []
    assert logged(line) == []
    line.close()


def test_stages_add_up_to_the_whole(line: Pipeline) -> None:
    line.decide([body("a"), body("b")])
    assert list(line.spent_ns()) == list(STAGES)
    assert sum(line.spent_ns().values()) == line.stamps_ns[-1] - line.stamps_ns[0]
    assert all(ns >= 0 for ns in line.spent_ns().values())


def test_a_batch_beyond_its_room_is_refused_whole(tmp_path: Path) -> None:
    line = pipeline(tmp_path, capacity=2)
    with pytest.raises(ValueError, match="3 bodies in a batch, there is room for 2"):
        line.decide([body("a"), body("b"), body("c")])
    assert logged(line) == []
    line.close()


@pytest.mark.parametrize("most", [1, 8, 16, 100])
def test_what_is_remembered_is_bounded_and_never_less_than_promised(most: int) -> None:
    recent = Recent(most)
    kept = [Decision(str(n), n, 1, 0.1, 0, None, "m", 0) for n in range(400)]
    for n, decision in enumerate(kept):
        recent.put(decision)
        known = [d for d in kept[: n + 1] if recent.get(d.id)]
        assert known[-most:] == kept[max(0, n + 1 - most) : n + 1]
        assert len(known) <= most + 2 * -(-most // 8) + 8


def test_late_and_ahead_bounds_are_those_of_the_windows() -> None:
    assert module.LATE_S == 3600
