"""What was brought, set up: wheels on a path of their own, llama.cpp built for the machine that is there, each part asked to prove itself.

Engines stand below cache/brought, where lib/install.py finds them before those that it would build. Standard library alone. Refuses
nothing that can be said: what does not work here is a row with its reason, and everything else goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from lib import child
from lib.child import Say
from lib.pack.manifest import NAME, Group, Manifest, Refused, read

REPORT, ENTER, LOCK = "report.jsonl", "enter.sh", "building"
POLITE = ("nice", "-n", "19")
BUILD_S, SMOKE_S = 7200, 240  # CUDA's kernels take two cores above an hour; a box of time has its own end


@dataclass(frozen=True, slots=True)
class Row:
    """How a group fares here. `reason`: why it cannot be used, or what a reader should know of how it stands."""

    group: str
    status: Literal["ok", "failed", "skipped", "building"]
    reason: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """The GPU that the driver's own tool tells of, as in "9.0"."""

    name: str
    capability: str


def place(into: Path, group: str) -> Path:
    """Where a group is laid out."""
    return into if group == "project" else into / "cache" / "brought" / group


def up(manifest: Manifest, wanted: Sequence[Group], into: Path, *, wait: bool, say: Say) -> list[Row]:
    """Set up what was laid out; the build starts first, and the rest goes on beside it. Rows are in report.jsonl too."""
    enter(manifest, into)
    gpu = seen()
    say(f"GPU: {gpu.name} ({gpu.capability})" if gpu else "GPU: none that nvidia-smi tells of; engines are set up for the processor")
    with ThreadPoolExecutor(1) as pool:
        build: Future[Row] | None = None
        rows = list[Row]()
        for group in sorted(wanted, key=lambda one: "cmake" not in one.recipe):
            if "cmake" not in group.recipe:
                rows.append(_noted(_site(manifest, group, into, say), into, say))
            elif wait or not (into / "project" / "lib").is_dir():
                build = pool.submit(built, group, into, say)
            else:
                _detached(into)
                rows.append(_noted(Row(group.name, "building", "at low priority; python -m lib.pack record waits for it"), into, say))
        if build is not None:
            rows.append(_noted(build.result(), into, say))
    return rows


def seen() -> Gpu | None:
    """The first NVIDIA GPU, or None where the driver's tool is not there or tells of none."""
    with suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
        told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
        name, _, capability = told[0].rpartition(",")
        return Gpu(name.strip(), capability.strip())
    return None


def nvcc() -> Path | None:
    """CUDA's compiler, on the PATH or where its installer puts it."""
    found = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    return Path(found) if found else None


def cublas(to: Path, *, toolkits: Path = Path("/usr/local")) -> dict[str, str]:
    """Flags for cuBLAS as torch's wheels bring it, where the toolkit came without: its headers alone in `to`, for beside them lie others.

    Empty where the toolkit has its own, or nobody has one: then the build says so.
    """
    if next(toolkits.glob("cuda*/**/libcublas.so"), None):
        return {}
    found = [library for place in map(Path, sys.path) for library in sorted(place.glob("nvidia/*/lib/libcublas.so.*"))]
    if not found:
        return {}
    to.mkdir(exist_ok=True)
    for header in (found[0].parents[1] / "include").glob("cublas*.h"):
        shutil.copy(header, to)
    return {"CUDA_cublas_LIBRARY": str(found[0]), "CMAKE_CUDA_FLAGS": f"-I{to.resolve()}"}


def enter(manifest: Manifest, into: Path) -> Path:
    """A file to source, that leads a shell to the project with what was brought for it."""
    paths = [into / "project", *([into / "site"] if fits(manifest) is None else [])]
    script = into / ENTER
    script.write_text(f'export INFERENCE_CACHE="{into.resolve() / "cache"}" PYTHONPATH="{_joined(paths)}"\n'
                      f'cd "{(into / "project").resolve()}"\n')
    return script


def fits(manifest: Manifest) -> str | None:
    """Why the wheels cannot be imported by this Python, or None."""
    here = "{}.{}".format(*sys.version_info)
    return None if here == manifest.python else f"its wheels are for Python {manifest.python}, this is {here}"


def _site(manifest: Manifest, group: Group, into: Path, say: Say) -> Row:
    """A group of wheels: on a path of its own, and asked."""
    root, began = place(into, group.name), monotonic()
    paths = [into / "project"] if group.name == "project" else []
    paths += [root / "site", *([into / "site"] if group.name != "project" else [])]
    has_wheels = any(file.path.startswith("site/") for file in group.files)
    if group.name != "project":
        _program(root, paths)
    if has_wheels and (reason := fits(manifest)):
        return _stands(group, root, "skipped", reason, began)
    say(f"{group.title}: asking it")
    kinds = ("", "gpu_") if seen() and "gpu_smoke" in group.recipe else ("",)  # asked at once: these libraries take long to load
    command, log = [sys.executable, "-c", "\n".join(group.recipe[f"{kind}smoke"] for kind in kinds)], into / f"{group.name}.log"
    try:
        said = child.run(command, what=f"{group.title}, smoke test", log=log, say=say, timeout_s=SMOKE_S, cwd=into,
                         env={"PYTHONPATH": _joined(paths)})
    except child.Failed as failed:
        return _stands(group, root, "failed", str(failed), began)
    if lacks := next((answer for kind in kinds if (answer := group.recipe[f"{kind}says"]) not in "\n".join(said)), None):
        return _stands(group, root, "failed", f"{group.title}, smoke test: its answer lacks {lacks!r}", began)
    unproven = None if seen() or "gpu_smoke" not in group.recipe else "imported; no GPU here to try it on"
    return _stands(group, root, "ok", unproven, began, platform="cuda" if seen() else "cpu")


def _joined(paths: Sequence[Path]) -> str:
    return ":".join(str(path.resolve()) for path in paths)


def _program(root: Path, paths: Sequence[Path]) -> None:
    """bin/NAME of a Python engine that is a folder on a path."""
    (root / "bin").mkdir(exist_ok=True)
    script = root / "bin" / root.name
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{_joined(paths)}" exec "{sys.executable}" '
                      f'-m {root.name}.entrypoints.cli.main "$@"\n')
    script.chmod(0o755)


def built(group: Group, into: Path, say: Say) -> Row:
    """llama.cpp for the GPU that is there and its compiler, else for the processor; at low priority, one build at a time."""
    root, began = place(into, group.name), monotonic()
    with (root / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if lacks := [tool for tool in group.recipe["needs"] if shutil.which(tool) is None]:
            return _stands(group, root, "failed", f"{group.title} is not built: no {', '.join(lacks)} on this machine", began)
        gpu, compiler = seen(), nvcc()
        platform: Literal["cuda", "cpu"] = "cuda" if gpu and compiler else "cpu"
        flags = {**group.recipe["cmake"], **group.recipe[platform]}
        if gpu and compiler:
            flags |= {"CMAKE_CUDA_ARCHITECTURES": f"{gpu.capability.replace('.', '')}-real", "CMAKE_CUDA_COMPILER": str(compiler)}
            flags |= cublas(root / "cublas")
        try:
            said = _compiled(group, root, flags, into / f"{group.name}.log", say)
        except (child.Failed, OSError) as error:
            return _stands(group, root, "failed", str(error), began)
        if group.recipe["says"] not in "\n".join(said):
            return _stands(group, root, "failed", f"{group.title}, smoke test: its answer lacks {group.recipe['says']!r}", began)
        why = None if platform == "cuda" else f"built for the processor: {'no nvcc' if gpu else 'no GPU'} on this machine"
        return _stands(group, root, "ok", why, began, platform=platform)


def _compiled(group: Group, root: Path, flags: dict[str, str], log: Path, say: Say) -> tuple[str, ...]:
    """Programs to bin/, libraries to lib/; what the server says of its version."""
    out, told = root / "out", [f"-D{key}={value}" for key, value in flags.items()]
    configure: list[str | Path] = [*POLITE, "cmake", "-S", root / "source", "-B", out, "-G", "Ninja", *told]
    child.run(configure, what=f"{group.title}, configuring", log=log, say=say)
    cpus = str(len(os.sched_getaffinity(0)))
    child.run([*POLITE, "cmake", "--build", out, "--parallel", cpus, "--target", *group.recipe["targets"]],
              what=f"{group.title}, compiling", log=log, say=say, timeout_s=BUILD_S)
    for folder in ("bin", "lib"):
        (root / folder).mkdir(exist_ok=True)
    for made in sorted((out / "bin").iterdir()):
        made.replace(root / ("lib" if ".so" in made.name else "bin") / made.name)
    shutil.rmtree(out)
    ask = [root / "bin" / group.recipe["targets"][0], "--version"]
    return child.run(ask, what=f"{group.title}, smoke test", log=log, say=say, timeout_s=60)


def _stands(group: Group, root: Path, status: Literal["ok", "failed", "skipped"], reason: str | None, began: float,
            *, platform: str = "cpu") -> Row:
    """The row, and beside an engine the marker that lib/install.py reads."""
    if group.name != "project":
        for name in ("ok.json", "failed.json"):
            (root / name).unlink(missing_ok=True)
        told: dict[str, Any] = {"platform": platform, "version": group.version} if status == "ok" else {"reason": reason, "tail": []}
        (root / ("ok.json" if status == "ok" else "failed.json")).write_text(json.dumps(told))
    return Row(group.name, status, reason, round(monotonic() - began, 1))


def _noted(row: Row, into: Path, say: Say) -> Row:
    with (into / REPORT).open("a") as report:
        report.write(json.dumps(asdict(row)) + "\n")
    say(f"{row.group}: {row.status} after {row.seconds:.0f} s{f' ({row.reason})' if row.reason else ''}")
    return row


def _detached(into: Path) -> None:
    """The build in a session of its own, that outlives us."""
    command = [*POLITE, sys.executable, "-m", "lib.pack", "build", str(into.resolve())]
    (place(into, "llamacpp") / LOCK).touch()  # who measures meanwhile sees that something is built
    with (into / "building.log").open("ab") as log:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                         env={**os.environ, "PYTHONPATH": _joined([into / "project"])})


def finish(into: Path, *, say: Say) -> Row:
    """Build what `up` left to be built. Raises Refused where nothing is."""
    group = next((one for one in read(into / NAME).groups if "cmake" in one.recipe and (place(into, one.name) / "source").is_dir()), None)
    if group is None:
        raise Refused(f"{into} holds nothing to build")
    return _noted(built(group, into, say), into, say)
