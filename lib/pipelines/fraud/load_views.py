"""What the loads say: latency from schedule, goodput, waiting for batches, the replay of two days.

Pure but for reading the run's Parquet. Invalid points are left out; views.unfit lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lib import stats
from lib.measured import series
from lib.pipelines.fraud.bench import SLA_S
from lib.pipelines.fraud.session import Session
from lib.pipelines.fraud.views import enough, points

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
ENDS = [f"{name}_{end}" for name in QUANTILES for end in ("lo", "hi")]
MEANS = ["rate", "attained", "refused", "lost", "kept", "cores", "cpu_us"]
COLUMNS = ["what", "share", "throttle", "rounds", "middle", *MEANS, *QUANTILES, *ENDS, "goodput", "goodput_lo", "goodput_hi"]


def loads(s: Session) -> pd.DataFrame:
    """One row an offered load, its rounds together: ms from schedule of what was accepted; goodput a second (Student t)."""
    rows = []
    for what in ("load", "target"):
        groups: dict[tuple[Any, bool], list[dict[str, Any]]] = {}
        for point in points(s, what):
            key = (point["share"] if what == "load" else point["rate"], what == "load" and bool(point["throttle"]))
            groups.setdefault(key, []).append(_round(s, point))
        for (asked, throttle), rounds in groups.items():
            accepted = np.concatenate([r["accepted_ms"] for r in rounds])
            goodput = stats.mean([r["goodput"] for r in rounds])
            assert goodput is not None
            means = {name: float(np.mean([r[name] for r in rounds])) for name in MEANS}
            rows.append(
                {
                    "what": what,
                    "share": asked if what == "load" else None,
                    "throttle": throttle,
                    "rounds": len(rounds),
                    **means,
                    "middle": float(np.median([r["attained"] for r in rounds])),
                    **_quantiles(accepted),
                    "goodput": goodput.value,
                    "goodput_lo": goodput.lo,
                    "goodput_hi": goodput.hi,
                }
            )
    table = pd.DataFrame(rows, columns=None if rows else COLUMNS)
    return table.sort_values(["throttle", "rate"], ignore_index=True)


def offered(table: pd.DataFrame) -> pd.DataFrame:
    """`loads` in the order of the offered rate, without the polite client and without the target."""
    return table[(table["what"] == "load") & ~table["throttle"].astype(bool)]


def target(table: pd.DataFrame) -> dict[str, Any]:
    """The target rate's row, or nothing."""
    found = table[table["what"] == "target"].to_dict("records")
    return {str(key): value for key, value in found[0].items()} if found else {}


def capacity(table: pd.DataFrame) -> dict[str, Any]:
    """The highest rate of which 99 % is decided within the SLA, the best goodput, and what is left of it at twice that rate.

    Of the rounds of a rate the middle one counts, and no lower rate may fail. Refusals count as misses. Twice is the measured load nearest
    to it; `polite`: the same from clients that heed refusals.
    """
    plain, polite = offered(table), table[(table["what"] == "load") & table["throttle"].astype(bool)]
    if plain.empty:
        return {}
    peak, kept = float(plain["goodput"].max()), plain[(plain["middle"] >= 0.99).cummin()]
    sustained = float(kept["rate"].max()) if len(kept) else None
    aim = 2 * sustained if sustained else float(plain["rate"].max())
    twice, heeded = _nearest(plain, aim), _nearest(polite, aim)
    return {
        "sustained": sustained,
        "peak": peak,
        "peak_rate": float(plain.sort_values("goodput").iloc[-1]["rate"]),
        "twice": twice["rate"],
        "times": twice["rate"] / sustained if sustained else None,
        **_shares("left", twice, peak),
        "twice_p99": twice["p99"],
        **_shares("polite", heeded, peak),
        "polite_p99": heeded.get("p99"),
    }


def _shares(name: str, row: Mapping[str, Any], peak: float) -> dict[str, float | None]:
    """Goodput as a share of the best one, with the ends of its interval."""
    values = (row.get(column) for column in ("goodput", "goodput_lo", "goodput_hi"))
    return {key: None if value is None else value / peak for key, value in zip((name, f"{name}_lo", f"{name}_hi"), values, strict=True)}


def _nearest(table: pd.DataFrame, rate: float) -> dict[str, Any]:
    rows = sorted(table.to_dict("records"), key=lambda row: abs(row["rate"] - rate))
    return {str(key): value for key, value in rows[0].items()} if rows else {}


def quantiles_long(table: pd.DataFrame) -> pd.DataFrame:
    """`offered` with a row a quantile, for a figure of dots with intervals."""
    return pd.DataFrame(
        [
            {"rate": row["rate"], "quantile": name, "ms": row[name], "lo": row[f"{name}_lo"], "hi": row[f"{name}_hi"]}
            for name in QUANTILES
            for row in offered(table).to_dict("records")
        ],
        columns=["rate", "quantile", "ms", "lo", "hi"],
    )


def goodput_long(table: pd.DataFrame) -> pd.DataFrame:
    """Goodput by offered rate, of clients that heed refusals and of those that do not."""
    kept = table[table["what"] == "load"]
    who = kept["throttle"].map({True: "clients heed refusals", False: "clients do not care"})
    return pd.DataFrame({"rate": kept["rate"], "who": who, "goodput": kept["goodput"], "lo": kept["goodput_lo"], "hi": kept["goodput_hi"]})


def loads_table(table: pd.DataFrame) -> pd.DataFrame:
    """`loads` as a reader wants it."""
    return pd.DataFrame(
        {
            "offered, 1/s": table["rate"],
            "× closed loop": ["–" if pd.isna(share) else f"{share:g}" for share in table["share"]],
            "clients": table["throttle"].map({True: "polite", False: ""}),
            "p50, ms": table["p50"],
            "p95": table["p95"],
            "p99": table["p99"],
            "goodput, 1/s": table["goodput"],
            "within 10 ms": [f"{v:.2%}" for v in table["attained"]],
            "refused": [f"{v:.1%}" for v in table["refused"]],
            "kept back": [f"{v:.1%}" for v in table["kept"]],
            "expired or lost": [f"{v:.2%}" for v in table["lost"]],
            "server, cores": table["cores"],
            "rounds": table["rounds"],
        }
    )


def waits(s: Session) -> pd.DataFrame:
    """Never waiting for a batch beside waiting 2 ms."""
    rows = []
    for point in points(s, "wait"):
        one = _round(s, point)
        rows.append(
            {
                "a batch waits, ms": int(point["wait_ms"]),
                "offered, 1/s": int(point["rate"]),
                **{f"{q}, ms": enough(one[q]) for q in QUANTILES},
                "server, µs of CPU a request": one["cpu_us"],
                "refused": f"{one['refused']:.1%}",
            }
        )
    return pd.DataFrame(rows)


def replay(s: Session, *, windows: str = "embedded", slices: int = 48) -> pd.DataFrame:
    """The replayed days in slices of event time: hour, transactions a second of event time, ms at p50 and p99, how many missed the SLA."""
    for point in points(s, "replay"):
        if point["windows"] == windows:
            calls = series(s.run, point, "calls")
            hour = calls["due_ms"].to_numpy() / 1e3 * point["speed"] / 3600
            edges = np.linspace(0, float(hour.max()) * (1 + 1e-9), slices + 1)
            calls = calls.assign(hour=hour, slot=np.digitize(hour, edges), missed=_missed(calls))
            grouped = calls.groupby("slot")
            return pd.DataFrame(
                {
                    "hour": grouped["hour"].mean(),
                    "per_s": grouped.size() / (edges[1] * 3600),
                    "p50": grouped["latency_us"].median() / 1e3,
                    "p99": grouped["latency_us"].quantile(0.99) / 1e3,
                    "n": grouped.size(),
                    "missed": grouped["missed"].sum(),
                }
            ).reset_index(drop=True)
    return pd.DataFrame(columns=["hour", "per_s", "p50", "p99", "n", "missed"])


def replays(s: Session) -> pd.DataFrame:
    """The replay as a whole, with each store of the windows."""
    rows = []
    for point in points(s, "replay"):
        one, facts = _round(s, point), point["facts"]
        rows.append(
            {
                "windows": point["windows"],
                "transactions": facts["sent"],
                "decided": int(facts["decided"]),
                "seconds": facts["wall_s"],
                **{f"{q}, ms": one[q] for q in QUANTILES},
                "within 10 ms": f"{one['attained']:.3%}",
                "server, µs of CPU a request": one["cpu_us"],
            }
        )
    return pd.DataFrame(rows)


def _round(s: Session, point: dict[str, Any]) -> dict[str, Any]:
    """One load: what was accepted and how late, and the shares of what was not."""
    calls, facts = series(s.run, point, "calls"), point["facts"]
    accepted = calls["latency_us"][calls["status"] == 200].to_numpy() / 1e3
    good = len(calls) - int(_missed(calls).sum())
    return {
        "rate": facts.get("rate_per_s"),
        "accepted_ms": accepted,
        "goodput": good / (facts["window_s"]),
        "attained": good / len(calls),
        "refused": float((calls["status"] == 503).mean()),
        "lost": float(calls["status"].isin([0, 504]).mean()),
        "kept": float((calls["status"] == -1).mean()),
        "cores": facts["server_cpu_s"] / facts["wall_s"],
        "cpu_us": facts["server_cpu_s"] / max(1, facts["sent"]) * 1e6,
        **_quantiles(accepted),
    }


def _missed(calls: pd.DataFrame) -> pd.Series[bool]:
    """No decision within the SLA, for whatever reason."""
    return (calls["status"] != 200) | (calls["latency_us"] < 0) | (calls["latency_us"] > SLA_S * 1e6)


def _quantiles(ms: np.ndarray) -> dict[str, float | None]:
    told: dict[str, float | None] = {}
    for name, q in QUANTILES.items():
        found = stats.quantile(ms.tolist(), q)
        ends = (None, None, None) if found is None else (found.value, found.lo, found.hi)
        told |= dict(zip((name, f"{name}_lo", f"{name}_hi"), ends, strict=True))
    return told
