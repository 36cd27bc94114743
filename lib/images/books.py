"""What fills an image, twice: layer by layer as it is stored and sent, and file by file with the package that brought it.

The two must agree: the layers' last word on every path is the tree (check "6 books"). Bytes are those of files' contents, without what a
tar adds. Refuses to leave a file out: one that no package owns is "other".
"""

from __future__ import annotations

import csv
import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.images import elf

SITE, APP, MODEL = "opt/site", "app", "model"
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class Layer:
    """`compressed_bytes`: the blob as a registry would hold it (gzip)."""

    created_by: str
    bytes: int
    compressed_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class Package:
    """`kind`: python, debian, ours, model or other."""

    name: str
    version: str
    kind: str
    bytes: int
    files: int


def layers(layout: Path, history: Sequence[Mapping[str, Any]]) -> tuple[list[Layer], dict[str, int]]:
    """Of an OCI layout: its layers, and the tree they amount to (path → bytes)."""
    manifest = _blob(layout, json.loads((layout / "index.json").read_text())["manifests"][0]["digest"])
    told = json.loads(manifest.read_text())
    said = [str(step.get("created_by", "")) for step in history if not step.get("empty_layer")]
    found, tree = [], dict[str, int]()
    for nth, layer in enumerate(told["layers"]):
        size, files = _lay(_blob(layout, layer["digest"]), tree)
        found.append(Layer(_short(said[nth]) if nth < len(said) else "", size, layer["size"], files))
    return found, tree


def _lay(blob: Path, tree: dict[str, int]) -> tuple[int, int]:
    """Put a layer over `tree`; its own bytes and files."""
    size = files = 0
    with tarfile.open(blob, "r:*") as tar:
        for member in tar:
            path = member.name.removeprefix("./").strip("/")
            folder, _, name = path.rpartition("/")
            if name == OPAQUE:
                _drop(tree, folder)
            elif name.startswith(WHITEOUT):
                _drop(tree, f"{folder}/{name.removeprefix(WHITEOUT)}".strip("/"))
            elif member.isreg():
                tree[path], size, files = member.size, size + member.size, files + 1
            elif not member.isdir():
                tree.pop(path, None)
    return size, files


def _drop(tree: dict[str, int], path: str) -> None:
    for name in [name for name in tree if name == path or name.startswith(f"{path}/")]:
        del tree[name]


def files(root: Path) -> dict[str, int]:
    """path → bytes of every regular file of a tree; of hard links the first."""
    found, seen = {}, set[tuple[int, int]]()
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            status = (path := Path(folder) / name).lstat()
            if path.is_symlink() or not path.is_file() or (status.st_dev, status.st_ino) in seen:
                continue
            if status.st_nlink > 1:
                seen.add((status.st_dev, status.st_ino))
            found[str(path.relative_to(root))] = status.st_size
    return found


def packages(root: Path, sizes: Mapping[str, int]) -> list[Package]:
    """Whose each file is, added up; the largest first."""
    owners = _debian(root) | _python(root)
    sums: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    tops = {path.split("/")[2]: owner for path, owner in owners.items() if path.startswith(f"{SITE}/")}
    for path, size in sizes.items():
        counted = sums[owners.get(path) or owners.get(_source(path)) or _otherwise(path, tops)]
        counted[0] += size
        counted[1] += 1
    found = [Package(*owner, *counted) for owner, counted in sums.items()]
    return sorted(found, key=lambda package: -package.bytes)


def _otherwise(path: str, tops: Mapping[str, tuple[str, str, str]]) -> tuple[str, str, str]:
    if path.startswith(f"{SITE}/"):
        return tops.get(path.split("/")[2], ("other", "", "other"))
    if path.startswith(f"{APP}/"):
        return "lib", "", "ours"
    if path.startswith(f"{MODEL}/"):
        return "model", "", "model"
    return ("lists of packages", "", "other") if path.startswith(("var/lib/dpkg", "var/lib/apt")) else ("other", "", "other")


def _source(path: str) -> str:
    """The file that a compiled one was made of."""
    folder, cached, name = path.rpartition("/__pycache__/")
    return f"{folder}/{name.split('.')[0]}.py" if cached else ""


def _python(root: Path) -> dict[str, tuple[str, str, str]]:
    found = {}
    for record in sorted((root / SITE).glob("*.dist-info/RECORD")):
        name, _, version = record.parent.name.removesuffix(".dist-info").rpartition("-")
        with record.open(encoding="utf-8", newline="") as rows:
            for row in csv.reader(rows):
                path = os.path.normpath(f"{SITE}/{row[0]}").removeprefix("opt/bin/")
                found[path] = (name.replace("_", "-").lower(), version, "python")
    return found


def _debian(root: Path) -> dict[str, tuple[str, str, str]]:
    """From dpkg's own books, or those that distroless images keep instead."""
    dpkg, owners = root / "var" / "lib" / "dpkg", {}
    texts = [path.read_text(encoding="utf-8") for path in (dpkg / "status.d").glob("*") if path.suffix != ".list"]
    if (dpkg / "status").exists():
        texts += (dpkg / "status").read_text(encoding="utf-8").split("\n\n")
    versions = {}
    for text in texts:
        fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line and not line.startswith(" "))
        if "Package" in fields:
            versions[fields["Package"]] = fields.get("Version", "")
    for listed in [*dpkg.glob("info/*.list"), *dpkg.glob("status.d/*.list")]:
        name = listed.name.removesuffix(".list").split(":")[0]
        for line in listed.read_text(encoding="utf-8").splitlines():
            folder, _, file = line.rpartition("/")
            path = elf.inside(root, folder) / file  # a directory may be a link: /lib is usr/lib
            owners[str(path.relative_to(root))] = (name, versions.get(name, ""), "debian")
    return owners


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _short(told: str) -> str:
    """What made a layer, without digests, and no longer than a line of a table."""
    plain = re.sub(r"(?:file|dir|multi):[0-9a-f]{64} in ", "", told.replace("/bin/sh -c #(nop) ", "").replace("/bin/sh -c ", "RUN "))
    return re.sub(r"--mount=\S+ ", "", plain).strip()[:160]
