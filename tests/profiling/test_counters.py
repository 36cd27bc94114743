"""Other engines' accounts: ONNX Runtime's profile is read as it is written, both engines run a network of two layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest import approx

from lib.profiling import counters, ledger


def node(name: str, ts: float, dur: float, kind: str = "Conv") -> dict[str, Any]:
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": {"op_name": kind}}


def run(ts: float, dur: float) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "args": {}}


def test_the_last_passes_of_a_profile() -> None:
    told = [run(0, 100), node("/a/Conv", 5, 60), run(200, 50), node("/a/Conv", 205, 30), node("/b/Relu", 240, 5, "Relu"), run(300, 48),
            node("/b/Relu", 340, 6, "Relu"), node("/a/Conv", 305, 31), {"cat": "Node", "name": "/a/Conv_fence_before", "ts": 306, "dur": 1}]
    frame = counters.nodes(told, last=2)
    assert frame.values.tolist() == [[0, 0, "/a/Conv", "Conv", 30], [0, 1, "/b/Relu", "Relu", 5], [1, 0, "/a/Conv", "Conv", 31],
                                     [1, 1, "/b/Relu", "Relu", 6]]  # fmt: skip
    assert counters.model_runs(told) == [100, 50, 48]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution of 32 to 32 channels and a ReLU, as ONNX."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).random((32, 3, 3, 3), np.float32)
    nodes = [helper.make_node("Conv", ["images", "w"], ["x"], name="/stem/Conv", pads=[1, 1, 1, 1]),
             helper.make_node("Softmax", ["x"], ["y"], name="/head/Softmax", axis=1)]  # fmt: skip
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 64, 64])],
                              [numpy_helper.from_array(weights, "w")])  # fmt: skip
    path = tmp_path_factory.mktemp("onnx") / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_both_engines_tell_of_every_pass(network: Path) -> None:
    x = np.random.default_rng(1).random((1, 3, 64, 64), np.float32)
    ours, theirs = (run(network, x, threads=1, passes=7) for run in (counters.onnxruntime, counters.openvino))
    for frame, walls_us, bare_s in (ours, theirs):
        assert sorted(frame["pass"].unique()) == [*range(7)] and len(walls_us) == len(bare_s) == 7
        bare_us = 1e6 * float(np.median(bare_s))
        told = ledger.engine(frame, walls_us, bare_us=bare_us)
        assert told["us"].sum() == approx(bare_us) and (told["us"].iloc[:-2] > 0).all()
    assert any("Conv" in kind for kind in ours[0]["kind"]) and any("Convolution" in kind for kind in theirs[0]["kind"])
