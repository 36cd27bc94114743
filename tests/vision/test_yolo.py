"""YOLOv8n is built once, goes on after a kill, says what it lacks, and nobody's pickle but the pinned one is opened."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lib import child, fetch, install
from lib.vision import yolo


class Workshop:
    """Stands in for worker, registries and environment: notes what was asked, breaks where told."""

    def __init__(self, cache: Path) -> None:
        self.asked: list[str] = []
        self.breaks_at: str | None = None
        self.engine = cache / "engine"
        self.engine.mkdir(parents=True)
        (self.engine / "ok.json").write_text(json.dumps({"packages": ["toy==1"]}))
        self.pictures = cache / "pictures"
        self.pictures.mkdir()
        (self.pictures / "bus.jpg").write_bytes(b"")

    def ask(self, job: dict[str, Any], **_: object) -> dict[str, Any]:
        to = Path(job["to"])
        self.asked.append(to.name)
        to.write_bytes(to.name.encode())
        if to.suffix == ".xml":
            to.with_suffix(".bin").write_bytes(b"weights")
        if to.name == self.breaks_at:
            raise child.Failed(f"YOLOv8n, {to.name}", "ended with status 137", ("Killed",))
        return {"quantised": 1}


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))
    made = Workshop(tmp_path)
    monkeypatch.setattr(yolo, "ask", made.ask)
    monkeypatch.setattr(fetch, "fetch", lambda name, **_: made.pictures)
    monkeypatch.setattr(install, "provision", lambda name, **_: install.Install(name, "cpu", "1", made.engine))
    return made


def quiet(_: str) -> None:
    pass


def test_built_once_then_found(workshop: Workshop) -> None:
    with pytest.raises(yolo.NotReady, match=r"python -m lib\.vision\.yolo"):
        yolo.load()
    built = yolo.build(say=quiet)
    assert workshop.asked == list(yolo.STEPS)
    assert yolo.build(say=quiet) == yolo.load() == built
    assert workshop.asked == list(yolo.STEPS)
    assert all(built.file(name).read_text() == name for name in yolo.STEPS)
    assert built.version == f"yolov8n-{fetch.sources()['yolov8n'].member_sha256[:12]}"
    assert (built.facts["pictures"], built.facts["packages"]) == (["bus.jpg"] * 2, ["toy==1"])
    with pytest.raises(yolo.NotReady, match=r"no 'yolo\.onnx'.* there are: yolov8n\.onnx"):
        built.file("yolo.onnx")


def test_what_a_kill_left_is_kept_where_whole_and_made_anew_where_not(workshop: Workshop) -> None:
    workshop.breaks_at = yolo.ONNX_INT8
    with pytest.raises(yolo.NotReady, match=r"cannot be built: YOLOv8n, yolov8n-int8\.onnx: ended with status 137"):
        yolo.build(say=quiet)
    with pytest.raises(yolo.NotReady):
        yolo.load()
    root = yolo._root()
    assert not (root / yolo.ONNX_INT8).exists()
    (root / ".making-x").mkdir()
    workshop.asked, workshop.breaks_at = [], None
    yolo.build(say=quiet)
    assert workshop.asked == [yolo.ONNX_INT8, yolo.ONNX_INT8_S8, yolo.ONNX_INT8_WHOLE]
    assert sorted(path.name for path in root.iterdir()) == sorted([*yolo.STEPS, "yolov8n-nncf.bin", "ok.json"])


def test_the_sum_of_openvinos_model_is_that_of_its_weights_too(workshop: Workshop) -> None:
    told = yolo.build(say=quiet).facts["files"][yolo.OPENVINO_INT8]
    whole = yolo.OPENVINO_INT8.encode() + b"weights"
    assert told == {"sha256": hashlib.sha256(whole).hexdigest(), "bytes": len(whole)}
    assert yolo.load().version_of(yolo.OPENVINO_INT8) == f"{yolo.OPENVINO_INT8}@{told['sha256'][:12]}"


def test_made_otherwise_means_another_place(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    before = yolo._root()
    monkeypatch.setattr(yolo, "CALIBRATED_HW", (384, 512))
    assert yolo._root() != before


def test_without_its_environment_it_says_why(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "provision", lambda name, **_: install.Missing(name, "pip found no such wheel"))
    with pytest.raises(yolo.NotReady, match="YOLOv8n cannot be built: pip found no such wheel"):
        yolo.build(say=quiet)


def test_an_input_that_is_refused_is_why(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str, **_: object) -> Path:
        raise fetch.Refused(f"{name} is not the file that was promised")

    monkeypatch.setattr(fetch, "fetch", refused)
    with pytest.raises(yolo.NotReady, match="yolov8n is not the file that was promised"):
        yolo.build(say=quiet)


def test_asking_needs_environment_and_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))
    with pytest.raises(yolo.NotReady, match="is not built on this machine yet"):
        yolo.ask({"job": "predict"}, what="x", say=quiet)
    monkeypatch.setattr(install, "find", lambda name: install.Install(name, "cpu", "1", tmp_path))
    with pytest.raises(yolo.NotReady, match=r"checkpoint .* python -m lib\.vision\.yolo fetches it"):
        yolo.ask({"job": "predict"}, what="x", say=quiet)


def test_nothing_of_the_work_lies_outside_our_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))
    told = yolo.environment()
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "YOLO_CONFIG_DIR", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert Path(told[name]).is_relative_to(tmp_path)
    assert (told["YOLO_OFFLINE"], told["ORT_DISABLE_TELEMETRY"]) == ("true", "1")


class Planted:
    """Unpickling it makes a directory."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("job", ["export", "program", "predict", "pytorch"])
def test_a_checkpoint_that_is_not_the_pinned_one_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    sprung, checkpoint, asked, answer = (tmp_path / name for name in ("sprung", "yolov8n.pt", "asked.json", "answer.json"))
    checkpoint.write_bytes(pickle.dumps(Planted(sprung)))
    pickle.loads(checkpoint.read_bytes())
    sprung.rmdir()  # it does what it says
    pinned = {"checkpoint": str(checkpoint), "sha256": fetch.sources()["yolov8n"].member_sha256}
    rest = {"to": str(tmp_path / "to.onnx"), "threads": 1, "clip": "", "frames": 1, "variant": "eager", "canvases": "", "raw": ""}
    asked.write_text(json.dumps({"job": job, **pinned, **rest}))
    python = found.tool("python") if isinstance(found := install.find(yolo.ENGINE), install.Install) else sys.executable
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))
    command = [python, "-I", yolo.WORKER, asked, answer]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **yolo.environment()})
    assert ended.returncode == 1
    assert "is not the checkpoint that was pinned: SHA-256 is" in ended.stderr
    assert not sprung.exists()
    assert not answer.exists()
