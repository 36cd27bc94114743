"""A throughput sweep as a reader wants it: tables in readable units, and sentences that follow from the numbers or say nothing.

Pure functions of saturation's tables. Refuses to name a winner where nobody was measured: fields are then absent, and a claim says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lib.llm import saturation
from lib.llm.metrics import Slo
from lib.llm.model import Shape
from lib.llm.throughput import Plan


def roof(shape: Shape, rates: Mapping[str, float], plan: Plan) -> pd.DataFrame:
    """The ceiling of 16-bit weights by streams, in the plan's fixed lengths: tokens/s, which limit, tokens/s a user at most."""
    rows = [saturation.ceiling(shape, rates, stored="bf16", weights_bytes=2 * shape.parameters, prompt_tokens=plan.prompt_tokens,
                               output_tokens=plan.output_tokens, streams=streams) for streams in plan.streams]  # fmt: skip
    return pd.DataFrame([{"streams": row["streams"], "tokens/s at most": row["tok_s"], "bound by": row["bound"],
                          "tokens/s each, at most": float(row["tok_s"]) / int(row["streams"])} for row in rows])  # fmt: skip


def here(loads: pd.DataFrame, kind: str, *, work: str | None = None) -> pd.DataFrame:
    """This machine's rows of `by_load` of one kind ("closed", "open", "mixed": whatever is not of the fixed lengths `work`)."""
    mine = loads[loads["machine_id"] == loads["machine_id"].iloc[0]] if len(loads) else loads
    if kind == "mixed":
        return mine[mine["work"] != work]
    kinds = ["open", "pooled"] if kind == "open" else [kind]
    return mine[mine["kind"].isin(kinds) & ((mine["work"] == work) if work else True)]


def told(loads: pd.DataFrame) -> pd.DataFrame:
    """`by_load` in the columns a reader compares."""
    table = pd.DataFrame({
        "engine": loads["contender"], "asked": loads["work"], "load": [_load(row) for row in loads.to_dict("records")],
        "requests": loads["tried"], "tokens/s": loads["tok_s"], "± 95 %": _half(loads, "tok_s"),
        "with ramp and drain": loads["tok_s_whole"], "requests/s": loads["req_s"],
        "TTFT p50, ms": loads["ttft_p50_ms"], "p90": loads["ttft_p90_ms"],
        "TPOT p50, ms": loads["tpot_p50_ms"], "p90 ": loads["tpot_p90_ms"]})  # fmt: skip
    return _narrow(table)


def promises(loads: pd.DataFrame) -> pd.DataFrame:
    """`by_load`: the share of the requests tried that met each SLO, and such requests a second."""
    return _narrow(pd.DataFrame({
        "engine": loads["contender"], "asked": loads["work"], "load": [_load(row) for row in loads.to_dict("records")],
        "requests tried": loads["tried"], "met Server": [_share(v) for v in loads["attainment_server"]],
        "goodput, /s": loads["goodput_server"], "met Interactive": [_share(v) for v in loads["attainment_interactive"]],
        "goodput, /s ": loads["goodput_interactive"]}))  # fmt: skip


def _narrow(table: pd.DataFrame) -> pd.DataFrame:
    """Without columns that say nothing, and without one that says the same in every row."""
    known = [column for column in table if table[column].notna().any()]
    return table[known].drop(columns="asked") if table["asked"].nunique() == 1 else table[known]


def fairness(loads: pd.DataFrame) -> pd.DataFrame:
    """Jain's index and the worst request of a cell ÷ its median, where several were in flight."""
    mine = loads[loads["jain"].notna() & ((loads["kind"] != "closed") | (loads["level"] > 1))]
    return pd.DataFrame({"engine": mine["contender"], "asked": mine["work"], "load": [_load(row) for row in mine.to_dict("records")],
                         "Jain's index": mine["jain"], "worst ÷ median": mine["worst"]})  # fmt: skip


def bend(knees: pd.DataFrame) -> str:
    """Where each engine's curve bends, as a figure's title."""
    if knees.empty:
        return "Nothing saturates here: no closed loop was measured"
    parts = [f"{row['contender']} bends at {row['knee']:.0f} streams ({row['share']:.0%} of its best)" if pd.notna(row["knee"])
             else f"{row['contender']} does not bend up to {row['tried']:.0f}" for row in knees.to_dict("records")]  # fmt: skip
    return "; ".join(parts)


def trade(closed: pd.DataFrame) -> str:
    """What the engine with most tokens/s takes from a user for it, as a figure's title."""
    known = closed[closed["tok_s"].notna() & closed["tok_s_user"].notna()]
    if known.empty:
        return "No trade-off can be shown: no closed loop was measured"
    best = max(known.to_dict("records"), key=lambda row: float(row["tok_s"]))
    one = min(known[known["contender"] == best["contender"]].to_dict("records"), key=lambda row: float(row["level"]))
    return (f"{best['contender']}: {best['tok_s'] / one['tok_s']:.1f}× the tokens/s of one user at {best['level']:g}, "
            f"each of whom reads at {best['tok_s_user'] / one['tok_s_user']:.0%} of the pace")


def shared(opened: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Open loops with `share`: the arrival rate of the engine's own best closed-loop rate, kept in the run (points "capacity")."""
    points = frame[(frame["what"] == "capacity") & (frame["status"] != "skipped")]
    best = {(row["run_id"], f"{row['engine']} {row['precision']}"): row["facts"]["requests_per_s"] for row in points.to_dict("records")}
    run = points["run_id"].iloc[0] if len(points) else None
    shares = [row["level"] / best.get((run, row["contender"]), float("nan")) for row in opened.to_dict("records")]
    return opened.assign(share=shares).sort_values(["contender", "share"], kind="stable")


def overload(opened: pd.DataFrame) -> str:
    """What going past the capacity does to the median first token, as a figure's title; of the engine that it hits hardest."""
    jumps = []
    for contender, group in opened.dropna(subset=["share", "ttft_p50_ms"]).groupby("contender", sort=False):
        rows = sorted(group.to_dict("records"), key=lambda row: float(row["share"]))
        low, high = rows[0], rows[-1]
        jumps.append((high["ttft_p50_ms"] / low["ttft_p50_ms"], str(contender), low["share"], high["share"]))
    if not jumps:
        return "No open loop was measured"
    times, contender, low, high = max(jumps)
    return f"{contender}: from {low:.0%} to {high:.0%} of its capacity the median first token takes {times:.0f}× as long"


def omitted(table: pd.DataFrame) -> pd.DataFrame:
    """`saturation.omission` for readers."""
    return pd.DataFrame({"engine": table["contender"], "load": table["load"], "requests": table["n"], "answered, /s": table["req_s"],
                         "asked, /s": table["asked_req_s"], "TTFT p50 from sending, ms": table["sent_p50_ms"],
                         "p90 ": table["sent_p90_ms"], "TTFT p50 from the schedule, ms": table["sched_p50_ms"],
                         "p90": table["sched_p90_ms"]}) if len(table) else table  # fmt: skip


def hidden(table: pd.DataFrame) -> dict[str, Any]:
    """The engine whose schedule was hidden most: fields for a claim; none where no pool was measured."""
    pools = table[table["load"].str.startswith("schedule") & table["sched_p50_ms"].notna()] if len(table) else table
    if pools.empty:
        return {}
    row = max(pools.to_dict("records"), key=lambda one: float(one["sched_p50_ms"] / one["sent_p50_ms"]))
    return {"contender": row["contender"], "asked": row["asked_req_s"], "answered": row["req_s"], "sent_ms": row["sent_p50_ms"],
            "sched_ms": row["sched_p50_ms"], "times": row["sched_p50_ms"] / row["sent_p50_ms"], "n": row["n"]}  # fmt: skip


def carried(cells: pd.DataFrame, slo: Slo, *, work: str) -> tuple[str, dict[str, Any]]:
    """A claim's sentence and its fields: who carries how many users, or that nobody does and who came nearest."""
    fields = saturation.carries(cells, slo, work=work)
    users = "user" if fields.get("users", fields.get("at")) == 1 else "users"
    if "second" in fields:
        return f"{{first}} carries {{or_more}}{{users:.0f}} {users}, {{second}} {{second_users:.0f}}", fields
    if "first" in fields:
        return f"{{first}} carries {{or_more}}{{users:.0f}} {users}; no other engine qualifies", fields
    return (f"none qualifies; the nearest is {{nearest}} at {{at:.0f}} {users} with {{attainment:.0%}} of {{n}} requests, "
            "the {missed} breaks", fields)


def unfit(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells that may not be quoted, and why."""
    bad = cells[~cells["ok"]]
    return pd.DataFrame({"engine": bad["contender"], "asked": bad["work"], "load": [_load(row) for row in bad.to_dict("records")],
                         "round": bad["round"], "status": bad["status"], "why": bad["reason"]})  # fmt: skip


def _load(row: Mapping[Any, Any]) -> str:
    kinds = {"closed": "{:g} streams", "open": "{:.2g}/s, Poisson", "pooled": "{:.2g}/s, pool", "waves": "waves of {:g}"}
    return kinds.get(row["kind"], str(row["kind"])).format(row["level"])


def _half(loads: pd.DataFrame, what: str) -> list[float | None]:
    rows = loads[[what, f"{what}_hi"]].itertuples(index=False, name=None)
    return [None if pd.isna(value) or pd.isna(hi) else hi - value for value, hi in rows]


def _share(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.0%}"
