"""What notebook 30 claims: fields for its sentences, from its tables. Pure. A field that nobody measured is None."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lib.profiling import predictions
from lib.profiling.forms import EAGER
from lib.profiling.roofline import Roof
from lib.profiling.views import short

PRECISIONS = {"fp32": ("ONNX Runtime fp32", "OpenVINO f32"), "bf16": ("OpenVINO bf16",), "INT8": ("ONNX Runtime INT8", "OpenVINO INT8")}


def accounts(closing: pd.DataFrame) -> dict[str, Any]:
    """n, how many close, the largest share that is not explained and whose."""
    if not len(closing):
        return dict.fromkeys(("n", "close", "worst", "whose"))
    off = closing["not explained"].str.rstrip("%").astype(float).abs() / 100
    worst = closing.iloc[int(off.argmax())]
    return {"n": len(closing), "close": int(closing["closes"].sum()), "worst": float(off.max()), "whose": worst["account"]}


def outside(found: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Of an eager pass: the shares of convolutions' arithmetic, of reorders (and how many), of batch norms, and of all outside oneDNN."""
    told = found.get("oneDNN")
    if told is None:
        return dict.fromkeys(("arithmetic", "reorders", "reorder_n", "norms", "outside", "between"))
    share = told.set_index("part")["share"]
    reorders = told[told["part"].str.contains("reorder")]
    inside = float(told[told["part"].str.startswith("oneDNN: ")]["share"].sum())
    return {"arithmetic": float(share.get("oneDNN: convolution", 0.0)), "reorders": float(reorders["share"].sum()),
            "reorder_n": int(reorders["n"].sum()), "norms": float(share.get("batch norm", 0.0)), "outside": 1 - inside,
            "between": float(share.get("between operators", 0.0))}  # fmt: skip


def bottleneck(layers: pd.DataFrame, placed: pd.DataFrame) -> dict[str, Any]:
    """The layer that takes longest, its share of all layers and of their FLOP, and how near its roof it is, by whom it is held."""
    if not len(layers) or not len(placed):
        return dict.fromkeys(("layer", "what", "ms", "share", "flop", "roof", "limit"))
    first = layers.sort_values("profiler_us").iloc[-1]
    under = placed[placed["layer"] == first["layer"]].iloc[0]
    return {"layer": short(str(first["layer"])), "what": first["shape"], "ms": float(first["profiler_us"]) / 1e3,
            "share": float(first["profiler_us"] / layers["profiler_us"].sum()), "flop": float(first["flop"] / layers["flop"].sum()),
            "roof": float(under["share"]), "limit": under["limit"]}  # fmt: skip


def under_roof(placed: pd.DataFrame, roof: Roof | None) -> dict[str, Any]:
    """How the layers stand under their roof: how many compute-bound, the median share reached, time lost against the roof."""
    if roof is None or not len(placed):
        return dict.fromkeys(("n", "compute", "median", "could", "by", "rate"))
    could = float((placed["flop"] / placed["bound"] * 1e6).sum())
    return {"n": len(placed), "compute": int((placed["limit"] == "compute").sum()), "median": float(placed["share"].median()),
            "could": could / float(placed["us"].sum()), "by": roof.by, "rate": roof.rate / 1e9}  # fmt: skip


def foretold(found: pd.DataFrame) -> dict[str, Any]:
    """n, median and worst error of the registered predictions, and how many within a tenth."""
    if not len(found):
        return dict.fromkeys(("n", "median", "worst", "whose", "within"))
    return {**predictions.errors(found), "within": int((found["off"].abs() <= 0.1).sum())}


def fastest(forms: pd.DataFrame, network: str = "resnet50") -> dict[str, Any]:
    """By precision: the quickest form against eager float32, as "fp32_times", "fp32_form", …; None where none ran."""
    told: dict[str, Any] = {}
    mine = forms[forms["network"] == network].dropna(subset=["×"])
    for precision, names in PRECISIONS.items():
        there = mine[mine["form"].isin(names)]
        best = there.sort_values("×").iloc[-1] if len(there) else None
        for key, column in (("times", "×"), ("form", "form"), ("ms", "ms")):
            told[f"{precision}_{key}"] = None if best is None else best[column]
    eager = mine.loc[mine["form"] == EAGER, "ms"]
    return {**told, "eager_ms": float(eager.iloc[0]) if len(eager) else None}


def right(forms: pd.DataFrame) -> dict[str, Any]:
    """Of the network that was trained: first classes as float32's, by precision; the best form's."""
    told: dict[str, Any] = {}
    mine = forms[forms["network"] != "resnet50"].dropna(subset=["first class as float32's"])
    for precision, names in PRECISIONS.items():
        there = mine[mine["form"].isin(names)]["first class as float32's"]
        told[precision] = float(there.max()) if len(there) else None
    return told


def layout(found: pd.DataFrame) -> dict[str, Any]:
    """Reorders in both layouts, ms and number, and what convolutions' arithmetic takes in channels_last against the other, × ."""
    if not len(found) or found["layout"].nunique() < 2:
        return dict.fromkeys(("before", "before_n", "after", "after_n", "times"))
    at = found.set_index(["layout", "primitive"])
    (before, before_n), (after, after_n) = (
        (float(at["ms"].get((layout, "reorder"), 0.0)), int(at["n"].get((layout, "reorder"), 0))) for layout in found["layout"].unique()
    )
    first, second = (float(at["ms"][(layout, "convolution")]) for layout in found["layout"].unique())
    return {"before": before, "before_n": before_n, "after": after, "after_n": after_n, "times": first / second}


def longest(stages: pd.DataFrame) -> dict[str, Any]:
    """The stage that takes longest, and its share of a pass."""
    if not len(stages):
        return dict.fromkeys(("stage", "of"))
    most = stages.sort_values("ms").iloc[-1]
    return {"stage": most["stage"], "of": most["of a pass"]}
