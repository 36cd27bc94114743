"""Layers add up as a registry would lay them over each other, and every file has one owner."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

from lib.images import books


def blob(layout: Path, raw: bytes) -> dict[str, object]:
    digest = hashlib.sha256(raw).hexdigest()
    (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs" / "sha256" / digest).write_bytes(raw)
    return {"digest": f"sha256:{digest}", "size": len(raw)}


def tar(files: dict[str, int]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, size in files.items():
            (member := tarfile.TarInfo(name)).size = size
            archive.addfile(member, io.BytesIO(b"x" * size))
    return raw.getvalue()


def test_layers_lie_over_each_other(tmp_path: Path) -> None:
    laid = [tar({"usr/a": 10, "usr/b": 20, "opt/c/d": 5}), tar({"usr/a": 4, "usr/.wh.b": 0}), tar({"opt/c/.wh..wh..opq": 0, "opt/c/e": 1})]
    manifest = blob(tmp_path, json.dumps({"layers": [blob(tmp_path, raw) for raw in laid]}).encode())
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [manifest]}))
    history = [{"created_by": "base"}, {"created_by": "ENV x", "empty_layer": True}, {"created_by": "COPY y"}, {"created_by": "RUN z"}]
    found, tree = books.layers(tmp_path, history)
    assert [(layer.created_by, layer.bytes, layer.files) for layer in found] == [("base", 35, 3), ("COPY y", 4, 1), ("RUN z", 1, 1)]
    assert [layer.compressed_bytes for layer in found] == [len(raw) for raw in laid]
    assert tree == {"usr/a": 4, "opt/c/e": 1}


def test_every_file_has_one_owner(tmp_path: Path) -> None:
    texts = {
        "opt/site/toy/__init__.py": "x" * 10, "opt/site/toy/__pycache__/__init__.cpython-311.pyc": "x" * 7,
        "opt/site/toy/made.txt": "xx",
        "opt/site/toy-1.2.dist-info/RECORD": "toy/__init__.py,,\ntoy-1.2.dist-info/RECORD,,\n",
        "app/lib/a.py": "xxx", "model/m.onnx": "xxxx",
        "usr/lib/libx.so": "x" * 9, "var/lib/dpkg/status.d/libx": "Package: libx\nVersion: 3\n",
        "var/lib/dpkg/status.d/libx.list": "/lib/libx.so\n",
        "etc/strange": "x",
    }  # fmt: skip
    for path, text in texts.items():
        (file := tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "lib").symlink_to("usr/lib")  # as on any Debian of today: the package's list has the old name
    sizes = books.files(tmp_path)
    found = {(package.name, package.version, package.kind): package.bytes for package in books.packages(tmp_path, sizes)}
    record = len(texts["opt/site/toy-1.2.dist-info/RECORD"])
    assert found[("toy", "1.2", "python")] == 10 + 7 + 2 + record
    assert found[("libx", "3", "debian")] == 9
    assert (found[("lib", "", "ours")], found[("model", "", "model")], found[("other", "", "other")]) == (3, 4, 1)
    assert sum(found.values()) == sum(sizes.values()) == sum(map(len, texts.values()))


def test_hard_links_weigh_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("xxxx")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert books.files(tmp_path) == {"a": 4}
