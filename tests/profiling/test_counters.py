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


def test_openvino_tells_means_since_it_was_loaded_and_each_pass_is_found_again() -> None:
    """Passes of 900 (loaded), 100, 300 and 200 µs: means of 900, 500, 433, 375."""
    means = [[("/a/Conv", "Convolution", float(us)), ("b", "Reorder", us / 10)] for us in (500, 433, 375)]
    told = counters.each(means, before=1)
    assert told["us"].tolist() == [approx(299), approx(29.9), approx(201), approx(20.1)], "whole µs make n of them: 3 × 433 is 1299"
    assert told[["pass", "order"]].values.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_both_engines_tell_of_every_pass(network: Path) -> None:
    x = np.random.default_rng(1).random((1, 3, 64, 64), np.float32)
    ours, theirs = (run(network, x, threads=1, turns=3, passes=2) for run in (counters.onnxruntime, counters.openvino))
    for told in (ours, theirs):
        assert sorted(told.nodes["pass"].unique()) == [*range(6)] and 0 <= told.node_us < 500
        assert [len(turn) for turn in told.watched_s] == [len(turn) for turn in told.bare_s] == [2, 2, 2]
        walls_us = [1e6 * wall for turn in told.watched_s for wall in turn]
        # No pass' nodes take longer than it, but for rounding: whole µs, and with OpenVINO as many as passes before it, for each node.
        over = told.nodes.groupby("pass")["us"].sum() - walls_us
        assert over.max() <= len(told.nodes) / 6 * (counters.WARM + 2 + 2)
        at = ledger.pace(told.bare_s, 6)
        account = ledger.engine(told.nodes, walls_us, at, node_us=told.node_us)
        assert account["us"].sum() == approx(at.bare_us) and (account["us"].iloc[:-2] >= 0).all()
    assert any("Conv" in kind for kind in ours.nodes["kind"]) and any("Convolution" in kind for kind in theirs.nodes["kind"])
