"""What an image does not need goes by written rules: each says what, where and why, and what it took is counted.

Runs alone, with the standard library, in the build stage of deploy/*.Dockerfile:  prune.py RULES NAME ROOT TOLD.json
Refuses a rule without a reason, and one that reaches beyond the root. `how = "strip"` takes symbols out of libraries that bear it: one
whose segments would lie askew afterwards, as those do that auditwheel has rewritten, stays as it was.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PT_LOAD = 1
LOAD_LITTLE_64 = b"\x7fELF\x02\x01"


class BadRule(ValueError):
    """A rule that cannot be meant; the message says which."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Paths of `globs` below the root, but none of `keep`, are cut or stripped, in the images named `within`."""

    what: str
    why: str
    globs: tuple[str, ...]
    within: tuple[str, ...]
    keep: tuple[str, ...] = ()
    how: str = "cut"


@dataclass(frozen=True, slots=True)
class Cut:
    """What a rule took: files and bytes. A rule that finds nothing any more tells so with 0."""

    what: str
    why: str
    globs: tuple[str, ...]
    how: str
    files: int
    bytes: int


def rules(path: Path) -> list[Rule]:
    """The rules of a file, in its order. Raises BadRule."""
    found = []
    for number, told in enumerate(tomllib.loads(path.read_text(encoding="utf-8")).get("rule", []), start=1):
        if lacks := [key for key in ("what", "why", "globs", "within") if not told.get(key)]:
            raise BadRule(f"{path.name}, rule {number} lacks {', '.join(lacks)}")
        if strange := told.keys() - {"what", "why", "globs", "within", "keep", "how"}:
            raise BadRule(f"{path.name}, rule {number}: unknown {', '.join(sorted(strange))}")
        if told.get("how", "cut") not in ("cut", "strip"):
            raise BadRule(f"{path.name}, rule {number}: how is cut or strip, not {told['how']!r}")
        globs, keep = tuple(told["globs"]), tuple(told.get("keep", ()))
        if wild := [glob for glob in (*globs, *keep) if glob.startswith("/") or ".." in Path(glob).parts or glob.strip("*/") == ""]:
            raise BadRule(f"{path.name}, rule {number}: {wild[0]!r} is no path below the root")
        found.append(Rule(told["what"], told["why"], globs, tuple(told["within"]), keep, told.get("how", "cut")))
    return found


def prune(root: Path, asked: Iterable[Rule], name: str) -> list[Cut]:
    """Apply the rules for the image `name` to `root`, one after another."""
    return [_apply(root, rule) for rule in asked if name in rule.within]


def _apply(root: Path, rule: Rule) -> Cut:
    kept = {path for glob in rule.keep for path in root.glob(glob)}
    files = freed = 0
    for path in _matching(root, rule.globs):
        for file in _files(path):
            if kept.intersection((file, *file.parents)):
                continue
            before = file.lstat().st_size
            if rule.how == "strip":
                after = _stripped(file)
                files, freed = files + (after < before), freed + before - after
            else:
                files, freed = files + 1, freed + (0 if file.is_symlink() else before)
                file.unlink()
        if rule.how == "cut" and path.is_dir() and not path.is_symlink() and not any(_files(path)):
            shutil.rmtree(path)
    return Cut(rule.what, rule.why, rule.globs, rule.how, files, freed)


def _matching(root: Path, globs: Sequence[str]) -> list[Path]:
    """Each path once, by its own name and not by a link's, outer ones first; what lies within one that is named is not named again."""
    found = {path for glob in globs for path in root.glob(glob) if path.parent.resolve() == root.resolve() / path.parent.relative_to(root)}
    return sorted(path for path in found if not found.intersection(path.parents))


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        yield from (Path(folder) / name for name in names)
        yield from (link for name in folders if (link := Path(folder) / name).is_symlink())


def _stripped(file: Path) -> int:
    """Bytes of `file` once its symbols are out, or as before where it cannot bear it."""
    before = file.lstat().st_size
    if file.is_symlink() or not file.is_file() or not _elf(file):
        return before
    half = file.with_name(file.name + ".half")
    done = subprocess.run(["strip", "--strip-unneeded", "-o", half, file], capture_output=True, check=False)
    if done.returncode or not aligned(half) or half.stat().st_size >= before:
        half.unlink(missing_ok=True)
        return before
    shutil.copymode(file, half)
    half.replace(file)
    return file.stat().st_size


def _elf(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(6) == LOAD_LITTLE_64


def aligned(file: Path) -> bool:
    """Whether the loader will take it: each segment lies in the file as it will lie in memory, by its own alignment."""
    raw = file.read_bytes()
    (offset,), (size, count) = struct.unpack_from("<Q", raw, 32), struct.unpack_from("<HH", raw, 54)
    for nth in range(count):
        kind, _, at, address, _, _, _, align = struct.unpack_from("<IIQQQQQQ", raw, offset + nth * size)
        if kind == PT_LOAD and align > 1 and (address - at) % align:
            return False
    return True


def main(arguments: Sequence[str]) -> None:
    path, name, root, told = arguments
    cuts = prune(Path(root), rules(Path(path)), name)
    Path(told).write_text(json.dumps([asdict(cut) for cut in cuts], indent=1))
    for cut in cuts:
        print(f"{cut.bytes / 1e6:8.1f} MB  {cut.files:6d} files  {cut.what}")


if __name__ == "__main__":
    main(sys.argv[1:])
