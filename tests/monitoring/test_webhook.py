"""The receiver keeps what Alertmanager tells, with its own stamp, and refuses the rest."""

from __future__ import annotations

import json
import threading
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.monitoring import webhook


def post(*alerts: dict[str, object]) -> bytes:
    return json.dumps({"version": "4", "receiver": "pages", "status": "firing", "alerts": alerts}).encode()


def alert(name: str, status: str = "firing", **labels: str) -> dict[str, object]:
    ends = "2026-01-02T03:04:06.5Z" if status == "resolved" else webhook.NEVER
    return {"status": status, "labels": {"alertname": name, **labels}, "annotations": {},
            "startsAt": "2026-01-02T03:04:05.123456789Z", "endsAt": ends}  # fmt: skip


def test_a_post_is_read_with_both_clocks() -> None:
    fires, over = webhook.read(post(alert("TargetDown", job="llm"), alert("ErrorBurst", "resolved", service="fraud")), 12.0)
    assert (fires.at_s, fires.receiver, fires.alert, fires.status, fires.ends_s) == (12.0, "pages", "TargetDown", "firing", None)
    assert fires.labels == {"alertname": "TargetDown", "job": "llm"}
    assert fires.starts_s == pytest.approx(1767323045.123456)
    assert (over.status, over.ends_s) == ("resolved", 1767323046.5)
    assert over.json(since=1767323045.0) == {
        "at_s": 12 - 1767323045.0, "receiver": "pages", "alert": "ErrorBurst", "labels": {"alertname": "ErrorBurst", "service": "fraud"},
        "status": "resolved", "starts_s": 0.1235, "ends_s": 1.5}  # fmt: skip


WORDS = st.sampled_from(["alerts", "receiver", "status", "labels", "startsAt", "endsAt", "alertname"]) | st.text()
TREES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner))


@given(st.binary() | TREES.map(lambda told: json.dumps(told).encode()))
def test_whatever_comes_is_read_or_refused_with_a_sentence(body: bytes) -> None:
    try:
        read = webhook.read(body, 1.0)
    except ValueError as wrong:
        assert str(wrong)
    else:
        assert all(notice.at_s == 1.0 for notice in read)


def test_notices_arrive_stamped_and_are_awaited() -> None:
    with webhook.receiving() as (url, notices):
        before = time.time()
        threading.Timer(0.1, lambda: httpx.post(url, content=post(alert("A")), trust_env=False)).start()
        assert notices.wait_for(lambda told: any(one.alert == "A" for one in told), 5)
        (got,) = notices.since()
        assert before + 0.1 <= got.at_s <= time.time()
        assert not notices.wait_for(bool, 0.05, since=time.time())
        assert httpx.post(url, content=post(alert("A", "resolved")), trust_env=False).status_code == 204
        assert [notice.status for notice in notices.since()] == ["firing", "resolved"]
        assert [notice.status for notice in notices.since(got.at_s + 1e-6)] == ["resolved"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_what_is_no_notice_is_refused_and_counted() -> None:
    with webhook.receiving() as (url, notices):
        def sent(**more: object) -> int:
            return httpx.post(url, trust_env=False, **more).status_code  # type: ignore[arg-type]

        assert sent(content=b"{}") == sent(content=b"\xff") == sent(content=post(alert("A", "pending"))) == 400
        assert sent(content=iter([b"without a length"])) == 413
        assert sent(content=b"x" * (webhook.MOST_BYTES + 1)) == 413
        assert notices.refused == 5 and notices.since() == []
