"""A library that nobody can find is told, one that is found in any lawful way is not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lib.images import elf

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc on this machine")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """opt/app needs libown.so beside it (by $ORIGIN) and libsys.so in the system's place, behind a link."""
    for place in ("opt/own", "usr/lib"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")

    def gcc(*arguments: str) -> None:
        subprocess.run(["gcc", "-nostdlib", "-shared", "-fPIC", *arguments], cwd=tmp_path, check=True, input=b"int f(void){return 1;}")

    gcc("-x", "c", "-", "-o", "usr/lib/libsys.so.1.2", "-Wl,-soname,libsys.so.1")
    (tmp_path / "usr/lib/libsys.so.1").symlink_to("/lib/libsys.so.1.2")  # absolute: from the tree's root, not the machine's
    gcc("-x", "c", "-", "-o", "opt/own/libown.so")
    gcc("-x", "c", "-", "-o", "opt/app.so", "-Wl,--no-as-needed", "-Lopt/own", "-lown", "-Wl,-rpath,$ORIGIN/own", "-x", "none",
        "usr/lib/libsys.so.1.2")  # fmt: skip
    return tmp_path


@needs_gcc
def test_a_whole_tree_lacks_nothing(root: Path) -> None:
    wants = elf.asked(root / "opt/app.so")
    assert wants is not None
    assert (set(wants.needed), wants.paths) == ({"libown.so", "libsys.so.1"}, ("$ORIGIN/own",))
    found = elf.missing(root)
    assert (found.files, found.missing, found.later) == (3, {}, {})


@needs_gcc
@pytest.mark.parametrize(("hidden", "name"), [("opt/own/libown.so", "libown.so"), ("lib/libsys.so.1", "libsys.so.1")])
def test_a_planted_hole_is_told(root: Path, hidden: str, name: str) -> None:
    assert elf.missing(root, hidden=[hidden]).missing == {"opt/app.so": (name,)}
    elf.inside(root, hidden).unlink()
    assert elf.missing(root).missing == {"opt/app.so": (name,)}


@needs_gcc
def test_what_lies_elsewhere_must_have_been_loaded_before(root: Path) -> None:
    (root / "elsewhere").mkdir()
    (root / "opt/own/libown.so").rename(root / "elsewhere/libown.so")
    found = elf.missing(root)
    assert (found.missing, found.later) == ({}, {"opt/app.so": ("libown.so",)})


def test_no_link_leads_out(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("../../../../etc/passwd")
    (tmp_path / "loop").symlink_to("loop")
    assert elf.inside(tmp_path, "out") == tmp_path / "etc/passwd"
    assert elf.inside(tmp_path, "/a/../../b") == tmp_path / "b"
    assert elf.inside(tmp_path, "loop").name == "loop"


def test_what_is_no_library_asks_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no library")
    (tmp_path / "empty").touch()
    assert elf.asked(tmp_path / "text") is elf.asked(tmp_path / "empty") is None
