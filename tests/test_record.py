"""What was measured survives kills and full disks, and nothing joins what no ratio may join."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import machine, record
from lib.record import NotComparable, Point, RecordFull, Run

FORK = multiprocessing.get_context("fork")
HERE = {"machine_id": "epyc-2c-abc123", "stack_id": "s1"}
PASSED = {"1 tpot": None}


def begin(root: Path, *, fresh: bool = False, environment: Mapping[str, Any] = HERE, **parameters: Any) -> Run:
    return record.begin("10_llm_latency", parameters=parameters, environment=environment, root=root, fresh=fresh)


def clean(run: Run) -> Run:
    """The same run, as if measured on a clean tree."""
    header = json.loads((run.path / "run.json").read_text())
    header["git"] = {"sha": "0" * 40, "dirty": False}
    (run.path / "run.json").write_text(json.dumps(header))
    return record.load(run.path)


def line_file(run: Run) -> bytes:
    return (run.path / "points.jsonl").read_bytes()


# Kills


def _write_for_ever(path: Path, done: int, size: int) -> None:
    """Add points of about `size` bytes; one byte into `done` for every point that add() returned from."""
    run = record.load(path)
    for i in range(10_000):
        run.add(Point({"i": i}, "ok", samples={"text": ["x" * size]}))
        os.write(done, b".")


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_kill_at_any_instant_loses_at_most_the_point_in_flight(tmp_path: Path, size: int) -> None:
    moments = random.Random(size)
    for _ in range(20):
        run = begin(tmp_path, fresh=True)
        ours, theirs = os.pipe()
        child = FORK.Process(target=_write_for_ever, args=(run.path, theirs, size))
        child.start()
        os.close(theirs)
        added = len(os.read(ours, 1))
        time.sleep(moments.uniform(0, 0.03))
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        while more := os.read(ours, 10_000):
            added += len(more)
        os.close(ours)
        whole = [point.setting["i"] for point in run.points()]
        assert whole == list(range(len(whole)))
        assert len(whole) in (added, added + 1)
        run.add(Point({"i": "after"}, "ok"))
        assert [point.setting["i"] for point in run.points()] == [*whole, "after"]
        assert all(json.loads(line) for line in line_file(run).splitlines())
        (run.path / "points.jsonl").unlink()


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_torn_tail_is_passed_over_and_cut_by_the_next_point(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    run = begin(tmp_path_factory.mktemp("torn"))
    run.add(Point({"n": 1}, "ok", utc="then"))
    kept = line_file(run)
    run.add(Point({"n": 2}, "ok", samples={"ttft_s": [0.1, 0.2]}, facts={"über": "√"}))
    whole = line_file(run)
    os.truncate(run.path / "points.jsonl", len(kept) + int(share * (len(whole) - len(kept))))
    assert [p.setting for p in run.points()] == [{"n": 1}]
    run.add(Point({"n": 3}, "ok"))
    assert [p.setting for p in run.points()] == [{"n": 1}, {"n": 3}]
    assert line_file(run).startswith(kept)
    assert line_file(run).count(b"\n") == 2


def test_killed_before_its_run_json_a_run_does_not_exist(tmp_path: Path) -> None:
    first = begin(tmp_path)
    (first.path / "run.json").rename(first.path / ".run.json.half")
    assert record.runs("10_llm_latency", roots=[tmp_path]) == []
    assert begin(tmp_path).run_id != first.run_id


# A rerun


def test_a_rerun_measures_only_what_is_missing(tmp_path: Path) -> None:
    wanted = [{"n": n, "engine": "vllm"} for n in range(4)]
    statuses: list[record.Status] = ["ok", "failed", "invalid", "skipped"]
    first = begin(tmp_path, profile="quick", sizes=(1, 2))
    for setting, status in zip(wanted, statuses, strict=True):
        first.add(Point(setting, status))
    again = begin(tmp_path, sizes=(1, 2), profile="quick")
    assert again.path == first.path
    missing = [s for s in wanted if again.measured(dict(reversed(s.items()))) is None]
    assert missing == wanted[1:], "failed, invalid and skipped ones are tried again"


def test_the_later_point_of_a_setting_wins(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.add(Point({"a": 1, "b": 2}, "failed", "it died"))
    run.add(Point({"a": 2}, "ok"))
    run.add(Point({"b": 2, "a": 1}, "ok", samples={"ttft_s": [0.5]}))
    assert [(p.setting["a"], p.status, p.samples) for p in run.points()] == [
        (1, "ok", {"ttft_s": [0.5]}), (2, "ok", {})]
    assert len(line_file(run).splitlines()) == 3, "the first attempt is kept"


def test_a_point_comes_back_as_it_was(tmp_path: Path) -> None:
    point = Point({"n": 1, "x": None, "y": True}, "invalid", "8 quiet: others took 40 %",
                  {"ttft_s": [0.25, None]}, {"counters": {"a": 1.5}}, {"8 quiet": "others took 40 %", "1 tpot": None})
    run = begin(tmp_path)
    stamped = run.add(point)
    assert run.points() == [stamped]
    assert replace(stamped, utc="") == point
    assert stamped.utc.endswith("Z")


@pytest.mark.parametrize(
    "change", [{"parameters": {"profile": "full"}}, {"stack_id": "s2"}, {"machine_id": "other"}, {"method": 2}]
)
def test_another_method_parameter_stack_or_machine_starts_a_new_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    first = begin(tmp_path, profile="quick")
    monkeypatch.setattr(record, "METHOD", change.get("method", record.METHOD))
    environment = {key: change.get(key, value) for key, value in HERE.items()}
    second = begin(tmp_path, environment=environment, **change.get("parameters", {"profile": "quick"}))
    assert second.path != first.path
    assert len(record.runs("10_llm_latency", roots=[tmp_path])) == 2
    third = begin(tmp_path, environment=environment, **change.get("parameters", {"profile": "quick"}))
    assert third.path == second.path


def test_fresh_starts_a_new_run_in_any_case(tmp_path: Path) -> None:
    assert begin(tmp_path).run_id != begin(tmp_path, fresh=True).run_id


def test_an_unknown_schema_is_refused_by_name(tmp_path: Path) -> None:
    run = begin(tmp_path)
    header = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**header, "schema": 99}))
    with pytest.raises(ValueError, match=f"{run.run_id}: schema 99, this code reads 1"):
        record.load(run.path)


# A full disk, a bad number


def test_a_disk_that_fills_half_way_leaves_whole_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, pwrite = begin(tmp_path), os.pwrite
    run.add(Point({"n": 1}, "ok"))
    before = line_file(run)

    def full(fd: int, data: bytes, offset: int) -> int:
        if len(data) > 10:
            return pwrite(fd, data[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        with pytest.raises(RecordFull, match="No space left on device; free some space and rerun") as refusal:
            run.add(Point({"n": 2}, "ok"))
    assert refusal.value.errno == errno.ENOSPC
    assert line_file(run) == before
    run.add(Point({"n": 2}, "ok"))
    assert [p.setting["n"] for p in run.points()] == [1, 2]


def _beyond_the_limit(path: Path, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        record.load(path).add(Point({"n": 2}, "ok", samples={"text": ["x" * 10_000]}))
    except RecordFull:
        os._exit(7)


def test_a_write_the_kernel_cuts_off_leaves_whole_points(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.add(Point({"n": 1}, "ok"))
    before = line_file(run)
    child = FORK.Process(target=_beyond_the_limit, args=(run.path, len(before) + 5_000))
    child.start()
    child.join()
    assert child.exitcode == 7
    assert line_file(run) == before


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["setting", "samples", "facts"])
def test_a_number_that_is_none_is_refused(tmp_path: Path, bad: float, where: str) -> None:
    run = begin(tmp_path)
    parts: dict[str, Any] = {"setting": {"n": 1}, "samples": {"ttft_s": [0.1]}, "facts": {}}
    parts[where] = {"x": [bad] if where == "samples" else bad}
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.add(Point(status="ok", **parts))
    assert run.points() == []


def test_a_series_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, first = begin(tmp_path), pd.DataFrame({"t_s": [0.0, 0.1], "gpu_power_w": [1.0, None]})
    target = run.series("host", first)

    def dies(frame: pd.DataFrame, path: Path, **_: object) -> None:
        path.write_bytes(b"PAR1 and no more")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", dies)
    with pytest.raises(RecordFull, match="could not write host to"):
        run.series("host", first * 2)
    pd.testing.assert_frame_equal(pd.read_parquet(target), first)
    assert sorted(p.name for p in run.path.iterdir()) == ["host.parquet", "run.json"]


# Comparing, promoting


def test_no_ratio_across_machines_or_methods(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.add(Point({"engine": "vllm"}, "ok"))
    run.add(Point({"engine": "llama.cpp"}, "ok"))
    mine, other = (row for _, row in run.frame().iterrows())
    record.comparable(mine, other)
    with pytest.raises(NotComparable, match="across machine_ids: another, epyc-2c-abc123"):
        record.comparable(mine, {**other, "machine_id": "another"})
    with pytest.raises(NotComparable, match="across methods: 1, 2"):
        record.comparable(mine, {**other, "method": 2})


def test_the_frame_has_a_row_a_point_with_whose_it_is(tmp_path: Path) -> None:
    run = begin(tmp_path)
    assert run.frame().empty
    run.add(Point({"engine": "trtllm"}, "skipped", "needs an NVIDIA GPU"))
    row = run.frame().iloc[0]
    assert (row["engine"], row["status"], row["reason"]) == ("trtllm", "skipped", "needs an NVIDIA GPU")
    assert (row["machine_id"], row["method"], row["run_id"]) == ("epyc-2c-abc123", record.METHOD, run.run_id)


def test_a_sound_run_is_promoted_whole(tmp_path: Path) -> None:
    run = clean(begin(tmp_path / "runs"))
    run.add(Point({"n": 1}, "ok", audit=PASSED))
    run.add(Point({"n": 2}, "skipped", "needs an NVIDIA GPU"))
    run.add(Point({"n": 3}, "invalid", "8 quiet: …", audit={"8 quiet": "others took 40 %"}))
    run.series("events", pd.DataFrame({"t": [1]}))
    (run.path / "logs").mkdir()
    (run.path / "logs" / "vllm.log").write_text("loading")
    (run.path / ".events.parquet.half").write_bytes(b"PAR1")
    for _ in range(2):  # a second time replaces the first
        target = record.promote(run.path, to=tmp_path / "reference")
    assert target == tmp_path / "reference" / "10_llm_latency" / "epyc-2c-abc123" / run.run_id
    assert sorted(p.name for p in target.rglob("*") if p.is_file()) == ["events.parquet", "points.jsonl", "run.json"]
    assert record.load(target).points() == run.points()
    assert [p.name for p in target.parent.iterdir()] == [run.run_id]


@pytest.mark.parametrize(("audit", "why"), [({}, "no audit"), ({"3 decode": "too fast"}, "3 decode: too fast")])
def test_what_did_not_pass_its_audit_is_not_promoted(tmp_path: Path, audit: dict[str, str], why: str) -> None:
    run = clean(begin(tmp_path))
    run.add(Point({"n": 1}, "ok", audit=PASSED))
    run.add(Point({"n": 2}, "ok", audit=audit))
    with pytest.raises(ValueError, match=why):
        record.promote(run.path, to=tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_a_dirty_tree_and_an_empty_run_are_not_promoted(tmp_path: Path) -> None:
    run = begin(tmp_path)
    with pytest.raises(ValueError, match="holds no points"):
        record.promote(clean(run).path, to=tmp_path / "reference")
    header = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**header, "git": {"sha": "0" * 40, "dirty": True}}))
    run.add(Point({"n": 1}, "ok", audit=PASSED))
    with pytest.raises(ValueError, match="measured on a dirty tree"):
        record.promote(run.path, to=tmp_path / "reference")


@pytest.mark.parametrize("dirty", [True, False])
def test_a_run_that_goes_on_on_a_dirty_tree_is_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dirty: bool
) -> None:
    clean(begin(tmp_path)).add(Point({"n": 1}, "ok", audit=PASSED))
    monkeypatch.setattr(record, "_git", lambda: {"sha": "1" * 40, "dirty": dirty})
    again = begin(tmp_path)
    assert record.load(again.path).git == {"sha": "0" * 40, "dirty": False}, "to look does no harm"
    again.add(Point({"n": 2}, "ok", audit=PASSED))
    assert record.load(again.path).git == {"sha": "0" * 40, "dirty": dirty}
    assert len(again.points()) == 2


def test_the_command_says_why_it_refuses(tmp_path: Path) -> None:
    run = clean(begin(tmp_path))
    said = subprocess.run([sys.executable, "-m", "lib.record", "promote", run.path], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == f"not promoted: {run.run_id} holds no points\n"


def test_git_says_who_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "ROOT", tmp_path)
    assert record._git() == {"sha": None, "dirty": True}, "an export nobody can look up"
    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    told = record._git()
    assert (len(told["sha"]), told["dirty"]) == (40, False)
    (tmp_path / "new.py").touch()
    assert record._git() == {**told, "dirty": True}


def test_run_json_names_no_host_user_or_path(tmp_path: Path) -> None:
    run = begin(tmp_path, environment=machine.here().environment(vllm="0.32.0"), profile="quick")
    header = json.loads((run.path / "run.json").read_text())
    assert sorted(header) == ["environment", "git", "method", "notebook", "parameters", "run_id", "schema", "utc"]
    assert not [text for text in _texts(header) if text.startswith(("/", "~")) or "/home/" in text or ":\\" in text]
    words = set(" ".join(_texts(header)).split())
    assert not words & {os.uname().nodename, os.environ.get("USER"), Path.home().name}


def _texts(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [text for pair in node.items() for part in pair for text in _texts(part)]
    if isinstance(node, list):
        return [text for part in node for text in _texts(part)]
    return [str(node)]
