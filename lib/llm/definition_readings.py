"""One log under five definitions as a reader wants it: tables in readable units, and sentences that follow from the numbers.

Pure functions of what definitions.py makes of recorded cells. Refuses to compare a tool with nobody: fields are then absent, and a claim
says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lib.llm import throughput
from lib.llm.definitions import Log

WORDS = {"ttft_s": "TTFT p50", "ttft_p99_s": "TTFT p99", "per_token_s": "time ÷ all tokens, p50", "between_s": "time after the first, p50",
         "gap_s": "gap between events, p50", "tokens_per_s": "output tokens/s"}  # fmt: skip
APART = 1.05  # below that two tools say the same
LOADS = {"closed": "{:g} streams", "open": "{:.2g}/s, Poisson", "pooled": "{:.2g}/s, pool"}


def logs(cells: pd.DataFrame, work: str) -> dict[str, list[Log]]:
    """Of each contender the closed loop of most streams and every open load, as event logs to score; a round each."""
    mine = cells[(cells["work"] == work) & cells["ok"]]
    found: dict[str, list[Log]] = {}
    for (contender, kind), group in mine[mine["kind"].isin(["closed", "open", "pooled"])].groupby(["contender", "kind"], sort=False):
        for cell in group[group["level"] == group["level"].max()].to_dict("records"):
            log = Log(cell["answers"], int(cell["warmup"]), throughput.window(cell))
            found.setdefault(f"{contender}, {LOADS[str(kind)].format(cell['level'])}", []).append(log)
    return found


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """`definitions.table` in ms and tokens/s; what a tool does not define is a dash."""
    told = table.rename(columns={"log": "load"})[["load", "tool"]].copy()
    for column, label in WORDS.items():
        seconds = column.endswith("_s") and column != "tokens_per_s"
        told[label + (", ms" if seconds else "")] = [_three(v * 1e3 if seconds else v) if pd.notna(v) else "–" for v in table[column]]
    return told


def distances(table: pd.DataFrame) -> pd.DataFrame:
    """What `definitions.apart` tells apart, for a figure: `row`, `lowest`, `highest` as multiples of the lowest."""
    return pd.DataFrame([{"row": f"{WORDS[row['what']]} · {row['log']}", "lowest": 1.0, "highest": row["times"]}
                         for row in table.to_dict("records") if row["times"] >= APART], columns=["row", "lowest", "highest"])  # fmt: skip


def furthest(table: pd.DataFrame, what: Sequence[str] = tuple(WORDS)) -> dict[str, Any]:
    """Where two tools are furthest apart: fields for a claim; none where there is nothing to compare."""
    known = [row for row in table.to_dict("records") if row["what"] in what]
    if not known:
        return {}
    row = max(known, key=lambda one: float(one["times"]))
    return {"what": WORDS[row["what"]], "log": row["log"], "times": row["times"], "low_tool": row["by"], "high_tool": row["of"]}


def worded(scores: pd.DataFrame) -> dict[str, Any]:
    """What the tools call time per token (with or without the first token's wait), where it differs most: fields for a claim."""
    told: list[dict[str, Any]] = []
    for log, group in scores.groupby("log", sort=False):
        known = [(float(value), row["tool"]) for row in group.to_dict("records")
                 if pd.notna(value := row["per_token_s"] if pd.notna(row["per_token_s"]) else row["between_s"])]  # fmt: skip
        if len(known) > 1:
            (low, low_tool), (high, high_tool) = min(known), max(known)
            told.append({"log": log, "times": high / low, "low_tool": low_tool, "high_tool": high_tool})
    return max(told, key=lambda one: float(one["times"])) if told else {}


def _three(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
