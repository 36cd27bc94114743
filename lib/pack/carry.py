"""What was recorded on one machine, brought to another in one file: collected there, received here into data/runs.

Refuses, before it writes anything, a file that holds more than runs (a path that leads elsewhere, a link, another kind of file), one that
is damaged, and a run that is there already and says something else.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lib.home import RUNS
from lib.pack.manifest import Refused, file_digest

# notebook/machine/run/file, with the servers' logs below
MEMBER = re.compile(r"[\w.-]+/[\w.-]+/\d{8}T\d{6}-[0-9a-f]{6}/(?:logs/)?[\w][\w.-]*\.(?:json|jsonl|parquet|log)")
MOST_BYTES, MOST_FILES = 2**31, 20_000
NOTES = "RUNS.json"


def collect(out: Path, *, runs: Path = RUNS) -> str:
    """Every run below `runs` in one .tar.gz, with the sum of each file; a sentence about it. Raises Refused where there is none."""
    files = sorted(path for path in runs.rglob("*") if path.is_file() and MEMBER.fullmatch(path.relative_to(runs).as_posix()))
    whole = {path.parents[1] if path.parent.name == "logs" else path.parent for path in files}
    if not any((run / "run.json").exists() for run in whole):
        raise Refused("nothing was recorded here: there is no run to collect")
    sums = {path.relative_to(runs).as_posix(): file_digest(path) for path in files}
    half = out.with_name(f".{out.name}.half")
    with half.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name, data in ((NOTES, json.dumps(sums, indent=1).encode()), *((path.relative_to(runs).as_posix(), None) for path in files)):
            member = tarfile.TarInfo(name)
            content = data if data is not None else (runs / name).read_bytes()
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    half.replace(out)
    return f"{out.name}: {len(whole)} runs, {len(files)} files, {out.stat().st_size / 1e6:.2f} MB"


def receive(file: Path, *, runs: Path = RUNS) -> list[Path]:
    """The runs of a collected file, now below `runs`. Raises Refused."""
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs, prefix=".received-") as scratch:
        try:
            sums = dict(_opened(file, Path(scratch)))
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise Refused(f"{file.name} is damaged: {error}") from error
        found = sorted({PurePosixPath(*PurePosixPath(name).parts[:3]) for name in sums})
        for run in found:
            _check(Path(scratch) / run, runs / run)
        for run in found:
            if (target := runs / run).exists():
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            (Path(scratch) / run).replace(target)
    return [runs / run for run in found]


def _opened(file: Path, to: Path) -> Iterator[tuple[str, str]]:
    """Name and sum of each file, written below `to` once it is proven; all of it is looked at before the first byte is."""
    with tarfile.open(file, "r:gz") as tar:
        members = tar.getmembers()
        if len(members) > MOST_FILES or sum(member.size for member in members) > MOST_BYTES:
            raise Refused(f"{file.name} holds more than runs do: {len(members)} files")
        for member in members:
            if not member.isfile() or not (member.name == NOTES or MEMBER.fullmatch(member.name)):
                raise Refused(f"{file.name} holds {member.name!r}, which is no file of a run")
        names = [member.name for member in members]
        if NOTES not in names or len(set(names)) < len(names):
            raise Refused(f"{file.name} was not made by collect: it has no list of its files, or one of them twice")
        notes = tar.extractfile(NOTES)
        assert notes is not None
        sums = json.loads(notes.read())
        if set(sums) != set(names) - {NOTES}:
            raise Refused(f"{file.name} is not whole: its list names other files than it holds")
        for member in (one for one in members if one.name != NOTES):
            data = tar.extractfile(member)
            assert data is not None
            target = to / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data.read())
            if file_digest(target) != sums[member.name]:
                raise Refused(f"{file.name}: {member.name} is damaged, its SHA-256 is another")
            yield member.name, sums[member.name]


def _check(run: Path, target: Path) -> None:
    """A run as lib/record.py reads it, and no other of its name here."""
    from lib import record

    try:
        loaded = record.load(run)
        points = loaded.points()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{run.name} is no run: {type(error).__name__}: {error}") from error
    if (loaded.notebook, loaded.machine_id, loaded.run_id) != run.parts[-3:]:
        raise Refused(f"{run.name} lies under another name than its own: {loaded.notebook}/{loaded.machine_id}/{loaded.run_id}")
    if target.exists():
        ours = {point.key: point for point in record.load(target).points()}
        theirs = {point.key: point for point in points}
        if any(theirs.get(key) != point for key, point in ours.items() if point.status == "ok"):
            raise Refused(f"{run.name} is here already and holds points that the file does not have")
