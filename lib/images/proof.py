"""Proof that an image lacks nothing it needs and allows nothing it should not: libraries, modules, routes, user, root, shell.

What could be missing is looked for three ways: every file's own list of libraries, every module that the fat image loads along all routes,
and the routes themselves. Each way is tried on a hole that was dug on purpose, for a check that never fails proves nothing.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Collection, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import psutil
from packaging.utils import canonicalize_name

from lib.images import books, elf, questions, start, store
from lib.images.recipe import pins
from lib.process import Died, Process, last_lines

HOLE = "libstdc++.so.6"  # of the system: ONNX Runtime asks for it
TIMED = {"PYTHONPROFILEIMPORTTIME": "1"}
IMPORTED = re.compile(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", re.M)
IMPORT = """
import importlib, json, sys
found = {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except BaseException as error:
        found[name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""
WRITE = """
import errno, json, pathlib, sys
found = {}
for place in ("/", "/app", "/opt/site", "/model", "/usr", "/etc"):
    try:
        (pathlib.Path(place) / "written").write_text("x")
        found[place] = "written"
    except OSError as error:
        found[place] = errno.errorcode[error.errno]
print(json.dumps(found))
"""
# Loaded only when they are asked for, by what they need then: file → why its hole is none.
EXCUSED = {"libopenvino_intel_gpu_plugin.so": "wants the driver of Intel's GPUs (libOpenCL), and is loaded for such a GPU alone"}
SHELLS = ("sh", "bash", "dash", "ash", "zsh", "busybox", "perl")
MANAGERS = ("apt", "apt-get", "dpkg", "pip", "pip3", "apk")
BINARIES = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin")


def routes(image: store.Image, service: str) -> tuple[dict[str, int], list[str]]:
    """Every route's status, and every module that Python looked for meanwhile. Raises process.Died, httpx.HTTPError, store.Absent."""
    asked = questions.questions(service, count=1)[0]
    with start.started(image, samples=questions.samples(service), more=TIMED) as running:
        statuses = questions.exercise(service, running.process.url, asked)
        return statuses, sorted(set(IMPORTED.findall(running.process.log.read_text(errors="replace"))))


def at_birth(image: store.Image) -> set[str]:
    """What Python loads there before it is told anything: Debian's has hooks of its own."""
    return set(IMPORTED.findall(start.run(image, "python3", "-X", "importtime", "-c", "pass").stderr))


def unimportable(image: store.Image, modules: Sequence[str]) -> dict[str, str]:
    """Modules that the image cannot import, and why. Raises store.Absent where it cannot even be asked."""
    asked = [name for name in modules if not name.startswith(("_frozen", "__main__", "encodings."))]
    done = start.run(image, "python3", "-c", IMPORT, json.dumps(asked))
    try:
        found: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise store.Absent(f"{image.name} could not be asked for its modules: {done.stderr.strip()[-300:]}") from None
    return found


def of_own(lost: dict[str, str], requirements: Path) -> dict[str, str]:
    """Those of `lost` that the image should have: all but modules of packages that the fat image alone is asked to bring."""
    fat = requirements.with_name(f"{requirements.stem.removesuffix('-fat')}-fat.txt")
    alone = _modules(pins(fat)) - _modules(pins(requirements))
    return {name: why for name, why in lost.items() if name.split(".")[0] not in alone}


def _modules(packages: Collection[str]) -> set[str]:
    """What distributions are imported as in this machine's own environment."""
    return {module for module, owners in packages_distributions().items() if {canonicalize_name(owner) for owner in owners} & set(packages)}


def libraries(image: store.Image) -> dict[str, Any]:
    """What asks for libraries and does not find them; the same with one library hidden, which must be told."""
    root = store.tree(image.name)
    whole = elf.missing(root)
    hole = next((f"{place}/{HOLE}" for place in elf.SYSTEM if elf.inside(root, f"{place}/{HOLE}").exists()), None)
    holed = elf.missing(root, hidden=[hole]) if hole else None
    lost = {path: names for path, names in whole.missing.items() if Path(path).name not in EXCUSED}
    excused = {path: EXCUSED[Path(path).name] for path in whole.missing.keys() - lost.keys()}
    return {"elf_files": whole.files, "elf_missing": lost, "elf_excused": excused, "elf_later": sum(map(len, whole.later.values())),
            "hole": hole, "hole_missed_by": len(holed.missing.keys() - whole.missing.keys()) if holed else None,
            "hole_start": _dies(image, hole) if hole else None}  # fmt: skip


def _dies(image: store.Image, hole: str) -> str | None:
    """How the service ends without that file; None if it runs all the same, which would mean that the hole was none."""
    try:
        with start.started(image, hidden=[hole], timeout_s=20):
            return None
    except Died as died:
        return str(died)[-300:]


def hardening(image: store.Image) -> dict[str, Any]:
    """Who it runs as, what it may write, what lies ready for an intruder. Raises process.Died, store.Absent."""
    root = store.tree(image.name)
    with start.started(image) as running:
        status = _status(running.process)
    wrote = start.run(image, "python3", "-c", WRITE)
    binaries = {path.name for place in BINARIES if elf.inside(root, place).is_dir() for path in elf.inside(root, place).iterdir()}
    setuid = [path for path in books.files(root) if (root / path).stat().st_mode & (stat.S_ISUID | stat.S_ISGID)]
    return {"uid": int(status["Uid"].split()[1]), "capabilities": int(status["CapEff"], 16),
            "no_new_privileges": status["NoNewPrivs"] == "1", "writes": json.loads(wrote.stdout or "{}"), "setuid": sorted(setuid),
            "shells": sorted(binaries & set(SHELLS)), "managers": sorted(binaries & set(MANAGERS)), "programs": len(binaries)}  # fmt: skip


def _status(process: Process) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def memory_bytes(process: Process) -> int:
    """Of the service alone. Raises process.Died."""
    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.NoSuchProcess:
        raise Died(f"{process.name} is gone: {last_lines(process.log)}") from None
