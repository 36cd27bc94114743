"""Both engines answer alike, on the device and in the precision that were asked for, and tell nobody. A toy model stands in for YOLO."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lib import fetch, home
from lib.vision import agreement, head, yolo
from lib.vision.boxes import Boxes
from lib.vision.coco import NAMES
from lib.vision.detector import CUDA, TENSORRT, Detector, WrongDevice, onnxruntime_detector, openvino_detector, torch_detector
from lib.vision.letterbox import fit, letterbox, normalised

HW = (48, 64)
PLACES = 6 * 8  # one for each 8 × 8 pixels


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images (batch, 3, height, width) → output0 (batch, 84, places): one convolution."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    weights = np.random.default_rng(0).standard_normal((84, 3, 8, 8)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["images", "weights"], ["maps"], strides=[8, 8]),
             helper.make_node("Reshape", ["maps", "shape"], ["output0"])]
    graph = helper.make_graph(
        nodes, "toy", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 84, "anchors"])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([0, 84, -1]), "shape")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(made)
    save(made, path := tmp_path_factory.mktemp("toy") / "toy.onnx")
    return path


@pytest.fixture(scope="module")
def program(model: Path) -> Path:
    """The same, as torch.export writes it."""
    import torch
    from onnx import load, numpy_helper

    class Toy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 84, 8, stride=8, bias=False)
            self.convolution.weight.data = torch.from_numpy(np.array(numpy_helper.to_array(load(model).graph.initializer[0])))

        def forward(self, images: Any) -> Any:
            return self.convolution(images).flatten(2)

    free = torch.export.Dim.AUTO
    made = torch.export.export(Toy().eval(), (torch.zeros(2, 3, 64, 32),), dynamic_shapes={"images": {0: free, 2: free, 3: free}})
    torch.export.save(made, path := model.with_suffix(".pt2"))
    torch.export.save(torch.export.export(Toy().eval().bfloat16(), (torch.zeros(2, 3, 64, 32, dtype=torch.bfloat16),)),
                      path.with_name("bf16.pt2"))  # fmt: skip
    return path


@pytest.mark.parametrize("batch", [1, 3])
def test_pytorch_answers_as_the_others_do(model: Path, program: Path, batch: int) -> None:
    x = tensors(canvases(batch))
    made = torch_detector(program, net_hw=HW, batch=batch, threads=1)
    assert (made.name, made.takes, made.batch, made.net_hw) == ("PyTorch, toy.pt2", "tensor", batch, HW)
    found = made.infer(x)
    assert (found.shape, found.dtype) == ((batch, 84, PLACES), np.float32)
    np.testing.assert_allclose(found, onnxruntime_detector(model, net_hw=HW, batch=batch, threads=1).infer(x), atol=1e-4)
    with pytest.raises(ValueError, match="the detector takes float32"):
        made.infer(x[:, :2])
    twice = made.of(2 * batch)
    assert (twice.batch, twice.net_hw, twice.name) == (2 * batch, HW, made.name)
    np.testing.assert_allclose(twice.infer(np.concatenate([x, x]))[batch:], found, atol=1e-4)


def test_pytorch_in_another_precision_or_without_a_compiler_is_refused(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WrongDevice, match=r"bf16\.pt2 was to run in float32; it holds torch\.bfloat16"):
        torch_detector(program.with_name("bf16.pt2"), net_hw=HW, threads=1)
    monkeypatch.setattr("lib.vision.detector.shutil.which", lambda _: None)
    with pytest.raises(WrongDevice, match=r"torch\.compile needs a C\+\+ compiler"):
        torch_detector(program, net_hw=HW, threads=1, compiled=True)


@pytest.mark.engine
def test_yolo_in_pytorch_finds_what_it_finds_as_onnx() -> None:
    try:
        built = yolo.load()
    except yolo.NotReady as reason:
        pytest.skip(str(reason))
    x = np.random.default_rng(0).random((1, 3, 96, 128), np.float32)
    ours, theirs = (make(built.file(name), net_hw=(96, 128), threads=1).infer(x)
                    for make, name in ((torch_detector, yolo.TORCH), (onnxruntime_detector, yolo.ONNX)))  # fmt: skip
    np.testing.assert_allclose(ours, theirs, atol=1e-2)


def canvases(n: int, *, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, *HW, 3), np.uint8)


def tensors(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate([normalised(picture) for picture in pictures])


@pytest.mark.parametrize("batch", [1, 3])
def test_all_float32_ways_give_one_answer(model: Path, batch: int) -> None:
    pictures = canvases(batch)
    x = tensors(pictures)
    wanted = onnxruntime_detector(model, net_hw=HW, batch=batch, threads=1).infer(x)
    assert (wanted.shape, wanted.dtype) == ((batch, 84, PLACES), np.float32)
    assert np.ptp(wanted) > 1
    in_graph = openvino_detector(model, net_hw=HW, batch=batch, threads=1)
    outside = openvino_detector(model, net_hw=HW, batch=batch, threads=1, canvas=False)
    assert (in_graph.takes, outside.takes) == ("canvas", "tensor")
    np.testing.assert_allclose(in_graph.infer(pictures), wanted, atol=1e-4)
    np.testing.assert_allclose(outside.infer(x), wanted, atol=1e-4)


def bf16_is_there() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_bf16_is_coarser_or_refused(model: Path) -> None:
    """Where a processor has no instructions for it OpenVINO emulates it (AVX-512) or computes in float32, which is refused."""
    pictures = canvases(1)
    exact = openvino_detector(model, net_hw=HW, threads=1).infer(pictures)
    try:
        coarse = openvino_detector(model, net_hw=HW, threads=1, precision="bf16").infer(pictures)
    except WrongDevice as reason:
        assert not bf16_is_there() and "toy.onnx was to run in bf16; OpenVINO computes in f32" in str(reason)
    else:
        assert 0 < np.abs(coarse - exact).max() < 0.05 * np.ptp(exact)


def test_a_precision_that_openvino_changes_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    class Stubborn(openvino.Core):
        def compile_model(self, it: Any, device: str, how: dict[str, Any]) -> Any:
            return super().compile_model(it, device, {**how, "INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(openvino, "Core", Stubborn)
    with pytest.raises(WrongDevice, match=r"toy\.onnx was to run in bf16; OpenVINO computes in f32 on this processor"):
        openvino_detector(model, net_hw=HW, threads=1, precision="bf16")


@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_a_provider_that_does_not_run_here_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))
    from lib.install import platform

    if platform() == "cuda":
        pytest.skip("this machine has a GPU")
    with pytest.raises(WrongDevice, match=rf"toy\.onnx was to run by {provider}"):
        onnxruntime_detector(model, net_hw=HW, threads=1, provider=provider)


class Runtime:
    """An onnxruntime whose session lands on `lands`."""

    def __init__(self, lands: str) -> None:
        self.lands = lands
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.dimensions: dict[str, int] = {}

    def get_available_providers(self) -> list[str]:
        return [TENSORRT, CUDA, "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        pass

    def SessionOptions(self) -> Any:
        return SimpleNamespace(add_free_dimension_override_by_name=self.dimensions.__setitem__, add_session_config_entry=lambda *_: None)

    def InferenceSession(self, path: Path, options: Any, providers: list[tuple[str, dict[str, str]]]) -> Any:
        self.asked, self.threads = providers, options.intra_op_num_threads
        answer = np.zeros((2, 84, PLACES), np.float32)
        return SimpleNamespace(get_providers=lambda: [self.lands, "CPUExecutionProvider"], run=lambda *_: [answer])


def test_tensorrt_is_asked_for_fp16_and_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime := Runtime(TENSORRT))
    made = onnxruntime_detector(Path("toy.onnx"), net_hw=HW, batch=2, threads=3, provider=TENSORRT)
    [(provider, how)] = runtime.asked
    assert (provider, how["trt_fp16_enable"], runtime.threads) == (TENSORRT, "1", 3)
    assert Path(how["trt_engine_cache_path"]).is_relative_to(tmp_path)
    assert runtime.dimensions == {"batch": 2, "height": 48, "width": 64}
    assert "Tensorrt" in made.name
    assert made.infer(tensors(canvases(2))).shape == (2, 84, PLACES)
    monkeypatch.setitem(sys.modules, "onnxruntime", Runtime(CUDA))
    with pytest.raises(WrongDevice, match=f"was to run by {TENSORRT}, but ONNX Runtime took {CUDA}"):
        onnxruntime_detector(Path("toy.onnx"), net_hw=HW, threads=1, provider=TENSORRT)


def test_another_shape_kind_or_layout_is_refused(model: Path) -> None:
    seer = openvino_detector(model, net_hw=HW, threads=1)
    for wrong in (canvases(2), canvases(1).astype(np.float32), canvases(1)[:, :, ::-1], tensors(canvases(1))):
        with pytest.raises(ValueError, match=r"the detector takes uint8 \(1, 48, 64, 3\), contiguous; this is "):
            seer.infer(wrong)
    with pytest.raises(ValueError, match=r"the detector takes float32 \(1, 3, 48, 64\)"):
        onnxruntime_detector(model, net_hw=HW, threads=1).infer(canvases(1))


def test_threads_do_not_see_each_others_answers(model: Path) -> None:
    seer = openvino_detector(model, net_hw=HW, threads=2, streams=2)
    pictures = [canvases(1, seed=seed) for seed in range(2)]
    wanted = [seer.infer(picture).copy() for picture in pictures]
    assert np.abs(wanted[0] - wanted[1]).max() > 1
    both = Barrier(2, timeout=30)

    def look(which: int) -> bool:
        for _ in range(50):
            found = seer.infer(pictures[which])
            both.wait()  # the other one has its answer as well
            if not np.array_equal(found, wanted[which]):
                return False
            both.wait()
        return True

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(look, range(2))) == [True, True]


def test_nobody_is_told(model: Path, tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
import numpy as np
from lib.vision.detector import onnxruntime_detector, openvino_detector
openvino_detector(Path({str(model)!r}), net_hw={HW}, threads=1).infer(np.zeros((1, *{HW}, 3), np.uint8))
onnxruntime_detector(Path({str(model)!r}), net_hw={HW}, threads=1).infer(np.zeros((1, 3, *{HW}), np.float32))
"""
    kept = {name: os.environ[name] for name in os.environ if not name.startswith(("XDG_", "ORT_")) and name not in ("CI", "TF_BUILD")}
    around = {**kept, "HOME": str(tmp_path), "PYTHONPATH": str(home.ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=around)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")
def real() -> yolo.Yolo:
    try:
        return yolo.load()
    except yolo.NotReady as reason:
        pytest.skip(str(reason))


def found(seer: Detector) -> Boxes:
    """What is on ultralytics' picture of a bus, 1080 × 810."""
    picture: Any = cv2.imread(str(fetch.fetch("ultralytics-pictures") / "bus.jpg"))
    placed, canvas = fit(picture.shape[:2], seer.net_hw), np.empty((1, *seer.net_hw, 3), np.uint8)
    letterbox(picture, placed, canvas[0])
    raw = seer.infer(canvas if seer.takes == "canvas" else normalised(canvas[0]))
    return head.boxes(raw[0], placed, labels=range(len(NAMES)))


def held(boxes: Boxes) -> list[str]:
    return sorted(NAMES[label] for label in boxes.label)


def test_four_people_and_a_bus(real: yolo.Yolo) -> None:
    exact = found(onnxruntime_detector(real.file(yolo.ONNX), net_hw=(640, 480), threads=2))
    assert held(exact) == ["bus", *["person"] * 4, "stop sign"]
    same = found(openvino_detector(real.file(yolo.ONNX), net_hw=(640, 480), threads=2))
    assert np.array_equal(same.label, exact.label)
    np.testing.assert_allclose(same.xyxy, exact.xyxy, atol=0.5)
    np.testing.assert_allclose(same.score, exact.score, atol=0.01)


@pytest.mark.parametrize("name", [yolo.ONNX_INT8, yolo.ONNX_INT8_S8])
def test_int8_sees_them_too(real: yolo.Yolo, name: str) -> None:
    seen = found(onnxruntime_detector(real.file(name), net_hw=(640, 480), threads=2))
    assert held(seen.above(0.5)) == ["bus", *["person"] * 3]
    assert found(openvino_detector(real.file(yolo.OPENVINO_INT8), net_hw=(640, 480), threads=2)).label.size >= 4


def test_with_the_whole_head_in_int8_it_sees_nothing(real: yolo.Yolo) -> None:
    seer = onnxruntime_detector(real.file(yolo.ONNX_INT8_WHOLE), net_hw=(640, 480), threads=2)
    assert len(found(seer)) == 0
    raw = seer.infer(np.zeros((1, 3, 640, 480), np.float32))
    assert raw[0, :4].max() > 100  # boxes are there,
    assert raw[0, 4:].max() == 0  # but no score is


def test_bf16_sees_what_float32_does(real: yolo.Yolo) -> None:
    if not bf16_is_there():
        pytest.skip("this processor does not compute in bf16")
    exact, coarse = (found(openvino_detector(real.file(yolo.ONNX), net_hw=(640, 480), threads=2, precision=how)) for how in ("f32", "bf16"))
    assert agreement.f1([exact.above(0.5)], [coarse.above(0.5)], overlap=0.9).f1 == 1
    assert np.abs(exact.score[:3] - coarse.score[:3]).max() > 0
