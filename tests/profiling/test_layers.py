"""Layers: FLOPs are two a multiply-add, bytes the least, names found again in other engines; the roof lies above all of them."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from pytest import approx

from lib.profiling import layers, onednn, roofline
from lib.profiling.roofline import Roof

CONV: dict[str, Any] = {"name": "resnet.encoder.stages.1.layers.0.layer.1.convolution", "kind": "Conv2d", "in": [[1, 64, 56, 56]],
                        "out": [1, 128, 28, 28], "macs": 128 * 28 * 28 * 64 * 9, "weights": 128 * 64 * 9, "kernel": [3, 3],
                        "stride": [2, 2], "groups": 1}  # fmt: skip
RELU: dict[str, Any] = {**CONV, "name": "act", "kind": "ReLU", "macs": 0, "weights": 0, "kernel": None, "stride": None}
HEAD: dict[str, Any] = {"name": "classifier.1", "kind": "Linear", "in": [[1, 2048]], "out": [1, 1000], "macs": 2_048_000,
                        "weights": 2_049_000, "kernel": None, "stride": None, "groups": None}  # fmt: skip
PROBLEM = "mb1_ic64oc128_ih56oh28kh3sh2dh0ph1_iw56ow28kw3sw2dw0pw1"


def test_a_layer_in_numbers() -> None:
    told = layers.table([CONV, RELU, HEAD])
    assert told["layer"].tolist() == [CONV["name"], "classifier.1"]
    first = told.iloc[0]
    assert first["flop"] == 2 * CONV["macs"] and first["bytes"] == 4 * (64 * 56 * 56 + 128 * 28 * 28 + 128 * 64 * 9)
    assert first["shape"] == "3×3, 64 → 128, 28×28, ÷ 2" and told["shape"].iloc[1] == "2048 → 1000"
    assert layers.table([CONV], element_bytes=2)["bytes"].iloc[0] == first["bytes"] / 2


@pytest.mark.parametrize(("name", "stage"), [
    ("resnet.embedder.embedder.convolution", "stem"), ("resnet.encoder.stages.3.layers.2.layer.0.convolution", "stage 4"),
    ("classifier.1", "head"), ("model.0.conv", "backbone"), ("model.9.cv1.conv", "backbone"), ("model.12.cv1.conv", "neck"),
    ("model.22.cv2.0.0.conv", "head"),
])  # fmt: skip
def test_where_a_layer_stands(name: str, stage: str) -> None:
    assert layers.stage(name) == stage


def primitives(problem: str = PROBLEM) -> pd.DataFrame:
    rows = [[n, "convolution", "jit", "", problem, us, 0.0] for n, us in enumerate((90.0, 100.0, 130.0))]
    return pd.DataFrame(rows, columns=onednn.COLUMNS)


def test_onednn_s_convolutions_are_ours_in_order_if_their_shapes_are() -> None:
    modules = pd.DataFrame({"module": [CONV["name"], "classifier.1"] * 3, "whole_us": [200.0, 9, 210, 9, 220, 9]})
    told = layers.timed(layers.table([CONV, HEAD]), modules, primitives())
    assert told["profiler_us"].tolist() == [210, 9]
    assert told["onednn_us"].iloc[0] == 100 and pd.isna(told["onednn_us"].iloc[1])
    with pytest.raises(ValueError, match=r"convolution number 1 of 1 \(3×3, 64 → 256, 28×28, ÷ 2\) is no layer of the network"):
        layers.timed(layers.table([CONV]), modules, primitives(PROBLEM.replace("oc128", "oc256")))
    with pytest.raises(ValueError, match="convolution number 1 of 1"):
        layers.timed(layers.table([HEAD]), modules, primitives())


def test_a_convolution_that_pytorch_computes_itself_has_no_time_of_onednn_s() -> None:
    """As on one thread, where those of 1×1 do without oneDNN."""
    one = {**CONV, "name": "one", "kernel": [1, 1], "stride": [1, 1], "in": CONV["in"], "out": [1, 128, 56, 56]}
    table = layers.table([one, CONV, HEAD, {**one, "name": "other"}])
    assert layers.places(table, primitives()) == [None, 0, None, None]
    modules = pd.DataFrame({"module": [CONV["name"], "one"], "whole_us": [200.0, 300.0]})
    told = layers.timed(table, modules, primitives())
    assert told["onednn_us"].tolist() == [approx(float("nan"), nan_ok=True), 100, *[approx(float("nan"), nan_ok=True)] * 2]


@pytest.mark.parametrize(("node", "module"), [
    ("/network/encoder/stages.1/layers.0/layer/layer.1/convolution/Conv", "network.encoder.stages.1.layers.0.layer.1.convolution.Conv"),
    ("/model.22/cv2.0/cv2.0.0/conv/Conv", "model.22.cv2.0.0.conv.Conv"),
    ("/model.2/m.0/cv1/conv/Conv_nchwc", "model.2.m.0.cv1.conv.Conv_nchwc"),
])  # fmt: skip
def test_an_onnx_path_is_a_module_s(node: str, module: str) -> None:
    assert layers.dotted(node) == module


def test_an_engine_s_node_is_found_by_the_module_s_path() -> None:
    path = "/network/resnet/encoder/stages.1/layers.0/layer/layer.1/convolution/Conv"
    nodes = pd.DataFrame({"node": [path, "/network/resnet/encoder/stages.1/layers.0/layer/layer.11/convolution/Conv", path, "/x/Relu"],
                          "kind": ["Conv", "Conv", "Conv", "Relu"], "us": [40.0, 1.0, 60.0, 1.0]})  # fmt: skip
    assert layers.engine_us(layers.table([CONV, HEAD]), nodes) == [50.0, None]
    fused = nodes.replace({"node": {path: path.replace("convolution/Conv", "activation/Relu_output_0_nchwc")}})
    assert layers.engine_us(layers.table([CONV]), fused) == [50.0]
    stem = pd.DataFrame({"node": ["/network/resnet/embedder/embedder/activation/Relu_output_0"], "kind": "Conv", "us": [7.0]})
    assert layers.engine_us(layers.table([{**CONV, "name": "resnet.embedder.embedder.convolution"}]), stem) == [7.0]


# --- the roof ---

ROOF = Roof(500e9, "a convolution", {"L2": 200e9, "DRAM": 40e9}, {"L2": 1_000_000, "DRAM": 2**28})


def test_what_holds_a_layer_back() -> None:
    assert ROOF.bound(10e6, 0.5e6) == (500e9, "compute")  # 20 FLOP/B × 200 GB/s would be 4 TFLOP/s
    assert ROOF.bound(1e6, 0.5e6) == (approx(400e9), "L2")  # 2 FLOP/B
    assert ROOF.bound(20e6, 2e6) == (approx(400e9), "DRAM")  # 10 FLOP/B, and it does not fit L2


def test_layers_under_the_roof() -> None:
    told = layers.table([CONV, HEAD]).assign(us=[400.0, None])
    placed = roofline.placed(told, "us", ROOF)
    assert len(placed) == 1 and placed["rate"].iloc[0] == approx(2 * CONV["macs"] / 400e-6)
    assert placed["share"].iloc[0] == approx(placed["rate"].iloc[0] / 500e9) and placed["limit"].iloc[0] == "compute"
    assert roofline.above(placed, ROOF) is None
    fast = roofline.placed(told.assign(us=[2 * CONV["macs"] / 520e9 * 1e6, None]), "us", ROOF)
    assert "1 layers are above the roof of 500 GFLOP/s" in (roofline.above(fast, ROOF) or "")
