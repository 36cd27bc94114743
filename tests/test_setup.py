"""The pins agree with each other, and run_all.sh answers without an environment."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def test_every_requirement_is_pinned_and_satisfied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {}
    for line in (ROOT / "requirements.lock.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            assert re.fullmatch(r"==[^*]+", str(pin.specifier)), f"not an exact pin: {line}"
            if pin.marker is None or pin.marker.evaluate(default_environment()):
                pins[canonicalize_name(pin.name)] = next(iter(pin.specifier)).version
    for wanted in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["test"]]):
        assert canonicalize_name(wanted.name) in pins, f"{wanted} is not in the lock: ./run_all.sh lock"
        assert pins[canonicalize_name(wanted.name)] in wanted.specifier


def test_the_lock_names_no_index_and_no_hash() -> None:
    lock = (ROOT / "requirements.lock.txt").read_text()
    assert not re.search(r"://|--hash|--index|--extra-index|--find-links", lock)


def test_conda_reads_the_same_pins() -> None:
    lines = [line.split("#")[0].strip() for line in (ROOT / "environment.yml").read_text().splitlines()]
    assert lines[lines.index("- pip:") + 1 :] == ["- -r requirements.lock.txt"]
    assert [line for line in lines if line.startswith("- python")] == ["- python=3.11"]


@pytest.mark.parametrize("name", ["run_all.sh", ".ci/run"])
def test_bash_can_read_it(name: str) -> None:
    subprocess.run(["bash", "-n", ROOT / name], check=True)


def call(tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = env.pop("PATH", "/usr/local/bin:/usr/bin:/bin")
    return subprocess.run(
        ["/bin/bash", ROOT / "run_all.sh", *arguments],
        env={"PATH": path, "HOME": str(tmp_path), "INFERENCE_CACHE": str(tmp_path / "cache"), "NO_SYSTEM": "1", **env},
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def test_help_needs_no_environment(tmp_path: Path) -> None:
    done = call(tmp_path, "--help")
    assert done.returncode == 0
    for command in ("test", "lab", "publish", "lock", "--help", "--conda"):
        assert command in done.stdout
    assert not (tmp_path / "cache").exists()


def test_unknown_command_lists_the_valid_ones(tmp_path: Path) -> None:
    done = call(tmp_path, "tset")
    assert done.returncode == 2
    assert "unknown command: tset" in done.stderr
    assert "run_all.sh test" in done.stderr


def test_conda_asked_for_but_absent(tmp_path: Path) -> None:
    (tools := tmp_path / "bin").mkdir()
    for tool in ("dirname", "head"):
        (tools / tool).symlink_to(f"/usr/bin/{tool}")
    done = call(tmp_path, "--conda", PATH=str(tools))
    assert done.returncode == 2
    assert "no mamba, micromamba or conda" in done.stderr


def test_conda_reads_environment_yml(tmp_path: Path) -> None:
    python = fake_python(tmp_path, "exit 1")
    (conda := tmp_path / "bin" / "conda").parent.mkdir()
    conda.write_text(f"""#!/bin/bash
[ "$1 $2 $3 $5" = "env create -p -f" ] && [ "$6" = {ROOT}/environment.yml ] && [ "$CONDA_ALWAYS_YES" ] || exit 1
mkdir -p "$4/bin" && cp {python} "$4/bin/python"
""")
    conda.chmod(0o755)
    done = call(tmp_path, "--conda", "--only", "10", PATH=f"{conda.parent}:/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    assert "ran: -m lib run --only 10" in done.stdout


def test_an_old_python_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (old := tmp_path / "python-old").write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = call(tmp_path, PYTHON=str(old))
    assert done.returncode == 2
    assert "no Python 3.11 or newer" in done.stderr


def fake_python(tmp_path: Path, pip: str) -> Path:
    """A Python whose `-m venv` puts itself into the environment and whose pip does what `pip` says."""
    (fake := tmp_path / "python").write_text(f"""#!/bin/bash
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip install -r "*) {pip} ;;
  "-m lib run"*) echo "ran: $*" ;;
esac
""")
    fake.chmod(0o755)
    return fake


def test_a_failed_installation_shows_its_last_lines_and_is_done_again(tmp_path: Path) -> None:
    failed = call(tmp_path, PYTHON=str(fake_python(tmp_path, "echo 'no such wheel'; exit 1")))
    assert failed.returncode == 2
    assert "no such wheel" in failed.stderr
    good = fake_python(tmp_path, f"echo installed >> {tmp_path}/count")
    for _ in range(2):
        done = call(tmp_path, "--profile", "smoke", PYTHON=str(good))
        assert done.returncode == 0, done.stderr
        assert "ran: -m lib run --profile smoke" in done.stdout
    assert (tmp_path / "count").read_text().split() == ["installed"]  # the second clone finds it built


def test_ctrl_c_stops_the_installation_and_leaves_no_process(tmp_path: Path) -> None:
    python = fake_python(tmp_path, "exec sleep 63")
    started = subprocess.Popen(
        ["/bin/bash", ROOT / "run_all.sh", "test"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "NO_SYSTEM": "1", "PYTHON": str(python)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a job in the background starts with it ignored
    )
    bash, group, until_s = psutil.Process(started.pid), [], time.monotonic() + 20
    while "sleep" not in [process.name() for process in group]:
        assert time.monotonic() < until_s, "the installation never started"
        time.sleep(0.05)
        with suppress(psutil.NoSuchProcess):
            group = [bash, *bash.children(recursive=True)]
    try:
        os.killpg(started.pid, signal.SIGINT)  # what a terminal does
        assert started.wait(timeout=10) != 0
        assert psutil.wait_procs(group, timeout=5)[1] == []
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
    assert not list(tmp_path.rglob("ok"))
