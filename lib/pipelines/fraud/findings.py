"""The sentences' numbers: fields for claims and titles, from the views. One that is None keeps its sentence from being said."""

from __future__ import annotations

from typing import Any

import pandas as pd

WHOLE = "… with history and log"


def headline(ways: pd.DataFrame, target: dict[str, Any]) -> dict[str, Any]:
    """Bytes to a logged decision in process, and p99 at the target rate over HTTP."""
    found = ways[ways["way"] == WHOLE].to_dict("records") if len(ways) else []
    whole = found[0] if found else {}
    return {
        "p50": whole.get("p50"),
        "p99": whole.get("p99"),
        "rate": target.get("rate"),
        "target_p99": target.get("p99"),
        "refused": target.get("refused"),
    }


def extremes(ladder: pd.DataFrame) -> dict[str, Any]:
    """The first step and the best ones, alone and in batches."""
    if ladder.empty:
        return {}
    best, most = ladder.sort_values("p50").iloc[0], ladder.sort_values("rows_per_s").iloc[-1]
    first = ladder.iloc[0]
    return {
        "first_name": first["step"],
        "first": first["p50"],
        "best_name": best["step"],
        "best": best["p50"],
        "times": first["p50"] / best["p50"],
        "batch_name": most["step"],
        "batch": most["rows_per_s"],
        "batch_times": most["rows_per_s"] / first["rows_per_s"],
    }


def bytes_in(ways: pd.DataFrame) -> dict[str, Any]:
    """From the first version to the whole pipeline."""
    if ways.empty:
        return {}
    known = ways.set_index("way")["p50"]
    return {
        "first": known.iloc[0],
        "first_name": known.index[0],
        "bare": known.get("msgspec, struct, compiled"),
        "whole": known.get(WHOLE),
        "bare_times": known.iloc[0] / known["msgspec, struct, compiled"] if "msgspec, struct, compiled" in known else None,
    }


def batching(micro: pd.DataFrame) -> dict[str, Any]:
    """What the largest batch saves of a transaction's time, with each store."""
    told: dict[str, Any] = {}
    for store, group in micro.groupby("windows"):
        ordered = group.sort_values("rows")
        told |= {f"{store}_one": ordered["p50"].iloc[0], f"{store}_many": ordered["p50"].iloc[-1], "rows": int(ordered["rows"].iloc[-1])}
    return told


def widest(grid: pd.DataFrame) -> dict[str, Any]:
    """The fastest cell of the grid, and the fastest on one thread."""
    if grid.empty:
        return {}
    ordered = grid.sort_values("per_s")
    top, single = ordered.iloc[-1], ordered[ordered["threads"] == 1].iloc[-1]
    return {
        "name": top["name"],
        "rows": int(top["rows"]),
        "per_s": top["per_s"],
        "alone": single["engine"],
        "alone_rows": int(single["rows"]),
        "alone_per_s": single["per_s"],
    }


def serving(servers: pd.DataFrame) -> dict[str, Any]:
    """Ours beside the cheapest of the others, CPU a request."""
    known = servers.dropna(subset=["cpu_us"]).set_index("server")["cpu_us"] if len(servers) else pd.Series(dtype=float)
    others = known.drop("ours", errors="ignore").sort_values()
    if "ours" not in known or others.empty:
        return {"ours": known.get("ours")}
    return {
        "ours": known["ours"],
        "next_name": others.index[0],
        "next": others.iloc[0],
        "times": others.iloc[0] / known["ours"],
        "last_name": others.index[-1],
        "last": others.iloc[-1],
    }


def days(replays: pd.DataFrame, course: pd.DataFrame) -> dict[str, Any]:
    """The replay with the embedded windows: how many, in what time, at which p99, and how many missed."""
    found = replays[replays["windows"] == "embedded"].to_dict("records") if len(replays) else []
    if not found:
        return {}
    one = found[0]
    return {"n": one["transactions"], "seconds": one["seconds"], "p99": one["p99, ms"], "missed": int(course["missed"].sum())}
