"""The layers of a network as numbers: what each computes, what it has to move, how long it took in each engine. Pure.

A multiply-add is two FLOPs, as processors' peaks count them. Bytes are the least that any way of computing moves: inputs, outputs and
weights once each. A convolution's time is that of its convolution alone, without batch norm; what fused engines do in one node is theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.profiling import onednn

COLUMNS = ["layer", "kind", "stage", "flop", "bytes", "weights_bytes", "shape"]
COMPUTING = ("Conv2d", "Linear")


def table(counted: Sequence[Mapping[str, Any]], *, element_bytes: int = 4) -> pd.DataFrame:
    """COLUMNS, a row a layer that multiplies, in the order of computing. Intensity is flop ÷ bytes."""
    rows: list[list[Any]] = []
    for one in counted:
        if one["kind"] in COMPUTING:
            moved = sum(int(np.prod(shape)) for shape in (*one["in"], one["out"])) + one["weights"]
            rows.append([one["name"], one["kind"], stage(one["name"]), 2 * one["macs"], element_bytes * moved,
                         element_bytes * one["weights"], shape_of(one)])  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def shape_of(one: Mapping[str, Any]) -> str:
    """A layer in words: "3×3, 128 → 128, 28×28, ÷ 2"."""
    if one["kernel"] is None:
        return f"{one['in'][0][-1]} → {one['out'][-1]}"
    given, told = one["in"][0], one["out"]
    stride = f", ÷ {one['stride'][0]}" if one["stride"][0] > 1 else ""
    groups = f", {one['groups']} groups" if (one["groups"] or 1) > 1 else ""
    return f"{one['kernel'][0]}×{one['kernel'][1]}, {given[1]} → {told[1]}, {told[2]}×{told[3]}{stride}{groups}"


def stage(name: str) -> str:
    """Where in its network a module stands: stem, stage 1…4, head of a ResNet; backbone, neck, head of YOLOv8."""
    if found := re.search(r"encoder\.stages\.(\d)", name):
        return f"stage {int(found[1]) + 1}"
    if "embedder" in name:
        return "stem"
    if found := re.match(r"model\.(\d+)", name):
        number = int(found[1])
        return "backbone" if number < 10 else "neck" if number < 22 else "head"
    return "head"


def timed(layers: pd.DataFrame, modules: pd.DataFrame, primitives: pd.DataFrame | None) -> pd.DataFrame:
    """`layers` with "profiler_us", and "onednn_us" of its computing alone: medians over passes. Raises ValueError (`places`)."""
    by_name = modules.groupby("module")["whole_us"].median()
    told = layers.assign(profiler_us=layers["layer"].map(by_name))
    if primitives is None:
        return told
    convolutions = primitives[primitives["primitive"] == "convolution"]
    us = convolutions["us"].groupby(convolutions.groupby("pass").cumcount()).median()
    return told.assign(onednn_us=np.array([None if at is None else us[at] for at in places(layers, primitives)], float))


def places(layers: pd.DataFrame, primitives: pd.DataFrame) -> list[int | None]:
    """Of each layer: which of a pass' convolutions by oneDNN it is; None for one that PyTorch computes without it.

    oneDNN names no layers: its convolutions come in the order of ours, and have the same shapes. PyTorch does without it where it has one
    thread, one picture and a filter of 1×1. Raises ValueError for a convolution of oneDNN's that no layer is left for.
    """
    convolutions = primitives[primitives["primitive"] == "convolution"]
    said = [_shape(problem) for problem in convolutions.loc[convolutions["pass"] == convolutions["pass"].min(), "problem"]]
    told, at = list[int | None](), 0
    for kind, shape in zip(layers["kind"], layers["shape"], strict=True):
        here = kind == "Conv2d" and at < len(said) and shape == said[at]
        told.append(at if here else None)
        at += here
    if at < len(said):
        raise ValueError(f"oneDNN's convolution number {at + 1} of {len(said)} ({said[at]}) is no layer of the network")
    return told


def _shape(problem: str) -> str:
    """oneDNN's words for a convolution as `shape_of` has them."""
    at = onednn.convolution(problem)
    stride = f", ÷ {at['sh']}" if at["sh"] > 1 else ""
    groups = f", {at['g']} groups" if at["g"] > 1 else ""
    return f"{at['kh']}×{at['kw']}, {at['ic']} → {at['oc']}, {at['oh']}×{at['ow']}{stride}{groups}"


def engine_us(layers: pd.DataFrame, nodes: pd.DataFrame, *, convolutions: str = "Conv") -> list[float | None]:
    """An engine's µs for each layer: of the node that has the module's path in its name. None where no node has.

    What the engine fused into a convolution (batch norm, activation, addition) is in its time; a node may then have the activation's name.
    """
    by = nodes[nodes["kind"].str.contains(convolutions)].groupby("node")["us"].median()
    known = {f".{_single(dotted(str(name)))}.": float(value) for name, value in by.items()}

    def us(layer: str) -> float | None:
        around = layer.removesuffix(".convolution").removesuffix(".conv")
        for wanted in (layer, f"{around}.activation", f"{around}.act"):
            if found := [value for node, value in known.items() if f".{_single(wanted)}." in node]:
                return found[0]
        return None

    return [us(layer) for layer in layers["layer"]]


def _single(path: str) -> str:
    """Without repetitions side by side, which ONNX's paths have for another reason: embedder.embedder is embedder."""
    parts = path.split(".")
    return ".".join(part for before, part in zip(["", *parts], parts, strict=False) if part != before)


def dotted(node: str) -> str:
    """ONNX's path of a node as PyTorch would write it: "/model.22/cv2.0/cv2.0.0/conv/Conv" is model.22.cv2.0.0.conv.Conv.

    A module that is called inside another repeats its parent's name.
    """
    parts: list[str] = []
    for part in filter(None, node.split("/")):
        if parts and (part == parts[-1] or part.startswith(f"{parts[-1]}.")):
            parts.pop()
        parts.append(part)
    return ".".join(parts)


def top(layers: pd.DataFrame, column: str, n: int = 5) -> list[str]:
    """Names of the `n` layers that take longest by an account."""
    return layers.dropna(subset=[column]).nlargest(n, column)["layer"].tolist()
