"""What notebook 30 claims: fields for its sentences, from its tables. Pure. A field that nobody measured is None."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lib.profiling import predictions
from lib.profiling.accounts import ONEDNN, PROFILER
from lib.profiling.forms import EAGER
from lib.profiling.roofline import Roof
from lib.profiling.views import short

NAMES = {"resnet50": "ResNet-50", "resnet18": "ResNet-18"}
PRECISIONS = {"fp32": ("ONNX Runtime fp32", "OpenVINO f32"), "bf16": ("OpenVINO bf16",), "INT8": ("ONNX Runtime INT8", "OpenVINO INT8")}


def accounts(closing: pd.DataFrame) -> dict[str, Any]:
    """n, how many close, the largest share that is not explained and whose."""
    if not len(closing):
        return dict.fromkeys(("n", "close", "worst", "whose"))
    off = closing["not explained"].str.rstrip("%").astype(float).abs() / 100
    worst = closing.iloc[int(off.argmax())]
    return {"n": len(closing), "close": int(closing["closes"].sum()), "worst": float(off.max()), "whose": worst["account"]}


def outside(found: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Of an eager pass: the shares of convolutions' arithmetic, of reorders (and how many), and of all outside oneDNN, by its clock; of
    batch norms by the profiler's."""
    told, profiler = found.get(ONEDNN), found.get(PROFILER)
    if told is None or profiler is None:
        return dict.fromkeys(("arithmetic", "reorders", "reorder_n", "norms", "outside"))
    share = told.set_index("part")["share"]
    reorders = told[told["part"].str.contains("reorder")]
    inside = float(told[told["part"].str.startswith("oneDNN: ")]["share"].sum())
    return {"arithmetic": float(share.get("oneDNN: convolution", 0.0)), "reorders": float(reorders["share"].sum()),
            "reorder_n": int(reorders["n"].sum()), "norms": float(profiler.set_index("part")["share"].get("batch norm", 0.0)),
            "outside": 1 - inside}  # fmt: skip


def bottleneck(layers: pd.DataFrame, placed: pd.DataFrame) -> dict[str, Any]:
    """The layer that takes longest, its share of all layers and of their FLOP, and how near its roof it is, by whom it is held: None where
    oneDNN did not compute it, and it has no place under the roof."""
    if not len(layers) or not len(placed):
        return dict.fromkeys(("layer", "what", "ms", "share", "flop", "roof", "limit"))
    first = layers.sort_values("profiler_us").iloc[-1]
    under = next(iter(placed[placed["layer"] == first["layer"]].to_dict("records")), {"share": None, "limit": None})
    return {"layer": short(str(first["layer"])), "what": first["shape"], "ms": float(first["profiler_us"]) / 1e3,
            "share": float(first["profiler_us"] / layers["profiler_us"].sum()), "flop": float(first["flop"] / layers["flop"].sum()),
            "roof": under["share"], "limit": under["limit"]}  # fmt: skip


def without_onednn(ranked: pd.DataFrame) -> dict[str, Any]:
    """How many of the convolutions oneDNN computed, and "rest": words about those that PyTorch computed without it."""
    if not len(ranked):
        return dict.fromkeys(("n", "of", "rest"))
    missing = ranked[ranked[ONEDNN].isna()]
    kinds = ", ".join(sorted({shape.partition(",")[0] for shape in missing["shape"]}))
    return {"n": len(ranked) - len(missing), "of": len(ranked),
            "rest": f"; the others, all of {kinds}, PyTorch computes itself, and they have no place under the roof" if len(missing) else ""}


def under_roof(placed: pd.DataFrame, roof: Roof | None) -> dict[str, Any]:
    """How the layers stand under their roof: how many compute-bound, the median share reached, time lost against the roof."""
    if roof is None or not len(placed):
        return dict.fromkeys(("n", "compute", "median", "could", "by", "rate"))
    could = float((placed["flop"] / placed["bound"] * 1e6).sum())
    return {"n": len(placed), "compute": int((placed["limit"] == "compute").sum()), "median": float(placed["share"].median()),
            "could": could / float(placed["us"].sum()), "by": roof.by, "rate": roof.rate / 1e9}  # fmt: skip


def foretold(found: pd.DataFrame) -> dict[str, Any]:
    """n, median and worst error of the registered predictions, how many within a tenth; of which networks."""
    if not len(found):
        return dict.fromkeys(("n", "median", "worst", "whose", "within", "networks"))
    of = [NAMES.get(name, name) for name in found.get("network", pd.Series(dtype=object)).unique()]
    return {**predictions.errors(found), "within": int((found["off"].abs() <= 0.1).sum()), "networks": " and ".join(of)}


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


def compiled(foretold: pd.DataFrame, layouts: dict[str, Any]) -> dict[str, Any]:
    """What the compiled network was foretold and took, ms, and the error; and the error with the reorders that channels_last keeps, which
    the profile of the other layout could not know: None where they explain less than half of it."""
    row = _change(foretold, "folded, channels_last, compile")
    if row is None or pd.isna(row["off"]) or layouts["after"] is None:
        return dict.fromkeys(("expected", "measured", "off", "after", "then", "then_off"))
    then = row["expected, ms"] + layouts["after"]
    found = {"expected": row["expected, ms"], "measured": row["measured, ms"], "off": row["off"], "after": layouts["after"], "then": then,
             "then_off": (1 + row["off"]) * then / row["expected, ms"] - 1}  # fmt: skip
    explains = abs(found["then_off"]) < abs(row["off"]) / 2
    return found if explains else {**found, "then_off": None}


def _change(foretold: pd.DataFrame, name: str) -> dict[str, Any] | None:
    found = foretold[foretold["change"] == name].to_dict("records") if len(foretold) else []
    return {str(key): value for key, value in found[0].items()} if found else None


def halved(rates: dict[str, float], foretold: pd.DataFrame, isa: Sequence[str]) -> dict[str, Any]:
    """What bf16 does to products, × float32's rate, and to the network: foretold and measured × eager; "why" where it is emulated."""
    row = _change(foretold, "folded, channels_last, bf16")
    if row is None or pd.isna(row["off"]) or not {"bfloat16", "float32"} <= rates.keys():
        return dict.fromkeys(("ratio", "foretold", "came", "why"))
    return {"ratio": rates["bfloat16"] / rates["float32"], "foretold": row["speed-up expected"], "came": row["speed-up measured"],
            "why": "" if in_hardware(isa) else ", for this processor has no instructions for it and both engines emulate them"}  # fmt: skip


def in_hardware(isa: Sequence[str]) -> bool:
    """Whether a processor with these instructions multiplies bf16 itself."""
    return any("bf16" in one for one in isa)


def longest(stages: pd.DataFrame) -> dict[str, Any]:
    """The stage that takes longest, and its share of a pass."""
    if not len(stages):
        return dict.fromkeys(("stage", "of"))
    most = stages.sort_values("ms").iloc[-1]
    return {"stage": most["stage"], "of": most["of a pass"]}


def pages(told: pd.DataFrame) -> dict[str, Any]:
    """Pages that a pass touches first when nobody looks, and when the profiler does; what they take, ms and shares of a pass."""
    if not len(told):
        return dict.fromkeys(("pages", "each", "ms", "share", "watched", "watched_ms", "watched_share"))
    bare, watched = told.iloc[0], told.iloc[1]
    return {"pages": bare["pages"], "each": bare["µs each"], "ms": bare["ms"], "share": bare["share"],
            "watched": watched["pages"], "watched_ms": watched["ms"], "watched_share": watched["share"]}  # fmt: skip
