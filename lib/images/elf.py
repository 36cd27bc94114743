"""Whether a program or library finds, inside its own tree, every library that it asks the loader for. Read from the files; nothing is run.

What is asked for is NEEDED in the dynamic section; where it is looked for: RPATH or RUNPATH, then the system's directories. A library found
elsewhere in the tree counts as `later`: whoever loads it must have loaded that one before (torch's and OpenVINO's own code does so).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PT_LOAD, PT_DYNAMIC = 1, 2
NEEDED, STRTAB, RPATH, RUNPATH = 1, 5, 15, 29
SYSTEM = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu", "lib", "usr/lib",
          "lib64", "usr/lib64", "usr/local/lib")  # fmt: skip
MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little end first


@dataclass(frozen=True, slots=True)
class Asked:
    """What one file asks the loader for."""

    needed: tuple[str, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a whole tree: how many files asked, and for each file what it does not find (`missing`) or finds by another's doing (`later`)."""

    files: int
    missing: dict[str, tuple[str, ...]]
    later: dict[str, tuple[str, ...]]


def asked(file: Path) -> Asked | None:
    """None for what is no ELF file of 64 bits, or asks for nothing."""
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            return None
    raw = file.read_bytes()
    (offset,), (size, count) = struct.unpack_from("<Q", raw, 32), struct.unpack_from("<HH", raw, 54)
    segments = [struct.unpack_from("<IIQQQQQQ", raw, offset + nth * size) for nth in range(count)]
    dynamic = next(((at, length) for kind, _, at, _, _, length, _, _ in segments if kind == PT_DYNAMIC), None)
    if dynamic is None:
        return None
    entries = list(struct.iter_unpack("<QQ", raw[dynamic[0] : dynamic[0] + dynamic[1] // 16 * 16]))
    names = next((_at(segments, value) for tag, value in entries if tag == STRTAB), None)
    if names is None:
        return None

    def word(start: int) -> str:
        return raw[names + start : raw.index(b"\0", names + start)].decode()

    paths = [part for tag, value in entries if tag in (RPATH, RUNPATH) for part in word(value).split(":")]
    return Asked(tuple(word(value) for tag, value in entries if tag == NEEDED), tuple(paths))


def _at(segments: list[tuple[int, ...]], address: int) -> int | None:
    """Where in the file that address of memory lies."""
    loaded = ((at, start, length) for kind, _, at, start, _, length, _, _ in segments if kind == PT_LOAD)
    return next((at + address - start for at, start, length in loaded if start <= address < start + length), None)


def missing(root: Path, *, hidden: Collection[str] = ()) -> Answer:
    """Ask every file below `root`. `hidden`: paths below it that are to be taken as not there, which plants a hole."""
    gone = {str(inside(root, path)) for path in hidden}
    files = [path for path in _walk(root) if str(path) not in gone]
    links = {path.name for path in _links(root) if _there(root, path, gone)}
    everywhere = {path.name for path in files} | links
    asking, lost, late = 0, {}, {}
    for path in files:
        if (wants := asked(path)) is None:
            continue
        asking += 1
        places = [_place(root, path, told) for told in wants.paths] + [root / told for told in SYSTEM]
        unmet = [name for name in wants.needed if not any(_there(root, place / name, gone) for place in places)]
        name = str(path.relative_to(root))
        if absent := tuple(name for name in unmet if name not in everywhere):
            lost[name] = absent
        if elsewhere := tuple(name for name in unmet if name in everywhere):
            late[name] = elsewhere
    return Answer(asking, lost, late)


def inside(root: Path, path: str | PurePosixPath) -> Path:
    """Where `path` leads once `root` is the root: links are followed, and none leads out."""
    todo, here, hops = list(PurePosixPath(str(path)).parts), root, 0
    while todo:
        part = todo.pop(0)
        if part in ("/", "."):
            continue
        if part == "..":
            here = here.parent if here != root else root
            continue
        step = here / part
        if step.is_symlink() and hops < 40:
            hops += 1
            target = PurePosixPath(step.readlink())
            here, todo = (root if target.is_absolute() else here), [*target.parts, *todo]
            continue
        here = step
    return here


def _place(root: Path, file: Path, told: str) -> Path:
    origin = "/" + str(file.parent.relative_to(root))
    whole = told.replace("$ORIGIN", origin).replace("${ORIGIN}", origin)
    return root / os.path.normpath(whole).lstrip("/")


def _there(root: Path, path: Path, gone: Collection[str]) -> bool:
    found = inside(root, str(path.relative_to(root)))
    return found.is_file() and str(found) not in gone


def _walk(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            if not path.is_symlink() and path.is_file():
                yield path


def _links(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        yield from (path for name in names if ".so" in name and (path := Path(folder) / name).is_symlink())
