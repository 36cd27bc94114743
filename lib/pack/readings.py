"""What a GPU box brought home, held against what it could have done at most; and, before there is any, what will be asked of it.

Reads the newest run of the whole plan, recorded or received; measures nothing. Every point of the plan is in its tables: with a value, or
with the reason why there is none. Refuses dry runs and runs of processors: they show that the way is whole, and say nothing of a GPU.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from lib import machine, record, stats
from lib.home import REFERENCE, RUNS
from lib.llm import dollars, synthetic, throughput
from lib.llm.mix import Mix
from lib.llm.session import Session
from lib.llm.workload import Workload
from lib.pack import bounds, plan, steps
from lib.pack.bounds import Rates
from lib.pack.plan import Ask, Step
from lib.pack.timebox import NOTEBOOK
from lib.session import Opened, checked

NEEDS = "needs an NVIDIA GPU"
LENGTHS = (512, 128)  # of most points: prompt and answer
USUAL, MIXED = throughput.fixed(*LENGTHS), "mixed"
AIM = 0.75  # of the bandwidth, that one stream of 16-bit weights should reach
COLUMNS = ["step", "contender", "asked", "kind", "users", "prompt_tokens", "bound", "tok_s", "share", "first_ms", "ttft_ms", "token_ms",
           "tpot_ms", "joules", "status", "reason"]  # fmt: skip


def session(mode: str) -> Session | None:
    """The run that speaks: of data/runs in mode "live", of data/reference in mode "recorded", else of both. None without one.

    A page that measures nothing has nothing to fail at: without a run it is bounds and published rates, in every mode. Raises ValueError
    for an unknown mode.
    """
    checked("quick", mode)
    roots = {"live": (RUNS,), "recorded": (REFERENCE,), "auto": (RUNS, REFERENCE)}[mode]
    found = [run for run in record.runs(NOTEBOOK, roots=roots) if whole(run)]
    return alone(found[-1]) if found else None


def alone(run: record.Run) -> Session:
    """A run opened by itself: nothing is measured, nothing stands beside it."""
    return Session(Opened(run, (), None), None)


def whole(run: record.Run) -> bool:
    """Whether it followed the big plan on a GPU, by today's method."""
    return run.method == record.METHOD and run.parameters.get("plan") == "big" and bool(run.environment.get("gpus"))


def rates(s: Session | None) -> Rates:
    """The measured limits of the run's GPU; without them those of an H200's data sheet."""
    return (bounds.measured(s) if s else None) or bounds.sheet()


def limits(s: Session | None) -> pd.DataFrame:
    """Rates of data sheets, and those that the run measured, for readers."""
    known = [bounds.sheet(), bounds.sheet("H100 80GB HBM3"), *filter(None, [bounds.measured(s) if s else None])]
    return pd.DataFrame([{"device": one.device, "memory, TB/s": one.bandwidth / 1e12, "16 bits, TFLOP/s": one.flops / 1e12,
                          "8 bits, TFLOP/s": one.fast_flops / 1e12, "source": one.source} for one in known])  # fmt: skip


def served(s: Session | None) -> pd.DataFrame:
    """A row a point that servers are asked for, in the plan's order: who, what, at most how much, and what was measured or why not."""
    rows = [_served(s, step, ask) for step in plan.BIG if step.does == "serve" for ask in step.asks]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(("tok_s", "share", "ttft_ms", "tpot_ms", "joules"), float))


def _served(s: Session | None, step: Step, ask: Ask) -> dict[str, Any]:
    assert ask.work is not None and ask.load is not None
    each = lengths(ask)
    fixed, limit, users = len(set(each)) == 1, rates(s), ask.load.in_flight
    what: dict[str, Any] = {"form": stored(step), "weights_bytes": _weights(s, step)}
    kv: dict[str, Any] = {"kv_element_bytes": _kv_bytes(step)}
    bound = bounds.tokens_per_s(limit, each, users=users, **what, **kv)
    asked = throughput.fixed(*each[0]) if fixed else MIXED
    row: dict[str, Any] = {"step": step.name, "contender": steps.rival(step).name, "asked": asked, "users": users, "bound": bound,
                           "kind": "waves" if "wave" in ask.load.setting else "closed", "status": "skipped"}  # fmt: skip
    if fixed and users == 1:
        prompt, output = each[0]
        row |= {"prompt_tokens": prompt, "first_ms": 1e3 * bounds.first_token_s(limit, prompt, **what),
                "token_ms": 1e3 * bounds.token_s(limit, prompt + output / 2, **what, **kv)}  # fmt: skip
    point = None if s is None else _point(s, steps.setting(step, ask))
    if s is None or point is None:
        return {**row, "reason": NEEDS if s is None else "not reached"}
    row |= {"status": point.status, "reason": point.reason}
    return {**row, **_measured(s, point, bound)} if point.status == "ok" else row


def _measured(s: Session, point: record.Point, bound: float) -> dict[str, Any]:
    rate, host, warmup = throughput.tokens_per_s(throughput.one(s.run, point)), point.facts["host"], point.facts["warmup"]
    first, each = (stats.median([v for v in point.samples[what][warmup:] if v is not None]) for what in ("ttft_s", "tpot_s"))
    tokens, spent = sum(n or 0 for n in point.samples["output_tokens"]), host.get("gpu_energy_j")
    return {"tok_s": rate, "share": rate / bound if rate else None, "ttft_ms": first and 1e3 * first.value,
            "tpot_ms": each and 1e3 * each.value, "joules": spent / tokens if spent and tokens else None}  # fmt: skip


def stored(step: Step) -> str:
    """The form of weights that a step's server reads."""
    return "fp8" if step.precision == "FP8" else step.form


def lengths(ask: Ask) -> list[tuple[int, int]]:
    """Tokens of each request's prompt and answer; of equal ones, of one."""
    if isinstance(ask.work, Mix):
        return ask.work.lengths()
    assert isinstance(ask.work, Workload)
    return [(ask.work.prompt_tokens, ask.work.output_tokens)]


def _point(s: Session, setting: dict[str, record.Scalar]) -> record.Point | None:
    return next((point for point in s.run.points() if point.key == record.canonical(setting)), None)


def _weights(s: Session | None, step: Step) -> float | None:
    """As the server had them; None before."""
    start = None if s is None else _point(s, {"what": "start", **steps.rival(step).setting})
    return start.facts.get("weights_bytes") if start is not None else None


def _kv_bytes(step: Step) -> float:
    """Of a number in the cache, scales included, as the engines' own modules have it."""
    return 2.0 if step.options.kv == "16-bit" else {"vllm": 1.0, "llamacpp": 34 / 32}[step.engine]


def by_users(table: pd.DataFrame) -> pd.DataFrame:
    """Output tokens/s of equal requests by how many users ask at a time: measured and its share of the bound, or the bound alone."""
    rows = table[(table["kind"] == "closed") & (table["asked"] == USUAL)]
    told = rows.assign(text=[f"{row['tok_s']:,.0f} ({row['share']:.0%})" if row["tok_s"] > 0 else f"at most {row['bound']:,.0f}"
                             for row in rows.to_dict("records")])
    wide = told.pivot(index="contender", columns="users", values="text").reindex(rows["contender"].unique())
    return _told(wide.rename(columns=lambda n: f"{n} user{'s' * (n > 1)}").reset_index(names="server").rename_axis(columns=None))


def by_context(table: pd.DataFrame) -> pd.DataFrame:
    """One user: how soon the first token, how fast the next ones, each beside the least that it takes."""
    rows = table[table["prompt_tokens"].notna()].sort_values(["contender", "prompt_tokens"], key=_in_order)
    return _told(pd.DataFrame({
        "server": rows["contender"], "prompt": rows["prompt_tokens"].astype(int), "first token, at least, ms": rows["first_ms"],
        "measured, ms": rows["ttft_ms"], "a token, at least, ms": rows["token_ms"], "measured, ms ": rows["tpot_ms"],
        "of the bandwidth": (rows["token_ms"] / rows["tpot_ms"]).map("{:.0%}".format).where(rows["tpot_ms"].notna())}))  # fmt: skip


def _told(table: pd.DataFrame) -> pd.DataFrame:
    """Without columns that hold nothing, and servers of which the same is said in one row."""
    known = table.dropna(axis="columns", how="all")
    rest = [name for name in known if name != "server"]
    return pd.DataFrame(known.groupby(rest, sort=False, dropna=False)["server"].agg("; ".join).reset_index())[[*known]]


def _in_order(column: pd.Series[Any]) -> pd.Series[Any]:
    """Numbers by size, names as they came."""
    return column if column.name == "prompt_tokens" else column.map({name: i for i, name in enumerate(column.unique())})


def curves(s: Session | None, table: pd.DataFrame) -> pd.DataFrame:
    """For a figure: bounds by users for weights of 16, 8 and 4 bits, and what servers were measured to reach."""
    limit = rates(s)
    rows = [{"series": f"{bits} bits, at most", "users": users, "tok_s": bounds.tokens_per_s(limit, [LENGTHS], users=users, form=form)}
            for bits, form in ((16, "bf16"), (8, "fp8"), (4, "w4a16")) for users in (2**n for n in range(9))]
    known = table[(table["kind"] == "closed") & (table["asked"] == USUAL) & table["tok_s"].notna()]
    return pd.concat([pd.DataFrame(rows), known.rename(columns={"contender": "series"})[["series", "users", "tok_s"]]], ignore_index=True)


def beside(table: pd.DataFrame) -> pd.DataFrame:
    """Others' rates with the bound of their own device, and what was measured here at the same lengths: never a ratio of the two."""
    ours = {row["asked"]: f"{row['tok_s']:,.0f} at {row['users']} users, {row['share']:.0%} of its bound" if row["tok_s"] > 0
            else f"not measured: {row['reason']}" for row in table[table["step"] == "vllm-fp8"].to_dict("records") if row["asked"] != USUAL}
    return pd.DataFrame([{"engine": row["engine"], "device": row["device"], "asked": (asked := _asked(row)),
                          "published, tokens/s": row["tok_s"], "at most": row["bound"], "share": f"{row['share']:.0%}",
                          "vLLM FP8 here": ours.get(asked, "not planned"), "source": row["source"]}
                         for row in bounds.published().to_dict("records")])  # fmt: skip


def _asked(row: dict[Any, Any]) -> str:
    return throughput.fixed(row["prompt_tokens"], row["output_tokens"])


def room(s: Session | None) -> pd.DataFrame:
    """A row a server: what its weights and cache take by arithmetic, what its log says."""
    card = s.run.environment["gpus"][0]["memory_bytes"] if s else bounds.CARDS["H200"]
    rows = []
    for step in (one for one in plan.BIG if one.does == "serve"):
        weights, kv = _weights(s, step) or synthetic.needed_bytes(bounds.MODEL, stored(step)), _kv_bytes(step)
        whole = step.slots * steps.context(step) if step.engine == "llamacpp" else bounds.kv_tokens(weights, card, kv_element_bytes=kv)
        start = None if s is None else _point(s, {"what": "start", **steps.rival(step).setting})
        said = {} if start is None else start.facts.get("allocated", {})
        rows.append({"server": steps.rival(step).name, "weights, GB": weights / 1e9, "its log says, GB": _scaled(said.get("weights_bytes")),
                     "KV cache, tokens": float(whole), "its log says": said.get("kv_tokens"),
                     "KV cache, GB": whole * bounds.MODEL.kv_bytes_per_token(element_bytes=kv) / 1e9})  # fmt: skip
    return _told(pd.DataFrame(rows).astype({"its log says, GB": float, "its log says": float}))


def _scaled(value: float | None) -> float | None:
    return None if value is None else value / 1e9


def waves(table: pd.DataFrame) -> dict[str, Any]:
    """Static waves against a loop that never waits, the same requests: fields for a claim; none where both were not measured."""
    mixed = table[(table["asked"] == MIXED) & table["tok_s"].notna()].set_index("kind")["tok_s"]
    return {} if len(mixed) < 2 else {"times": mixed["closed"] / mixed["waves"], "continuous": mixed["closed"], "static": mixed["waves"]}


def networks(s: Session | None) -> pd.DataFrame:
    """ResNet-50: images/s by form and batch, medians; or why a form has none."""
    if s is None:
        return pd.DataFrame({"form": ["; ".join(plan.PICTURES)], "images/s": [f"not measured: {NEEDS}"]})
    rows = []
    for form in plan.PICTURES:
        point = _point(s, {"what": "pictures", "form": form})
        if point is None or point.status != "ok":
            rows.append({"form": form, "why not": "not reached" if point is None else point.reason})
            continue
        speeds = {int(batch): int(batch) / found.value for batch, turns in point.samples.items()
                  if (found := stats.median([one for turn in turns for one in turn]))}  # fmt: skip
        rows.append({"form": form, **dict[str, Any]({f"batch {n}": speeds.get(n) for n in (1, 16, 256)}),
                     "the most": f"{max(speeds.values()):,.0f} at {max(speeds, key=lambda n: speeds[n])}"})  # fmt: skip
    return pd.DataFrame(rows)


def energy(s: Session | None) -> pd.DataFrame:
    """Joules a token by server, as the card's own counter has them."""
    if s is None:
        return pd.DataFrame({"server": ["every server of the plan"], "J a token": [f"not measured: {NEEDS}"]})
    return dollars.joules(s.run).rename(columns={"contender": "server", "cells": "points with a meter", "j_token": "J a token",
                                                 "reason": "why not"})


def card(s: Session | None) -> pd.DataFrame:
    """The machine whose run speaks; or, that there is none."""
    return machine.card(s.run.environment) if s else pd.DataFrame({"what": ["machine"], "value": [f"none: this {NEEDS}"]})


def missing(s: Session | None) -> pd.DataFrame:
    """Points of the plan that were not measured, by reason; and all of it as a count where no GPU was there."""
    rows: dict[str, list[str]] = {}
    for step in plan.BIG:
        for ask in step.asks:
            point = None if s is None else _point(s, steps.setting(step, ask))
            if point is None or point.status != "ok":
                why = NEEDS if s is None else "not reached" if point is None else str(point.reason).partition(": needs")[0]
                rows.setdefault(why, []).append(step.name)
    return pd.DataFrame([{"not measured": why, "points": len(names), "of": ", ".join(dict.fromkeys(names))} for why, names in rows.items()],
                        columns=["not measured", "points", "of"])  # fmt: skip


def _highest(table: pd.DataFrame, by: pd.Series[float]) -> dict[Any, Any]:
    return table.iloc[[int(by.argmax())]].to_dict("records")[0]


def verdict(s: Session | None, table: pd.DataFrame) -> dict[str, Any]:
    """Fields for claims: what one stream can have, what others reached of their bounds; where a GPU was measured, what it reached."""
    limit, others = rates(s), bounds.published()
    best = _highest(others, others["share"])
    one = {f"one_{form}": bounds.tokens_per_s(limit, [LENGTHS], users=1, form=form) for form in ("bf16", "fp8", "w4a16")}
    basis = "no GPU has been measured here. By its data sheet" if s is None else "no stream alone was measured. By its measured rates"
    found: dict[str, Any] = {"device": limit.device, "basis": basis, "aim": AIM, **one,
                             "others_low": others["share"].min(), "others_high": best["share"], "others": best["engine"],
                             "points": sum(len(step.asks) for step in plan.BIG), "balance": bounds.balance(limit, [LENGTHS], form="bf16"),
                             "flat": bounds.tokens_per_s(limit, [LENGTHS], users=float("inf"), form="bf16")}  # fmt: skip
    alone = table[(table["users"] == 1) & (table["asked"] == USUAL) & table["contender"].str.endswith("16-bit") & table["tpot_ms"].notna()]
    if len(alone):
        row = _highest(alone, alone["token_ms"] / alone["tpot_ms"])
        found |= {"first": row["contender"], "reached": row["token_ms"] / row["tpot_ms"], "one": 1e3 / row["tpot_ms"]}
    if table["tok_s"].notna().any():
        row = _highest(table, table["tok_s"])
        found |= {"most": row["contender"], "tok_s": row["tok_s"], "users": row["users"], "asked": row["asked"], "share": row["share"]}
    return found
