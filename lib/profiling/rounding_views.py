"""Tables of notebook 30 on what fewer bits do to answers: by how clear a picture was, block by block, recipe by recipe. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.measured import points
from lib.profiling.session import Session

BOUNDS = (0.0, 0.02, 0.05, 0.1, 0.2)  # of the margin between the first and the second class, in float32
CLEAR = 0.1
DRAWS = 2_000


def rounded(s: Session) -> dict[str, Any] | None:
    """The experiment's facts; None where it was not made."""
    told = next(iter(points(s.run, "rounded")), None)
    return None if told is None else dict(told["facts"])


def kept(same: Sequence[bool], of: Sequence[str]) -> tuple[float | None, float | None, float | None]:
    """The share of pictures that kept their first class, and its 95 % interval; photographs are drawn, for crops of one are alike.

    None for no picture. The interval is None where there is one photograph.
    """
    if not same:
        return None, None, None
    by = pd.DataFrame({"of": of, "same": same}).groupby("of")["same"].agg(["sum", "size"]).to_numpy(float)
    share = float(by[:, 0].sum() / by[:, 1].sum())
    if len(by) < 2:
        return share, None, None
    drawn = by[np.random.default_rng(0).integers(0, len(by), (DRAWS, len(by)))].sum(axis=1)
    lo, hi = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return share, float(lo), float(hi)


def by_margin(s: Session) -> pd.DataFrame:
    """form, margin, share, lo, hi, n: a row a bound, of the forms that engines run and of the recipes."""
    columns = ["form", "margin", "share", "lo", "hi", "n"]
    if (facts := rounded(s)) is None:
        return pd.DataFrame(columns=columns)
    rows = []
    for name, same in (*_forms(s, facts).items(), *((one["name"], one["same"]) for one in facts["recipes"])):
        for bound in BOUNDS:
            clear = [place for place, margin in enumerate(facts["margins"]) if margin >= bound]
            rows.append([name, bound, *kept([same[place] for place in clear], [facts["of"][place] for place in clear]), len(clear)])
    return pd.DataFrame(rows, columns=columns)


def _forms(s: Session, facts: Mapping[str, Any]) -> dict[str, list[bool]]:
    """The forms of fewer bits as engines ran them, where they judged the same pictures."""
    told: dict[str, list[bool]] = next((p["facts"].get("same", {}) for p in points(s.run, "forms") if p["network"] != "resnet50"), {})
    return {name: same for name, same in told.items() if ("INT8" in name or "bf16" in name) and len(same) == len(facts["margins"])}


def wide(told: pd.DataFrame) -> pd.DataFrame:
    """`by_margin` in print: a column a bound, the number of pictures in its head."""
    if not len(told):
        return pd.DataFrame()
    head = {bound: f"margin ≥ {bound:g} (n = {n})" for bound, n in zip(told["margin"], told["n"], strict=True)}
    found = told.assign(share=told["share"].map(lambda one: "–" if pd.isna(one) else f"{one:.1%}"), margin=told["margin"].map(head))
    order = list(dict.fromkeys(found["margin"]))
    return found.pivot(index="form", columns="margin", values="share").reindex(index=list(dict.fromkeys(found["form"])),
                                                                               columns=order).reset_index()  # fmt: skip


def sensitivity(s: Session) -> pd.DataFrame:
    """block, and for each precision the KL of its rounding alone, 10⁻³ nats; in the order of computing."""
    facts = rounded(s)
    if facts is None:
        return pd.DataFrame(columns=["block"])
    return pd.DataFrame({"block": list(facts["blocks"]["INT8"]), **{name: [1e3 * kl for kl in each.values()]
                                                                    for name, each in facts["blocks"].items()}})  # fmt: skip


def recipes(s: Session) -> pd.DataFrame:
    """recipe, what it leaves in float32, KL on judged pictures, share of first classes kept: of all and of the clear ones."""
    if (facts := rounded(s)) is None:
        return pd.DataFrame()
    told = by_margin(s).set_index(["form", "margin"])["share"]
    return pd.DataFrame([{"recipe": one["name"], "in float32": ", ".join(one["left_out"]) or "–", "KL, 10⁻³": 1e3 * one["kl"],
                          "first class as float32's": told[one["name"], 0.0], f"of margins ≥ {CLEAR:g}": told[one["name"], CLEAR]}
                         for one in facts["recipes"]])  # fmt: skip


def findings(s: Session) -> dict[str, Any]:
    """Fields for sentences: the clear pictures and what bf16 and the plain INT8 keep of them; the worst blocks' share of INT8's KL; the
    best recipe."""
    facts, fields = rounded(s), ("n", "clear", "bf16", "INT8", "bf16_all", "INT8_all", "first", "share", "sum", "best", "best_share",
                                 "left_out", "blocks", "bf16_block", "bf16_share", "bf16_spared")  # fmt: skip
    if facts is None:
        return dict.fromkeys(fields)
    told = by_margin(s)
    first = {name: next(str(form) for form in told["form"] if name in form) for name in ("bf16", "INT8")}
    at = told.set_index(["form", "margin"])["share"]
    each = facts["blocks"]["INT8"]
    worst = sorted(each, key=lambda block: -each[block])[:3]
    few = facts["blocks"]["bf16"]
    block = max(few, key=lambda one: few[one])
    spared = next((one for one in facts["recipes"] if "bf16" in one["name"] and one["left_out"]), None)
    best = max(facts["recipes"], key=lambda one: (np.mean(one["same"]), -len(one["left_out"])) if "INT8" in one["name"] else (-1.0, 0))
    return {"n": len(facts["margins"]), "clear": int(sum(margin >= CLEAR for margin in facts["margins"])),
            **{name: at[form, CLEAR] for name, form in first.items()}, **{f"{name}_all": at[form, 0.0] for name, form in first.items()},
            "first": ", ".join(worst), "share": sum(each[block] for block in worst) / sum(each.values()),
            "sum": sum(each.values()) / facts["whole"]["INT8"], "best": best["name"], "best_share": float(np.mean(best["same"])),
            "left_out": len(best["left_out"]), "blocks": len(each), "bf16_block": block, "bf16_share": few[block] / sum(few.values()),
            "bf16_spared": None if spared is None else float(np.mean(spared["same"]))}  # fmt: skip
