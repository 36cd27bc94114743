"""A sweep across a cluster: its cells are the notebook's own, each measured once, whatever dies; real Ray, two nodes, loopback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from lib import cluster, grid, home, install, machine, record
from lib.__main__ import app
from lib.llm import bench, contender, throughput
from lib.llm.engines import null
from lib.process import free_port
from tests import null_sweep

TABLE, NOTEBOOK = "tests.null_sweep", "99_null"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(home.ROOT)}
ERRAND = grid.Errand(NOTEBOOK, "smoke", "tiny", (), None, TABLE)


@pytest.fixture
def run(tmp_path: Path) -> record.Run:
    environment = machine.here().environment(**contender.versions())
    return record.begin(NOTEBOOK, parameters=ERRAND.parameters, environment=environment, root=tmp_path / "runs")


def opened(run: record.Run) -> record.Run:
    """As its first errand leaves it."""
    for name, unit in (("read bandwidth, 1 thread", "B/s"), ("matmul float32", "FLOP/s")):
        facts = {"rate": 1e12, "unit": unit, "amount": 1.0}
        run.add(record.Point({"what": "ceiling", "name": name, "device": "cpu"}, "ok", None, {}, facts, {"repeats": None}))
    run.add(record.Point({"what": "model"}, "ok", None, {}, {"shape": {}}))
    return run


def packed(run: record.Run, points: list[record.Point], **series: bytes) -> bytes:
    """What a node sends back."""
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(fileobj=(out := io.BytesIO()), mode="w") as tar:
        (Path(scratch) / "run.json").write_text((run.path / "run.json").read_text())
        lines = [json.dumps({name: getattr(p, name) for name in record.Point.__dataclass_fields__}) + "\n" for p in points]
        (Path(scratch) / "points.jsonl").write_text("".join(lines))
        for name, content in series.items():
            (Path(scratch) / f"{name}.parquet").write_bytes(content)
        for path in Path(scratch).iterdir():
            tar.add(path, path.name)
    return out.getvalue()


def started(name: str, status: record.Status) -> record.Point:
    return record.Point({"what": "start", "engine": name, "precision": "16-bit"}, status, None if status == "ok" else "why")


# --- which cells there are, and what comes back ---


def test_the_facts_come_first_then_a_cell_an_engine_then_all_of_those_that_start(run: record.Run) -> None:
    job = grid.Job(ERRAND, run, [])
    assert job.missing() == [ERRAND]
    assert job.missing() == []  # no node could say
    scouts = grid.Job(ERRAND, opened(run), []).missing()
    assert [one.setting["engine"] for one in scouts if one.setting] == ["null", "absent"]
    assert {one.setting["prompt_tokens"] for one in scouts if one.setting} == {16}
    job = grid.Job(ERRAND, run, [])
    job.missing()
    run.add(started("null", "ok"))
    run.add(started("absent", "skipped"))
    rest = [one.setting for one in job.missing() if one.setting]
    assert Counter(one["engine"] for one in rest) == {"null": 7}
    assert {(one["prompt_tokens"], one["round"]) for one in rest} == {(n, turn) for n in (16, 64) for turn in range(4)} - {(16, 0)}
    assert job.missing() == []
    run.add(record.Point(rest[0], "ok"))
    again = grid.Job(ERRAND, run, []).missing()  # a rerun: what failed is tried again, what is there is not
    assert rest[0] not in [one.setting for one in again] and len(again) == 8


def test_the_open_loops_wait_until_all_closed_ones_were_asked(run: record.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebook 11's own function: the rates of the open loops follow from the closed ones."""
    eleven = replace(null_sweep.SWEEPS[NOTEBOOK], plans=throughput.PLANS, measure=throughput.measure)
    monkeypatch.setitem(null_sweep.SWEEPS, NOTEBOOK, eleven)
    monkeypatch.setattr(bench, "corpus", lambda hf: tuple(range(9000)))
    job = grid.Job(ERRAND, opened(run), [])
    job.missing()
    run.add(started("null", "ok"))
    closed = [one.setting for one in job.missing() if one.setting]
    assert len(closed) == 3 and all("streams" in one for one in closed)  # two of fixed length beside the scout, and the mix
    assert not [p for p in run.points() if p.setting["what"] == "capacity"]
    assert job.missing() == []  # none of them came back
    assert [p.reason for p in run.points() if p.setting["what"] == "capacity"] == [
        "no closed loop was valid, so there are no rates for an open one"] * 2
    run.add(record.Point({"what": "capacity", "engine": "null", "precision": "16-bit"}, "ok", facts={"requests_per_s": 40.0}))
    opening = [one.setting for one in job.missing() if one.setting]
    assert [one["rate_per_s"] for one in opening] == [20.0, 60.0]


def test_a_cell_measures_its_setting_alone_in_a_copy_of_the_run(run: record.Run, tmp_path: Path) -> None:
    if reason := null.available():
        pytest.skip(reason)
    setting = next(one.setting for one in grid.Job(ERRAND, opened(run), []).missing() if one.setting)
    given = grid._packed(run, tmp_path).read_bytes()
    before = (run.path / "points.jsonl").read_bytes()
    argv = [sys.executable, "-m", "lib.grid", "cell", grid._told(replace(ERRAND, setting=setting))]
    done = subprocess.run(argv, input=given, capture_output=True, cwd=home.ROOT, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert (run.path / "points.jsonl").read_bytes() == before
    assert grid.merge(run, done.stdout, setting, node="ab") == "ok"
    found = [p for p in run.points() if p.setting["what"] in ("cell", "start")]
    assert [p.setting["what"] for p in found] == ["start", "cell"] and found[1].setting == setting
    assert found[1].facts["node"] == "ab" and (run.path / found[1].facts["events"]).exists()


def test_another_software_than_the_runs_is_refused(run: record.Run, tmp_path: Path) -> None:
    header = json.loads((run.path / "run.json").read_text())
    header["environment"]["stack_id"] = "other"
    (run.path / "run.json").write_text(json.dumps(header))
    argv = [sys.executable, "-m", "lib.grid", "cell", grid._told(ERRAND)]
    given = grid._packed(run, tmp_path).read_bytes()
    done = subprocess.run(argv, input=given, capture_output=True, cwd=home.ROOT, env=ENVIRONMENT, check=False)
    assert done.returncode == 1 and b"this node's software has changed" in done.stderr


def test_what_comes_back_is_taken_once_and_its_series_first(run: record.Run) -> None:
    setting: dict[str, record.Scalar] = {"what": "cell", "engine": "null", "round": 0}
    disturbed, good = record.Point(setting, "invalid", "8 quiet: busy"), record.Point(setting, "ok")
    assert grid.merge(run, packed(run, [started("null", "ok"), disturbed, good], **{"events-1": b"x"}), setting, node="a") == "ok"
    hasty = record.Point({"what": "capacity", "engine": "null"}, "ok", facts={"requests_per_s": 1.0})  # concluded from one cell
    assert grid.merge(run, packed(run, [started("null", "ok"), hasty]), {**setting, "round": 1}, node="b") == "added nothing"
    assert grid.merge(run, packed(run, [started("gpu", "skipped")]), {**setting, "engine": "gpu"}, node="b") == "skipped: why"
    lines = [json.loads(line) for line in (run.path / "points.jsonl").read_text().splitlines()]
    assert [(one["setting"]["what"], one["status"], one["facts"]["node"]) for one in lines] == [
        ("start", "ok", "a"), ("cell", "invalid", "a"), ("cell", "ok", "a"), ("start", "skipped", "b")]
    assert (run.path / "events-1.parquet").read_bytes() == b"x"


def test_a_run_that_a_dirty_node_added_to_is_dirty(run: record.Run) -> None:
    clean = json.loads((run.path / "run.json").read_text())
    clean["git"] = {"sha": "1", "dirty": False}
    (run.path / "run.json").write_text(json.dumps(clean))
    theirs = packed(run, [record.Point({"what": "cell"}, "ok")])
    grid.merge(record.load(run.path), theirs, {"what": "cell"}, node="a")
    assert record.load(run.path).git["dirty"] is False
    (run.path / "run.json").write_text(json.dumps({**clean, "git": {"sha": "1", "dirty": True}}))
    theirs = packed(run, [record.Point({"what": "cell", "round": 1}, "ok")])
    (run.path / "run.json").write_text(json.dumps(clean))
    grid.merge(record.load(run.path), theirs, {"what": "cell", "round": 1}, node="a")
    assert record.load(run.path).git["dirty"] is True


def test_a_hostile_archive_writes_nothing_outside(run: record.Run, tmp_path: Path) -> None:
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w") as tar:
        tar.add(run.path / "run.json", "../../escaped.json")
    with pytest.raises(tarfile.TarError):
        grid.merge(run, out.getvalue(), None, node="a")
    assert not list(tmp_path.rglob("escaped.json"))


# --- bad input ---


def refused(*words: str) -> str:
    done = CliRunner().invoke(app, ["run", "--only", "11", *words])
    assert done.exit_code == 2, done.stderr
    return " ".join(done.stderr.split())


def test_without_ray_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "find", lambda name: install.Missing(name, "Ray Serve is not built on this machine yet"))
    assert "Ray is not installed here: Ray Serve is not built on this machine yet. ./run_all.sh node builds it" in refused("--ray", "h:1")


@pytest.fixture
def ray_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Ray, seemingly: its Python is ours, which has no Ray."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(install, "find", lambda name: install.Install(name, "cpu", "2.60.0", tmp_path))
    return tmp_path


@pytest.mark.parametrize("address", ["nonsense", ":6379", "host:", "host:port", "ray://host"])
def test_what_is_no_address_is_told_its_form(address: str, ray_python: Path) -> None:
    assert "is no address of a Ray cluster; it is HOST:PORT" in refused("--ray", address)


def test_an_address_where_nobody_answers_ends_it_within_ten_seconds(ray_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    assert "no Ray cluster answers at 127.0.0.1:" in refused("--ray", f"127.0.0.1:{free_port()}")
    assert "no Ray cluster answers at host:99999 within 10 s" in refused("--ray", "host:99999")
    monkeypatch.setattr(cluster, "REACH_S", 0.2)
    with socket.socket() as full:  # it neither refuses nor answers
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        assert "within 0.2 s" in refused("--ray", f"127.0.0.1:{address[1]}")
        for one in waiting:
            one.close()
    assert time.monotonic() - began < 10


def test_a_stranger_at_the_address_is_no_cluster(ray_python: Path, tmp_path: Path) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        address = f"127.0.0.1:{stranger.getsockname()[1]}"
        words = r"answers, but no Ray cluster takes us in: .*No module named 'ray'"
        with pytest.raises(cluster.NoCluster, match=words), cluster.joined(address, tmp_path):
            raise AssertionError("nobody joined")


@pytest.mark.parametrize("words", [("--fresh",), ("--mode", "recorded")])
def test_it_does_not_go_with_what_contradicts_it(words: tuple[str, ...]) -> None:
    assert f"it does not go with {' '.join(words)}" in refused("--ray", "127.0.0.1:1", *words)


# --- the real thing ---


@pytest.fixture(scope="module")
def ray() -> install.Install:
    if reason := null.available():
        pytest.skip(reason)
    if isinstance(found := install.find("ray"), install.Missing):
        pytest.skip(found.reason)
    return found


@contextlib.contextmanager
def nodes(count: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[psutil.Process]]]:
    """A cluster on loopback, its address and the first process of each node."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # short: Ray's sockets lie below it
        (token := Path(scratch) / "token").write_text("0" * 64)
        for name, value in {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "TMPDIR": scratch}.items():
            monkeypatch.setenv(name, value)
        address, up = f"127.0.0.1:{20000 + os.getpid() % 10000}", list[psutil.Process]()
        try:
            for number in range(count):
                log = Path(scratch) / f"{number}.log"
                which = ["--join", address] if number else ["--port", address.rpartition(":")[2], "--temp-dir", scratch]
                argv = [sys.executable, "-m", "lib.grid", "node", *which, "--num-cpus", "2"]
                with log.open("w") as out:
                    up.append(psutil.Popen(argv, cwd=home.ROOT, env={**os.environ, "PYTHONPATH": str(home.ROOT)},
                                           stdout=out, stderr=out))
                until = time.monotonic() + 90
                while "runtime started" not in log.read_text():
                    assert up[-1].is_running() and time.monotonic() < until, log.read_text()[-2000:]
                    time.sleep(0.2)
            yield address, up
        finally:
            family = [one for first in up for one in (first, *first.children(recursive=True))]
            for first in up:
                first.send_signal(signal.SIGTERM)
            _, left = psutil.wait_procs(family, timeout=20)
            for one in left:
                one.kill()
            assert not left, f"these outlived the cluster: {left}"


def doing(first: psutil.Process) -> list[psutil.Process]:
    """The cell that a node measures now."""
    found = []
    for one in first.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [one] if one.cmdline()[2:4] == ["lib.grid", "cell"] and one.nice() == 0 else []
    return found


@pytest.mark.engine
def test_a_node_is_killed_in_the_middle_and_every_cell_is_recorded_once(ray: install.Install, tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    told, killed = list[str](), list[psutil.Process]()
    with nodes(2, monkeypatch) as (address, (_, second)):
        def say(line: str) -> None:
            told.append(line)
            both = {one.partition("node ")[2][0] for one in told if ": ok: {" in one} == {"1", "2"}
            if not killed and both and doing(second):  # each has measured, and it is in the middle of its next
                family = second.children(recursive=True)
                next(one for one in family if one.name() == "raylet").kill()
                killed.extend(family)

        beyond = {c.laddr.ip for first in (second,) for one in (first, *first.children(recursive=True)) for c in one.net_connections("tcp")
                  if c.status == psutil.CONN_LISTEN}
        assert beyond <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, beyond
        grid.measure(address, [NOTEBOOK], profile="smoke", model="tiny", root=tmp_path, table=TABLE, say=say)
        assert killed and psutil.wait_procs(killed, timeout=30)[1] == []
    [run] = record.runs(NOTEBOOK, roots=(tmp_path,))
    assert run.machine_id == machine.here().machine_id
    lines = [json.loads(line) for line in (run.path / "points.jsonl").read_text().splitlines()]
    cells = [one for one in lines if one["setting"]["what"] == "cell"]
    assert Counter(record.canonical(one["setting"]) for one in cells) == Counter(
        {record.canonical(one["setting"]): 1 for one in cells}) and len(cells) == 8
    assert {one["status"] for one in cells} == {"ok"}, [one["reason"] for one in cells]
    moved = [line for line in told if "its node died, once more elsewhere" in line]
    assert len(moved) == 1
    by = {record.canonical(one["setting"]): one["facts"]["node"] for one in cells}
    assert len(set(by.values())) == 2
    after = [record.canonical(one["setting"]) for one in cells][-1]
    assert by[moved[0].partition("elsewhere: ")[2]] == by[after]
    [absent] = [one for one in lines if one["setting"] == {"what": "start", "engine": "absent", "precision": "16-bit"}]
    assert (absent["status"], absent["reason"]) == ("skipped", "needs an NVIDIA GPU")
    assert [one for one in grid.Job(ERRAND, run, []).missing() if one.setting and one.setting["engine"] == "null"] == []
