"""The networks that are profiled, in eager PyTorch, and what may be changed of them: folded, channels_last, bf16, compiled, a layer less.

ResNet's weights are random, from a seed, for no package registry holds trained ones; its batch norms' statistics are taken from noise, as
training would have left them, so that no layer drowns. YOLOv8n's checkpoint is a pickle: yolo_worker.py refuses every file but the one
whose sum is asked for. Runs in the environment that has the network's package: transformers' for ResNet, ultralytics' for YOLOv8n.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

DEPTHS = {"resnet18": ([2, 2, 2, 2], [64, 128, 256, 512], "basic"), "resnet50": ([3, 4, 6, 3], [256, 512, 1024, 2048], "bottleneck")}
# What is changed, in the order in which it is done to a network; "inference_mode" changes how it is called.
DENORMAL = 1e-38  # a scale of weights: their products with pictures lie below the smallest normal float32
CHANGES = ("folded", "channels_last", "bf16", "compile", "inference_mode")


def network(asked: dict[str, Any]) -> Any:
    """The network that `asked` names, float32, ready to infer."""
    import torch

    if asked["network"] == "yolov8n":
        from lib.vision import yolo_worker

        yolo_worker.nms_without_cuda()
        return yolo_worker.yolo(asked).model.fuse().eval()
    from transformers import ResNetConfig, ResNetForImageClassification

    depths, sizes, kind = DEPTHS[asked["network"]]
    torch.manual_seed(asked.get("seed", 0))
    made = ResNetForImageClassification(ResNetConfig(depths=depths, hidden_sizes=sizes, layer_type=kind, num_labels=1000))
    for norm in (layer for layer in made.modules() if isinstance(layer, torch.nn.BatchNorm2d)):
        norm.momentum = None  # the plain mean of what it sees
    with torch.no_grad():
        made.train()(pixel_values=torch.randn(8, 3, 224, 224))
        if scale := asked.get("scaled"):  # so small that products are denormal: a counter-example to "latency does not depend on weights"
            made.resnet.embedder.embedder.convolution.weight.mul_(scale)
            _plain_norms(made)
    return made.eval()


def _plain_norms(made: Any) -> None:
    """Batch norms that let through what comes: else the first of them would scale denormals back to 1."""
    import torch

    for norm in (layer for layer in made.modules() if isinstance(layer, torch.nn.BatchNorm2d)):
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0)


def images(asked: dict[str, Any], *, batch: int | None = None) -> Any:
    """Seeded noise, float32 (batch, 3, height, width): YOLOv8n's from 0 to 1, ResNet's around 0."""
    import torch

    height, width = asked["hw"]
    generator = torch.Generator().manual_seed(7)
    shape = (batch or asked["batch"], 3, height, width)
    if asked["network"] == "yolov8n":
        return torch.rand(shape, generator=generator)
    return torch.randn(shape, generator=generator)


def variant(asked: dict[str, Any], name: str) -> tuple[Callable[[], Any], float]:
    """A function that infers once, and the seconds that it took to be ready. `name`: "eager", or some of CHANGES joined by ", ".

    "without NAME" puts nothing in a module's place; "seed N" draws other weights, "denormal" such that products are denormal numbers.
    Raises KeyError for a change that there is not, RuntimeError where shapes do not fit.
    """
    import torch

    weights = {"denormal": {"scaled": DENORMAL}} | {f"seed {n}": {"seed": n} for n in range(9)}
    changes = [] if name == "eager" else [one for one in name.split(", ") if one not in weights]
    for other in name.split(", "):
        asked = {**asked, **weights.get(other, {})}
    model, x = network(asked), images(asked)
    began_ns = perf_counter_ns()
    for change in sorted(changes, key=lambda one: CHANGES.index(one) if one in CHANGES else -1):
        if change.startswith("without "):
            _replace(model, change.removeprefix("without "), torch.nn.Identity())
        elif change == "folded":
            folded(model)
        elif change == "channels_last":
            model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        elif change == "bf16":
            model, x = model.to(torch.bfloat16), x.to(torch.bfloat16)
        elif change not in CHANGES:
            raise KeyError(change)
    mode = torch.inference_mode if "inference_mode" in changes else torch.no_grad

    def infer() -> Any:
        with mode():
            return model(x)

    infer()  # YOLOv8n's head makes and keeps its anchors, which would not compile
    if "compile" in changes:
        if not (shutil.which("g++") or shutil.which("clang++")):
            raise RuntimeError("torch.compile needs a C++ compiler, and there is none on this machine")
        import torch._inductor.config as inductor

        inductor.freezing = True  # weights are constants: folded and laid out once
        model = torch.compile(model)
        infer()
    return infer, (perf_counter_ns() - began_ns) / 1e9


def folded(model: Any) -> int:
    """Batch norms multiplied into the convolutions before them; how many."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    pairs = [layer for layer in model.modules() if hasattr(layer, "convolution") and hasattr(layer, "normalization")]
    for layer in pairs:
        layer.convolution = fuse_conv_bn_eval(layer.convolution, layer.normalization)
        layer.normalization = torch.nn.Identity()
    return len(pairs)


def _replace(model: Any, name: str, by: Any) -> None:
    model.get_submodule(name)  # one that is not there would be added, and nothing would change
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, by)


def answer(told: Any) -> Any:
    """The tensor that a network answers with."""
    if hasattr(told, "logits"):
        return told.logits
    return told[0] if isinstance(told, (tuple, list)) else told
