"""A bundle made: groups of files, each an archive cut into parts small enough to travel, a manifest, and the program that unpacks them.

Same inputs, same bytes: members are sorted and bear no times and no owners. Refuses a folder without room, parts too small to be few, and
groups that nobody knows; a folder that held another bundle is cleared of its parts.
"""

from __future__ import annotations

import io
import lzma
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib import home
from lib.child import Say
from lib.pack import sources
from lib.pack.manifest import NAME, File, Group, Manifest, Part, Refused, digest, part_name, write
from lib.pack.sources import Content

MIB = 2**20
GROUPS = ("project", "llamacpp", "vllm")  # the order in which they are wanted
LEAST_PART = 2**16
PRESET = 2  # of xz: 6 takes three times as long and saves a twelfth
RECIPE: tuple[str, ...] = ("needs", "targets", "cmake", "cpu", "cuda", "smoke", "says", "gpu_smoke", "gpu_says")
PROGRAM = "unpack.pyz"
# What the other side runs before anything is installed there: standard library alone.
ALONE = ("__init__.py", "home.py", "child.py", *(f"pack/{name}.py" for name in ("__init__", "__main__", "manifest", "unpack", "stand")))


def make(to: Path, *, part_bytes: int = 60 * MIB, only: Sequence[str] = (), keep: Path | None = None, root: Path = home.ROOT,
         say: Say = print) -> Manifest:
    """Write the bundle of `only` (all groups where empty) to `to`. `keep`: where what is fetched stays. Raises Refused, OSError."""
    if strange := [name for name in only if name not in GROUPS]:
        raise Refused(f"no group {strange[0]!r}; there are: {', '.join(GROUPS)}")
    if part_bytes < LEAST_PART:
        raise Refused(f"parts of {part_bytes} bytes would be too many; at least {LEAST_PART}")
    sha = sources.head(root)  # now: a commit may come while we pack
    pins, keep = sources.pins(root), keep or home.cache() / "bundle"
    wanted = [name for name in GROUPS if not only or name in only]
    to.mkdir(parents=True, exist_ok=True)
    made = [group(name, list(contents), pin=pin, to=to, say=say) for name, pin, contents in _wanted(pins, wanted, keep, root, sha, say)]
    manifest = Manifest(sha, pins["python"], tuple(made)).named()
    for old in to.glob("*.part"):
        old.unlink()
    cut = [replace(one, parts=tuple(split(to / f"{one.name}.tar.xz", manifest.id, one.name, part_bytes))) for one in manifest.groups]
    manifest = replace(manifest, groups=tuple(cut))
    program(to / PROGRAM, root=root)
    write(manifest, to)
    return manifest


def _wanted(pins: dict[str, Any], wanted: Sequence[str], keep: Path, root: Path, sha: str,
            say: Say) -> Iterator[tuple[str, dict[str, Any], Iterator[Content]]]:
    for name in wanted:
        pin = pins[name]
        if "sdist" in pin:
            archive = sources.sdist(pin["sdist"], pin["version"], keep, say=say)
            yield name, pin, sources.source(archive, pin["tree"], without=pin["without"])
        else:
            wheels = sources.wheels(pin, keep, python=pins["python"], platforms=pins["platforms"], say=say)
            yield name, pin, _opened(name, pin, wheels, root, sha)


def _opened(name: str, pin: dict[str, Any], wheels: Iterable[Path], root: Path, sha: str) -> Iterator[Content]:
    if name == "project":
        yield from sources.project(pin, sha, root=root)
    for wheel in wheels:
        yield from sources.opened(wheel, without=pin.get("without", ()))


def group(name: str, contents: Sequence[Content], *, pin: dict[str, Any], to: Path, say: Say) -> Group:
    """One group's archive in `to`, and what is in it. Raises Refused where two files are one, or where there is no room."""
    files = {content.path: content for content in sorted(contents, key=lambda one: one.path)}
    total = sum(len(content.data) for content in files.values())
    if twice := next((one.path for one in contents if one.data != files[one.path].data), None):
        raise Refused(f"{name}: two packages bring {twice}, each another")
    if (free := shutil.disk_usage(to).free) < total:
        raise Refused(f"{name} needs up to {total / 1e6:.0f} MB in {to}, {free / 1e6:.0f} MB are free")
    say(f"{pin['title']}: packing {len(files)} files, {total / 1e6:.0f} MB")
    archive = to / f"{name}.tar.xz"
    with lzma.open(archive, "wb", preset=PRESET) as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for content in files.values():
            member = tarfile.TarInfo(content.path)
            member.size, member.mode = len(content.data), 0o755 if content.runs else 0o644
            tar.addfile(member, io.BytesIO(content.data))
    licences = {pin["title"]: pin["licence"], **{wheel["file"]: wheel["licence"] for wheel in pin.get("wheels", [])}}
    recipe = {key: pin[key] for key in RECIPE if key in pin}
    return Group(name, pin["title"], pin["version"], licences, recipe,
                 tuple(File(one.path, len(one.data), digest([one.data]), one.runs) for one in files.values()))


def split(archive: Path, bundle: str, name: str, part_bytes: int) -> Iterator[Part]:
    """The archive cut into parts beside it, and gone itself."""
    count = max(1, -(-archive.stat().st_size // part_bytes))
    with archive.open("rb") as whole:
        for number in range(count):
            data = whole.read(part_bytes)
            part = Part(part_name(bundle, name, number, count), len(data), digest([data]))
            (archive.parent / part.name).write_bytes(data)
            yield part
    archive.unlink()


def program(to: Path, *, root: Path) -> None:
    """The unpacking side as one file that Python runs."""
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in [("__main__.py", "from lib.pack.__main__ import main\n\nmain()\n"),
                           *((f"lib/{name}", (root / "lib" / name).read_text()) for name in sorted(ALONE))]:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text, zipfile.ZIP_DEFLATED)


def told(manifest: Manifest) -> list[str]:
    """What was made, a line a group."""
    lines = [f"{group.title} {group.version}: {group.size / 1e6:.0f} MB in {len(group.files)} files, as "
             f"{sum(part.size for part in group.parts) / 1e6:.1f} MB in {len(group.parts)} parts" for group in manifest.groups]
    return [*lines, f"bundle {manifest.id} of commit {manifest.commit[:12]}: bring all *.part, {NAME} and {PROGRAM}, then run there: "
                    f"python {PROGRAM} unpack FOLDER INTO"]
