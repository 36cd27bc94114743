"""The networks that are profiled, in eager PyTorch, and what may be changed of them: folded, channels_last, bf16, compiled, a layer less.

They run on the processor, or on a GPU (`device`), where a pass may be recorded as a CUDA graph too.

ResNet's weights are random, from a seed, for no package registry holds trained ones; its batch norms' statistics are taken from noise, as
training would have left them, so that no layer drowns. YOLOv8n's checkpoint is a pickle: yolo_worker.py refuses every file but the one
whose sum is asked for. Runs in the environment that has the network's package: transformers' for ResNet, ultralytics' for YOLOv8n.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

DEPTHS = {"resnet18": ([2, 2, 2, 2], [64, 128, 256, 512], "basic"), "resnet50": ([3, 4, 6, 3], [256, 512, 1024, 2048], "bottleneck")}
ONE_THREAD = "one thread"
DENORMAL = 1e-38  # a scale of weights: their products with pictures lie below the smallest normal float32
GRAPH = "cuda graph"
# What is changed, in the order in which it is done to a network; "inference_mode" and a graph change how it is called.
CHANGES = ("folded", "channels_last", "bf16", "fp16", "compile", "inference_mode", GRAPH)
TYPES = {"bf16": "bfloat16", "fp16": "float16"}


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


@dataclass(frozen=True, slots=True)
class Made:
    """A network as it was changed: `run` answers a tensor that `dress` made what it wants. `graph`: a pass is to be recorded."""

    network: Any
    run: Callable[[Any], Any]
    dress: Callable[[Any], Any]
    graph: bool
    began_ns: int


def variant(asked: dict[str, Any], name: str, plain: Any = None) -> tuple[Callable[[], Any], float]:
    """A function that infers once, and the seconds that it took to be ready. `name` and `plain` as of `made`, which raises.

    "batch N" gives it so many pictures, ONE_THREAD as many threads.
    """
    infer, took_s = ready(made(asked, name, plain), images({**asked, **(besides(name) or {})}))
    return (alone(infer, asked["threads"]) if name == ONE_THREAD else infer), took_s


def ready(it: Made, x: Any) -> tuple[Callable[[], Any], float]:
    """As `variant`, of a network that was made. Raises RuntimeError where shapes do not fit."""
    x = it.dress(x)

    def infer() -> Any:
        return it.run(x)

    infer()
    if it.graph:
        from lib.profiling import cuda

        infer = cuda.graph(infer)
    return infer, (perf_counter_ns() - it.began_ns) / 1e9


def made(asked: dict[str, Any], name: str, plain: Any = None) -> Made:
    """`name`: "eager", or some of CHANGES joined by ", "; on `device`, the processor unless asked otherwise.

    "without NAME" puts nothing in a module's place; "seed N" draws other weights, "denormal" such that products are denormal numbers.
    `plain`: the network, where it was made before. Raises KeyError for a change that there is not, RuntimeError for a device that there is
    not.
    """
    import torch

    other = besides(name)
    changes = name.split(", ") if other is None else []
    asked = {**asked, **(other or {})}
    if (device := asked.get("device", "cpu")) != "cpu" or GRAPH in changes:
        from lib.profiling import cuda

        cuda.needed()
    known = plain is not None and not {"seed", "scaled"} & (other or {}).keys()
    model, wants = copy.deepcopy(plain) if known else network(asked), dict[str, Any]()
    began_ns = perf_counter_ns()
    for change in sorted(changes, key=lambda one: CHANGES.index(one) if one in CHANGES else -1):
        if change.startswith("without "):
            _replace(model, change.removeprefix("without "), torch.nn.Identity())
        elif change == "folded":
            folded(model)
        elif change == "channels_last":
            wants["memory_format"] = torch.channels_last
        elif change in TYPES:
            wants["dtype"] = getattr(torch, TYPES[change])
        elif change not in CHANGES:
            raise KeyError(change)
    if device != "cpu":
        wants["device"] = device
    model = changed = model.to(**wants) if wants else model
    mode = torch.inference_mode if "inference_mode" in changes else torch.no_grad

    def dress(x: Any) -> Any:
        return x.to(**wants) if wants else x

    def run(x: Any) -> Any:
        with mode():
            return model(x)

    if "compile" in changes:
        if not (shutil.which("g++") or shutil.which("clang++")):
            raise RuntimeError("torch.compile needs a C++ compiler, and there is none on this machine")
        import torch._inductor.config as inductor

        run(dress(images(asked)))  # YOLOv8n's head makes and keeps its anchors, which would not compile
        inductor.freezing = device == "cpu"  # weights are constants: folded and laid out once
        model = torch.compile(changed)
    return Made(changed, run, dress, GRAPH in changes, began_ns)


def besides(name: str) -> dict[str, int | float] | None:
    """What a variant asks for that is no change of the network: its weights' "seed" or scale, "batch"; None for one that changes it."""
    what, _, n = name.partition(" ")
    if what in ("seed", "batch"):
        return {what: int(n)}
    return {"eager": {}, ONE_THREAD: {}, "denormal": {"scaled": DENORMAL}}.get(name)


def alone(infer: Callable[[], Any], threads: int) -> Callable[[], Any]:
    """`infer` on one thread; those after it have `threads` again."""
    import torch

    def one() -> Any:
        torch.set_num_threads(1)
        try:
            return infer()
        finally:
            torch.set_num_threads(threads)

    return one


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
