"""Where images are made and kept without an engine: buildah, its storage below the project's cache, nothing of the system's.

`--isolation chroot` needs no user namespaces and no runtime: it works wherever root may chroot. Layers lie over each other by the kernel's
overlay where it lets us, else (vfs) each is a whole copy, which takes ten times as long and much more room.
Refuses to run where the programs are missing: Absent says which and how they come.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lib import child, home
from lib.child import Say

PROGRAMS = ("buildah", "mmdebstrap")
PREFIX = "localhost/inference"


class Absent(Exception):
    """Images cannot be made or looked at here; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Image:
    """A built image. `history`: (created by, layer or None) oldest first, as the config tells it."""

    name: str
    id: str
    config: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]

    @property
    def user(self) -> str:
        return str(self.config.get("User", ""))

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self.config.get("Env") or [])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.config.get("Labels") or {})


def room() -> Path:
    """Bases, wheels, storage, logs."""
    (place := home.cache() / "images").mkdir(parents=True, exist_ok=True)
    return place


def named(service: str, variant: str) -> str:
    return f"{PREFIX}/{service}:{variant}"


def lacks() -> str | None:
    """Why images cannot be built here, or None."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"there is no {' and no '.join(missing)} on this machine; as root on Debian or Ubuntu, ./run_all.sh images installs it"
    if os.geteuid() != 0:
        return "only root may chroot and make device nodes, which building without an engine needs; run it as root, or docker build there"
    return None


def buildah(*arguments: str | Path, what: str, say: Say, log: Path | None = None, timeout_s: float = 3600) -> tuple[str, ...]:
    """Run it with our storage, its output in a log. Raises Failed with its last lines."""
    return child.run(_command(*arguments), what=what, log=log or room() / "buildah.log", say=say, timeout_s=timeout_s)


def told(*arguments: str | Path) -> str:
    """What buildah prints. Raises Absent where it is not here or does not know what was asked for."""
    if shutil.which("buildah") is None:
        raise Absent(str(lacks()))
    done = subprocess.run(_command(*arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Absent(f"buildah {arguments[0]}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}")
    return done.stdout.strip()


def image(name: str) -> Image:
    """Raises Absent unless it was built here."""
    if lacking := lacks():
        raise Absent(lacking)
    if not (room() / driver() / "storage").exists():
        raise Absent(f"{name} is not built on this machine; ./run_all.sh images builds it")
    try:
        seen = json.loads(told("inspect", "--type", "image", name))
    except Absent as absent:
        raise Absent(f"{name} is not built on this machine; ./run_all.sh images builds it ({absent})") from absent
    return Image(name, seen["FromImageID"], seen["Docker"]["config"], tuple(seen["OCIv1"].get("history") or ()))


def tree(name: str) -> Path:
    """The image's files as one tree: that of a working container which is made once for each image and only read."""
    container = "look-" + image(name).id[:16]
    try:
        return Path(told("mount", container))
    except Absent:
        told("from", "--pull-never", "--name", container, name)
    return Path(told("mount", container))


def commit_tree(root: Path, name: str, *, say: Say, environment: Mapping[str, str]) -> None:
    """An image of one layer out of a directory. Raises Failed."""
    container = told("from", "scratch")
    try:
        buildah("add", "--quiet", container, f"{root}/", "/", what=f"{name}, its files", say=say)
        for key, value in environment.items():
            told("config", "--env", f"{key}={value}", container)
        told("config", "--created-by", f"mmdebstrap: {name.rpartition(':')[2]}", container)
        buildah("commit", "--quiet", "--format", "docker", container, name, what=f"{name}, committing", say=say)
    finally:
        told("rm", container)


def tidy() -> None:
    """Drop the stages of builds, images that newer ones have replaced, and the trees that were looked at; what has a name stays."""
    told("rm", "--all")
    told("rmi", "--prune", "--force")


def _command(*arguments: str | Path) -> list[str]:
    return ["buildah", *_stored(driver()), *map(str, arguments)]


@cache
def driver() -> str:
    """ "overlay" where the kernel lays layers over each other for us, else "vfs"."""
    with tempfile.TemporaryDirectory(dir=room()) as scratch:
        places = [Path(scratch) / name for name in ("lower", "upper", "work", "merged")]
        for place in places:
            place.mkdir()
        lower, upper, work, merged = places
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        if subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], capture_output=True, check=False).returncode:
            return "vfs"
        subprocess.run(["umount", merged], check=True)
        return "overlay"


def _stored(which: str) -> list[str]:
    place = room() / which
    return ["--root", str(place / "storage"), "--runroot", str(place / "run"), "--storage-driver", which]

