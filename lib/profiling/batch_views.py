"""Tables of notebook 31: what a batch buys, the line it lies on, what batching does to requests that come by chance. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib import stats
from lib.measured import points
from lib.profiling import affine
from lib.profiling.affine import Affine
from lib.profiling.session import Session

Rounds = Mapping[int, Sequence[Sequence[float]]]


def rounds(point: Mapping[str, Any]) -> Rounds:
    """Batch → rounds of seconds, of a point's samples."""
    return {int(batch): each for batch, each in sorted(point["samples"].items(), key=lambda one: int(one[0]))}


def sweep(s: Session, network: str, *, size: str | None = None, threads: int | None = None) -> pd.DataFrame:
    """form, size, threads, batch, ms and its interval, pictures/s (per_s, lo, hi), mb, and why a size is missing: a row a batch."""
    rows = []
    for point in points(s.run, "sweep"):
        if point["network"] != network or size not in (None, point["size"]) or threads not in (None, point["threads"]):
            continue
        common = {"form": point["form"], "size": point["size"], "threads": int(point["threads"])}
        for batch, each in rounds(point).items():
            middle = stats.median([one for taken in each for one in taken])
            if middle is None:
                continue
            rows.append({**common, "batch": batch, "ms": middle.value * 1e3, "per_s": batch / middle.value,
                         "lo": batch / middle.hi if middle.hi else None, "hi": batch / middle.lo if middle.lo else None,
                         "mb": point["facts"]["peak_bytes"][str(batch)] / 1e6, "lacks": None})  # fmt: skip
        rows += [{**common, "batch": int(batch), "lacks": why} for batch, why in point["facts"]["lacks"].items()]
    return pd.DataFrame(rows, columns=["form", "size", "threads", "batch", "ms", "per_s", "lo", "hi", "mb", "lacks"])


def wide(told: pd.DataFrame, value: str = "per_s") -> pd.DataFrame:
    """`sweep` with a column a batch size."""
    known = told.dropna(subset=[value]) if len(told) else told
    if not len(known):
        return pd.DataFrame()
    found = known.pivot_table(index=["form", "size", "threads"], columns="batch", values=value, sort=False)
    return found.rename(columns=lambda batch: f"{batch:.0f}").reset_index()


def memory(told: pd.DataFrame) -> pd.DataFrame:
    """The most memory of each process by batch size, MB."""
    return wide(told, "mb")


def lacking(told: pd.DataFrame) -> pd.DataFrame:
    """form, threads, batch, why: sizes that were not measured."""
    return told.dropna(subset=["lacks"])[["form", "size", "threads", "batch", "lacks"]] if len(told) else told


def lines(s: Session, network: str) -> pd.DataFrame:
    """form, size, threads, a and c in ms with intervals, the worst error on batches that no fit saw, the knee, the most pictures/s."""
    rows = []
    for point in (p for p in points(s.run, "sweep") if p["network"] == network):
        each = rounds(point)
        try:
            found = affine.fits(each)
        except ValueError:
            continue
        fixed, one = affine.parameters(found)
        if fixed is None or one is None:
            continue
        model = Affine(fixed.value, one.value)
        off = affine.errors(found, each)
        rows.append({"form": point["form"], "size": point["size"], "threads": int(point["threads"]), "a, ms": 1e3 * fixed.value,
                     "a, 95 %": _between(fixed), "c, ms": 1e3 * one.value, "c, 95 %": _between(one),
                     "held out": ", ".join(f"{batch}: {round(error, 3) + 0.0:+.1%}" for batch, error in off.items()),
                     "worst": max((abs(error) for error in off.values()), default=None), "knee": model.knee(),
                     "most, 1/s": model.most_per_s})  # fmt: skip
    return pd.DataFrame(rows)


def _between(told: stats.Estimate) -> str | None:
    return None if told.lo is None or told.hi is None else f"{1e3 * told.lo:.3g}–{1e3 * told.hi:.3g}"


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """`lines` in print."""
    return found.drop(columns=["worst"]).assign(knee=found["knee"].round(1)) if len(found) else found


def held(found: pd.DataFrame) -> dict[str, Any]:
    """How well lines told batches that no fit saw: how many lines, how many within 5 % everywhere, median and worst error, whose."""
    known = found.dropna(subset=["worst"]) if len(found) else found
    if not len(known):
        return dict.fromkeys(("n", "within", "median", "worst", "whose"))
    bad = known.sort_values("worst").iloc[-1]
    return {"n": len(known), "within": int((known["worst"] <= 0.05).sum()), "median": float(known["worst"].median()),
            "worst": float(bad["worst"]), "whose": f"{bad['form']}, {bad['threads']} threads"}  # fmt: skip


def best(found: pd.DataFrame, slos_ms: Sequence[float]) -> pd.DataFrame:
    """For each form on all threads: the largest batch whose pass ends within each limit, and pictures/s there."""
    if not len(found):
        return pd.DataFrame()
    rows = []
    for line in found[found["threads"] == found["threads"].max()].to_dict("records"):
        model = Affine(line["a, ms"] / 1e3, line["c, ms"] / 1e3)
        row: dict[str, Any] = {"form": line["form"]}
        for slo in slos_ms:
            batch = model.within(slo / 1e3)
            row[f"within {slo:g} ms"] = f"{batch}: {batch / model.seconds(batch):.0f}/s" if batch else "none"
        rows.append(row)
    return pd.DataFrame(rows)


def gain(s: Session, network: str) -> dict[str, Any]:
    """What the best batch brings over batch 1 at most and at least, with all threads; and the quickest picture of all."""
    told = sweep(s, network).dropna(subset=["per_s"])
    if not len(told):
        return dict.fromkeys(("form", "times", "batch", "least_form", "least", "most_form", "most"))
    full = told[told["threads"] == told["threads"].max()]
    by = {form: (rows["per_s"].max() / rows.loc[rows["batch"] == 1, "per_s"].iloc[0], int(rows.sort_values("per_s").iloc[-1]["batch"]))
          for form, rows in full.groupby("form") if (rows["batch"] == 1).any()}  # fmt: skip
    form, least = max(by, key=lambda name: by[name][0]), min(by, key=lambda name: by[name][0])
    quick = full.sort_values("per_s").iloc[-1]
    return {"form": form, "times": by[form][0], "batch": by[form][1], "least_form": least, "least": by[least][0],
            "most_form": quick["form"], "most": float(quick["per_s"])}  # fmt: skip


def served(s: Session) -> pd.DataFrame:
    """A row a load and policy: requests/s, how busy the engine was, the mean batch, p50 and p99 as they were, p50 as both simulations say.

    "foretold": from lines fitted before and after. "at its pace": the same line, as fast as passes were meanwhile.
    """
    rows = []
    for point in points(s.run, "served"):
        real, made = (np.array(point["samples"][name]) for name in ("latency_s", "simulated_s"))
        paced, facts = point["samples"].get("paced_s"), point["facts"]
        p99 = stats.quantile(real.tolist(), 0.99)
        busy = sum(point["samples"]["passes_s"]) / facts["wall_s"] if "wall_s" in facts else None
        rows.append({"load": f"{point['load']:.0%}", "requests/s": facts["rate_per_s"], "policy": point["policy"], "busy": busy,
                     "mean batch": float(np.mean(facts["batches"])), "p50, ms": 1e3 * float(np.median(real)),
                     "foretold p50": 1e3 * float(np.median(made)), "p50 at its pace": 1e3 * float(np.median(paced)) if paced else None,
                     "pace": facts.get("pace"), "p99, ms": p99 and 1e3 * p99.value, "n": len(real)})  # fmt: skip
    return pd.DataFrame(rows)


def simulation(found: pd.DataFrame) -> dict[str, Any]:
    """How far simulated medians lie from the measured ones: the median and the worst of absolute errors, and where; "paced" and
    "paced_worst" where passes' own pace was known; the median "pace" of passes while serving, × that of passes alone."""
    if not len(found):
        return dict.fromkeys(("n", "median", "worst", "where", "paced", "paced_worst", "pace"))
    off = (found["foretold p50"] / found["p50, ms"] - 1).abs()
    paced = (found["p50 at its pace"].astype(float) / found["p50, ms"] - 1).abs().dropna()
    row = found.iloc[int(off.argmax())]
    return {"n": len(off), "median": float(off.median()), "worst": float(off.max()), "where": f"{row['policy']} at {row['load']}",
            "paced": float(paced.median()) if len(paced) else None, "paced_worst": float(paced.max()) if len(paced) else None,
            "pace": float(found["pace"].astype(float).median()) if len(paced) else None}  # fmt: skip


def batching(found: pd.DataFrame) -> dict[str, Any]:
    """At the highest load: what batches do to the median against one by one, and what waiting for more does."""
    if not len(found):
        return dict.fromkeys(("load", "one", "greedy", "waits", "times"))
    load = found.sort_values("requests/s").iloc[-1]["load"]
    top = found[found["load"] == load].set_index("policy")["p50, ms"].to_dict()
    one = next((ms for name, ms in top.items() if name == "one by one"), None)
    waits = next((ms for name, ms in top.items() if "waits" in name), None)
    greedy = next((ms for name, ms in top.items() if name != "one by one" and "waits" not in name), None)
    return {"load": load, "one": one, "greedy": greedy, "waits": waits, "times": one / greedy if one and greedy else None}
