"""A forest that is grown in a second, and the real one where this machine has built it."""

from __future__ import annotations

import numpy as np
import pytest

from lib.install import Missing
from lib.pipelines.fraud import model, trees
from lib.pipelines.fraud.features import NAMES
from lib.pipelines.fraud.model import Model

SMALL = {"objective": "binary", "num_leaves": 8, "learning_rate": 0.3, "seed": 1, "deterministic": True, "num_threads": 1, "verbose": -1}


@pytest.fixture(scope="session")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Eight small trees on made-up rows of 35 features, in every form that the real model has."""
    import lightgbm

    root, rng = tmp_path_factory.mktemp("model"), np.random.default_rng(3)
    rows = rng.normal(size=(600, len(NAMES))).astype(np.float32)
    rows[:, 28] = np.abs(rows[:, 28]) * 50
    fraud = rows[:, 3] + rows[:, 28] / 50 + rng.normal(size=600) > 1.5
    text = lightgbm.train(SMALL, lightgbm.Dataset(rows, fraud), 8).model_to_string()
    lightgbm.Booster(model_str=trees.rewritten(text, trees.canonical)).save_model(root / "model.txt")
    trees_ = trees.of_lightgbm((root / "model.txt").read_text())
    (root / "model.onnx").write_bytes(trees.onnx(trees_, inputs=len(NAMES)).SerializeToString())
    np.save(root / "rows.npy", rows)
    return Model("small", root, (1.0, 0.0), np.zeros(len(NAMES), np.float32), {}, model._compile(root, lambda _: None))


@pytest.fixture(scope="session")
def built() -> Model:
    if isinstance(found := model.ready(), Missing):
        pytest.skip(found.reason)
    return found
