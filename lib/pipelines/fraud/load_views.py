"""What the points say that were measured through the service's door: loads, goodput, other servers, the replay, the kill.

Pure but for reading the run's Parquet. Invalid points are left out; views.unfit lists them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lib import stats
from lib.pipelines.fraud.bench import SLA_S, series
from lib.pipelines.fraud.session import Session
from lib.pipelines.fraud.views import points

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
COLUMNS = ["what", "share", "throttle", "rate", "rounds", "p50", "p95", "p99", "goodput", "attained"]


def client(s: Session) -> pd.DataFrame:
    """The load client's own floor."""
    table = pd.DataFrame(s.facts(what="client")["table"])
    return pd.DataFrame(
        {
            "asked, 1/s": table["rate_per_s"].map(lambda rate: "64 streams, closed loop" if pd.isna(rate) else f"{rate:,.0f}"),
            "answered, 1/s": table["achieved_per_s"],
            "p50, ms": table["latency_p50_s"] * 1e3,
            "p99, ms": table["latency_p99_s"] * 1e3,
            "client late by (p99), ms": table["lag_p99_s"] * 1e3,
            "client, µs of CPU a request": table["cpu_s"] * 1e6,
            "n": table["n"],
        }
    )


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
            means = {
                name: float(np.mean([r[name] for r in rounds]))
                for name in ("rate", "attained", "refused", "lost", "kept", "cores", "cpu_us")
            }
            rows.append(
                {
                    "what": what,
                    "share": asked if what == "load" else None,
                    "throttle": throttle,
                    "rounds": len(rounds),
                    **means,
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
    """The highest rate with p99 within the SLA and 99.9 % attained; the peak of goodput; what is left of it at the heaviest load.

    `polite_…`: the same load from clients that heed refusals.
    """
    plain, polite = offered(table), table[table["throttle"].astype(bool)].to_dict("records")
    if plain.empty:
        return {}
    fine = plain[(plain["p99"] <= SLA_S * 1e3) & (plain["attained"] >= 0.999)]
    peak, worst = float(plain["goodput"].max()), plain.iloc[-1]
    return {
        "sustained": float(fine["rate"].max()) if len(fine) else None,
        "peak": peak,
        "most_share": float(worst["share"]),
        "left": float(worst["goodput"]) / peak,
        "worst_p99": float(worst["p99"]),
        "polite_left": polite[0]["goodput"] / peak if polite else None,
        "polite_p99": polite[0]["p99"] if polite else None,
    }


def quantiles_long(table: pd.DataFrame) -> pd.DataFrame:
    """`offered` with a row a quantile, for a figure of dots with intervals."""
    return pd.DataFrame(
        [
            {"rate": row["rate"], "quantile": name, "ms": row[name], "lo": row[f"{name}_lo"], "hi": row[f"{name}_hi"]}
            for name in QUANTILES
            for row in offered(table).to_dict("records")
        ]
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
            "× closed loop": table["share"],
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
                **{f"{q}, ms": one[q] for q in QUANTILES},
                "server, µs of CPU a request": one["cpu_us"],
                "refused": f"{one['refused']:.1%}",
            }
        )
    return pd.DataFrame(rows)


def servers(s: Session) -> pd.DataFrame:
    """The bake-off, one row a server, the cheapest first; those that did not serve last, with the reason."""
    rows = []
    for row in s.frame().to_dict("records"):
        if row["what"] == "server":
            facts = row["facts"] if row["status"] == "ok" else {}
            rows.append(
                {
                    "server": row["server"],
                    **{
                        key: facts.get(key)
                        for key in (
                            "cpu_us",
                            "closed_per_s",
                            "p50_ms",
                            "p99_ms",
                            "memory_bytes",
                            "ready_s",
                            "idle_cores",
                            "binds",
                            "version",
                        )
                    },
                    "why not": row["reason"],
                }
            )
    table = pd.DataFrame(rows, columns=None if rows else ["server", "cpu_us"])
    return table.sort_values("cpu_us", ignore_index=True)


def servers_table(table: pd.DataFrame) -> pd.DataFrame:
    """`servers` as a reader wants it."""
    return pd.DataFrame(
        {
            "server": table["server"],
            "version": table["version"],
            "CPU, µs a request": table["cpu_us"],
            "closed loop, 1/s": table["closed_per_s"],
            "p50 at 2,000/s, ms": table["p50_ms"],
            "p99, ms": table["p99_ms"],
            "memory, MB": table["memory_bytes"] / 1e6,
            "ready, s": table["ready_s"],
            "cores when idle": table["idle_cores"],
            "binds by default": table["binds"],
            "why not": table["why not"],
        }
    )


def replay(s: Session, *, windows: str = "embedded", slices: int = 96) -> pd.DataFrame:
    """The replayed days in slices of event time: hour, transactions a second of event time, ms at p50 and p99, how many missed the SLA."""
    for point in points(s, "replay"):
        if point["windows"] == windows:
            calls = series(s.run, point, "calls")
            hour = calls["due_us"].to_numpy() / 1e6 * point["speed"] / 3600
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


def kill(s: Session) -> pd.DataFrame:
    """The kill's books."""
    facts = s.facts(what="kill")
    told = {
        "requests": facts["sent"],
        "acknowledged before the kill": facts["acknowledged"],
        "in the log after it": facts["logged_at_kill"],
        "acknowledged and lost": facts["lost"],
        "told otherwise when asked again": facts["changed"],
        "ready again after, s": facts["ready_again_s"],
        "in the log in the end": facts["logged_after"],
        "of these different": facts["distinct_after"],
    }
    return pd.DataFrame({"what": list(told), "count": list(told.values())})


def _round(s: Session, point: dict[str, Any]) -> dict[str, Any]:
    """One load: what was accepted and how late, and the shares of what was not."""
    calls, facts = series(s.run, point, "calls"), point["facts"]
    accepted = calls["latency_us"][calls["status"] == 200].to_numpy() / 1e3
    good = len(calls) - int(_missed(calls).sum())
    return {
        "rate": facts.get("rate_per_s"),
        "accepted_ms": accepted,
        "goodput": good / (float(calls["due_us"].iloc[-1]) / 1e6),
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
