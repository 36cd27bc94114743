"""The throttle against a simulated server: a healthy one is never spared, an overloaded one gets about K times what it can do."""

from __future__ import annotations

import pytest

from lib.pipelines.throttle import Throttle

MS = 1_000_000


def _drive(throttle: Throttle, *, begin_ms: int, end_ms: int, every: int) -> tuple[int, int]:
    """One request a ms; the server accepts each `every`-th that reaches it. (kept back, sent)."""
    kept = sent = 0
    for ms in range(begin_ms, end_ms):
        if throttle.rejects(ms * MS):
            kept += 1
            continue
        sent += 1
        throttle.learn(ms * MS, accepted=every > 0 and sent % every == 0)
    return kept, sent


def test_a_healthy_server_gets_everything() -> None:
    assert _drive(Throttle(), begin_ms=0, end_ms=5000, every=1) == (0, 5000)


def test_a_dead_server_is_hardly_asked() -> None:
    kept, sent = _drive(Throttle(), begin_ms=0, end_ms=4000, every=0)
    assert kept + sent == 4000 and sent < 40


def test_an_overloaded_server_gets_k_times_what_it_takes() -> None:
    throttle, takes, lasts_ms = Throttle(k=1.1, seed=5), 300, 10_000  # takes 300 of 1,000 a second, refuses the rest of what it gets
    kept = sent = accepted = 0
    for ms in range(lasts_ms):
        if throttle.rejects(ms * MS):
            kept += 1
            continue
        sent += 1
        ok = accepted < takes * (ms + 1) / 1000
        accepted += ok
        throttle.learn(ms * MS, accepted=ok)
    assert accepted == pytest.approx(3000, rel=0.02)  # it stays fully used
    assert 1.0 <= sent / accepted < 1.35  # K, and what the first window took to learn it


def test_it_forgets_after_its_window() -> None:
    throttle = Throttle(window_s=1)
    _drive(throttle, begin_ms=0, end_ms=1000, every=0)
    assert throttle.chance > 0.9
    _drive(throttle, begin_ms=3000, end_ms=3001, every=1)
    assert throttle.chance == 0


def test_the_same_seed_keeps_the_same_requests_back() -> None:
    runs = [[throttle.rejects(n * MS) or throttle.learn(n * MS, accepted=n % 4 == 0) for n in range(900)]
            for throttle in (Throttle(seed=2), Throttle(seed=2))]
    assert runs[0] == runs[1] and True in runs[0]


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="healthy server"):
        Throttle(k=0.9)
