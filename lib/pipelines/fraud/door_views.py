"""What the points say of the door itself: the load client's floor, servers side by side, heads, and the books after a kill. Pure."""

from __future__ import annotations

import pandas as pd

from lib.pipelines.fraud.session import Session
from lib.pipelines.fraud.views import points


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


def heads(s: Session) -> pd.DataFrame:
    """The closed loop with the head that every request shares, and with one of its own for each."""
    rows = []
    for what, told in (("closed", "the same for all"), ("traced", "one of its own (X-Request-Id)")):
        for point in points(s, what):
            facts = point["facts"]
            rows.append(
                {
                    "a request's head": told,
                    "answered, 1/s": facts["answered"] / facts["wall_s"],
                    "server, µs of CPU a request": facts["server_cpu_s"] / facts["sent"] * 1e6,
                }
            )
    return pd.DataFrame(rows)


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
            "binds by default": table["binds"],
            "why not": table["why not"],
        }
    )


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
    return pd.DataFrame(
        {"what": list(told), "count": [f"{value:.2f}" if isinstance(value, float) else f"{value:,}" for value in told.values()]}
    )
