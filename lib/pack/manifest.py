"""What a bundle holds: its groups, the parts they travel in, every file with its sum. Standard library alone: it is read on a bare machine.

A bundle's id is a sum over all that is in it, and every part bears it in its name, so that a part of another bundle is told from a
damaged one. Refuses a manifest of another format and one whose id is not that of its own contents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1  # raise it when what is written here changes
NAME = "bundle.json"
CHUNK = 2**20


class Refused(Exception):
    """A bundle, or a part of it, that must not be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Part:
    """A slice of a group's archive as it travels: a file of its own."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class File:
    """One file in a group. `path` is relative to where the group is laid out, with forward slashes."""

    path: str
    size: int
    sha256: str
    runs: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """What belongs together and can be left out together. `recipe`: how it is set up over there, as data (bundle.toml has the words)."""

    name: str
    title: str
    version: str
    licences: Mapping[str, str]
    recipe: Mapping[str, Any]
    files: tuple[File, ...]
    parts: tuple[Part, ...] = ()

    @property
    def size(self) -> int:
        """Bytes once it is laid out."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole bundle. `commit`: what the project was at; `python`: what its wheels are for, as in "3.12"."""

    commit: str
    python: str
    groups: tuple[Group, ...]
    id: str = field(default="")

    def named(self) -> Manifest:
        """The same with the id that its contents give it."""
        return Manifest(self.commit, self.python, self.groups, identity(self))


def identity(manifest: Manifest) -> str:
    """Twelve hex digits over commit, recipes and the sum of every file; parts do not count, for their names hold it."""
    told = [manifest.commit, manifest.python, [asdict(group) | {"parts": None} for group in manifest.groups]]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def write(manifest: Manifest, to: Path) -> Path:
    path = to / NAME
    path.write_text(json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1, sort_keys=True) + "\n")
    return path


def read(path: Path) -> Manifest:
    """Raises Refused for what is no manifest, one of another format, and one that was changed."""
    try:
        told = json.loads(path.read_text())
        if told.pop("format") != FORMAT:
            raise Refused(f"{path.name} is of another format than {FORMAT}; take the program that came with it")
        groups = tuple(Group(**{**group, "files": tuple(File(**file) for file in group["files"]),
                                "parts": tuple(Part(**part) for part in group["parts"])}) for group in told["groups"])
        manifest = Manifest(told["commit"], told["python"], groups, told["id"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{path.name} is no manifest of a bundle ({type(error).__name__}: {error})") from error
    if identity(manifest) != manifest.id:
        raise Refused(f"{path.name} was changed: its contents are not those of bundle {manifest.id}")
    return manifest


def part_name(bundle: str, group: str, number: int, count: int) -> str:
    return f"{bundle}-{group}-{number + 1:02d}-of-{count:02d}.part"


def digest(chunks: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for chunk in chunks:
        total.update(chunk)
    return total.hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return digest(iter(lambda: file.read(CHUNK), b""))
