"""Which layers take longest, by every account, in one vocabulary: a layer is a convolution with its batch norm and activation. Pure.

Three accounts are of the same engine, eager PyTorch, and have to name the same layers; oneDNN's knows the convolution and its reorders
alone. Other engines compute in other ways, and may name others: what PyTorch spends on laying weights out anew, which they do once when
they load, stands beside. Refuses to call layers different that differ by less than TIED.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lib.profiling import layers as of_layers
from lib.profiling import onednn
from lib.profiling.accounts import HOOKS, ONEDNN, PROFILER

EAGER = (PROFILER, HOOKS, ONEDNN)
KINDS = {"ONNX Runtime": "Conv", "OpenVINO": "Convolution"}  # an engine's nodes that are convolutions
TIED = 0.05  # of a layer's time: passes of one layer differ by more
WEIGHTS = "weights laid out anew, ms"


def whole(name: str) -> str:
    """The module that is the whole layer: the one around a convolution that has its batch norm and activation in it, too."""
    return name.removesuffix(".convolution").removesuffix(".conv")


def table(layers: pd.DataFrame, modules: pd.DataFrame, calls: pd.DataFrame, primitives: pd.DataFrame,
          engines: Mapping[str, pd.DataFrame]) -> pd.DataFrame:  # fmt: skip
    """layer, shape, a column of µs an account, WEIGHTS: medians over passes, a row a convolution. oneDNN has none of those that PyTorch
    computes without it.

    `modules`: whole_us by pass, of the trace; `calls`: of the hooks; `primitives`: oneDNN's; `engines`: nodes by engine. Raises ValueError
    where oneDNN's convolutions are not the network's.
    """
    told = layers[layers["kind"] == "Conv2d"].reset_index(drop=True)
    around = told["layer"].map(whole)
    spans, weights = _spans(told, primitives)
    found = {name: np.array(of_layers.engine_us(told, nodes, convolutions=KINDS[name]), float) for name, nodes in engines.items()}
    return pd.DataFrame({"layer": told["layer"], "shape": told["shape"],
                         PROFILER: around.map(modules.groupby("module")["whole_us"].median()),
                         HOOKS: around.map(calls.groupby("module")["whole_us"].median()), ONEDNN: spans, **found,
                         WEIGHTS: np.array(weights) / 1e3})  # fmt: skip


def _spans(layers: pd.DataFrame, primitives: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Of each convolution: µs from the first primitive of its operator to the end of the last, and of reorders of its weights; NaN where
    oneDNN did not compute it."""
    told = primitives.assign(call=onednn.calls(primitives), end_us=primitives["begin_us"] + primitives["us"])
    told = told.assign(weights_us=told["us"].where(told["memory"].map(onednn.of_weights) & (told["primitive"] == "reorder"), 0.0),
                       convolves=told["primitive"] == "convolution")  # fmt: skip
    by = told.groupby(["pass", "call"]).agg(begin=("begin_us", "min"), end=("end_us", "max"), weights=("weights_us", "sum"),
                                            convolves=("convolves", "any")).reset_index()  # fmt: skip
    by = by[by["convolves"]]
    by = by.assign(order=by.groupby("pass").cumcount(), span=by["end"] - by["begin"])
    medians = by.groupby("order")[["span", "weights"]].median()
    spans, weights = (medians[name].reindex(of_layers.places(layers, primitives)).tolist() for name in ("span", "weights"))
    return spans, weights


def accounts(told: pd.DataFrame) -> list[str]:
    """The accounts of a table that hold anything."""
    return [name for name in (*EAGER, *KINDS) if name in told and told[name].notna().any()]


def same(told: pd.DataFrame, n: int = 5) -> dict[tuple[str, str], int]:
    """How many of the `n` slowest layers two accounts share."""
    names = accounts(told)
    tops = {name: set(told.nlargest(n, name)["layer"]) for name in names}
    return {(a, b): len(tops[a] & tops[b]) for place, a in enumerate(names) for b in names[place + 1 :]}


def tied(told: pd.DataFrame, account: str, n: int = 5) -> int:
    """How many layers could as well be among the `n` slowest: they lie within TIED below the n-th. The others are surely not."""
    times = told[account].dropna().sort_values(ascending=False)
    return int(((times.iloc[n:]) >= (1 - TIED) * times.iloc[n - 1]).sum()) if len(times) > n else 0


def agreement(told: pd.DataFrame, n: int = 5) -> dict[str, Any]:
    """Of the `n` slowest: how many any two of PyTorch's accounts share at least, how many another engine does with the profiler's.

    `tied`: layers of that engine that lie within TIED of its n-th.
    """
    pairs = same(told, n) if len(told) else {}
    eager = {pair: shared for pair, shared in pairs.items() if set(pair) <= set(EAGER)}
    others = {b: shared for (a, b), shared in pairs.items() if a == PROFILER and b in KINDS}
    found: dict[str, Any] = {"n": n} | dict.fromkeys(("fewest", "whose", "accounts", "engine", "shared", "tied"))
    if eager:
        pair = min(eager, key=lambda one: eager[one])
        found |= {"fewest": eager[pair], "whose": " and ".join(pair), "accounts": len({name for both in eager for name in both})}
    if others:
        engine = min(others, key=lambda one: others[one])
        found |= {"engine": engine, "shared": others[engine], "tied": tied(told, engine, n)}
    return found
