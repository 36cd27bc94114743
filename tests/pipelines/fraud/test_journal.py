"""The decision log: whole batches, in order, through kill -9, a full disk, a torn file, another program's file and a second writer."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from time import monotonic, sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.pipelines.fraud import journal
from lib.pipelines.fraud.journal import Decision, Journal, JournalFull, NotAJournal
from lib.pipelines.fraud.windows import HOUR_S, Embedded

KILLED = """
import sys
from itertools import count
from pathlib import Path
from lib.pipelines.fraud import journal
journal.STRETCH = 300  # so that checkpoints and milestones are under way when the end comes
with journal.Journal(Path(sys.argv[1])) as log:
    for n in count():
        batch = [journal.Decision(f"{n}-{i}", n, i, 0.5, 0, None, "m", 1) for i in range(1 + n % 3)]
        log.append(batch)
        print(*(decision.id for decision in batch), flush=True)
"""


def decision(id_: str = "t", *, second: int = 100, cents: int = 1234, reasons: str | None = None) -> Decision:
    return Decision(id_, second, cents, 0.25, 1, reasons, "0123456789ab", 1_700_000_000_000_000_001)


def reader(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.db"


def test_what_was_written_is_read_again_in_order(path: Path) -> None:
    rows = [decision("a"), decision("b", reasons="V14_LOW,AMOUNT_HIGH"), decision("é😀", second=5), decision("a", cents=0)]
    with Journal(path) as log:
        assert (log.count(), log.recent(9), list(log.window(60))) == (0, [], [])
        log.append([])
        log.append(rows[:1])
        log.append(rows[1:])
        with reader(path) as other:  # while it is open
            assert other.execute("select seq, id from decisions").fetchall() == [(1, "a"), (2, "b"), (3, "é😀"), (4, "a")]
    with Journal(path) as log:
        assert log.count() == 4
        assert log.recent(9) == rows
        assert log.recent(2) == rows[2:]
        assert isinstance(log.recent(1)[0], Decision)
        assert list(log.window(60)) == [("a", 100, 1234), ("b", 100, 1234), ("a", 100, 0)]
        log.close()  # once more is harmless
    assert sorted(child.name for child in path.parent.iterdir()) == ["decisions.db", "decisions.db-lock"]


@given(steps=st.lists(st.integers(-4000, 4000), max_size=80), sizes=st.lists(st.integers(1, 9), min_size=80, max_size=80),
       stretch=st.integers(1, 20), reopen=st.integers(0, 80))
def test_the_last_hour_is_found_however_the_clock_went(tmp_path_factory: pytest.TempPathFactory, steps: list[int], sizes: list[int],
                                                       stretch: int, reopen: int) -> None:
    path, second, rows = tmp_path_factory.mktemp("log") / "log.db", 5000, []
    for n, step in enumerate(steps):
        second = max(0, second + step)
        rows.append(decision(str(n), second=second, cents=n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "STRETCH", stretch)
        log, start = Journal(path), 0
        for size in sizes:
            if start <= reopen < start + size:
                log.close()
                log = Journal(path)
            log.append(rows[start:start + size])
            start += size
        newest = max((row.second for row in rows), default=0)
        assert list(log.window(HOUR_S)) == [row[:3] for row in rows if row.second > newest - HOUR_S]
        whole = Embedded.resumed(row[:3] for row in rows)
        assert Embedded.resumed(log.window(HOUR_S)).observe([("x", newest, 1)]) == whole.observe([("x", newest, 1)])
        log.close()
    shutil.rmtree(path.parent)


def test_the_years_before_are_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "STRETCH", 10)
    with Journal(path) as log:
        for n in range(1000):
            log.append([decision(str(n), second=n * 100)])
        steps = count()
        log._writer.set_progress_handler(lambda: next(steps) and 0, 1)
        assert [id_ for id_, _, _ in log.window(1000)] == [str(n) for n in range(990, 1000)]
        log._writer.set_progress_handler(None, 1)
        assert next(steps) < 500  # a row takes at least 4 steps of SQLite's machine


def test_kill_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = [child.stdout.readline() for _ in range(1500)]
    os.kill(child.pid, signal.SIGKILL)
    told += child.stdout.readlines()
    child.wait()
    acknowledged = [id_ for line in told if line.endswith("\n") for id_ in line.split()]
    assert len(acknowledged) >= 2990
    with Journal(path) as log:  # its lock died with the child
        ids = [row.id for row in log.recent(10**6)]
        assert ids[:len(acknowledged)] == acknowledged
        batches = {id_.split("-")[0] for id_ in ids[len(acknowledged):]}
        assert len(batches) <= 1 and len(ids) - len(acknowledged) in (0, *(1 + int(n) % 3 for n in batches))  # at most the one in flight
        log.append([decision("after")])
        assert log.recent(1)[0].id == "after"
    with reader(path) as other:
        assert other.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert other.execute("select max(seq) - count(*) from decisions").fetchone() == (0,)


def test_a_decision_stays(path: Path) -> None:
    with Journal(path) as log:
        log.append([decision("a")])
        with closing(sqlite3.connect(path)) as other:
            for change in ("update decisions set verdict = 0", "delete from decisions"):
                with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                    other.execute(change)


def test_a_batch_is_written_whole_or_not_at_all(path: Path) -> None:
    with Journal(path) as log:
        for batch in ([decision("a"), decision("b")._replace(model=None)], [decision("a")._replace(second="soon")]):  # type: ignore[arg-type]
            with pytest.raises(sqlite3.IntegrityError):
                log.append(batch)
            assert log.count() == 0
        with pytest.raises(OverflowError):
            log.append([decision("a"), decision("b", cents=2**70)])
        log.append([decision("c")])
        assert log.count() == 1


def test_no_room_by_sqlites_own_bound(path: Path) -> None:
    with Journal(path) as log:
        log.append([decision("kept")])
        (pages,) = log._writer.execute("pragma page_count").fetchone()
        log._writer.execute(f"pragma max_page_count = {pages}")
        big = [decision(f"{n}", reasons="X" * 500) for n in range(20)]
        with pytest.raises(JournalFull, match=r"no room for 20 decisions in .*decisions\.db.*Make room"):
            log.append(big)
        assert [row.id for row in log.recent(9)] == ["kept"]
        log._writer.execute("pragma max_page_count = 100000")
        log.append(big)
        assert log.count() == 21


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    at = tmp_path / "tiny"
    at.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", at], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield at
    subprocess.run(["umount", at], check=True)


def test_a_full_disk_is_said_and_outlived(tiny: Path) -> None:
    filler = tiny / "filler"
    with Journal(tiny / "log.db") as log:
        log.append([decision("first")])
        filler.write_bytes(b"x" * 100_000)
        written = ["first"]
        with pytest.raises(JournalFull, match="no room for 1 decision"):
            for n in range(10_000):
                log.append([decision(str(n))])
                written.append(str(n))
        with pytest.raises(JournalFull, match="no room for 2 decisions"):
            log.append([decision("x"), decision("y", reasons="X" * 3000)])
        assert [row.id for row in log.recent(10**6)] == written
        filler.unlink()
        log.append([decision("again")])
        log.append([decision("and"), decision("again")])
    with Journal(tiny / "log.db") as log:
        assert [row.id for row in log.recent(10**6)] == [*written, "again", "and", "again"]


def test_the_wal_is_bounded_under_load_without_a_gap(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "STRETCH", 100)
    monkeypatch.setattr(journal, "MOST_PAGES", 1000)
    wal, until, most, seen = Path(f"{path}-wal"), monotonic() + 30, 0, 0
    with Journal(path) as log:
        for n in range(40_000):  # 40 MB of WAL, would nobody empty it
            log.append([decision(str(n), second=n)])
            if n % 500 == 0:
                most, seen = max(most, wal.stat().st_size), n
                assert monotonic() < until
        assert log.fault is None
        assert log.count() == 40_000
    assert seen > 30_000 and most < 20_000_000


def test_checkpoints_that_fail_are_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "STRETCH", 1)

    class Sick(sqlite3.Connection):
        def execute(self, sql: str, *rest: object) -> sqlite3.Cursor:  # type: ignore[override]
            if "wal_checkpoint" in sql:
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_connected", lambda path: sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, factory=Sick))
        log = Journal(path)
    with log:
        until = monotonic() + 10
        while log.fault is None and monotonic() < until:
            log.append([decision()])
            sleep(0.01)
        assert log.fault == "the decision log's WAL cannot be emptied: disk I/O error"


@pytest.mark.parametrize(("durable", "level"), [(False, 1), (True, 2)])
def test_durable_is_an_fsync_a_commit(path: Path, durable: bool, level: int) -> None:
    with Journal(path, durable=durable) as log:
        log.append([decision()])
        assert log._writer.execute("pragma synchronous").fetchone() == (level,)
        assert log._writer.execute("pragma journal_mode").fetchone() == ("wal",)
        assert log._writer.execute("pragma wal_autocheckpoint").fetchone() == (0,)
        assert log._writer.execute("pragma page_size").fetchone() == (1024,)


def test_the_files_are_the_owners_alone(path: Path) -> None:
    with Journal(path) as log:
        log.append([decision()])
        modes = {child.name: child.stat().st_mode & 0o777 for child in path.parent.iterdir()}
    assert modes == dict.fromkeys(("decisions.db", "decisions.db-wal", "decisions.db-shm", "decisions.db-lock"), 0o600)


def test_there_is_one_writer(path: Path) -> None:
    with Journal(path), pytest.raises(NotAJournal, match=r"decisions\.db is written by another process: stop that one"):
        Journal(path)
    Journal(path).close()


def test_other_files_are_not_touched(path: Path) -> None:
    path.write_bytes(b"time,amount,class\n" * 100)
    with pytest.raises(NotAJournal, match=r"cannot be read as a decision log: file is not a database.*Restore it"):
        Journal(path)
    assert path.read_bytes() == b"time,amount,class\n" * 100
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("create table songs (name)")
    before = path.read_bytes()
    for _ in range(2):  # the first refusal lets go of the lock
        with pytest.raises(NotAJournal, match="a database of another program"):
            Journal(path)
    assert path.read_bytes() == before


def test_another_version_is_refused(path: Path) -> None:
    Journal(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("pragma user_version = 7")
    with pytest.raises(NotAJournal, match="has schema 7, this program writes 1"):
        Journal(path)


def test_a_torn_file_is_refused(path: Path) -> None:
    with Journal(path) as log:
        log.append([decision(str(n)) for n in range(1000)])
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(NotAJournal, match=r"cannot be read as a decision log: database disk image is malformed.*Restore it from a copy"):
        Journal(path)


def test_a_start_that_was_cut_short_is_done_again(path: Path) -> None:
    path.touch()
    with Journal(path) as log:
        log.append([decision()])
        assert log.count() == 1


def test_no_directory_is_the_callers_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Journal(tmp_path / "nowhere" / "log.db")
