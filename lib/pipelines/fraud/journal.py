"""The decision log: every decision, in order, before it is answered. The service's only durable truth; all else is folded from it.

SQLite in WAL mode. A batch is one transaction, so a batch costs one commit. With synchronous=NORMAL a commit is a write to the kernel:
it survives the death of the process at any instant, and loses at most the last moments to a power cut; `durable` survives that too, for
an fsync a commit. Checkpoints run on a thread of their own, since their fsyncs would be stalls of the event loop.

Refuses updates and deletions (against mistakes, not malice), a second writer and files that are not its own. The card's v is not kept.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lib.pipelines.fraud.windows import Event

APPLICATION, SCHEMA = 0x46524A4C, 1  # "FRJL", and the version of the table
PAGE_BYTES = 1024  # a commit writes whole pages, and a row is about 80 bytes: 8 µs instead of 11 with SQLite's 4096
# Rows from one milestone, and one checkpoint, to the next. Its fsync holds up a commit that comes meanwhile, for as long as what it writes
# takes: 16,384 rows were stalls of 4 ms, 2,048 stay below 1 ms (60,000 commits at 10,000 a second).
STRETCH = 2_048
MOST_PAGES = 65_536  # in the WAL, 64 MiB: beyond it the writer waits for one checkpoint, milliseconds
NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)

CREATE = """
begin immediate;
create table decisions (seq integer primary key, id text not null, second integer not null, cents integer not null,
  probability real not null, verdict integer not null, reasons text, model text not null, received_ns integer not null) strict;
-- how far the stream's clock had come by row seq: so the last hour is found without reading the years before it
create table milestones (seq integer primary key, newest integer not null) strict;
create trigger no_update before update on decisions begin select raise(abort, 'the decision log is append-only'); end;
create trigger no_delete before delete on decisions begin select raise(abort, 'the decision log is append-only'); end;
pragma application_id = {application};
pragma user_version = {schema};
commit;
"""
COLUMNS = "id, second, cents, probability, verdict, reasons, model, received_ns"
INSERT = f"insert into decisions ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?)"


class NotAJournal(ValueError):
    """The file is foreign, torn, of another version or in use. The message says which and what to do."""


class JournalFull(RuntimeError):
    """There is no room for the batch; none of it was written. The journal works again as soon as there is room."""


class Decision(NamedTuple):
    """One row. `second`: event time; `received_ns`: wall clock, Unix ns; `reasons`: codes with commas between, or None."""

    id: str
    second: int
    cents: int
    probability: float
    verdict: int
    reasons: str | None
    model: str
    received_ns: int


class Journal:
    """The one writer of the log at `path`, made with mode 0600 where there is none. One thread at a time; use as a context manager.

    Others may read it meanwhile, with sqlite3 and mode=ro. `fault`: why checkpoints fail (the log still takes decisions), or None.
    Raises NotAJournal; FileNotFoundError where the directory is missing.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.path = path
        self.fault: str | None = None
        self._lock = _alone(path)
        try:
            self._writer = _opened(path, durable=durable)
            self._reached, self._newest = self._writer.execute(
                "select coalesce(max(seq), 0), coalesce(max(newest), -1) from milestones").fetchone()
            self._unmarked, newest = self._writer.execute(
                "select count(*), coalesce(max(second), -1) from decisions where seq > ?", (self._reached,)).fetchone()
        except sqlite3.DatabaseError as error:
            os.close(self._lock)
            raise NotAJournal(f"{path} cannot be read as a decision log: {error}. Restore it from a copy, or move it and its -wal file "
                              "away to begin a new one") from error
        except NotAJournal:
            os.close(self._lock)
            raise
        self._newest = max(self._newest, newest)
        self._due, self._ended = threading.Event(), False
        self._thread = threading.Thread(target=self._checkpoints, name="checkpoints", daemon=True)
        self._thread.start()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, decisions: Sequence[Decision]) -> None:
        """Write the batch, whole or not at all. Back from here it survives kill -9. Raises JournalFull; sqlite3.Error for a sick disk."""
        due = self._unmarked >= STRETCH
        try:
            if len(decisions) == 1 and not due:
                self._writer.execute(INSERT, decisions[0])  # its own transaction
            else:
                self._writer.execute("begin immediate")
                if due:
                    self._writer.execute("insert into milestones select max(seq), ? from decisions", (self._newest,))
                self._writer.executemany(INSERT, decisions)
                self._writer.execute("commit")
        except BaseException as error:
            if self._writer.in_transaction:
                self._writer.execute("rollback")
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode in NO_ROOM:
                raise JournalFull(f"no room for {len(decisions)} decisions in {self.path}: {error}. Make room on that disk; "
                                  "nothing of the batch was written, send it again then") from error
            raise
        if due:
            self._unmarked = 0
            self._due.set()
        self._unmarked += len(decisions)
        for decision in decisions:
            if decision[1] > self._newest:
                self._newest = decision[1]

    def recent(self, n: int) -> list[Decision]:
        """The newest n, oldest first."""
        rows = self._writer.execute(f"select {COLUMNS} from decisions order by seq desc limit ?", (n,)).fetchall()
        return [Decision(*row) for row in reversed(rows)]

    def window(self, seconds: int) -> Iterator[Event]:
        """The events of the last `seconds` of event time, in the order of their decisions: second > newest − seconds."""
        since = self._newest - seconds
        yield from self._writer.execute(  # a generator: nothing is read, and no snapshot held, where nobody asks
            "select id, second, cents from decisions where second > ? and seq > coalesce("
            "(select seq from milestones where newest <= ? order by seq desc limit 1), 0) order by seq", (since, since))

    def count(self) -> int:
        """How many decisions there are, counted."""
        (n,) = self._writer.execute("select count(*) from decisions").fetchone()
        return int(n)

    def close(self) -> None:
        """Checkpoint the rest and let go of the file. A second time does nothing."""
        if self._ended:
            return
        self._ended = True
        self._due.set()
        self._thread.join()
        self._writer.close()  # the last connection: SQLite empties the WAL and removes it
        os.close(self._lock)

    def _checkpoints(self) -> None:
        own = _connected(self.path)
        while self._due.wait() and not self._ended:
            self._due.clear()
            try:
                _, pages, _ = own.execute("pragma wal_checkpoint(passive)").fetchone()  # nobody waits for this one
                if pages > MOST_PAGES:  # so much load that a commit always slips in: the writer has to stand still for the last of it
                    own.execute("pragma wal_checkpoint(restart)")
                self.fault = None
            except sqlite3.Error as error:
                self.fault = f"the decision log's WAL cannot be emptied: {error}"
        own.close()


def _alone(path: Path) -> int:
    """Hold the log's lock file, or refuse. The kernel frees it when the holder dies."""
    lock = os.open(f"{path}-lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise NotAJournal(f"{path} is written by another process: stop that one, or give this one a log of its own") from None
    return lock


def _connected(path: Path) -> sqlite3.Connection:
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    writer.execute("pragma wal_autocheckpoint = 0")
    return writer


def _opened(path: Path, *, durable: bool) -> sqlite3.Connection:
    path.touch(mode=0o600)  # the WAL and its index take the mode over
    writer = _connected(path)
    try:
        (tables,) = writer.execute("select count(*) from sqlite_master").fetchone()
        (application,), (schema,) = (writer.execute(f"pragma {name}").fetchone() for name in ("application_id", "user_version"))
        if tables and application != APPLICATION:
            raise NotAJournal(f"{path} is a database of another program: give the decision log a path of its own")
        if tables and schema != SCHEMA:
            raise NotAJournal(f"{path} has schema {schema}, this program writes {SCHEMA}: use the program that made it, or begin a new log")
        if not tables:
            writer.execute(f"pragma page_size = {PAGE_BYTES}")
        writer.execute("pragma journal_mode = wal")
        writer.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
        if not tables:
            writer.executescript(CREATE.format(application=APPLICATION, schema=SCHEMA))
    except BaseException:
        writer.close()
        raise
    return writer
