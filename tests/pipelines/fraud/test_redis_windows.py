"""A real Redis, started here on a socket: the same statistics as the embedded windows, retries counted once, and trouble told."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from time import monotonic, sleep

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from lib.pipelines.fraud.redis_windows import RedisWindows
from lib.pipelines.fraud.windows import Embedded, Event, Unavailable

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed (Debian: redis-server)")
STREAMS = count()  # one server, a stream of its own for every example
STEPS = st.one_of(st.integers(0, 3), st.integers(-4000, 0), st.sampled_from([58, 59, 60, 61, 3540, 3599, 3600]), st.integers(0, 10**9))


class Server:
    """redis-server on a socket in a directory of its own, without persistence."""

    def __init__(self, home: Path) -> None:
        self.socket, self.log = home / "redis.sock", home / "log"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "", "--appendonly", "no", "--dir", self.socket.parent,
             "--requirepass", "s3cret"], stdout=self.log.open("ab"), stderr=subprocess.STDOUT)
        until = monotonic() + 10
        while not self.socket.exists():
            assert self.process.poll() is None and monotonic() < until, self.log.read_text()
            sleep(0.01)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self.socket.unlink(missing_ok=True)

    def url(self, database: int = 0) -> str:
        return f"unix://:s3cret@{self.socket}?db={database}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis") as home:  # pytest's own paths are too long for a socket
        server = Server(Path(home))
        yield server
        server.stop()


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    second, events = draw(st.integers(0, 10_000)), []
    for number, (step, cents) in enumerate(draw(st.lists(st.tuples(STEPS, st.integers(0, 10**8)), max_size=40))):
        second = max(0, second + step)
        events.append((f"t{number}é", second, cents))
    return events


@needs_redis
@settings(deadline=None)
@given(events=streams(), cuts=st.lists(st.integers(0, 40), max_size=3))
def test_redis_says_what_the_embedded_windows_say(server: Server, events: list[Event], cuts: list[int]) -> None:
    shared, own = RedisWindows(server.url(), f"s{next(STREAMS)}"), Embedded()
    assert shared.newest() is None
    marks = [0, *sorted(cuts), len(events)]
    for start, end in pairwise(marks):
        assert shared.observe(events[start:end]) == own.observe(events[start:end])
    assert shared.newest() == own.newest()
    shared.close()


@needs_redis
def test_a_retry_is_told_the_same_and_counts_once(server: Server) -> None:
    first, second = RedisWindows(server.url(), "retry"), RedisWindows(server.url(), "retry")  # two replicas
    told = first.observe([("a", 100, 700), ("b", 101, 300)])
    assert second.observe([("b", 101, 300), ("a", 100, 700), ("b", 101, 300)]) == [told[1], told[0], told[1]]
    assert second.observe([("c", 101, 0), ("c", 5000, 0)]) == [(2, 5.0, 2, 5.0)] * 2
    assert first.newest() == 101
    with Redis.from_url(server.url()) as inside:
        assert 7190 <= inside.ttl("{retry}:id:a") <= 7200
        assert 86390 <= inside.ttl("{retry}:windows:1") <= 86400
        assert inside.strlen("{retry}:windows:1") == 40 + 120 * 16


@needs_redis
def test_streams_and_databases_are_apart(server: Server) -> None:
    for windows in (RedisWindows(server.url(1), "x"), RedisWindows(server.url(2), "x"), RedisWindows(server.url(2), "y")):
        assert windows.observe([("a", 100, 700)]) == [(0, 0.0, 0, 0.0)]
        windows.close()


@needs_redis
def test_replicas_count_every_event_once(server: Server) -> None:
    def replica(number: int) -> None:
        windows = RedisWindows(server.url(), "replicas")
        for n in range(200):
            windows.observe([(f"{number}-{n}-{i}", 1000 + n % 50, 101) for i in range(5)])
        windows.close()

    threads = [threading.Thread(target=replica, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert RedisWindows(server.url(), "replicas").observe([("last", 1049, 0)]) == [(4000, 1.01, 4000, 1.01)]


@needs_redis
def test_a_restarted_redis_is_used_again() -> None:
    with tempfile.TemporaryDirectory(prefix="redis") as home:
        server = Server(Path(home))
        try:
            windows = RedisWindows(server.url())
            windows.observe([("a", 100, 700)])
            server.stop()
            with pytest.raises(Unavailable, match=r"redis\.sock, database 0 cannot be used.*unset REDIS_URL") as told:
                windows.observe([("b", 100, 700)])
            assert "s3cret" not in str(told.value)
            with pytest.raises(Unavailable):
                windows.newest()
            server.start()  # it has forgotten the script and, without persistence, the windows
            assert windows.observe([("c", 100, 700)]) == [(0, 0.0, 0, 0.0)]
            os.kill(server.process.pid, signal.SIGSTOP)  # alive, but it does not answer
            started = monotonic()
            with pytest.raises(Unavailable, match=r"(?i)time"):
                windows.observe([("d", 100, 700)])
            assert monotonic() - started < 5  # bounded, on a busy machine too
            os.kill(server.process.pid, signal.SIGCONT)
            assert windows.observe([("e", 100, 700)])[0][0] in (1, 2)  # d arrived after all, or not
        finally:
            server.stop()


def test_nobody_there_is_said_at_once_and_without_the_password() -> None:
    with socket.socket() as taken:  # bound, not listening: a port at which nobody answers
        taken.bind(("127.0.0.1", 0))
        windows = RedisWindows(f"redis://me:s3cret@127.0.0.1:{taken.getsockname()[1]}/3")
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+, database 3 cannot be used.*Start or mend") as told:
            windows.observe([("a", 1, 1)])
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://:s3cret@localhost/", "redis://:s3cret#x@localhost:6379/0"])
def test_no_address_is_refused_without_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="is not a Redis address") as told:
        RedisWindows(url)
    assert "s3cret" not in str(told.value)
