"""The same network, run in every way at hand: what each changes, and how it is made. Faster is only better where it still sees.

A way that cannot run on this machine is Skipped where it is made, and becomes a row that says why.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from lib import install
from lib.measured import Skipped
from lib.pipelines.retail.session import Shop
from lib.vision import detector, yolo
from lib.vision.detector import Detector, WrongDevice

HW = tuple[int, int]
LARGE, MIDDLE, SMALL = (480, 640), (384, 512), (288, 384)  # of the clip's shape, in steps of 32, which the network asks for
REFERENCE = "ONNX Runtime fp32"
Make = Callable[..., Detector]  # (shop, threads, *, batch, streams): the latter where the engine knows it


def processors() -> int:
    """All processors that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the network: `torch` is what PyTorch's worker calls it, where it lives there; else `make` makes the detector."""

    name: str
    engine: str
    precision: str
    net_hw: HW
    changed: str
    make: Make | None = None
    torch: str | None = None

    def detector(self, shop: Shop, *, batch: int = 1, streams: int = 1, threads: int | None = None) -> Detector:
        """On `threads` processors (None: all), for `batch` frames at once, `streams` such batches side by side.

        Raises Skipped where this machine cannot run it, LookupError.
        """
        if self.make is None:
            raise LookupError(f"{self.name} lives in an environment of its own")
        more = {"streams": streams} if streams > 1 else {}
        try:
            return self.make(shop, threads or processors(), batch=batch, **more)
        except WrongDevice as reason:
            raise Skipped(str(reason)) from reason


def _onnx(shop: Shop, threads: int, *, file: str, net_hw: HW, batch: int = 1, provider: str = "CPUExecutionProvider") -> Detector:
    return detector.onnxruntime_detector(shop.yolo.file(file), net_hw=net_hw, batch=batch, threads=threads, provider=provider)


def _openvino(shop: Shop, threads: int, *, file: str, net_hw: HW, precision: Literal["f32", "bf16"], batch: int = 1,
              streams: int = 1) -> Detector:
    return detector.openvino_detector(shop.yolo.file(file), net_hw=net_hw, batch=batch, threads=threads, precision=precision,
                                      streams=streams)  # fmt: skip


def _torch(variant: str, precision: str, changed: str) -> Variant:
    return Variant(f"PyTorch {variant}", "PyTorch", precision, LARGE, changed, torch=variant)


def _ort(name: str, precision: str, file: str, changed: str) -> Variant:
    return Variant(f"ONNX Runtime {name}", "ONNX Runtime", precision, LARGE, changed, partial(_onnx, file=file, net_hw=LARGE))


def _on_gpu(shop: Shop, threads: int, *, provider: str, batch: int = 1) -> Detector:
    if install.platform() != "cuda":  # asked first: ONNX Runtime would write a page about it, and then take the CPU
        raise WrongDevice(f"{provider} needs an NVIDIA GPU; this machine has none")
    return _onnx(shop, threads, file=yolo.ONNX, net_hw=LARGE, batch=batch, provider=provider)


def _gpu(name: str, precision: str, provider: str, changed: str) -> Variant:
    made = partial(_on_gpu, provider=provider)
    return Variant(f"ONNX Runtime {name}", "ONNX Runtime", precision, LARGE, changed, made)


def openvino(precision: str, net_hw: HW, changed: str = "") -> Variant:
    """OpenVINO in f32, bf16 or INT8 (NNCF's) on pictures of `net_hw`."""
    size = "" if net_hw == LARGE else f" {net_hw[1]}×{net_hw[0]}"
    file = yolo.OPENVINO_INT8 if precision == "INT8" else yolo.ONNX
    made = partial(_openvino, file=file, net_hw=net_hw, precision="bf16" if precision == "bf16" else "f32")
    return Variant(f"OpenVINO {precision}{size}", "OpenVINO", precision, net_hw, changed, made)


VARIANTS = (
    _torch("eager", "fp32", "nothing: the checkpoint as it was published, convolutions and batch norms fused"),
    _torch("channels_last", "fp32", "pixels before channels in memory, as the kernels want them"),
    _torch("compile", "fp32", "torch.compile: fewer passes over memory"),
    _torch("bf16 autocast", "bf16", "convolutions in bfloat16"),
    _torch("compile, channels_last, bf16 autocast", "bf16", "all three"),
    _ort("fp32", "fp32", yolo.ONNX, "a graph without Python"),
    _ort("INT8, head too", "INT8", yolo.ONNX_INT8_WHOLE, "everything in 8 bits, as the quantiser does unless told otherwise"),
    _ort("INT8 s8", "INT8", yolo.ONNX_INT8_S8, "the head in float; signed activations"),
    _ort("INT8 u8", "INT8", yolo.ONNX_INT8, "the head in float; unsigned activations, which the processor multiplies faster"),
    _gpu("CUDA fp32", "fp32", detector.CUDA, "on a GPU"),
    _gpu("TensorRT FP16", "fp16", detector.TENSORRT, "on a GPU, compiled for it"),
    openvino("f32", LARGE, "another graph compiler; normalisation inside the graph"),
    openvino("bf16", LARGE, "bfloat16, asked for by name"),
    openvino("INT8", LARGE, "NNCF's 8 bits, the head's arithmetic in float"),
    openvino("f32", MIDDLE, "64 % of the pixels"),
    openvino("bf16", MIDDLE, "64 % of the pixels, bfloat16"),
    openvino("INT8", MIDDLE, "64 % of the pixels, 8 bits"),
    openvino("INT8", SMALL, "36 % of the pixels, 8 bits"),
)


def named(name: str) -> Variant:
    """The variant of this name. Raises LookupError."""
    for variant in VARIANTS:
        if variant.name == name:
            return variant
    raise LookupError(f"no variant {name!r}; there are: {', '.join(variant.name for variant in VARIANTS)}")
