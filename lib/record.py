"""Runs and points: what was measured, by whom, kept so that a kill at any instant loses at most the point in flight.

A run is a directory: `run.json` says who measured and how, `points.jsonl` holds one setting a line with its raw
samples, Parquet files hold long series. Statistics are never stored, always derived. Refuses NaN, to mix methods or
machines in one comparison, and to promote what was measured on a dirty tree or failed its audit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas as pd

from lib import commit
from lib.home import REFERENCE, ROOT, RUNS

SCHEMA = 1
METHOD = 1  # raise it when *how* we measure changes: runs of different methods are never compared

Status: TypeAlias = Literal["ok", "skipped", "failed", "invalid"]
Scalar: TypeAlias = str | int | float | bool | None


class NotComparable(ValueError):
    """Two measurements that no honest ratio can join."""


class RecordFull(OSError):
    """The disk is full; the record ends with the last whole point."""


@dataclass(frozen=True, slots=True)
class Point:
    """One setting as it was measured. `samples` are raw, one entry a request or repetition, units in their names."""

    setting: Mapping[str, Scalar]
    status: Status
    reason: str | None = None
    samples: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    audit: Mapping[str, str | None] = field(default_factory=dict)  # check -> why it failed, None where it passed
    utc: str = ""

    @property
    def key(self) -> str:
        return canonical(self.setting)


@dataclass(frozen=True, slots=True)
class Run:
    """A run on disk. Everything comes from its run.json, but for `path` and, once continued, `git`: today's tree."""

    path: Path
    notebook: str
    run_id: str
    method: int
    parameters: Mapping[str, Any]
    environment: Mapping[str, Any]
    git: Mapping[str, Any]
    utc: str

    @property
    def machine_id(self) -> str:
        return str(self.environment["machine_id"])

    def points(self) -> list[Point]:
        """All whole points; of two with one setting the later counts. A line cut by a kill is passed over."""
        latest = {point.key: point for point in _lines(self.path / "points.jsonl")}
        return list(latest.values())

    def measured(self, setting: Mapping[str, Scalar]) -> Point | None:
        """The point of this setting that needs no second measurement: one that is ok. Others are tried again."""
        return next((p for p in self.points() if p.key == canonical(setting) and p.status == "ok"), None)

    def add(self, point: Point) -> Point:
        """Append `point` in one write and push it to the disk. Raises RecordFull and leaves the record whole.

        Raises ValueError for NaN and infinity, which JSON does not know: what was not measured is None.
        """
        if self.git["dirty"]:
            self._taint()
        stamped = Point(**{**_fields(point), "utc": point.utc or _now()})
        line = (json.dumps(_fields(stamped), allow_nan=False) + "\n").encode()
        fd = os.open(self.path / "points.jsonl", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            end = _whole(fd)
            try:
                written = 0
                while written < len(line):
                    written += os.pwrite(fd, line[written:], end + written)
                os.fsync(fd)
            except OSError as error:
                os.ftruncate(fd, end)
                raise _full(self.path, "a point", error) from error
        finally:
            os.close(fd)
        return stamped

    def _taint(self) -> None:
        """A run that was begun on a clean tree and goes on on a dirty one is dirty from then on."""
        header = json.loads((self.path / "run.json").read_text())
        if not header["git"]["dirty"]:
            _write_header(self.path, {**header, "git": {**header["git"], "dirty": True}})

    def series(self, name: str, frame: pd.DataFrame) -> Path:
        """Keep a long series beside the points, written whole or not at all."""
        target, half = self.path / f"{name}.parquet", self.path / f".{name}.parquet.half"
        try:
            frame.to_parquet(half, index=False, compression="zstd")
            half.replace(target)
        except OSError as error:
            half.unlink(missing_ok=True)
            raise _full(self.path, name, error) from error
        return target

    def frame(self) -> pd.DataFrame:
        """One row a point: the setting's columns, then status, reason, samples, facts, audit, and whose run it is."""
        rows = [{**p.setting, "status": p.status, "reason": p.reason, "samples": p.samples, "facts": p.facts,
                 "audit": p.audit, "machine_id": self.machine_id, "method": self.method, "run_id": self.run_id}
                for p in self.points()]
        return pd.DataFrame(rows)


def canonical(setting: Mapping[str, Any]) -> str:
    """The one spelling of a setting, whatever the order of its keys."""
    return json.dumps(setting, sort_keys=True, separators=(",", ":"), default=str)


def begin(notebook: str, *, parameters: Mapping[str, Any], environment: Mapping[str, Any], root: Path = RUNS,
          fresh: bool = False) -> Run:
    """Continue this machine's latest run of equal method, parameters and software, or start one (`fresh`: always)."""
    home = root / notebook / str(environment["machine_id"])
    if not fresh:
        for earlier in reversed(_runs(home)):
            same = (earlier.method == METHOD and canonical(earlier.parameters) == canonical(parameters)
                    and earlier.environment.get("stack_id") == environment.get("stack_id"))
            if same:
                return replace(earlier, git=_git())  # who measures from here on
    now, salt = _now(), hashlib.sha256(canonical(parameters).encode() + os.urandom(8)).hexdigest()[:6]
    path = home / f"{now.replace(':', '').replace('-', '')[:15]}-{salt}"
    path.mkdir(parents=True)
    header = {"schema": SCHEMA, "method": METHOD, "run_id": path.name, "notebook": notebook, "utc": now, "git": _git(),
              "parameters": dict(parameters), "environment": dict(environment)}
    _write_header(path, header)
    return load(path)


def load(path: Path) -> Run:
    """Read a run. Raises ValueError for a schema this code does not know."""
    header = json.loads((path / "run.json").read_text())
    if header["schema"] != SCHEMA:
        raise ValueError(f"{path}: schema {header['schema']}, this code reads {SCHEMA}")
    return Run(path, header["notebook"], header["run_id"], header["method"], header["parameters"],
               header["environment"], header["git"], header["utc"])


def runs(notebook: str, *, roots: Sequence[Path] = (RUNS, REFERENCE)) -> list[Run]:
    """Every run of a notebook, oldest first, of this machine and of the recorded ones."""
    found = [run for root in roots if (root / notebook).is_dir()
             for home in sorted((root / notebook).iterdir()) for run in _runs(home)]
    return sorted(found, key=lambda run: run.utc)


def comparable(*rows: Mapping[str, Any]) -> None:
    """Raise NotComparable unless all rows (of `Run.frame`) come from one machine and one method."""
    for what in ("machine_id", "method"):
        if len(seen := sorted({str(row[what]) for row in rows})) > 1:
            raise NotComparable(f"no ratio across {what}s: {', '.join(seen)}; measure both in one place")


def promote(source: Path, *, to: Path = REFERENCE) -> Path:
    """Copy a run to the reference runs. Raises ValueError for a dirty tree, no points, or one that is not audited."""
    run = load(source)
    points = run.points()
    if run.parameters.get("plan") == "dry":
        raise ValueError(f"{run.run_id} is a dry run: it shows that the way is whole, and its numbers say nothing")
    if run.git["dirty"]:
        raise ValueError(f"{run.run_id} was measured on a dirty tree: commit, then measure again")
    if not points:
        raise ValueError(f"{run.run_id} holds no points")
    for point in points:
        failed = [f"{check}: {why}" for check, why in point.audit.items() if why]
        if point.status == "ok" and (failed or not point.audit):
            why = "; ".join(failed) or "no audit"
            raise ValueError(f"{run.run_id} has a point that did not pass its audit: {point.key} ({why})")
    target = to / run.notebook / run.machine_id / run.run_id
    half = target.with_name(f".{target.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(source, half, ignore=shutil.ignore_patterns(".*", "*.log"))
    if target.exists():
        shutil.rmtree(target)
    half.rename(target)
    return target


def _write_header(path: Path, header: Mapping[str, Any]) -> None:
    half = path / ".run.json.half"
    half.write_text(json.dumps(header, indent=1, allow_nan=False, default=str) + "\n")
    half.replace(path / "run.json")


def _full(path: Path, what: str, error: OSError) -> RecordFull:
    return RecordFull(error.errno, f"could not write {what} to {path}: {error.strerror or error}; "
                                   "free some space and rerun, what was measured is kept")


def _fields(point: Point) -> dict[str, Any]:
    return asdict(point)


def _lines(path: Path) -> Iterator[Point]:
    if path.exists():
        for line in path.read_bytes().split(b"\n")[:-1]:  # what follows the last newline was cut by a kill
            if line:
                yield Point(**json.loads(line))


def _whole(fd: int) -> int:
    """Where the last whole line ends; a torn tail is cut off."""
    size = os.fstat(fd).st_size
    if not size or os.pread(fd, 1, size - 1) == b"\n":
        return size
    end = os.pread(fd, size, 0).rfind(b"\n") + 1
    os.ftruncate(fd, end)
    return end


def _runs(home: Path) -> list[Run]:
    return [load(path) for path in sorted(home.iterdir()) if (path / "run.json").exists()] if home.is_dir() else []


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _git() -> dict[str, Any]:
    """The commit that measures, and whether the tree is its own."""
    return commit.state(ROOT)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "promote":
        sys.exit("usage: python -m lib.record promote data/runs/<notebook>/<machine>/<run>")
    try:
        print(promote(Path(sys.argv[2])))
    except (ValueError, OSError) as refusal:
        sys.exit(f"not promoted: {refusal}")
