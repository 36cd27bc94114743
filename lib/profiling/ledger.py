"""Accounts of one inference, each of which has to come to what it takes when nobody looks: by torch.profiler, by hooks on modules, by
oneDNN's own clock, by another engine's counters.

No account takes a number from another. Passes are held against the unwatched ones beside them, so that a machine's pace is everybody's.
Pure: frames of passes in, tables out. Parts add up to a watched pass, by construction; what watching costs, measured apart, is taken off
them. So the rest, RESIDUAL, has one cause: watching costs more here than apart (below 0), or less. It has a row of its own; an account that
needs more than TOLERANCE of it does not close, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.profiling import onednn as said
from lib.profiling import trace
from lib.profiling.hooks import OUTSIDE

TOLERANCE = 0.02
RESIDUAL = "not explained: watching costs more here than apart (−), or less (+)"
TOLD = ("name", "kind", "dur_us", "parent", "pass")  # what an account needs of a trace
PARTS = {  # operators by what they do, as they are called
    "convolution": ("aten::conv2d", "aten::convolution"), "batch norm": ("aten::batch_norm",), "activation": ("aten::relu", "aten::relu_",
    "aten::silu", "aten::silu_"), "addition": ("aten::add", "aten::add_"), "pooling": ("aten::max_pool2d", "aten::adaptive_avg_pool2d"),
    "linear": ("aten::linear",), "concatenation": ("aten::cat",), "resize": ("aten::upsample_nearest2d",),
}  # fmt: skip
BETWEEN, INSIDE = "between operators", "around primitives, inside an operator"


@dataclass(frozen=True, slots=True)
class Pace:
    """`bare_us`: an unwatched pass, the median of all. `factors`: of each watched pass, what makes its turn's pace that of all turns."""

    bare_us: float
    factors: NDArray[np.float64]


def pace(beside: Sequence[Sequence[float]], passes: int, every: Sequence[float] = ()) -> Pace:
    """Of unwatched seconds `beside` each turn of `passes` watched ones, as many in each; `every` unwatched pass, where there are others.

    Raises ValueError where turns are unequal.
    """
    if not beside or passes % len(beside):
        raise ValueError(f"{passes} passes are not as many in each of {len(beside)} turns")
    middle_us = 1e6 * float(np.median(np.concatenate([np.asarray(turn, float) for turn in ([every] if every else beside)])))
    turns = [middle_us / (1e6 * float(np.median(turn))) for turn in beside]
    return Pace(middle_us, np.repeat(turns, passes // len(beside)))


def middle(whole: Sequence[float]) -> NDArray[np.intp]:
    """The passes of the middle half by what they took: their parts' means add up, which medians do not, and no stall is among them."""
    order = np.argsort(np.asarray(whole, float), kind="stable")
    cut = len(order) // 4
    return np.sort(order[cut : len(order) - cut])


def median_pass(frame: pd.DataFrame) -> int:
    """The number of the pass that took the median time: one real pass, whose rows add up."""
    took = frame[frame["kind"] == "pass"].set_index("pass")["dur_us"].sort_values()
    return int(took.index[len(took) // 2])


def nested(frame: pd.DataFrame) -> pd.Series:
    """Which rows are operators that another operator called."""
    return frame["parent"].map(frame["kind"]).eq("operator") & frame["kind"].eq("operator")


def parts(frame: pd.DataFrame, *, event_us: float = 0.0, nested_us: float = 0.0) -> pd.DataFrame:
    """pass, part, n, us: operators that PyTorch was asked for, and BETWEEN, the pass' rest.

    Each event costs what it does where it lies: `nested_us` in the operator around it, else `event_us` between operators.
    """
    inner = nested(frame)
    top = np.arange(len(frame))
    for row, (parent, inside) in enumerate(zip(frame["parent"], inner, strict=True)):  # parents come before what is in them
        top[row] = top[parent] if inside else row
    within = pd.Series(top[inner.to_numpy(bool)], dtype=int).value_counts()
    leaves = trace.leaves(frame)
    of = {name: part for part, names in PARTS.items() for name in names}
    told = leaves.assign(part=leaves["name"].map(of).fillna("other operators"),
                         us=leaves["dur_us"] - nested_us * within.reindex(leaves.index, fill_value=0))  # fmt: skip
    took = frame[frame["kind"] == "pass"].set_index("pass")["dur_us"]
    others = frame[(frame["kind"] == "scope") | frame.index.isin(leaves.index)].groupby("pass").size()
    between = took - leaves.groupby("pass")["dur_us"].sum() - event_us * others
    return pd.concat([_by_pass(told, "part", "us"), between.rename("us").to_frame().assign(part=BETWEEN, n=None).reset_index()])


def profiler(frame: pd.DataFrame, at: Pace, *, event_us: float, nested_us: float, scopes_us: float = 0.0) -> pd.DataFrame:
    """part, n, us of an unwatched pass as torch.profiler tells it, less what events cost where they lie, and modules' scopes between."""
    told = parts(frame, event_us=event_us, nested_us=nested_us)
    return _account(told.assign(us=told["us"] - scopes_us * (told["part"] == BETWEEN)), at)


def hooked(calls: pd.DataFrame, walls_us: Sequence[float], at: Pace, *, module_us: float) -> pd.DataFrame:
    """part, n, us by stamps at modules' doors: leaf modules by kind, the own work of those that hold others, and what lies outside.

    A call of a module costs `module_us`, most of it in the module that calls: there it is left out.
    """
    own = calls.assign(part=calls["kind"].where(calls["leaf"], calls["kind"] + ", outside of the modules in it"),
                       us=calls["own_us"] - module_us * calls["calls"])  # fmt: skip
    outside = np.asarray(walls_us, float) - calls.groupby("pass")["own_us"].sum().to_numpy() - module_us
    rest = pd.DataFrame({"pass": range(len(walls_us)), "part": OUTSIDE, "n": None, "us": outside})
    return _account(pd.concat([_by_pass(own, "part", "us"), rest]), at)


def onednn(primitives: pd.DataFrame, walls_us: Sequence[float], at: Pace, *, line_us: float) -> pd.DataFrame:
    """part, n, us by oneDNN's own clock: its primitives, and the gaps that its stamps leave, without `line_us` for the line in each.

    A gap is inside an operator where the reorders around a convolution are its own, else between two, where PyTorch computes alone.
    """
    calls = np.array(said.calls(primitives))
    number, begin = primitives["pass"].to_numpy(), primitives["begin_us"].to_numpy(float)
    end = begin + primitives["us"].to_numpy(float)
    last = np.append(number[1:] != number[:-1], True)
    walls = np.asarray(walls_us, float)
    until = np.where(last, walls[number], np.append(begin[1:], 0.0))
    same = np.append(calls[1:] == calls[:-1], False) & ~last
    where = np.where(last, "after the last primitive", np.where(same, INSIDE, "between operators that call oneDNN"))
    first = np.append(True, number[1:] != number[:-1])
    rows = [pd.DataFrame({"pass": number, "part": [f"oneDNN: {_primitive(*row)}" for row in zip(
        primitives["primitive"], primitives["memory"], strict=True)], "us": end - begin}),
            pd.DataFrame({"pass": number, "part": where, "us": until - end - line_us}),
            pd.DataFrame({"pass": number[first], "part": "before the first primitive", "us": begin[first]})]  # fmt: skip
    return _account(_by_pass(pd.concat(rows), "part", "us"), at)


def _primitive(primitive: str, memory: str) -> str:
    """Reorders of weights apart from those of pictures."""
    if primitive != "reorder":
        return primitive
    return "reorder of weights" if said.of_weights(memory) else "reorder of activations"


def engine(nodes: pd.DataFrame, walls_us: Sequence[float], at: Pace, *, node_us: float) -> pd.DataFrame:
    """part, n, us of an engine's own account: nodes by kind, and what its runs take beside them, less `node_us` for telling of each."""
    sums = nodes.groupby("pass")["us"].agg(["sum", "size"])
    between = np.asarray(walls_us, float) - sums["sum"].to_numpy() - node_us * sums["size"].to_numpy()
    rest = pd.DataFrame({"pass": range(len(walls_us)), "part": "between nodes", "n": None, "us": between})
    return _account(pd.concat([_by_pass(nodes, "kind", "us").rename(columns={"kind": "part"}), rest]), at)


def _by_pass(frame: pd.DataFrame, part: str, us: str) -> pd.DataFrame:
    """pass, part, n, us; a part that a pass lacks is 0 there."""
    told = frame.groupby(["pass", part])[us].agg(["size", "sum"]).unstack(fill_value=0).stack(future_stack=True)
    return told.set_axis(["n", "us"], axis=1).reset_index()


def _account(told: pd.DataFrame, at: Pace) -> pd.DataFrame:
    """Means over the middle passes, each at its turn's pace, largest first, what lies between last; then what is not explained.

    What watching costs beyond all that lies between is inside the parts, and taken off there, call by call.
    """
    wide = told.pivot(index="pass", columns="part", values="us").mul(at.factors, axis=0)
    means = wide.iloc[middle(wide.sum(axis=1).tolist())].mean()
    n = {str(part): float(number) for part, number in told.groupby("part")["n"].median().items()}
    over, calls = sum(min(0.0, us) for part, us in means.items() if np.isnan(n[str(part)])), sum(each for each in n.values() if each > 0)
    means += pd.Series({part: over * each / calls for part, each in n.items() if each > 0}).reindex(means.index, fill_value=0.0)
    rows: list[dict[str, Any]] = [{"part": part, "n": None if np.isnan(n[str(part)]) else int(n[str(part)]),
                                   "us": max(0.0, float(us))} for part, us in means.items()]  # fmt: skip
    rows.sort(key=lambda row: (row["n"] is None, -row["us"]))
    return closed(pd.DataFrame(rows), at.bare_us)


def closed(told: pd.DataFrame, bare_us: float) -> pd.DataFrame:
    """With each part's share of `bare_us`, and a last row RESIDUAL: what is missing, or too much."""
    rest = bare_us - float(told["us"].sum())
    whole = pd.concat([told, pd.DataFrame([{"part": RESIDUAL, "n": None, "us": rest}])], ignore_index=True)
    return whole.assign(share=whole["us"] / bare_us)


def unexplained(told: pd.DataFrame) -> float:
    """The share of the unwatched time that the account misses (or has too much, below 0)."""
    return float(told["share"].iloc[-1])
