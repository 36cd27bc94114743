"""What the ledger's points say: one row a form, speed-ups over the framework with their intervals, what helps most and what does not.

Pure but for reading the run's Parquet. Invalid points are in no number. A speed-up is formed of the medians of rounds, which took turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta

from lib import stats
from lib.measured import points, series
from lib.pipelines.cost.ledger_forms import FORMS, MODELS, RANDOM, YOLO, Form
from lib.pipelines.cost.session import Session
from lib.pipelines.retail.views import SHOWN
from lib.vision import agreement
from lib.vision.boxes import Boxes

TAIL = stats.needed(0.99)
PARTS = {"interpreter_s": "interpreter", "import_s": "import", "load_s": "load", "first_s": "first answer"}
LEAST_F1, LEAST_TOP1, SURE = 0.9, 0.95, 0.5  # what answers must keep of the framework's; the probability above which it is sure
Point = dict[str, Any]


def table(s: Session) -> pd.DataFrame:
    """One row a model and form, in the ledger's order; what could not be measured has its `reason`.

    `best`: of its model, but for the framework's own, the quickest one at a time whose answers `holds`: no verdict is another; F1 of people
    at least LEAST_F1; the first class the same in LEAST_TOP1 of the pictures that the framework is sure of (`top1_sure`, `n_sure`). Of
    random weights `holds` is None: the quickest is best, whatever it answers. `times` (p50) and `times_batch` (per second): against
    the framework, with intervals over rounds. `delta`: how far its answers are from the framework's float32, in words; its numbers are in
    `probability_off` and `flips`, `f1`, or `top1` (share of pictures with the same first class, interval over photographs) and `logit_off`
    (the median picture's, and `logit_off_most`).
    """
    rounds = _rounds(s)
    rows = [_row(s, form, rounds) for form in FORMS if form.model in {model for model, _ in rounds}]
    if not rows:
        return pd.DataFrame(columns=["model", "form"])
    told = pd.DataFrame(rows)
    told["best"] = False
    others = told[(told["holds"].eq(True) | told["model"].eq(RANDOM)) & told["p50_ms"].notna() & (told["kind"] != "framework")]
    told.loc[others.astype({"round_ms": float}).groupby("model", sort=False)["round_ms"].idxmin(), "best"] = True
    return told.drop(columns="round_ms")


def shown(s: Session) -> pd.DataFrame:
    """Pace and answers as a reader wants them; what was asked for and not measured begins to say why where its answers would be."""
    told = table(s)
    if not len(told):
        return told
    told = told[told["status"] != "not asked"].copy()
    rows = told.to_dict("records")
    why = [row["reason"].partition(":")[0] if isinstance(row["reason"], str) else None for row in rows]
    told["brief"] = [reason or row["brief"] for row, reason in zip(rows, why, strict=True)]
    told["p99_ms"] = ["–" if reason else f"n < {TAIL}" if pd.isna(row["p99_ms"]) else f"{row['p99_ms']:.3g}"
                      for row, reason in zip(rows, why, strict=True)]  # fmt: skip
    told["batch"] = told["batch"].astype("Int64")
    columns = {"model": "model", "form": "form", "p50_ms": "p50, ms", "p99_ms": "p99, ms", "times": "× framework", "per_s": "per second",
               "batch": "in batches of", "brief": "answers as float32's"}  # fmt: skip
    return told[list(columns)].rename(columns=columns)


def weighed(s: Session) -> pd.DataFrame:
    """Start, memory and file as a reader wants them, of what was measured."""
    told = table(s)
    if not len(told):
        return told
    columns = {"model": "model", "form": "form", "cold_s": "cold start, s", "import_s": "of it import", "load_s": "load",
               "first_s": "first answer", "rss_mb": "RSS, MB", "peak_mb": "peak, MB", "file_mb": "file, MB"}  # fmt: skip
    return told[told["cold_s"].notna()][list(columns)].rename(columns=columns)


def ranked(s: Session) -> pd.DataFrame:
    """For a ranking: `name` (model and form), `model`, `form`, `best`, `times` and `times_batch`; without the framework's own rows."""
    told = table(s)
    columns = ["name", "model", "form", "best", "times", "times_batch"]
    if not len(told):
        return pd.DataFrame(columns=columns)
    told = told[told["times"].notna() & (told["kind"] != "framework")]
    return told.assign(name=[f"{row.model} · {row.form}" for row in told.itertuples()])[columns]


def cold(s: Session) -> pd.DataFrame:
    """For a figure of stacked parts: `name` (model and form), `model`, `form`, PARTS in seconds, of the round whose start was the median
    one, for the framework, ONNX in both precisions, and the best; and their sum `cold_s`."""
    told = table(s)
    if len(told):
        told = told[told["cold_s"].notna() & (told["best"] | (told["kind"] != "candidate"))]
    else:
        told = told.assign(**dict.fromkeys(("cold_s", *PARTS), None))
    return told.assign(name=[f"{row.model} · {row.form}" for row in told.itertuples()])[["name", "model", "form", *PARTS, "cold_s"]]


def compared(s: Session) -> pd.DataFrame:
    """ONNX against the framework, INT8 against ONNX in float32, signed INT8 against unsigned; one at a time and in batches.

    `model`, `form`, `against`, `what`, `times` (below 1: slower) with `lo` and `hi` over `n` rounds, and whether it `helps`: is faster
    beyond its interval; of too few rounds for one, is faster.
    """
    rounds, rows = _rounds(s), []
    for form in FORMS:
        pairs = {"onnx": ("framework",), "int8": ("onnx",), "candidate": ("int8",) if "signed" in form.name else ()}.get(form.kind, ())
        for other in (one for one in FORMS if one.model == form.model and one.kind in pairs):
            for what, pace in (("one at a time", _single_s), ("in batches", _batched_s)):
                if times := stats.ratio(_over(rounds, other, pace), _over(rounds, form, pace)):
                    rows.append({"model": form.model, "form": form.name, "against": other.name, "what": what, "times": times.value,
                                 "lo": times.lo, "hi": times.hi, "n": times.n,
                                 "helps": (times.value if times.lo is None else times.lo) > 1})  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "form", "against", "what", "times", "lo", "hi", "n", "helps"])


def losses(s: Session) -> pd.DataFrame:
    """Where an ONNX form does not help, the worst first: what was `compared` and does not, without the column that says so."""
    told = compared(s)
    return told[told["helps"].eq(False)].drop(columns="helps").sort_values("times", ignore_index=True)


def headline(s: Session) -> dict[str, Any]:
    """For a claim: the model that gains most one at a time from its best form. Every value None where nothing was measured.

    `model`, `form`, `times`, `lo`, `hi`, `n` (rounds), `from_ms`, `to_ms`, `framework`, `delta`; `cold_model`, `cold_form`, `cold_times`,
    `cold_from_s`, `cold_from_load_s`, `cold_to_s`: whose cold start shrinks most, and `cold_least_times`: by how much it would if the
    framework loaded in no time; `least_model`, `least_times`: who gains least from its best.
    """
    names = ("model", "form", "times", "lo", "hi", "n", "from_ms", "to_ms", "framework", "delta", "cold_model", "cold_form", "cold_times",
             "cold_from_s", "cold_from_load_s", "cold_to_s", "cold_least_times", "least_model", "least_times")  # fmt: skip
    found = dict[str, Any].fromkeys(names)
    rows = [{str(name): _known(value) for name, value in row.items()} for row in table(s).to_dict("records")]
    best = sorted((row for row in rows if row.get("best") and row["times"]), key=lambda row: float(row["times"]))
    if not best:
        return found
    least, most = best[0], best[-1]
    owns = {row["model"]: row for row in rows if row["kind"] == "framework" and row["cold_s"]}
    own = owns[most["model"]]
    found |= {name: most[name] for name in ("model", "form", "times", "delta")}
    found |= {"lo": most["times_lo"], "hi": most["times_hi"], "n": most["rounds"], "from_ms": own["p50_ms"], "to_ms": most["p50_ms"],
              "framework": own["form"], "least_model": least["model"], "least_times": least["times"]}  # fmt: skip
    shrunk = [row for row in rows if row["kind"] != "framework" and row["cold_s"] and row["model"] in owns]
    row = max(shrunk, key=lambda row: float(owns[row["model"]]["cold_s"] / row["cold_s"]))
    from_s, load_s = owns[row["model"]]["cold_s"], owns[row["model"]]["load_s"]
    return found | {"cold_from_load_s": load_s, "cold_least_times": (from_s - load_s) / row["cold_s"],
                    "cold_model": row["model"], "cold_form": row["form"], "cold_times": from_s / row["cold_s"], "cold_from_s": from_s,
                    "cold_to_s": row["cold_s"]}  # fmt: skip


def no_help(s: Session) -> dict[str, Any]:
    """For a claim: the worst of `losses`, its fields by name (None without any), and `cases`, how many there are of `asked` comparisons."""
    worst = losses(s)
    first = worst.iloc[0].to_dict() if len(worst) else dict.fromkeys(worst.columns)
    return {**{str(name): _known(value) for name, value in first.items()}, "cases": len(worst), "asked": len(compared(s))}


def _rounds(s: Session) -> dict[tuple[str, str], list[Point]]:
    """All points of each model and form, those that may not be quoted too, in the order of rounds."""
    found: dict[tuple[str, str], list[Point]] = {}
    if not len(frame := s.run.frame()) or "ledger" not in set(frame["what"]):
        return found
    for point in points(s.run, "ledger", status=("ok", "skipped", "failed", "invalid")):
        found.setdefault((point["model"], point["form"]), []).append(point)
    return {key: sorted(turns, key=lambda point: int(point["round"])) for key, turns in found.items()}


def _ok(turns: Sequence[Point]) -> list[Point]:
    return [point for point in turns if point["status"] == "ok"]


def _single_s(point: Point) -> float:
    return float(np.median(point["samples"]["latency_s"]))


def _batches(point: Point) -> dict[int, float]:
    """Seconds of one prediction, by the size of its batch."""
    return {size: float(np.median(point["samples"][f"batch_{size}_s"])) / size for size in point["facts"]["batches"]}


def _batched_s(point: Point) -> float:
    return min(_batches(point).values())


def _over(rounds: dict[tuple[str, str], list[Point]], form: Form, pace: Any) -> list[float]:
    return [pace(point) for point in _ok(rounds.get((form.model, form.name), []))]


def _row(s: Session, form: Form, rounds: dict[tuple[str, str], list[Point]]) -> dict[str, Any]:
    turns = rounds.get((form.model, form.name), [])
    good = _ok(turns)
    row: dict[str, Any] = {"model": form.model, "form": form.name, "kind": form.kind, "engine": form.engine, "precision": form.precision,
                           "rounds": len(good), "status": "ok" if good else turns[-1]["status"] if turns else "not asked",
                           "reason": None if good else turns[-1]["reason"] if turns else "not part of this profile"}  # fmt: skip
    empty = ("n", "round_ms", "p50_ms", "p50_lo", "p50_hi", "p99_ms", "per_s", "batch", "rss_mb", "peak_mb", "file_mb", "cold_s", *PARTS,
             "times", "times_lo", "times_hi", "times_batch", "times_batch_lo", "times_batch_hi", "delta", "brief", "probability_off",
             "flips", "f1", "top1", "top1_lo", "top1_hi", "top1_sure", "n_sure", "logit_off", "logit_off_most", "holds")  # fmt: skip
    row |= dict.fromkeys(empty)
    if not good:
        return row
    pooled = [1e3 * taken for point in good for taken in point["samples"]["latency_s"]]
    middle, tail = stats.median(pooled), stats.quantile(pooled, 0.99)
    assert middle is not None
    start = sorted((point["facts"]["cold_s"] for point in good), key=lambda cold_s: sum(cold_s.values()))[(len(good) - 1) // 2]
    per_size = {size: float(np.median([_batches(point)[size] for point in good])) for size in good[0]["facts"]["batches"]}
    batch = min(per_size, key=per_size.__getitem__)
    row |= {"n": len(pooled), "round_ms": 1e3 * float(np.median([_single_s(point) for point in good])), "p50_ms": middle.value,
            "p50_lo": middle.lo, "p50_hi": middle.hi, "p99_ms": tail.value if tail else None,
            "per_s": 1 / per_size[batch], "batch": batch, "rss_mb": _mb(good, "used_bytes"), "peak_mb": _mb(good, "peak_bytes"),
            "file_mb": _mb(good, "file_bytes"), "cold_s": sum(start.values()),
            **{f"{part}_s": seconds for part, seconds in start.items()}, **_delta(s, form, rounds)}  # fmt: skip
    own = next(other for other in FORMS if other.model == form.model and other.kind == "framework")
    for name, pace in (("times", _single_s), ("times_batch", _batched_s)):
        if times := stats.ratio(_over(rounds, own, pace), _over(rounds, form, pace)):
            row |= {name: times.value, f"{name}_lo": times.lo, f"{name}_hi": times.hi}
    return row


def _mb(good: Sequence[Point], what: str) -> float:
    return float(np.median([point["facts"][what] for point in good])) / 1e6


def _delta(s: Session, form: Form, rounds: dict[tuple[str, str], list[Point]]) -> dict[str, Any]:
    """How far the answers of the first round are from the framework's, if it may be quoted."""
    first = next((point for point in _ok(rounds[form.model, form.name]) if point["round"] == 0), None)
    if first is None:
        return {}
    if form.model == YOLO:
        own = next((point for point in _ok(rounds.get((YOLO, "PyTorch"), [])) if point["round"] == 0), None)
        if own is None:
            return {"delta": "the framework's own answers are not known"}
        theirs, ours = _people(s, own), _people(s, first)
        f1 = agreement.f1([theirs[number].above(SHOWN) for number in ours], [there.above(SHOWN) for there in ours.values()]).f1
        if f1 is None:  # nobody was seen, by neither
            return {}
        return {"f1": f1, "holds": f1 >= LEAST_F1, "brief": f"F1 {f1:.3f} of {len(ours)} frames",
                "delta": f"F1 of people {f1:.3f} (n = {len(ours)} frames)"}  # fmt: skip
    told = first["facts"]["judged"]
    if form.model == MODELS[0]:
        off, flips = told["max_probability_difference"], told["flips"]
        return {"probability_off": off, "flips": flips, "holds": flips == 0, "brief": f"{flips} of {told['rows']:,} verdicts differ",
                "delta": f"|Δp| ≤ {off:.0e}, {flips} verdicts differ (n = {told['rows']:,})"}  # fmt: skip
    top1, logit_off = over_photographs(told["agrees"], told["photographs"]), float(np.median(told["logit_off"]))
    if top1 is None:
        return {}
    sure = [agrees for agrees, odds in zip(told["agrees"], told["sure"], strict=True) if odds > SURE]
    held = float(np.mean(sure)) if sure else None
    words = [f"top-1 the same in {top1.value:.1%} of {len(told['agrees'])} crops"]
    words += [f"in {held:.1%} of {len(sure)} that are sure"] if held is not None else []
    words += [f"median |Δlogit| {logit_off:.1g} σ", *(["random weights"] if form.model == RANDOM else [])]
    return {"top1": top1.value, "top1_lo": top1.lo, "top1_hi": top1.hi, "top1_sure": held, "n_sure": len(sure), "logit_off": logit_off,
            "logit_off_most": max(told["logit_off"]), "holds": None if form.model == RANDOM or held is None else held >= LEAST_TOP1,
            "delta": ", ".join(words), "brief": f"top-1 {top1.value:.0%} of {len(told['agrees'])}"
            + (f"; {held:.0%} of {len(sure)} sure" if held is not None else "")}  # fmt: skip


def _people(s: Session, point: Point) -> dict[int, Boxes]:
    """The people whom a form found, by frame; a frame without any is there, empty."""
    told, corners = series(s.run, point, "boxes"), ["left", "top", "right", "bottom"]
    there = {number: told[told["frame"] == number] for number in point["facts"]["frames"]}
    return {number: Boxes(rows[corners].to_numpy(np.float32), rows["score"].to_numpy(np.float32), np.zeros(len(rows), np.int32))
            for number, rows in there.items()}  # fmt: skip


def over_photographs(agrees: Sequence[int], photographs: Sequence[str]) -> stats.Estimate | None:
    """The share of crops that agree. Its interval counts photographs, not crops, for crops of one are alike. None for no crop.

    Clopper and Pearson's, so that it has a width where all agree, too; photographs of which some crops agree count in part.
    """
    if not len(agrees):
        return None
    by_name = pd.Series(list(agrees), dtype=float).groupby(list(photographs)).mean()
    n, right = len(by_name), float(by_name.sum())
    lo = float(beta.ppf(0.025, right, n - right + 1)) if right > 0 else 0.0
    hi = float(beta.ppf(0.975, right + 1, n - right)) if right < n else 1.0
    return stats.Estimate(float(np.mean(agrees)), lo, hi, n, "share of crops; Clopper and Pearson over photographs")


def _known(value: Any) -> Any:
    """A frame's NaN is a record's None."""
    return None if value is None or (isinstance(value, float) and np.isnan(value)) else value.item() if hasattr(value, "item") else value
