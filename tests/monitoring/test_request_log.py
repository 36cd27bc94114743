"""The request log through kills, full disks and long lives."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lib.monitoring import request_log
from lib.monitoring.request_log import Entry, RequestLog, read


def entry(n: int) -> Entry:
    return Entry(1.5 + n, "llm", "ok", 200, 0.25, 0.1, 0.01, 8, 40, 12)


def test_what_goes_in_comes_out_and_unknown_stays_unknown(tmp_path: Path) -> None:
    async def write() -> None:
        log = RequestLog(tmp_path / "log")
        log.add(entry(0))
        log.add(Entry(1.0, "fraud", "timeout", 504, 1.0))
        log.close()

    asyncio.run(write())
    assert list(read(tmp_path / "log")) == [entry(0), Entry(1.0, "fraud", "timeout", 504, 1.0)]
    assert "ttft_s" not in (tmp_path / "log").read_text().splitlines()[1]


def test_lines_are_written_by_themselves_soon(tmp_path: Path) -> None:
    async def wait() -> None:
        log = RequestLog(tmp_path / "log")
        log.add(entry(0))
        assert list(read(tmp_path / "log")) == []  # not a system call a request
        await asyncio.sleep(1.5 * request_log.FLUSH_S)
        assert len(list(read(tmp_path / "log"))) == 1

    asyncio.run(wait())


WRITES = """
import asyncio, sys
from pathlib import Path
from lib.monitoring.request_log import Entry, RequestLog
async def main():
    log = RequestLog(Path(sys.argv[1]))
    for n in range(10**9):
        log.add(Entry(float(n), "fraud", "ok", 200, 0.1))
        await asyncio.sleep(0.001)
        print(n, flush=True)
asyncio.run(main())
"""


def test_a_kill_loses_no_more_than_the_last_moment(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITES, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [int(next(writer.stdout)) for _ in range(600)]
        writer.send_signal(signal.SIGKILL)
        said += [int(line) for line in writer.stdout if line.endswith("\n")]
    kept = [int(one.t_unix) for one in read(tmp_path / "log") if one is not None]
    assert kept == list(range(len(kept)))
    assert len(said) - len(kept) <= 1.5 * request_log.FLUSH_S / 0.001


def test_after_a_line_that_a_kill_cut_the_next_is_whole(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b'{"t_unix":1.0,"service":"fr')

    async def write() -> None:
        log = RequestLog(tmp_path / "log")
        log.add(entry(0))
        log.close()

    asyncio.run(write())
    assert list(read(tmp_path / "log")) == [None, entry(0)]


def test_it_never_grows_beyond_its_bound_and_says_what_it_lost(tmp_path: Path) -> None:
    most = 20_000

    async def write() -> int:
        log = RequestLog(tmp_path / "log", most_bytes=most)
        for n in range(1000):
            log.add(entry(n))
            if n % 20 == 19:
                log.flush()
        log.close()
        return log.lost

    lost = asyncio.run(write())
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2 * most
    kept = [one.t_unix for one in read(tmp_path / "log") if one is not None]
    assert kept == [1.5 + n for n in range(lost, 1000)]  # the newest are there, in order, without a gap
    assert 0 < lost < 1000


def test_it_goes_on_after_what_the_file_holds_and_counts_it_once_gone(tmp_path: Path) -> None:
    async def write(n: int, most_bytes: int) -> int:
        log = RequestLog(tmp_path / "log", most_bytes=most_bytes)
        for number in range(n):
            log.add(entry(number))
        log.close()
        return log.lost

    assert asyncio.run(write(3, 1 << 20)) == 0
    assert asyncio.run(write(2, 1)) == 0  # the file of three is the older one now
    assert len(list(read(tmp_path / "log"))) == 5
    assert asyncio.run(write(1, 1)) == 3
    assert len(list(read(tmp_path / "log"))) == 3


def test_a_full_disk_loses_lines_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def write() -> None:
        log = RequestLog(tmp_path / "log")
        real = os.write
        monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:100]))  # as a disk that is almost full
        log.add(entry(0))
        log.add(entry(1))
        log.flush()
        assert log.lost == 2  # neither was whole

        def full(file: int, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        log.add(entry(2))
        log.flush()
        assert log.lost >= 3
        monkeypatch.setattr(os, "write", real)
        log.add(entry(3))
        log.close()

    asyncio.run(write())
    assert list(read(tmp_path / "log"))[-1] == entry(3)
