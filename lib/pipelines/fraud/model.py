"""The model that is served: grown once on the ledger's first days into the cache, then the same trees for every engine.

Boosted trees on the first 70 % of the stream, calibrated on the next 10 %, judged on the last 20 %. Thresholds are made canonical, which
is float32 (trees.py), after which the margins of every transaction must be what they were, or nothing is kept. `ok.json` is written last.

    python -m lib.pipelines.fraud.model
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib import child, fetch, home, lock
from lib.child import Say
from lib.install import Missing
from lib.pipelines.fraud import data, features, trees, windows

GROWN = {"objective": "binary", "learning_rate": 0.05, "num_leaves": 31, "min_data_in_leaf": 100, "lambda_l2": 10,
         "feature_fraction": 0.5, "bagging_fraction": 0.8, "bagging_freq": 1,
         "seed": 1, "deterministic": True, "force_row_wise": True, "num_threads": 2, "verbose": -1}
TREES = 200
TRAINED, CALIBRATED = 0.7, 0.8  # shares of the stream, in its order
PACKAGES = ("lightgbm", "lleaves", "llvmlite", "tl2cgen", "treelite", "onnx", "numpy", "scipy")


class NotReady(Exception):
    """There is no model, or a part of it is missing; the message says what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """`version` names the trees; probability = 1 / (1 + exp(-(a·margin + b))) with `calibration` (a, b).

    `typical`: float32 (35,), the median legitimate transaction of the training part. `missing`: files that could not be made here, and why.
    """

    version: str
    root: Path
    calibration: tuple[float, float]
    typical: NDArray[np.float32]
    facts: dict[str, Any]
    missing: dict[str, str]

    def file(self, name: str) -> Path:
        """Its file `name`. Raises NotReady with the reason why it could not be made."""
        if name in self.missing:
            raise NotReady(self.missing[name])
        return self.root / name

    def rows(self) -> NDArray[np.float32]:
        """(284807, 35): what is scored of every transaction, in the stream's order, mapped and read-only."""
        mapped: NDArray[np.float32] = np.load(self.root / "rows.npy", mmap_mode="r")
        return mapped

    def probabilities(self, margins: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b = self.calibration
        return np.asarray(1 / (1 + np.exp(-(a * margins + b))))


def ready() -> Model | Missing:
    """The model if it was built on this machine, else why not. Instant."""
    root = _root()
    if not (root / "ok.json").exists():
        return Missing("fraud model", "The fraud model is not built on this machine yet; "
                       "python -m lib.pipelines.fraud.model builds it in half a minute")
    return at(root)


def at(root: Path) -> Model:
    """The model in this directory, wherever it was built. Raises NotReady."""
    try:
        kept = json.loads((root / "ok.json").read_text())
        return Model(kept["version"], root, (kept["a"], kept["b"]), np.array(kept["typical"], np.float32), kept["facts"], kept["missing"])
    except (OSError, ValueError, KeyError) as error:
        raise NotReady(f"{root} holds no fraud model: {type(error).__name__}: {error}") from error


def load(root: Path | None = None) -> Model:
    """The model in `root`, by default the one that was built on this machine. Raises NotReady with what to do."""
    if root is not None:
        return at(root)
    if isinstance(found := ready(), Missing):
        raise NotReady(found.reason)
    return found


def build(*, say: Say = print) -> Model:
    """The model, built first where needed; one process builds at a time. Raises NotReady where it cannot be built."""
    root = _root()
    with lock.held(root.with_suffix(".lock"), say=say, what="the fraud model"):
        if isinstance(found := ready(), Model):
            return found
        try:
            stream = data.read(fetch.fetch(data.SOURCE, say=say))
            with tempfile.TemporaryDirectory(dir=root.parent, prefix=".building-") as scratch:
                (made := Path(scratch) / "model").mkdir()
                _make(made, stream, say)
                shutil.rmtree(root, ignore_errors=True)  # what a killed build left
                made.rename(root)
        except (fetch.Refused, ImportError, OSError) as error:
            raise NotReady(f"The fraud model cannot be built: {error}") from error
    return load()


def _make(root: Path, stream: data.Ledger, say: Say) -> None:
    import lightgbm
    from sklearn.metrics import average_precision_score

    began_s = time.monotonic()
    say(f"the fraud model: growing {TREES} trees on {TRAINED:.0%} of {len(stream)} transactions")
    rows = features.matrix(stream, features.history(stream))
    np.save(root / "rows.npy", rows)
    trained, calibrated = (int(len(stream) * share) for share in (TRAINED, CALIBRATED))
    grown = lightgbm.train(GROWN, lightgbm.Dataset(rows[:trained], stream.fraud[:trained], feature_name=list(features.NAMES)), TREES)
    lightgbm.Booster(model_str=trees.rewritten(grown.model_to_string(), trees.canonical)).save_model(root / "model.txt")
    text = (root / "model.txt").read_text()
    margins = lightgbm.Booster(model_str=text).predict(rows, raw_score=True)
    if not np.array_equal(margins, grown.predict(rows, raw_score=True)):
        raise AssertionError("canonical thresholds have changed a margin, which they cannot unless the trees were read wrongly")
    a, b = _platt(margins[trained:calibrated], stream.fraud[trained:calibrated])
    (root / "model.onnx").write_bytes(trees.onnx(trees.of_lightgbm(text), inputs=len(features.NAMES)).SerializeToString())
    missing = _compile(root, say)
    judged = slice(calibrated, None)
    facts = {
        "transactions": len(stream), "trained_on": trained, "calibrated_on": calibrated - trained, "judged_on": len(stream) - calibrated,
        "frauds_judged": int(stream.fraud[judged].sum()), "trees": TREES, "features": len(features.NAMES),
        "average_precision": float(average_precision_score(stream.fraud[judged], margins[judged])),
        "packages": {name: version(name) for name in PACKAGES}, "build_s": round(time.monotonic() - began_s, 1),
    }
    legitimate = rows[:trained][~stream.fraud[:trained]]
    kept = {"version": hashlib.sha256(text.encode()).hexdigest()[:12], "a": a, "b": b,
            "typical": np.median(legitimate, axis=0).astype(np.float32).tolist(), "missing": missing, "facts": facts}
    (root / "ok.json").write_text(json.dumps(kept, indent=1))


def _platt(margins: NDArray[np.float64], fraud: NDArray[np.bool_]) -> tuple[float, float]:
    """(a, b) of the likeliest 1 / (1 + exp(-(a·margin + b))), with Platt's targets: never quite 0 or 1."""
    from scipy.optimize import minimize

    positive, negative = int(fraud.sum()), int((~fraud).sum())
    target = np.where(fraud, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(ab: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = ab[0] * margins + ab[1]
        off = 1 / (1 + np.exp(-z)) - target
        return float(np.mean(np.logaddexp(0, z) - target * z)), np.array([np.mean(off * margins), np.mean(off)])

    a, b = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return float(a), float(b)


def _compile(root: Path, say: Say) -> dict[str, str]:
    """forest.so (lleaves) and tl2cgen.so; the names of those that could not be made, with reasons."""
    if shutil.which("gcc") is None:
        return dict.fromkeys(("forest.so", "tl2cgen.so"), "There is no gcc on this machine; install it and build the fraud model again")
    import lleaves
    import tl2cgen
    import treelite

    say("the fraud model: compiling it")
    compiled, log = root / "forest.o", root / "build.log"
    # Blocks of 34 trees (lleaves' own choice) keep the code in the first cache when many rows come; one block of 200 sums in LightGBM's
    # order, so that margins are equal to the last bit, but takes 2.5 times as long to compile and has a third of the batch throughput.
    lleaves.Model(str(root / "model.txt")).compile(cache=str(compiled), raw_score=True, fcodemodel="small")
    forest = treelite.frontend.load_lightgbm_model(str(root / "model.txt"))
    tl2cgen.generate_c_code(forest, dirpath=str(root / "c"), params={"parallel_comp": 2})
    missing: dict[str, str] = {}
    for name, parts in (("forest.so", [compiled]), ("tl2cgen.so", ["-O3", "-std=c99", "-fPIC", *sorted((root / "c").glob("*.c")), "-lm"])):
        try:
            child.run(["gcc", "-shared", "-o", name, *parts], what=f"the fraud model, {name}", log=log, say=say, cwd=root)
        except child.Failed as failed:
            missing[name] = str(failed)
    compiled.unlink()
    shutil.rmtree(root / "c")
    return missing


def _root() -> Path:
    """Where this machine's model lies: another place as soon as the data, the way it is made, a package or the CPU is another."""
    cpu = re.findall(r"^(?:flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.M)[:1]
    modules = (data, features, trees, windows, sys.modules[__name__])
    ours = [hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest() for module in modules]
    made_of = [fetch.sources()[data.SOURCE].sha256, ours, {name: version(name) for name in PACKAGES}, cpu, shutil.which("gcc") is not None]
    return home.cache() / "fraud" / hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]


if __name__ == "__main__":
    built = build(say=lambda line: print(line, flush=True))
    told = built.facts
    print(f"model {built.version}: average precision {told['average_precision']:.3f} on the last {told['judged_on']} transactions "
          f"({told['frauds_judged']} frauds), built in {told['build_s']} s")
    for name, reason in built.missing.items():
        print(f"{name}: {reason}")
