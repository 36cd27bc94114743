"""What a bundle is made of, fetched by the registries' ordinary client and refused unless its sum is the pinned one (bundle.toml).

Wheels are opened here, so that the other side needs no installer and one compression works on all of them; of each only what is imported
is brought. Refuses a wheel with a path that leads out of its folder, and a clone that cannot say what is at HEAD.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from lib import child, commit, home
from lib.child import Say
from lib.fetch import READER
from lib.pack.manifest import Refused, digest, file_digest

PINS = "data/inputs/bundle.toml"


@dataclass(frozen=True, slots=True)
class Content:
    """A file of a group, in memory: path in the group, its bytes, whether it is a program."""

    path: str
    data: bytes
    runs: bool = False


def pins(root: Path = home.ROOT) -> dict[str, Any]:
    """What is brought; of llama.cpp the archive, tree and version that engines.toml pins."""
    told = tomllib.loads((root / PINS).read_text())
    theirs = tomllib.loads((root / "engines.toml").read_text())["llamacpp"]
    return {**told, "llamacpp": {**told["llamacpp"], **{key: theirs[key] for key in ("sdist", "tree", "version")}}}


def head(root: Path = home.ROOT) -> str:
    """The commit that is bundled. Raises Refused outside a clone."""
    told = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if told.returncode:
        raise Refused(f"a bundle holds the project at a commit, and here is no clone: {told.stderr.strip()}")
    return told.stdout.strip()


def wheels(pin: Mapping[str, Any], to: Path, *, python: str, platforms: Sequence[str], say: Say) -> list[Path]:
    """The wheels of a group in folder `to`: those that lie there with their sum are kept, the others fetched. Raises Refused."""
    to.mkdir(parents=True, exist_ok=True)
    wanted = {wheel["file"]: wheel["sha256"] for wheel in pin.get("wheels", [])}
    lacking = [name for name, sha256 in wanted.items() if not (to / name).exists() or file_digest(to / name) != sha256]
    if lacking:
        say(f"{pin['title']}: fetching {len(lacking)} wheels")
        with tempfile.TemporaryDirectory(dir=to) as scratch:
            asked = Path(scratch) / "wheels.txt"
            asked.write_text("".join(f"{'=='.join(name.split('-')[:2])} --hash=sha256:{wanted[name]}\n" for name in lacking))
            command: list[str | Path] = [
                sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", to,
                "--python-version", python, "--implementation", "cp", "--requirement", asked]
            try:
                child.run([*command, *(part for name in platforms for part in ("--platform", name))],
                          what=f"{pin['title']}, wheels", log=Path(scratch) / "pip.log", say=say)
            except child.Failed as failed:
                raise Refused("\n  ".join([str(failed), *failed.tail])) from failed
    for name, sha256 in wanted.items():
        if not (to / name).exists():
            raise Refused(f"the registry gave another file than {name}")
        if file_digest(to / name) != sha256:
            raise Refused(f"{name} is not the file that was pinned: its SHA-256 differs")
    return [to / name for name in wanted]


def opened(wheel: Path, *, without: Sequence[str] = ()) -> Iterator[Content]:
    """What `import` finds of a wheel, below site/. Scripts, headers and what `without` names stay behind."""
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            place = PurePosixPath(info.filename)
            if place.is_absolute() or ".." in place.parts or "\\" in info.filename:
                raise Refused(f"{wheel.name} has a path that leads out of its folder: {info.filename}")
            if place.parts[0].endswith(".data"):
                if len(place.parts) < 3 or place.parts[1] not in ("purelib", "platlib"):
                    continue
                place = PurePosixPath(*place.parts[2:])
            if not info.is_dir() and not any(fnmatch(str(place), pattern) for pattern in without):
                yield Content(f"site/{place}", archive.read(info))


def project(pin: Mapping[str, Any], sha: str, *, root: Path = home.ROOT) -> Iterator[Content]:
    """The project at commit `sha`, below project/: what `only` names, and the commit with the sum of each file (lib/commit.py)."""
    sums = dict[str, str]()
    archive = subprocess.run(["git", "-C", str(root), "archive", "--format=tar", sha], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile() and any(fnmatch(member.name, pattern) for pattern in pin["only"]):
                taken = tar.extractfile(member)
                assert taken is not None
                data = taken.read()
                sums[member.name] = digest([data])
                yield Content(f"project/{member.name}", data, bool(member.mode & 0o100))
    yield Content(f"project/{commit.EXPORT}", commit.written(sha, sums).encode())


def source(sdist: Path, tree: str, *, without: Sequence[str]) -> Iterator[Content]:
    """The files of `tree` in a source archive, below source/. Links are left out: nothing that is built is one."""
    with tarfile.open(sdist) as tar:
        for member in tar:
            _, _, path = member.name.partition("/")  # below the archive's one folder
            inner = path.removeprefix(f"{tree}/")
            if member.isfile() and inner != path and not any(fnmatch(inner, pattern) for pattern in without):
                taken = tar.extractfile(member)
                assert taken is not None
                yield Content(f"source/{inner}", taken.read(), bool(member.mode & 0o100))


def sdist(pin: Mapping[str, Any], version: str, to: Path, *, say: Say) -> Path:
    """The source archive of `pin` (engines.toml's words) in folder `to`, fetched unless it lies there; no build of it runs."""
    to.mkdir(parents=True, exist_ok=True)
    archive: Path = to / pin["file"]
    if not archive.exists():
        with tempfile.TemporaryDirectory(dir=to) as scratch:
            backend = Path(scratch) / "scikit_build_core"  # what pip would ask for the archive's metadata, and run its build for
            backend.mkdir()
            (backend / "__init__.py").touch()
            (backend / "build.py").write_text(READER)
            command: list[str | Path] = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation",
                                         "--no-binary", pin["package"], "--dest", to, f"{pin['package']}=={version}"]
            try:
                child.run(command, what=f"{pin['package']}, source", log=Path(scratch) / "pip.log", say=say, env={"PYTHONPATH": scratch})
            except child.Failed as failed:
                raise Refused("\n  ".join([str(failed), *failed.tail])) from failed
    if not archive.exists() or file_digest(archive) != pin["sha256"]:
        raise Refused(f"{pin['file']} is not the file that was pinned: its SHA-256 differs, or the registry gave another")
    return archive
