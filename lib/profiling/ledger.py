"""Three accounts of one inference, each of which has to come to what it takes when nobody looks: the profiler's, oneDNN's, an engine's.

Pure: frames of passes in, tables out. What no account explains has a row of its own; an account that needs more than TOLERANCE of such a
row does not close, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.profiling import trace

TOLERANCE = 0.02
PARTS = {  # operators by what they do, as they are called
    "convolution": ("aten::conv2d", "aten::convolution"), "batch norm": ("aten::batch_norm",), "activation": ("aten::relu", "aten::relu_",
    "aten::silu", "aten::silu_"), "addition": ("aten::add", "aten::add_"), "pooling": ("aten::max_pool2d", "aten::adaptive_avg_pool2d"),
    "linear": ("aten::linear",), "concatenation": ("aten::cat",), "resize": ("aten::upsample_nearest2d",),
}  # fmt: skip
CALLS = {"convolution": {"convolution"}, "linear": {"inner_product", "matmul"}, "pooling": {"pooling"}}  # parts → oneDNN's primitives


def median_pass(frame: pd.DataFrame) -> int:
    """The number of the pass that took the median time: one real pass, whose rows add up."""
    took = frame[frame["kind"] == "pass"].set_index("pass")["dur_us"].sort_values()
    return int(took.index[len(took) // 2])


def parts(frame: pd.DataFrame) -> pd.DataFrame:
    """part, n, us: operators that PyTorch was asked for, medians over passes; "between operators" is the rest of the pass."""
    leaves = trace.leaves(frame)
    of = {name: part for part, names in PARTS.items() for name in names}
    told = leaves.assign(part=leaves["name"].map(of).fillna("other operators"))
    by = _by_pass(told, "part", "dur_us")
    rows = _medians(by)
    took = frame[frame["kind"] == "pass"].set_index("pass")["dur_us"]
    between = (took - by["sum"].sum(axis=1)).median()
    return _table(rows, "between operators", float(between))


def watching_us(events: float, tick_ns: Mapping[str, float], scopes_us: float) -> float:
    """What watching adds to a pass: the scopes' own Python, measured while nobody listened, and each event of the profiler as much as one
    adds to an operator that does nothing."""
    return scopes_us + events * (tick_ns["seen"] - tick_ns["bare"]) / 1e3


def profiler(frame: pd.DataFrame, *, bare_us: float, watching: float) -> pd.DataFrame:
    """part, n, us of an unwatched pass as torch.profiler tells it: its parts, less what watching costs, which lies between operators."""
    told = parts(frame)
    last = told.index[-1]
    told.loc[last, "us"] = max(0.0, float(told.loc[last, "us"]) - watching)
    return closed(told, bare_us)


def onednn(frame: pd.DataFrame, primitives: pd.DataFrame, *, bare_us: float, watching: float) -> pd.DataFrame:
    """part, n, us: oneDNN's primitives by its own clock, operators without it by the profiler's, and what lies around both."""
    by = primitives.assign(part=[_primitive(*row) for row in zip(primitives["primitive"], primitives["memory"], strict=True)])
    each = _by_pass(by, "part", "us")
    rows = _medians(each, "oneDNN: ")
    told = parts(frame)
    said = {part for part, names in CALLS.items() if names & set(primitives["primitive"])}
    inside = told[told["part"].isin(said)]["us"].sum()
    rows.append({"part": "around oneDNN, in the operators that call it", "n": None, "us": float(inside - sum(row["us"] for row in rows))})
    rows += [{"part": str(row["part"]), "n": row["n"], "us": row["us"]} for row in told.to_dict("records") if row["part"] not in said]
    rows[-1]["us"] = max(0.0, rows[-1]["us"] - watching)
    return closed(pd.DataFrame(rows), bare_us)


def _primitive(primitive: str, memory: str) -> str:
    """Reorders of weights apart from those of pictures: a weight is blocked in its output channels, by oneDNN's capital A."""
    if primitive != "reorder":
        return primitive
    target = memory.rpartition("dst:")[2]
    return "reorder of weights" if ":A" in target else "reorder of activations"


def engine(nodes: pd.DataFrame, walls_us: Sequence[float], *, bare_us: float) -> pd.DataFrame:
    """part, n, us of an engine's own account: nodes by kind, medians over passes, and what its runs take beside them."""
    by = _by_pass(nodes, "kind", "us")
    between = np.median(np.asarray(walls_us) - by["sum"].sum(axis=1).to_numpy())
    return closed(_table(_medians(by), "between nodes", float(between)), bare_us)


def _by_pass(frame: pd.DataFrame, part: str, us: str) -> Any:
    """Passes × (size, sum) × parts."""
    return frame.groupby(["pass", part])[us].agg(["size", "sum"]).unstack(fill_value=0)


def _medians(by: Any, prefix: str = "") -> list[dict[str, Any]]:
    """Rows of parts: medians over passes."""
    return [{"part": f"{prefix}{part}", "n": int(by["size"][part].median()), "us": float(by["sum"][part].median())}
            for part in by["sum"].columns]  # fmt: skip


def _table(rows: list[dict[str, Any]], rest: str, rest_us: float) -> pd.DataFrame:
    return pd.DataFrame([*sorted(rows, key=lambda row: -float(row["us"])), {"part": rest, "n": None, "us": rest_us}])


def closed(told: pd.DataFrame, bare_us: float) -> pd.DataFrame:
    """With each part's share of `bare_us`, and a last row "not explained": what is missing, or too much."""
    rest = bare_us - float(told["us"].sum())
    whole = pd.concat([told, pd.DataFrame([{"part": "not explained", "n": None, "us": rest}])], ignore_index=True)
    return whole.assign(share=whole["us"] / bare_us)


def unexplained(told: pd.DataFrame) -> float:
    """The share of the unwatched time that the account misses (or has too much, below 0)."""
    return float(told["share"].iloc[-1])
