"""How an engine comes into being: a virtual environment, packages, a compile where there is a source, a smoke call.

Refuses to go on after a step that failed: it raises `Failed` with the step's last lines; the caller drops the root.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lib import child
from lib.child import Failed, Say

Platform = Literal["cpu", "cuda"]
Pin = dict[str, Any]  # an engine's table of engines.toml, that of the platform merged into it


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be built, and where."""

    pin: Pin
    platform: Platform
    root: Path

    def beside(self, suffix: str) -> Path:
        return self.root.with_name(f"{self.root.name}.{suffix}")

    @property
    def log(self) -> Path:
        return self.beside("log")

    @property
    def failure(self) -> Path:
        return self.beside("failed.json")

    def run(self, *command: str | Path, what: str, say: Say, env: Pin | None = None, **more: Any) -> tuple[str, ...]:
        env = {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1", **(env or {})}  # nothing of ours in the engine's environment
        return child.run(command, what=f"{self.pin['title']}, {what}", log=self.log, say=say, env=env, **more)


def build(plan: Plan, say: Say) -> None:
    """Everything that leads to a working root, in order. Raises Failed or OSError."""
    pin, root, python = plan.pin, plan.root, plan.root / "bin" / "python"
    plan.run(sys.executable, "-m", "venv", root, what="virtual environment", say=say)
    index = ["--extra-index-url", pin["extra_index"]] if "extra_index" in pin else []
    bare = ["--no-deps"] if pin.get("bare") else []
    plan.run(python, "-m", "pip", "install", *index, *bare, *pin["pip"], what="packages", say=say)
    if "sdist" in pin:
        _compile(plan, say)
    if "uninstall" in pin:
        plan.run(python, "-m", "pip", "uninstall", "--yes", *pin["uninstall"], what="removing what clashes", say=say)
    if "alias" in pin:
        _alias(root, **pin["alias"])
    program, *arguments = pin["smoke"]
    said = plan.run(root / program, *arguments, what="smoke call", say=say, cwd=root, timeout_s=180)
    if pin["says"] not in "\n".join(said):
        raise Failed(f"{pin['title']}, smoke call", f"its answer lacks {pin['says']!r}", said)


def _compile(plan: Plan, say: Say) -> None:
    """The sdist's tree compiled once: programs to bin/, libraries to lib/ where the Python binding finds them too."""
    pin, root, work, cpus = plan.pin, plan.root, plan.root / "build", len(os.sched_getaffinity(0))
    python, sdist = root / "bin" / "python", plan.pin["sdist"]
    work.mkdir()
    (work / "sdist.txt").write_text(f"{sdist['package']}=={pin['version']} --hash=sha256:{sdist['sha256']}\n")
    plan.run(
        python,
        "-m",
        "pip",
        "download",
        "--require-hashes",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        sdist["package"],
        "--dest",
        work,
        "--requirement",
        work / "sdist.txt",
        what="source",
        say=say,
    )
    with tarfile.open(work / sdist["file"]) as archive:  # pip has verified its sum
        archive.extractall(work)
    package = work / sdist["file"].removesuffix(".tar.gz")
    flags = [f"-D{key}={value}" for key, value in pin["cmake"].items()]
    cmake, out = root / "bin" / "cmake", work / "out"
    plan.run(
        cmake,
        "-S",
        package / pin["tree"],
        "-B",
        out,
        "-G",
        "Ninja",
        *flags,
        f"-DCMAKE_MAKE_PROGRAM={root / 'bin' / 'ninja'}",
        what="configuring",
        say=say,
    )
    plan.run(cmake, "--build", out, "--parallel", str(cpus), "--target", *pin["targets"], what="compiling", say=say)
    for built in sorted((out / "bin").iterdir()):
        shutil.move(built, root / ("lib" if ".so" in built.name else "bin") / built.name)
    for kept in pin["keep"]:
        shutil.move(package / pin["tree"] / kept, root / kept)
    plan.run(
        python,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        package,
        what="Python binding",
        say=say,
        env={"CMAKE_ARGS": "-DLLAMA_BUILD=OFF", "PATH": f"{root / 'bin'}:{os.environ['PATH']}"},
    )
    libraries = _only(root, "llama_cpp") / "lib"
    libraries.mkdir(exist_ok=True)
    for library in root.glob("lib/*.so*"):
        (libraries / library.name).symlink_to(Path("../../../..") / library.name)
    shutil.rmtree(work)


def _alias(root: Path, *, of: str, name: str, version: str) -> None:
    """Metadata beside those of distribution `of`, as `name` and `version`."""
    metadata = _only(root, f"{of.replace('-', '_')}-*.dist-info")
    twin = metadata.with_name(f"{name}-{version}.dist-info")
    twin.mkdir()
    (twin / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def _only(root: Path, name: str) -> Path:
    """What pip should have installed as `name` (a pattern). Raises Failed where it is not there."""
    if not (found := list(root.glob(f"lib/python3*/site-packages/{name}"))):
        raise Failed("installation", f"pip installed no {name}")
    return found[0]
