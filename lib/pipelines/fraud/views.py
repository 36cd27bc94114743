"""What the points of the fraud run say: tables and fields for claims, one function a question. Pure but for reading the run's Parquet.

Invalid points are left out of every number and listed by `unfit`. Ratios are of one run, so of one machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib import stats
from lib.pipelines.fraud.bench import SLA_S, series
from lib.pipelines.fraud.pipeline import STAGES
from lib.pipelines.fraud.session import Session

# µs at p99 for one transaction; together a fortieth of the SLA, the rest is for the network, the queue and bad luck. Only what is not
# approved gets reasons, so their cost shows in the verdict's tail.
BUDGET_US = {"parse": 15.0, "history": 15.0, "features": 10.0, "inference": 40.0, "verdict": 100.0, "log": 60.0, "answer": 10.0}


def points(s: Session, what: str) -> Iterator[dict[str, Any]]:
    """The valid points of one kind."""
    for row in s.frame().to_dict("records"):
        if row["what"] == what and row["status"] == "ok":
            yield {str(key): value for key, value in row.items()}


def unfit(s: Session) -> pd.DataFrame:
    """Points that may not be quoted, or could not be measured, and why."""
    rows = [{"what": row["what"], "setting": ", ".join(f"{k} {v}" for k, v in _setting(row).items()), "status": row["status"], "why": row["reason"]}
            for row in s.frame().to_dict("records") if row["status"] != "ok"]
    return pd.DataFrame(rows, columns=["what", "setting", "status", "why"])


def ladder(s: Session) -> pd.DataFrame:
    """One row a step: µs a row alone (warm p50 with interval, warm p99, cold p50), rows/s in batches, and what it gained on the first."""
    rows = []
    for point in points(s, "step"):
        warm, cold = (stats_us(series(s.run, point, what)["ns"]) for what in ("warm", "cold"))
        batch_s = point["samples"]["batch_s"]
        rows.append({"step": point["step"], "changed": point["facts"]["changed"], "p50": warm["p50"], "lo": warm["lo"], "hi": warm["hi"],
                     "p99": warm["p99"], "cold": cold["p50"], "cold_lo": cold["lo"], "cold_hi": cold["hi"],
                     "rows_per_s": point["facts"]["batch_rows"] / float(np.median(batch_s)), "n": warm["n"]})
    table = pd.DataFrame(rows, columns=None if rows else ["step", "p50", "rows_per_s"])
    table["times"] = table["p50"].iloc[0] / table["p50"] if len(table) else None
    return table


def parity(s: Session) -> pd.DataFrame:
    """Every engine against the native model."""
    return pd.DataFrame([{"engine": point["step"], **{key: value for key, value in point["facts"].items() if key not in ("host", "series")}}
                         for point in _measured(s, "parity")])


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
            threads = int(point["threads"])
            name = f"{point['engine']}, {threads} thread{'s' * (threads > 1)}"
            rows.append({"name": name, "engine": point["engine"], "threads": threads, "rows": int(point["rows"]), "per_s": middle.value, "lo": middle.lo, "hi": middle.hi})
    return pd.DataFrame(rows, columns=None if rows else ["name", "engine", "threads", "rows", "per_s", "lo", "hi"]).sort_values(["name", "rows"])


def loads(s: Session) -> pd.DataFrame:
    """One row an offered load, over its rounds: ms from schedule at p50, p95, p99 of what was accepted, goodput and answers a second."""
    rows = []
    valid = pd.DataFrame([*points(s, "load"), *points(s, "target")])
    if valid.empty:
        return pd.DataFrame(columns=["rate", "p50", "p95", "p99", "goodput"])
    valid["share"] = valid.get("share", pd.Series(dtype=float)).fillna(-1.0)
    valid["throttle"] = valid["throttle"].fillna(False).astype(bool) if "throttle" in valid else False
    for (share, throttle), group in valid.groupby(["share", "throttle"]):
        rounds = [_round(s, point) for point in group.to_dict("records")]
        accepted = np.concatenate([r["accepted_s"] for r in rounds])
        told = {f"p{int(q * 100)}": stats.quantile(accepted.tolist(), q) for q in (0.5, 0.95, 0.99)}
        goodput = stats.mean([r["goodput"] for r in rounds])
        rows.append({"share": None if share < 0 else share, "throttle": bool(throttle), "rate": float(np.mean([r["rate"] for r in rounds])), "rounds": len(rounds),
                     **{name: None if e is None else e.value * 1e3 for name, e in told.items()},
                     **{f"{name}_{end}": None if e is None or (v := getattr(e, end)) is None else v * 1e3 for name, e in told.items() for end in ("lo", "hi")},
                     "goodput": None if goodput is None else goodput.value, "goodput_lo": None if goodput is None else goodput.lo,
                     "goodput_hi": None if goodput is None else goodput.hi,
                     **{name: float(np.mean([r[name] for r in rounds])) for name in ("attained", "refused", "lost", "kept", "server_cores", "cpu_us")}})
    return pd.DataFrame(rows).sort_values(["throttle", "rate"])


def capacity(table: pd.DataFrame) -> dict[str, float | None]:
    """From `loads`: the highest rate at which p99 keeps the SLA with nothing refused or lost, the peak of goodput, and what is left at twice the load."""
    plain = table[~table["throttle"] & table["share"].notna()] if len(table) else table
    if plain.empty:
        return dict.fromkeys(("sustained", "peak", "left", "polite_left"))
    fine = plain[(plain["p99"] <= SLA_S * 1e3) & (plain["attained"] >= 0.999)]
    peak = float(plain["goodput"].max())
    worst, polite = plain.iloc[-1], table[table["throttle"]]
    return {"sustained": float(fine["rate"].max()) if len(fine) else None, "peak": peak, "most_share": float(worst["share"]), "left": float(worst["goodput"]) / peak,
            "worst_p99": worst["p99"], "polite_left": float(polite["goodput"].iloc[0]) / peak if len(polite) else None,
            "polite_p99": polite["p99"].iloc[0] if len(polite) else None}


def servers(s: Session) -> pd.DataFrame:
    """The bake-off: one row a server, the cheapest first; or why it did not serve."""
    rows = []
    for row in s.frame().to_dict("records"):
        if row["what"] == "server":
            facts = row["facts"] if row["status"] == "ok" else {}
            rows.append({"server": row["server"], **{key: value for key, value in facts.items() if key not in ("host", "series")}, "why not": row["reason"]})
    return pd.DataFrame(rows)


def replay(s: Session, *, windows: str = "embedded", slices: int = 96) -> pd.DataFrame:
    """The replayed days in slices of event time: transactions a second, ms at p50 and p99, how many missed the SLA."""
    for point in points(s, "replay"):
        if point["windows"] == windows:
            calls = series(s.run, point, "calls")
            hour = calls["due_us"] / 1e6 * point["speed"] / 3600
            cut = pd.cut(hour, np.linspace(0, float(hour.max()) + 1e-9, slices + 1), labels=False, include_lowest=True)
            missed = (calls["latency_us"] < 0) | (calls["latency_us"] > SLA_S * 1e6) | (calls["status"] != 200)
            grouped = calls.assign(hour=hour, missed=missed).groupby(cut)
            width_s = float(hour.max()) * 3600 / slices / point["speed"]
            return pd.DataFrame({"hour": grouped["hour"].mean(), "per_s": grouped.size() / width_s, "p50": grouped["latency_us"].median() / 1e3,
                                 "p99": grouped["latency_us"].quantile(0.99) / 1e3, "n": grouped.size(), "missed": grouped["missed"].sum()})
    return pd.DataFrame(columns=["hour", "per_s", "p50", "p99", "n", "missed"])


def stats_us(ns: pd.Series[Any] | NDArray[np.int64]) -> dict[str, float | int | None]:
    """p50 with its 95 % interval and p99, in µs; None where the sample is too small."""
    values = (np.asarray(ns, dtype=float) / 1e3).tolist()
    middle, tail = stats.median(values), stats.quantile(values, 0.99)
    return {"p50": middle and middle.value, "lo": middle and middle.lo, "hi": middle and middle.hi, "p99": tail and tail.value, "n": len(values)}


def _round(s: Session, point: dict[str, Any]) -> dict[str, Any]:
    """One round of one load: what was accepted and how late, and the shares of what was not."""
    calls, facts = series(s.run, point, "calls"), point["facts"]
    window_s = float(calls["due_us"].iloc[-1]) / 1e6
    accepted = calls["latency_us"][calls["status"] == 200].to_numpy() / 1e6
    good = int((accepted <= SLA_S).sum())
    return {"rate": facts["rate_per_s"], "accepted_s": accepted, "goodput": good / window_s, "attained": good / len(calls),
            "refused": float((calls["status"] == 503).mean()), "lost": float(calls["status"].isin([0, 504]).mean()),
            "kept": float((calls["status"] == -1).mean()), "server_cores": facts["server_cpu_s"] / facts["wall_s"],
            "cpu_us": facts["server_cpu_s"] / max(1, facts["sent"]) * 1e6}


def _measured(s: Session, what: str) -> Iterator[dict[str, Any]]:
    """Points of one kind that have facts, valid or not: a parity that failed must be seen."""
    for row in s.frame().to_dict("records"):
        if row["what"] == what and row["facts"]:
            yield {str(key): value for key, value in row.items()}


def _setting(row: dict[Any, Any]) -> dict[Any, Any]:
    fixed = {"what", "status", "reason", "samples", "facts", "audit", "machine_id", "method", "run_id", "origin"}
    return {k: v for k, v in row.items() if k not in fixed and not (isinstance(v, float) and np.isnan(v)) and v is not None}
