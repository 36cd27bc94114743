"""What the points of the fraud run say: tables and fields for claims, one function a question. Pure but for reading the run's Parquet.

Invalid points are left out of every number and listed by `unfit`. Ratios are of one run, so of one machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib import measured, stats
from lib.measured import series
from lib.pipelines.fraud.pipeline import STAGES
from lib.pipelines.fraud.session import Session

# µs at p99 for one transaction; together a fortieth of the SLA, the rest is for the network, the queue and bad luck. Only what is not
# approved gets reasons, so their cost shows in the verdict's tail.
ENGINES = {"Native": "LightGBM", "Onnx": "ONNX Runtime", "OneDal": "oneDAL", "Compiled": "lleaves"}
BUDGET_US = {"parse": 15.0, "history": 15.0, "features": 10.0, "inference": 40.0, "verdict": 100.0, "log": 60.0, "answer": 10.0}


def points(s: Session, what: str) -> Iterator[dict[str, Any]]:
    """The valid points of one kind."""
    return measured.points(s.run, what)


def unfit(s: Session) -> pd.DataFrame:
    """Points that may not be quoted, or could not be measured, and why."""
    return measured.unfit(s.run)


def ladder(s: Session) -> pd.DataFrame:
    """One row a step: µs a row alone (warm p50 with interval, warm p99, cold p50), rows/s in batches, and what it gained on the first."""
    rows = []
    for point in points(s, "step"):
        warm, cold = (stats_us(series(s.run, point, what)["ns"]) for what in ("warm", "cold"))
        batch_s = point["samples"]["batch_s"]
        rows.append(
            {
                "step": point["step"],
                "changed": point["facts"]["changed"],
                "p50": warm["p50"],
                "lo": warm["lo"],
                "hi": warm["hi"],
                "p99": warm["p99"],
                "cold": cold["p50"],
                "cold_lo": cold["lo"],
                "cold_hi": cold["hi"],
                "rows_per_s": point["facts"]["batch_rows"] / float(np.median(batch_s)),
                "n": warm["n"],
            }
        )
    table = pd.DataFrame(rows, columns=None if rows else ["step", "p50", "rows_per_s"])
    table["times"] = table["p50"].iloc[0] / table["p50"] if len(table) else None
    return table


def parity(s: Session) -> pd.DataFrame:
    """Every engine against the native model."""
    words = {"rows": "rows", "max_margin_difference": "max |Δ margin|", "max_probability_difference": "max |Δ probability|",
             "flips": "verdicts that flip", "near": "fuzzed rows", "max_margin_difference_near": "max |Δ margin| there",
             "flips_near_thresholds": "flips there"}  # fmt: skip
    rows = [
        {"engine": point["step"], **{words[key]: value for key, value in point["facts"].items() if key in words}}
        for point in _measured(s, "parity")
    ]
    return pd.DataFrame(rows)


def ways(s: Session) -> pd.DataFrame:
    """Bytes to bytes in process, µs: p50 with interval, p99."""
    return pd.DataFrame([{"way": point["way"], **stats_us(series(s.run, point, "ns")["ns"])} for point in points(s, "path")])


def waterfall(s: Session, *, rows: int, windows: str = "embedded") -> pd.DataFrame:
    """One row a stage: µs of a batch at p50 and p99, and the budget of a single transaction. The last row is the whole."""
    for point in points(s, "stages"):
        if point["rows"] == rows and point["windows"] == windows:
            frame = series(s.run, point, "stages")
            table = [{"stage": stage, **stats_us(frame[stage]), "budget": BUDGET_US[stage]} for stage in STAGES]
            return pd.DataFrame([*table, {"stage": "whole", **stats_us(frame.sum(axis=1)), "budget": sum(BUDGET_US.values())}])
    return pd.DataFrame(columns=["stage", "p50", "p99", "budget"])


def micro(s: Session) -> pd.DataFrame:
    """µs a transaction by batch size and store of the windows, p50 of batches divided by their rows."""
    rows = []
    for point in points(s, "stages"):
        whole = series(s.run, point, "stages").sum(axis=1) / point["rows"]
        rows.append({"windows": point["windows"], "rows": int(point["rows"]), **stats_us(whole)})
    return pd.DataFrame(rows, columns=None if rows else ["windows", "rows", "p50", "lo", "hi"]).sort_values(["windows", "rows"])


def grid(s: Session) -> pd.DataFrame:
    """Rows a second by engine, threads and batch size: median with interval."""
    rows = []
    for point in points(s, "batch"):
        middle = stats.median([point["rows"] / t for t in point["samples"]["batch_s"]])
        if middle is not None:
            threads, engine = int(point["threads"]), ENGINES[point["engine"]]
            name = f"{engine} ×{threads}"
            rows.append(
                {
                    "name": name,
                    "engine": engine,
                    "threads": threads,
                    "rows": int(point["rows"]),
                    "per_s": middle.value,
                    "lo": middle.lo,
                    "hi": middle.hi,
                }
            )
    return pd.DataFrame(rows, columns=None if rows else ["name", "engine", "threads", "rows", "per_s", "lo", "hi"]).sort_values(
        ["name", "rows"]
    )


def model(s: Session) -> pd.DataFrame:
    """The model's facts, a row each."""
    facts = s.facts(what="model")
    told = {
        "version": facts["version"],
        "trees": f"{facts['trees']} of up to 31 leaves, {facts['features']} features",
        "fitted on": f"{facts['trained_on']:,} transactions, the first 70 % of the time",
        "calibrated on": f"{facts['calibrated_on']:,}, the next 10 %",
        "average precision": f"{facts['average_precision']:.3f} on the last {facts['judged_on']:,} ({facts['frauds_judged']} frauds)",
    }
    return pd.DataFrame({"what": list(told), "value": list(told.values())})


def outcomes(s: Session) -> pd.DataFrame:
    """What each policy would have done and cost on the last fifth of the time."""
    return pd.DataFrame([{"policy": name, **numbers} for name, numbers in s.facts(what="model")["outcomes"].items()]).rename(
        columns={"honest_declined": "honest declined", "frauds_missed": "frauds missed", "cost": "cost, units of the amount"}
    )


def logs(s: Session) -> pd.DataFrame:
    """What a commit costs, by how much it must survive."""
    rows = []
    for point in points(s, "log"):
        told = stats_us(np.asarray(point["samples"]["commit_s"]) * 1e9)
        rows.append(
            {
                "survives": "a power cut (fsync a commit)" if point["durable"] else "the death of the process",
                "p50, µs": told["p50"],
                "95 %": _range(told),
                "p99, µs": enough(told["p99"]),
                "n": told["n"],
            }
        )
    return pd.DataFrame(rows)


def ladder_table(table: pd.DataFrame) -> pd.DataFrame:
    """`ladder` as a reader wants it."""
    return pd.DataFrame(
        {
            "step": table["step"],
            "what changed": table["changed"],
            "one row, µs": table["p50"],
            "95 %": [_range(row) for row in table.to_dict("records")],
            "p99": [enough(value) for value in table["p99"]],
            "cold": table["cold"],
            "× the first": table["times"],
            "rows/s in batches": table["rows_per_s"],
            "n": table["n"],
        }
    )


def budget(table: pd.DataFrame) -> pd.DataFrame:
    """`waterfall` as a reader wants it."""
    return pd.DataFrame(
        {
            "stage": table["stage"],
            "p50, µs": table["p50"],
            "95 %": [_range(row) for row in table.to_dict("records")],
            "p99, µs": table["p99"],
            "budget, µs": table["budget"],
            "kept": [_kept(row) for row in table.to_dict("records")],
        }
    )


def scenarios(s: Session) -> pd.DataFrame:
    """LoadGen's results in its own words, our quantiles of its queries beside them."""
    rows = []
    for point in points(s, "scenario"):
        facts, told = point["facts"], stats_us(series(s.run, point, "queries")["latency_ns"])
        result = f"{facts['p90_s'] * 1e6:,.1f} µs at p90" if facts.get("p90_s") else f"{facts['per_s']:,.0f} rows a second"
        offline = point["scenario"] == "Offline"  # its queries are chunks: their times are no latency of a row
        quantiles = {name: "–" if offline else enough(told[name]) for name in ("p50", "p99")}
        rows.append(
            {
                "scenario": point["scenario"],
                "scorer": point["system"],
                "LoadGen says": result,
                "by its rules": "valid" if facts["valid"] else facts["unmet"],
                "p50, µs": quantiles["p50"],
                "p99, µs": quantiles["p99"],
                "rows": facts["n"],
                "rows/s inside the scorer": facts["scored_per_s"],
            }
        )
    return pd.DataFrame(rows)


def stats_us(ns: pd.Series[Any] | NDArray[Any]) -> dict[str, float | int | None]:
    """p50 with its 95 % interval and p99, in µs; None where the sample is too small."""
    values = (np.asarray(ns, dtype=float) / 1e3).tolist()
    middle, tail = stats.median(values), stats.quantile(values, 0.99)
    of_middle = (None, None, None) if middle is None else (middle.value, middle.lo, middle.hi)
    return {**dict(zip(("p50", "lo", "hi"), of_middle, strict=True)), "p99": None if tail is None else tail.value, "n": len(values)}


def enough(value: Any) -> Any:
    """A quantile, or that the sample was too small for it."""
    return "too few samples" if value is None or pd.isna(value) else value


def _kept(row: Mapping[Any, Any]) -> str:
    return "–" if row["p99"] is None or pd.isna(row["p99"]) else "yes" if row["p99"] <= row["budget"] else "no"


def _range(row: Mapping[Any, Any]) -> str:
    """An interval in print."""
    return "–" if row["lo"] is None or pd.isna(row["lo"]) else f"{row['lo']:.3g}–{row['hi']:.3g}"


def _measured(s: Session, what: str) -> Iterator[dict[str, Any]]:
    """Points of one kind that have facts, valid or not: a parity that failed must be seen."""
    for row in s.frame().to_dict("records"):
        if row["what"] == what and row["facts"]:
            yield {str(key): value for key, value in row.items()}
