"""A forest as plain arrays, and what can be made of them without the library that grew it.

Every split sends x ≤ threshold to the left. x is float32 everywhere here, so a threshold rounded *down* to float32 takes the same branch
for every x, and engines that compare in float32 and in float64 agree. LightGBM alone takes what lies within 1e-35 of 0 for 0, so no
threshold may lie on that edge. Refuses categorical splits and missing values: there are none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from onnx import ModelProto

NUMERICAL = {"2"}  # LightGBM's decision types: a number against a threshold, nothing is missing
ZERO = np.float32(1e-35)  # LightGBM's kZeroThreshold: what is no further from 0 is 0, but only there
THRESHOLDS = re.compile(r"^threshold=(.*)$", re.M)


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """The nodes of all trees one after another, every array (n,). `node`, `left` and `right` count within a `tree`.

    A `leaf` has a `value`, another node a `feature` and a `threshold`; what does not apply is 0.
    """

    tree: NDArray[np.int64]
    node: NDArray[np.int64]
    leaf: NDArray[np.bool_]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: NDArray[np.float64]

    def splits(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Every different split: features and thresholds."""
        pairs = np.unique(np.column_stack([self.feature, self.threshold])[~self.leaf], axis=0)
        return pairs[:, 0].astype(np.int64), pairs[:, 1]


def floor32(values: ArrayLike) -> NDArray[np.float32]:
    """The largest float32 that is not above each value."""
    exact = np.asarray(values, dtype=np.float64)
    near = exact.astype(np.float32)
    return np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)


def canonical(values: ArrayLike) -> NDArray[np.float32]:
    """Thresholds that send every float32 where LightGBM sends it, whoever compares: rounded down, −1e-35 moved past what is taken for 0."""
    floor = floor32(values)
    return np.where(floor == -ZERO, np.nextafter(floor, np.float32(-np.inf)), floor)


def rewritten(text: str, change: Callable[[NDArray[np.float64]], NDArray[np.float32]]) -> str:
    """LightGBM's model `text` with other thresholds. Sizes of trees are left out: they were those of the old text."""
    def line(found: re.Match[str]) -> str:
        return "threshold=" + " ".join(repr(float(t)) for t in change(np.array(found[1].split(), dtype=np.float64)))
    return THRESHOLDS.sub(line, re.sub(r"^tree_sizes=.*\n", "", text, flags=re.M))


def of_lightgbm(text: str) -> Trees:
    """The trees of LightGBM's model `text`. Raises ValueError for splits of another kind than x ≤ threshold."""
    columns: list[list[NDArray[np.float64]]] = [[] for _ in range(8)]
    for number, part in enumerate(text.split("\nTree=")[1:]):
        said = dict(line.split("=", 1) for line in part.splitlines() if "=" in line)
        if other := set(said["decision_type"].split()) - NUMERICAL:
            raise ValueError(f"tree {number} has splits of type {', '.join(sorted(other))}; "
                             "only x ≤ threshold without missing values is known")
        feature, threshold, left, right, value = (np.array(said[key].split(), dtype=np.float64) for key in
                                                  ("split_feature", "threshold", "left_child", "right_child", "leaf_value"))
        splits, leaves = len(feature), len(value)
        nodes, none = np.arange(splits + leaves), np.zeros(leaves)
        left, right = (np.where(child < 0, splits - 1 - child, child) for child in (left, right))  # a leaf k is written as -1 - k
        for column, values in zip(columns, (np.full(len(nodes), number), nodes, nodes >= splits,
                                            np.append(feature, none), np.append(threshold, none), np.append(left, none),
                                            np.append(right, none), np.append(np.zeros(splits), value)), strict=True):
            column.append(values)
    tree, node, leaf, feature, threshold, left, right, value = (np.concatenate(column) for column in columns)
    return Trees(tree.astype(np.int64), node.astype(np.int64), leaf.astype(np.bool_), feature.astype(np.int64), threshold,
                 left.astype(np.int64), right.astype(np.int64), value)


def onnx(trees: Trees, *, inputs: int, average: bool = False) -> ModelProto:
    """One TreeEnsembleRegressor: "x" float32 (n, inputs) → "margin" float32 (n, 1), the sum over the trees or their average."""
    from onnx import TensorProto, checker, helper

    leaf = trees.leaf
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["margin"], domain="ai.onnx.ml", n_targets=1, aggregate_function="AVERAGE" if average else "SUM",
        post_transform="NONE", nodes_treeids=trees.tree.tolist(), nodes_nodeids=trees.node.tolist(),
        nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(), nodes_featureids=trees.feature.tolist(),
        nodes_values=floor32(trees.threshold).tolist(), nodes_truenodeids=trees.left.tolist(), nodes_falsenodeids=trees.right.tolist(),
        target_treeids=trees.tree[leaf].tolist(), target_nodeids=trees.node[leaf].tolist(), target_ids=[0] * int(leaf.sum()),
        target_weights=trees.value[leaf].tolist())
    graph = helper.make_graph([node], "forest", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, inputs])],
                              [helper.make_tensor_value_info("margin", TensorProto.FLOAT, [None, 1])])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(made)
    return made
