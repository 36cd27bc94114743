"""The other side: parts proven, archives laid out, engines set up. Standard library alone, for nothing is installed there yet.

Refuses, before it writes anything, parts that miss, are damaged or belong to another bundle (it says which), and a disk without room; and
while it writes, a file that the manifest does not name, that is another than it names, or that is no plain file below its folder.
"""

from __future__ import annotations

import io
import lzma
import os
import re
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from lib.child import Say
from lib.pack import stand
from lib.pack.manifest import CHUNK, NAME, File, Group, Manifest, Refused, file_digest, read
from lib.pack.stand import Row

BUILD_BYTES = 3_000_000_000  # what a build of llama.cpp for a GPU may take beside its source
PART = re.compile(r"([0-9a-f]{12})-(\w+)-(\d+)-of-(\d+)\.part")


class Joined(io.RawIOBase):
    """Files read as one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._open: io.BufferedReader | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while self._open or self._paths:
            self._open = self._open or self._paths.pop(0).open("rb")
            if read_bytes := self._open.readinto(buffer):
                return read_bytes
            self._open.close()
            self._open = None
        return 0

    def close(self) -> None:
        if self._open:
            self._open.close()
        super().close()


def unpack(given: Sequence[Path], into: Path, *, only: Sequence[str] = (), wait: bool = True, say: Say = print) -> list[Row]:
    """Lay the bundle of `given` (files, or folders that hold them) out in `into` and set it up; a row a group. Raises Refused, OSError.

    `only`: groups that are wanted, where not all were brought. `wait`: until llama.cpp is built; else it goes on at low priority.
    """
    files = [file for path in given for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    manifest = read(_one_manifest(files))
    if strange := sorted(set(only) - {group.name for group in manifest.groups}):
        raise Refused(f"bundle {manifest.id} has no group {strange[0]!r}; it has {', '.join(group.name for group in manifest.groups)}")
    wanted = [group for group in manifest.groups if not only or group.name in only]
    parts = proven(files, manifest, wanted)
    if (marker := into / NAME).exists() and read(marker).id != manifest.id:
        raise Refused(f"{into} holds bundle {read(marker).id}; choose another folder")
    _room(wanted, into)
    into.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_one_manifest(files), marker)
    for group in wanted:
        say(f"{group.title} {group.version}: {len(group.files)} files, {group.size / 1e6:.0f} MB")
        lay_out(group, [parts[part.name] for part in group.parts], stand.place(into, group.name))
    return stand.up(manifest, wanted, into, wait=wait, say=say)


def proven(files: Sequence[Path], manifest: Manifest, wanted: Sequence[Group]) -> dict[str, Path]:
    """The parts by name, each as the manifest has it. Raises Refused with all that is wrong."""
    expected, found, wrong = {part.name: part for group in wanted for part in group.parts}, dict[str, Path](), list[str]()
    known = {part.name for group in manifest.groups for part in group.parts}
    for path in files:
        if path.name in expected:
            found[path.name] = path
        elif (told := PART.fullmatch(path.name)) and told[1] != manifest.id:
            wrong.append(f"{path.name} belongs to bundle {told[1]}, not to {manifest.id}")
        elif told and path.name not in known:
            wrong.append(f"{path.name} is no part of bundle {manifest.id}")
    for name, part in expected.items():
        if name not in found:
            wrong.append(f"{name} is missing ({part.size / 1e6:.1f} MB)")
        elif not found[name].is_file() or (size := found[name].stat().st_size) != part.size:
            wrong.append(f"{name} is damaged: " + (f"{size} bytes, not {part.size}" if found[name].is_file() else "not a file"))
        elif file_digest(found[name]) != part.sha256:
            wrong.append(f"{name} is damaged: its SHA-256 is another")
    if wrong:
        raise Refused("; ".join(wrong))
    return found


def lay_out(group: Group, parts: Sequence[Path], to: Path) -> None:
    """The files of a group below `to`, each proven as it is written. Raises Refused."""
    expected = {file.path: file for file in group.files}
    try:
        with io.BufferedReader(Joined(parts), CHUNK) as raw, lzma.open(raw) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
            for member in tar:
                file = expected.pop(member.name, None)
                if file is None or not member.isfile():
                    raise Refused(f"{group.name}: {member.name} is not what the manifest promised")
                _write(file, tar.extractfile(member), to / _inside(file.path))
    except (lzma.LZMAError, tarfile.TarError, EOFError) as error:
        raise Refused(f"{group.name}: its archive cannot be read ({error})") from error
    if expected:
        raise Refused(f"{group.name}: the archive lacks {min(expected)} and {len(expected) - 1} more files")


def _write(file: File, data: object, target: Path) -> None:
    """Whole or not at all: beside its place, and moved there once its sum is right. One that is there stays, or all would be built anew."""
    assert isinstance(data, io.BufferedIOBase)
    if target.is_file() and target.stat().st_size == file.size and file_digest(target) == file.sha256:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name}.half")
    with half.open("wb") as out:
        shutil.copyfileobj(data, out, CHUNK)
    if half.stat().st_size != file.size or file_digest(half) != file.sha256:
        half.unlink()
        raise Refused(f"{file.path} is damaged: its SHA-256 is another")
    half.chmod(0o755 if file.runs else 0o644)
    half.replace(target)


def _inside(path: str) -> str:
    """`path` where it stays below its folder. Raises Refused."""
    if path.startswith("/") or "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise Refused(f"{path!r} leads out of its folder")
    return path


def _one_manifest(files: Sequence[Path]) -> Path:
    found = [path for path in files if path.name == NAME]
    if len(found) != 1:
        raise Refused(f"{len(found)} files are called {NAME}; give the parts and the one manifest that came with them")
    return found[0]


def _room(wanted: Sequence[Group], into: Path) -> None:
    there = next(path for path in (into, *into.absolute().parents) if path.exists())
    needed = sum(group.size for group in wanted) + (BUILD_BYTES if any("cmake" in group.recipe for group in wanted) else 0)
    if (free := shutil.disk_usage(there).free) < needed:
        raise Refused(f"{into} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    if not os.access(there, os.W_OK):
        raise Refused(f"{there} cannot be written")
