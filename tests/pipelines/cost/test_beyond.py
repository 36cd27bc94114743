"""Beyond one machine: what cannot be had is a row, rounds turn, and the real Ray stays on loopback and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from lib import home, install, record, stats
from lib.measured import Skipped
from lib.pipelines.caller import Caller
from lib.pipelines.cost import beyond
from lib.pipelines.cost.beyond import FOREST, OURS, PLANS, RAY, SLOW
from lib.pipelines.fraud import contestants
from lib.pipelines.fraud.contestants import Load
from lib.pipelines.fraud.servers import task
from tests.pipelines.fraud.linear import BODIES, compiled


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("forest"))


def session(run: record.Run, root: Path) -> Any:
    return SimpleNamespace(run=run, model=SimpleNamespace(forest=SimpleNamespace(root=root)))


@pytest.fixture
def run(tmp_path: Path) -> record.Run:
    return record.begin("03_pipeline_cost", parameters={}, root=tmp_path / "runs", environment={"machine_id": "m", "stack_id": "s"})


def statuses(run: record.Run) -> list[tuple[Any, ...]]:
    frame = run.frame()
    return list(frame[["round", "server", "replicas", "task", "status"]].itertuples(index=False, name=None))


def test_what_cannot_be_had_is_a_row_for_each_task_and_the_others_go_on(run: record.Run, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beyond, "cores", lambda: ((0,), (0,)))
    monkeypatch.setattr(install, "find", lambda name: install.Missing(name, f"{name} is not built"))
    plan = beyond.Plan(((RAY, 1), (RAY, 2)), 2, PLANS["smoke"].tasks)
    beyond.beyond(session(run, tmp_path), plan)
    assert statuses(run) == [(turn, RAY, replicas, name, "skipped") for turn, order in ((0, (1, 2)), (1, (2, 1)))
                             for replicas in order for name in (FOREST, SLOW)]
    assert set(run.frame()["reason"]) == {"ray is not built"}


def test_a_server_that_does_not_start_is_a_row_and_ours_goes_on(run: record.Run, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beyond, "cores", lambda: (tuple(os.sched_getaffinity(0)), None))
    monkeypatch.setattr(contestants, "ledger", lambda: SimpleNamespace(second=BODIES, body=BODIES.__getitem__))
    monkeypatch.setitem(contestants.CONTESTANTS, RAY, contestants.Contestant("with_nothing", None, None, "127.0.0.1"))
    quick = {name: replace(load, closed_s=0.1, open_s=0.3, idle_s=0) for name, load in PLANS["smoke"].tasks.items()}
    beyond.beyond(session(run, library.parent), beyond.Plan(((RAY, 1), (OURS, 1)), 1, quick))
    rows = run.frame().set_index(["server", "task"])
    assert (rows.loc[RAY, "status"] == "failed").all() and rows.loc[RAY, "reason"].str.contains("No module named").all()
    ours = rows.loc[OURS].groupby("task").last()  # a busy machine has each tried twice, and marked
    assert all(row["facts"]["closed_per_s"] > 10 and row["audit"]["7 answers"] is None for _, row in ours.iterrows())


def test_one_processor_is_a_reason(run: record.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def single() -> Any:
        raise Skipped("there is one processor")

    monkeypatch.setattr(beyond, "cores", single)
    beyond.beyond(session(run, tmp_path), PLANS["smoke"])
    assert set(run.frame()["reason"]) == {"there is one processor"}


def test_a_recorded_session_measures_nothing(run: record.Run) -> None:
    beyond.beyond(SimpleNamespace(run=run, model=None), PLANS["quick"])  # type: ignore[arg-type]
    assert run.frame().empty


@pytest.mark.parametrize(("profile", "q"), [("quick", 0.95), ("full", 0.99)])
def test_rounds_and_calls_suffice(profile: str, q: float) -> None:
    plan = PLANS[profile]
    assert plan.rounds >= 3 and set(plan.servers) == {(OURS, 1), (RAY, 1), (RAY, 2)}
    forest = plan.tasks[FOREST]
    assert plan.rounds * forest.open_s * forest.rate_per_s >= stats.needed(q)
    assert plan.tasks[SLOW].rate_per_s < 1 / task.SLOW_S


def test_the_slow_task_is_the_same_answer_later(library: Path) -> None:
    forest, body = task.Forest(str(library)), BODIES[0]
    began = time.monotonic()
    assert forest.slowly(body) == forest.answer(body) and time.monotonic() - began >= task.SLOW_S


def test_ours_is_asked_both_ways(library: Path, tmp_path: Path) -> None:
    for more, path in (((), None), (("slow",), task.SLOW_PATH)):
        with contestants.serving(OURS, library, *more, logs=tmp_path, cores=None) as process, Caller() as caller:
            found = contestants.asked(OURS, process, caller, library, Load(0.3, 0.5, 10, 4, 0, 5, path), bodies=BODIES)
        assert not any(found.checks.values()), found.checks
        assert found.facts["p50_ms"] >= (30 if path else 0) and found.facts["idle_cores"] is None
        assert found.facts["cpu_us"] is None or not path, "ten answers take less CPU than the kernel counts"
        assert found.facts["closed_per_s"] <= 1 / task.SLOW_S + 1 or not path


@pytest.fixture(scope="module")
def ray() -> install.Install:
    if isinstance(found := install.find("ray"), install.Missing):
        pytest.skip(found.reason)
    return found


@pytest.mark.engine
def test_ray_answers_both_tasks_on_loopback_alone_and_leaves_nothing(ray: install.Install, library: Path, tmp_path: Path) -> None:
    before = set(Path(os.environ.get("TMPDIR", "/tmp")).glob("serving-*"))
    with contestants.serving(RAY, library, "2", logs=tmp_path, cores=None) as process, Caller() as caller:
        for path in (None, task.SLOW_PATH):
            found = contestants.asked(RAY, process, caller, library, Load(0.4, 0.5, 10, 4, 0.2, 5, path), bodies=BODIES)
            assert not any(found.checks.values()), found.checks
            assert found.facts["beyond_loopback"] is False
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        names = [member.name() for member in family]
        assert sum("ServeReplica" in name for name in names) == 2, names
        assert "raylet" in names and "gcs_server" in names
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert set(Path(os.environ.get("TMPDIR", "/tmp")).glob("serving-*")) <= before
    assert not (Path.home() / ".ray").exists() or not (Path.home() / ".ray" / "auth_token").exists()


@pytest.mark.engine
def test_when_the_measuring_process_is_killed_rays_whole_cluster_goes(ray: install.Install, library: Path, tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from lib.pipelines.fraud import contestants
        with contestants.serving("Ray Serve", Path({str(library)!r}), logs=Path({str(tmp_path)!r}), cores=None) as process:
            print(process.pid, flush=True)
            time.sleep(120)
    """)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # short: Ray's sockets lie below it
        environment = {**os.environ, "PYTHONPATH": str(home.ROOT), "TMPDIR": scratch}
        measuring = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        assert measuring.stdout is not None
        served = psutil.Process(int(measuring.stdout.readline()))
        family = [served, *served.children(recursive=True)]
        assert "raylet" in [member.name() for member in family]
        measuring.send_signal(signal.SIGKILL)
        measuring.wait()
        assert psutil.wait_procs(family, timeout=30)[1] == []
