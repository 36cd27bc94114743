"""The ladder's clock, the null objects, outcomes in money, and the stream of requests."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lib.pipelines.fraud import ladder, levels
from lib.pipelines.fraud.data import Ledger
from lib.pipelines.fraud.in_process import split
from lib.pipelines.fraud.outcomes import outcome, policies
from lib.pipelines.fraud.replay import DAY_S, Replay
from lib.pipelines.fraud.transaction import parse
from lib.pipelines.fraud.verdict import Costs, Verdict

ROWS = np.arange(40, dtype=np.float32).reshape(20, 2)


def test_every_row_is_timed_alone_and_once() -> None:
    seen: list[float] = []
    taken = ladder.singles(lambda row: seen.append(float(row[0, 0])), ROWS, warmup=3)
    assert seen == [*ROWS[:3, 0], *ROWS[:, 0]]
    assert len(taken) == 20
    assert (taken > 0).all()
    assert len(ladder.cold(lambda row: None, ROWS[:2])) == 2


def test_batches_are_of_different_rows_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, int]] = []
    monkeypatch.setattr(ladder, "MOST", 7)
    taken = ladder.batches(lambda rows: seen.append((float(rows[0, 0]), len(rows))), ROWS, size=8, budget_s=5)
    assert len(taken) == 7
    assert {n for _, n in seen} == {8}
    assert {first for first, _ in seen} == {ROWS[0, 0], ROWS[8, 0]}
    with pytest.raises(ValueError, match="a batch of 21 rows out of 20"):
        ladder.batches(lambda rows: None, ROWS, size=21, budget_s=1)


LEDGER = Ledger(
    np.array([5, 6, 86_400]), np.array([14_962, 0, 1]), np.arange(84, dtype=float).reshape(3, 28) / 7, np.array([False, True, False])
)


def test_the_stream_is_the_ledger_without_end_and_no_id_comes_twice() -> None:
    stream = Replay(LEDGER, "s")
    first, then = [parse(body) for body in stream.bodies(3)], [parse(body) for body in stream.bodies(3)]
    assert [one.cents for one in first] == [one.cents for one in then] == [14_962, 0, 1]
    assert [one.time for one in then] == [one.time + DAY_S for one in first]
    assert first[1].v == LEDGER.v[1].tolist()
    assert len({one.id for one in first + then}) == 6


@pytest.mark.parametrize("seconds", [(145_248, 172_792), (0, 172_792), (0, 86_400), (7, 7)])
def test_time_neither_runs_backwards_nor_leaps_by_a_day_where_the_ledger_begins_again(seconds: tuple[int, int]) -> None:
    ledger = Ledger(np.array(seconds), LEDGER.cents[:2], LEDGER.v[:2], LEDGER.fraud[:2])
    first, last, again = (parse(body).time for body in Replay(ledger, "s").bodies(3))
    assert 0 < again - last <= DAY_S and (again - first) % DAY_S == 0


@pytest.mark.parametrize("traced", [False, True])
def test_a_request_is_whole(traced: bool) -> None:
    one, two = Replay(LEDGER, "s").requests(2, traced=traced)
    head, _, body = one.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body)["id"] == "s-0"
    assert (b"X-Request-Id: 0" in head) is traced
    assert (two.partition(b"\r\n\r\n")[0].split(b"Content-Length")[0] != head.split(b"Content-Length")[0]) is traced


def test_money_is_counted_by_what_was_done_to_whom() -> None:
    amount, fraud, costs = np.array([100.0, 50.0, 10.0, 10.0]), np.array([True, True, False, False]), Costs(20, 3, 30)
    verdicts = np.array([Verdict.APPROVE, Verdict.DECLINE, Verdict.REVIEW, Verdict.DECLINE], np.int8)
    told = outcome(verdicts, amount, fraud, costs)
    assert told["cost"] == (100 + 20) + 0 + 3 + 30
    assert (told["frauds"], told["frauds_missed"], told["reviewed"], told["declined"], told["honest_declined"]) == (2, 1, 1, 2, 1)


def test_of_certain_probabilities_the_cheapest_policy_is_right_every_time() -> None:
    fraud = np.array([True, False, True, False])
    told = {
        name: outcome(v, np.full(4, 100.0), fraud, Costs())["cost"]
        for name, v in policies(fraud.astype(float), np.full(4, 100.0), Costs()).items()
    }
    assert told == {"approve everything": 240, "decline above 50 %": 0, "the cheapest of three": 0}


def test_drift_is_seen_where_scores_move_and_not_where_they_do_not() -> None:
    rng = np.random.default_rng(0)
    second = np.repeat(np.arange(4) * levels.SLICE_S, 5000)
    scores = rng.normal(size=20_000)
    scores[15_000:] += 0.5
    told = levels.drift(scores, second, slice(0, 5000))
    assert [row["psi"] > row["bound"] for row in told[1:]] == [False, False, True]
    assert told[3]["hour"] == 6


@pytest.mark.parametrize(("parts", "fine"), [((7, 1, 2), True), ((7, 1, 1), False), ((8, 1, 2), False), ((8, 0, 2), False)])
def test_parts_of_the_stream_share_nothing_and_leave_nothing_out(parts: tuple[int, int, int], fine: bool) -> None:
    facts = dict(zip(("trained_on", "calibrated_on", "judged_on"), parts, strict=True), transactions=10)
    assert (split(facts) is None) is fine
