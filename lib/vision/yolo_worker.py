"""YOLOv8n where PyTorch, ultralytics, NNCF and ONNX Runtime's quantiser are: exports it, quantises it, and times what people start from.

A script for that environment's Python, on its packages alone: `yolo_worker.py ASKED.json ANSWER.json`, one job a process, so that memory
is the job's own. The checkpoint is a pickle and loading it runs what somebody else wrote: it refuses every file but the one whose sum is
asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from time import perf_counter_ns
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np

HEAD = "/model.22/"  # YOLOv8's Detect: what makes boxes and scores of three maps of features
# Its sums, anchors and softmax mix boxes (0…640) with scores (0…1), and no one scale of 8 bits holds both; its convolutions may be INT8.
FLOAT = "Add|Sub|Mul|Div|dfl|Sigmoid|Softmax|Concat|Split|Slice"
VARIANTS: dict[str, frozenset[str]] = {
    "eager": frozenset(),
    "channels_last": frozenset({"channels_last"}),
    "compile": frozenset({"compile"}),
    "bf16 autocast": frozenset({"autocast"}),
    "bf16": frozenset({"bf16"}),
    "compile, channels_last, bf16 autocast": frozenset({"compile", "channels_last", "autocast"}),
}
WARMUP = 5


def trusted(path: str, sha256: str) -> Path:
    """The checkpoint. Raises SystemExit, before anything of it is unpickled, when it is not the file whose sum is pinned."""
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if found != sha256:
        sys.exit(f"{Path(path).name} is not the checkpoint that was pinned: SHA-256 is {found}, should be {sha256}; it is not loaded")
    return Path(path)


def yolo(asked: dict[str, Any]) -> Any:
    """ultralytics' model of the pinned checkpoint."""
    checkpoint = trusted(asked["checkpoint"], asked["sha256"])
    from ultralytics import YOLO, settings

    settings.update({"sync": False})
    return YOLO(checkpoint)


def export(asked: dict[str, Any]) -> dict[str, Any]:
    """ONNX, float32, all sizes free: "images" (batch, 3, height, width) → "output0" (batch, 84, anchors). To `to`, each time the same."""
    import onnx

    to = Path(asked["to"])
    beside = to.with_suffix(".pt")  # ultralytics writes where the checkpoint lies
    shutil.copyfile(trusted(asked["checkpoint"], asked["sha256"]), beside)
    made = yolo({**asked, "checkpoint": str(beside)}).export(format="onnx", dynamic=True, simplify=False, opset=17, imgsz=640)
    beside.unlink()
    model = onnx.load(made)
    for entry in [entry for entry in model.metadata_props if entry.key == "date"]:
        model.metadata_props.remove(entry)
    onnx.save(model, to)
    return {}


def program(asked: dict[str, Any]) -> dict[str, Any]:
    """PyTorch's own form, by torch.export, to `to` (.pt2): float32, all sizes free, convolutions and batch norms fused as for ONNX.

    Raises SystemExit where it does not answer as the network does, at a size that it was not traced at.
    """
    import torch

    network = yolo(asked).model.fuse().eval()
    head = network.model[-1]
    head.dynamic, head.export, head.format = True, True, "torchscript"  # the boxes alone, and anchors for every size anew

    class Boxes(torch.nn.Module):  # type: ignore[misc]  # its types are not read
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Any) -> Any:
            return self.network(images)

    free = torch.export.Dim.AUTO
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        traced = torch.rand(2, 3, 384, 512, generator=generator)
        made = torch.export.export(Boxes().eval(), (traced,), dynamic_shapes={"images": {0: free, 2: free, 3: free}})
        torch.export.save(made, asked["to"])
        other = torch.rand(1, 3, 288, 384, generator=generator)
        off = float((torch.export.load(asked["to"]).module()(other) - network(other)).abs().max())
    if not off < 1e-3:  # of boxes in pixels
        sys.exit(f"torch.export's form of the network answers otherwise than the network: by up to {off:g}")
    return {"off": off, "torch": torch.__version__}


def letterboxed(path: str, height: int, width: int) -> Any:
    """A picture as the detector is shown it: scaled to fit, grey around it, float32 (1, 3, height, width) RGB 0…1."""
    picture = cv2.imread(path)
    if picture is None:
        sys.exit(f"{Path(path).name} is no picture that OpenCV reads")
    scale = min(height / picture.shape[0], width / picture.shape[1])
    h, w = round(picture.shape[0] * scale), round(picture.shape[1] * scale)
    canvas = np.full((height, width, 3), 114, np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    canvas[top:top + h, left:left + w] = cv2.resize(picture, (w, h), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(canvas[None, :, :, ::-1].transpose(0, 3, 1, 2), np.float32) / 255


def nncf(asked: dict[str, Any]) -> dict[str, Any]:
    """OpenVINO's INT8, to `to` (.xml, its weights beside it): u8 activations where they are never negative, else s8."""
    import nncf as quantiser
    import openvino

    pictures = [letterboxed(path, *asked["net_hw"]) for path in asked["pictures"]]
    made = quantiser.quantize(openvino.Core().read_model(asked["onnx"]), quantiser.Dataset(pictures), subset_size=len(pictures),
                              preset=quantiser.QuantizationPreset.MIXED,
                              ignored_scope=quantiser.IgnoredScope(patterns=[f".*model.22.*/({FLOAT}).*"], validate=False))
    openvino.save_model(made, asked["to"], compress_to_fp16=False)
    return {"quantised": sum(op.get_type_name() == "FakeQuantize" for op in made.get_ops())}


def qdq(asked: dict[str, Any]) -> dict[str, Any]:
    """ONNX Runtime's static INT8 (QDQ), to `to`. `whole`: the head's arithmetic too. `activations`: u8 or s8. `per_channel`: weights."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(asked["pictures"])

        def get_next(self) -> dict[str, Any] | None:
            path = next(self.rest, None)
            return None if path is None else {"images": letterboxed(path, *asked["net_hw"])}

    head = [node for node in onnx.load(asked["onnx"]).graph.node if node.name.startswith(HEAD)]
    arithmetic = [node.name for node in head if node.op_type != "Conv" or "dfl" in node.name]
    # Weights of 7 bits for u8: without VNNI a processor adds two products of u8 and s8 in 16 bits, which 8 bits would overflow.
    quantize_static(asked["onnx"], asked["to"], Pictures(), quant_format=QuantFormat.QDQ, per_channel=asked["per_channel"],
                    activation_type={"u8": QuantType.QUInt8, "s8": QuantType.QInt8}[asked["activations"]], weight_type=QuantType.QInt8,
                    reduce_range=asked["activations"] == "u8", nodes_to_exclude=[] if asked["whole"] else arithmetic)
    return {"quantised": sum(node.op_type == "QuantizeLinear" for node in onnx.load(asked["to"]).graph.node)}


def predict(asked: dict[str, Any]) -> dict[str, Any]:
    """ultralytics' own loop over the clip's first `frames` frames, as its documentation shows it. Warm-up frames are run once before.

    `ns` is each turn of the loop, `boxes` are left, top, right, bottom, score, label; `speed` is what ultralytics itself says it took (ms).
    """
    import torch

    torch.set_num_threads(asked["threads"])
    nms = nms_without_cuda()
    model = yolo(asked)
    for place, _ in enumerate(model.predict(asked["clip"], stream=True, verbose=False)):
        if place == WARMUP:
            break
    ns: list[int] = []
    boxes: list[list[list[float]]] = []
    speed: list[dict[str, float]] = []
    began_ns = perf_counter_ns()
    for result in model.predict(asked["clip"], stream=True, verbose=False):
        boxes.append(result.boxes.data.tolist())
        ns.append(perf_counter_ns() - began_ns)
        speed.append(result.speed)
        if len(ns) == asked["frames"]:
            break
        began_ns = perf_counter_ns()
    return {"ns": ns, "boxes": boxes, "speed": speed, "nms": nms, "shape": list(result.orig_shape), "peak_bytes": peak_bytes()}


def nms_without_cuda() -> str:
    """torchvision's wheel does not load beside a torch without CUDA, and ultralytics wants one function of it. Says whose it gets."""
    import torch

    if torch.version.cuda:
        return "torchvision"

    def nms(boxes: Any, scores: Any, overlap: float) -> Any:
        corners = boxes.double().numpy()
        shapes: Any = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
        return torch.as_tensor(np.asarray(cv2.dnn.NMSBoxes(shapes, scores.numpy(), 0.0, overlap), np.int64).ravel())

    stand_in: Any = ModuleType("torchvision")
    stand_in.ops = SimpleNamespace(nms=nms)
    sys.modules["torchvision"] = stand_in
    return "OpenCV, compiled as torchvision's is"


def pytorch(asked: dict[str, Any]) -> dict[str, Any]:
    """PyTorch on canvases uint8 (n, h, w, 3) BGR of the file `canvases`, one at a time: ns of each, from tensor to (1, 84, anchors).

    `variant` is one of VARIANTS. A first pass over the canvases, not timed, writes what was found to `raw`, float32 (n, 84, anchors).
    `warm_s` is what it took until then, compilation and all.
    """
    import torch

    torch.set_num_threads(asked["threads"])
    how = VARIANTS[asked["variant"]]
    if "compile" in how and not (shutil.which("g++") or shutil.which("clang++")):
        return {"skipped": "torch.compile needs a C++ compiler, and there is none on this machine"}
    model = yolo(asked).model.fuse().eval()
    canvases = np.load(asked["canvases"], mmap_mode="r")
    kind = torch.bfloat16 if "bf16" in how else torch.float32
    layout = torch.channels_last if "channels_last" in how else torch.contiguous_format
    model = model.to(dtype=kind, memory_format=layout)

    def tensor(canvas: Any) -> Any:
        x = torch.from_numpy(np.ascontiguousarray(canvas[None, :, :, ::-1].transpose(0, 3, 1, 2), np.float32) / 255)
        return x.to(dtype=kind, memory_format=layout)

    def infer(x: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in how):
            return model(x)[0]

    with torch.inference_mode():
        began_ns = perf_counter_ns()
        infer(tensor(canvases[0]))  # the head makes and keeps its anchors, which would not compile
        if "compile" in how:
            model = torch.compile(model, fullgraph=True)
        for _ in range(WARMUP):
            infer(tensor(canvases[0]))
        warm_s = (perf_counter_ns() - began_ns) / 1e9
        raw = None
        ns: list[int] = []
        for turn in range(1 + asked["repeats"]):
            for place, canvas in enumerate(canvases):
                x = tensor(canvas)
                began_ns = perf_counter_ns()
                found = infer(x)
                taken_ns = perf_counter_ns() - began_ns
                if turn:
                    ns.append(taken_ns)
                    continue
                if raw is None:
                    raw = np.lib.format.open_memmap(asked["raw"], "w+", np.float32, (len(canvases), *found.shape[1:]))
                raw[place] = found[0].float().numpy()
    return {"ns": ns, "warm_s": warm_s, "peak_bytes": peak_bytes(), "torch": torch.__version__}


def peak_bytes() -> int:
    """The most memory this process has had resident. Not getrusage's: that begins with what the process that started us had."""
    return next(int(line.split()[1]) << 10 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


JOBS = {"export": export, "program": program, "nncf": nncf, "qdq": qdq, "predict": predict, "pytorch": pytorch}

if __name__ == "__main__":
    wanted = json.loads(Path(sys.argv[1]).read_text())
    cv2.setNumThreads(wanted.get("threads", len(os.sched_getaffinity(0))))
    Path(sys.argv[2]).write_text(json.dumps(JOBS[wanted["job"]](wanted)))
