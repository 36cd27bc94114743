"""What the points of a latency sweep say: medians with intervals, shares of the ceilings, where a first token's time goes.

Pure functions of frames (Session.frame). Invalid and failed points are counted, never averaged. Refuses ratios across machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lib import record, stats
from lib.llm.model import Shape

COLUMNS = ["origin", "machine_id", "engine", "precision", "prompt_tokens", "name", "n", "ttft_ms", "ttft_lo_ms", "ttft_hi_ms",
           "tpot_ms", "tpot_lo_ms", "tpot_hi_ms", "mfu", "mbu", "context"]
BY = ["origin", "machine_id", "engine", "precision", "prompt_tokens"]


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that are cells of a sweep, not ceilings or starts."""
    return frame[frame["what"] == "cell"] if "what" in frame else frame.iloc[:0]


def requests(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a measured request of the valid cells; warm-up requests are left out."""
    rows: list[dict[str, Any]] = []
    for cell in cells(frame).to_dict("records"):
        if cell["status"] != "ok":
            continue
        warmup, samples = cell["facts"]["warmup"], cell["samples"]
        who = {**{key: cell[key] for key in (*BY, "round", "method")}, "prompt_tokens": int(cell["prompt_tokens"]), "name": name(cell),
               "stored": cell["facts"]["stored"], "weights_bytes": cell["facts"]["weights_bytes"]}
        raw = list(zip(samples["ttft_s"], samples["tpot_s"], samples["output_tokens"], strict=True))[warmup:]
        rows += [{**who, "ttft_s": ttft, "tpot_s": tpot, "output_tokens": tokens} for ttft, tpot, tokens in raw]
    return pd.DataFrame(rows, columns=[*BY, "round", "method", "name", "stored", "weights_bytes", "ttft_s", "tpot_s", "output_tokens"])


def summary(frame: pd.DataFrame, shape: Shape, ceilings: Mapping[str, float]) -> pd.DataFrame:
    """Median TTFT and TPOT (ms, 95 % order-statistic interval) by engine and prompt length, with MFU and MBU.

    MFU is the prompt's FLOPs ÷ TTFT ÷ the best matmul rate its weights could use, MBU the bytes of a step ÷ TPOT ÷ the best
    measured read bandwidth; a step's context is the prompt and half the answer.
    """
    bandwidth = read_rate(ceilings)
    rows = []
    for key, group in requests(frame).groupby([*BY, "name"], sort=False):
        ttft, tpot = stats.median(group["ttft_s"].dropna().tolist()), stats.median(group["tpot_s"].dropna().tolist())
        first = group.iloc[0]
        context = first["prompt_tokens"] + first["output_tokens"] / 2
        reads = shape.decode_bytes(first["weights_bytes"], context)
        matmul = matmul_rate(ceilings, first["stored"])
        rows.append({**dict(zip([*BY, "name"], key, strict=True)), "n": len(group), **_ms("ttft", ttft), **_ms("tpot", tpot),
                     "mfu": shape.prefill_flops(int(first["prompt_tokens"])) / ttft.value / matmul if ttft else None,
                     "mbu": reads / tpot.value / bandwidth if tpot else None, "context": context})
    return pd.DataFrame(rows, columns=None if rows else COLUMNS).sort_values(["machine_id", "prompt_tokens"], kind="stable")


def read_rate(ceilings: Mapping[str, float]) -> float:
    """Best measured read bandwidth, B/s; NaN where none was measured."""
    return max((rate for what, rate in ceilings.items() if what.startswith("read")), default=np.nan)


def matmul_rate(ceilings: Mapping[str, float], stored: str) -> float:
    """Best measured matmul rate, FLOP/s: of floating point for 16-bit weights, of any precision for quantised ones."""
    whole = stored in ("bf16", "f16")
    return max((rate for what, rate in ceilings.items() if what.startswith("matmul") and not (whole and "int" in what)), default=np.nan)


def starts(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a contender: seconds until ready, resident memory, bits a weight; or the reason why it did not run."""
    rows = []
    measured = cells(frame)
    for start in frame[frame["what"] == "start"].to_dict("records"):
        ok = start["status"] == "ok"
        facts, samples = start["facts"], start["samples"]
        mine = measured[(measured["engine"] == start["engine"]) & (measured["precision"] == start["precision"])
                        & (measured["run_id"] == start["run_id"])]
        mine = mine[pd.Series([options(cell) == options(start) for cell in mine.to_dict("records")], index=mine.index, dtype=bool)]
        peak = max((c["host"]["tree_rss_max_bytes"] or 0 for c in mine["facts"] if c.get("host")), default=None)
        told = ", ".join([name(start), *options(start)])
        rows.append({"machine": start["machine_id"], "engine": told, "ready, s": samples["ready_s"][-1] if ok else None,
                     "bits a weight": facts["bits_per_weight"] if ok else None,
                     "weights, MB": facts["weights_bytes"] / 1e6 if ok else None, "resident, MB": peak / 1e6 if peak else None,
                     "cells ok": f"{(mine['status'] == 'ok').sum()} of {len(mine)}" if len(mine) else "none", "why not": start["reason"]})
    return _one_machine(pd.DataFrame(rows, columns=None if rows else ["machine"]))


def first_token(frame: pd.DataFrame) -> pd.DataFrame:
    """Where the first token's time goes, ms a request, means over a cell's requests: queue, prefill, and the rest.

    Queue and prefill are the engine's own words; the rest is HTTP, tokenizing, scheduling and transport. Unknown is None.
    """
    rows = []
    for cell in cells(frame).to_dict("records"):
        if cell["status"] != "ok":
            continue
        ttft = float(np.mean([t for t in cell["samples"]["ttft_s"] if t is not None]))
        queue, prefill = cell["facts"]["server_queue_s"], cell["facts"]["server_prefill_s"]
        rows.append({**{key: cell[key] for key in BY}, "name": name(cell), "ttft_ms": ttft * 1e3,
                     "queue_ms": None if queue is None else queue * 1e3, "prefill_ms": None if prefill is None else prefill * 1e3,
                     "rest_ms": None if prefill is None else (ttft - prefill - (queue or 0)) * 1e3})
    times = ["ttft_ms", "queue_ms", "prefill_ms", "rest_ms"]
    split = pd.DataFrame(rows, columns=[*BY, "name", *times]).astype(dict.fromkeys(times, float))
    return split.groupby([*BY, "name"], sort=False, as_index=False).mean()


def invalid(frame: pd.DataFrame) -> pd.DataFrame:
    """The points that may not be quoted, and why."""
    bad = frame[frame["status"].isin(["invalid", "failed"])]
    return bad.assign(name=[name(row) for row in bad.to_dict("records")])[["name", "prompt_tokens", "round", "status", "reason"]]


def verdict(frame: pd.DataFrame, *, prompt_tokens: int, precision: str = "16-bit", what: str = "ttft_s") -> dict[str, Any]:
    """Who is first at `what` ("ttft_s", "tpot_s") and by how much, of this machine's engines at one precision: fields for a claim."""
    rows = requests(frame)
    here = rows[(rows["machine_id"] == frame["machine_id"].iloc[0]) & (rows["prompt_tokens"] == prompt_tokens)
                & (rows["precision"] == precision)]
    record.comparable(*here[["machine_id", "method"]].to_dict("records"))
    ranked = sorted(((float(group[what].median()), engine, group[what].dropna().tolist()) for engine, group in here.groupby("engine")))
    if not ranked:
        return {"prompt_tokens": prompt_tokens}
    _, first, fast = ranked[0]
    middle = stats.median(fast)
    alone = {"first": first, "value_ms": None if middle is None else middle.value * 1e3, "prompt_tokens": prompt_tokens, "n": len(fast)}
    if len(ranked) < 2 or (ratio := stats.ratio(ranked[1][2], fast)) is None:
        return alone
    return {**alone, "second": ranked[1][1], "ratio": ratio.value, "lo": ratio.lo, "hi": ratio.hi, "n": ratio.n}


def best(table: pd.DataFrame, column: str) -> dict[str, Any]:
    """The row of `summary` that reaches the highest share of a ceiling."""
    return {str(k): v for k, v in table.sort_values(column).to_dict("records")[-1].items()}


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """`summary` as a reader wants it: names, ms, shares of the ceilings in percent."""
    return _one_machine(pd.DataFrame({
        "machine": table["machine_id"], "prompt": table["prompt_tokens"].astype(int), "engine": table["name"], "n": table["n"],
        "TTFT, ms": table["ttft_ms"], "of the matmul ceiling (MFU)": [f"{v:.0%}" for v in table["mfu"]],
        "TPOT, ms": table["tpot_ms"], "of the bandwidth ceiling (MBU)": [f"{v:.0%}" for v in table["mbu"]]}))


def _one_machine(table: pd.DataFrame) -> pd.DataFrame:
    """Without the machine's column where there is but one: the caption names it."""
    return table.drop(columns="machine") if table["machine"].nunique() == 1 else table


def name(row: Mapping[Any, Any]) -> str:
    """ "llama.cpp Q4_1": how a contender is called in figures and tables."""
    return "" if not isinstance(row.get("engine"), str) else f"{row['engine']} {row['precision']}"


def options(row: Mapping[Any, Any]) -> list[str]:
    """What a contender was started with beyond the defaults, in words: "chunk tokens 128"."""
    names = ("kv", "prefix_cache", "chunk_tokens", "continuous", "cache_tokens", "tensor_parallel", "pipeline_parallel")
    known = [(key, row[key]) for key in names if pd.notna(row.get(key))]
    return [f"{key.replace('_', ' ')} {int(value) if isinstance(value, float) else value}" for key, value in known]


def _ms(what: str, estimate: stats.Estimate | None) -> dict[str, float | None]:
    values = (estimate.value, estimate.lo, estimate.hi) if estimate else (None, None, None)
    return {f"{what}{end}_ms": None if v is None else v * 1e3 for end, v in zip(("", "_lo", "_hi"), values, strict=True)}
