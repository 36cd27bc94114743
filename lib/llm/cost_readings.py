"""Dollars and machines as a reader wants them: tables in readable units, and sentences that follow from the numbers.

Pure functions of what dollars.py, heldout.py and sizing.py make of a run. Refuses to call something cheapest, foretold or
carried that was not: fields are then absent or None, and a claim says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib.llm import sizing
from lib.llm.dollars import PARTS, Hourly
from lib.llm.heldout import AIMS
from lib.llm.pace import Pace
from lib.llm.sizing import Day

COLUMN = {"input": "input", "output": "output", "blended": "both", "whole": "all on output"}
TICKS = tuple(digit * 10.0**power for power in range(-5, 4) for digit in (1, 2, 5))  # of a logarithmic axis of money
SWEEP = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1)  # of what a machine carries
FACTORS = {0.5: "half the price", 1.0: "the price", 2.0: "twice the price"}


def prices(hourly: Mapping[str, Hourly]) -> pd.DataFrame:
    """What each server's machine costs, of what, and who says so."""
    return pd.DataFrame([{"engine": name, "an hour": f"{price.amount:.4f} {price.currency}", "of": price.of,
                          "as of": price.as_of.isoformat(), "source": price.source} for name, price in hourly.items()])  # fmt: skip


def bills(table: pd.DataFrame) -> pd.DataFrame:
    """`dollars.bills` for readers: money for a million tokens with its 95 % interval."""
    rows = []
    for row in table.to_dict("records"):
        told: dict[str, Any] = {"engine": row["contender"], "SLO": str(row["slo"]).capitalize(), "load": _load(row),
                                "met": f"{row['met']} of {row['tried']}", "so at least": _share(row["at_least"])}  # fmt: skip
        if isinstance(row["reason"], str):
            told |= {"why no price": row["reason"]}
        else:
            told |= {"tokens/s": row["tok_s"], "time on prompts": _share(row["share"]),
                     **{COLUMN[part]: _money(row[part], row[f"{part}_lo"], row[f"{part}_hi"]) for part in PARTS}}  # fmt: skip
        rows.append(told)
    return pd.DataFrame(rows)


def priced(table: pd.DataFrame, *, slo: str = "server") -> pd.DataFrame:
    """One row a contender within `slo` and part with its interval, for a figure: `engine`, `part`, `value`, `lo`, `hi`."""
    rows = [{"engine": row["contender"], "part": COLUMN[part], "value": row[part], "lo": row[f"{part}_lo"], "hi": row[f"{part}_hi"]}
            for row in table.to_dict("records") if row["slo"] == slo for part in PARTS if pd.notna(row[part])]
    return pd.DataFrame(rows, columns=["engine", "part", "value", "lo", "hi"]).astype(dict.fromkeys(("value", "lo", "hi"), float))


def headline(table: pd.DataFrame, *, slo: str = "server") -> dict[str, Any]:
    """The contender with the cheapest blended million within `slo`, and the next: fields for a claim; none where nobody has a price."""
    known = table[(table["slo"] == slo) & table["blended"].notna()]
    ranked = known.sort_values("blended").to_dict("records")
    if not ranked:
        return {}
    first = ranked[0]
    told = {"first": first["contender"], "slo": slo.capitalize(), "load": _load(first), "n": first["tried"], "currency": first["currency"],
            **{f"{part}{end}": first[f"{part}{end}"] for part in PARTS for end in ("", "_lo", "_hi")}}  # fmt: skip
    told |= {"dearer": first["output"] / first["input"]} if pd.notna(first["input"]) else {}
    return told | ({"second": ranked[1]["contender"], "times": ranked[1]["blended"] / first["blended"]} if len(ranked) > 1 else {})


def sensitive(table: pd.DataFrame, *, slo: str = "server") -> pd.DataFrame:
    """`dollars.sensitivity` of one SLO at the price, with the utilisation in percent, for a figure."""
    mine = table[(table["slo"] == slo) & (table["factor"] == 1.0)]
    return mine.assign(percent=mine["utilisation"].astype(float) * 100)


def sensitivities(table: pd.DataFrame) -> pd.DataFrame:
    """The same as a table: a row a contender, SLO and price, a column a utilisation."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in table.to_dict("records"):
        key = (row["contender"], row["slo"], row["factor"])
        mine = rows.setdefault(key, {"engine": row["contender"], "SLO": str(row["slo"]).capitalize(),
                                     "hour": FACTORS.get(row["factor"], f"× {row['factor']:g}")})  # fmt: skip
        mine[f"{row['utilisation']:.0%} used"] = _three(row["money"])
    return pd.DataFrame(list(rows.values()))


def published(table: pd.DataFrame) -> pd.DataFrame:
    """`dollars.elsewhere` for readers."""
    return pd.DataFrame([{"engine": row["engine"], "model": row["model"], "load": row["load"],
                          "hour": f"{row['hour']:.2f} USD, {row['gpu']}", "output tokens/s": row["per_s"],
                          "all on output": _three(row["million"]), "source": row["source"]}
                         for row in table.to_dict("records")])  # fmt: skip


def steps(paces: Mapping[str, Pace], work: sizing.Work) -> pd.DataFrame:
    """The fitted costs of each server's steps, in ms; answers that run are half done."""
    rows = []
    for name, pace in paces.items():
        cached, prompt, most = work.prompt_tokens + work.output_tokens / 2, work.prompt_tokens, pace.knots[-1]
        rows.append({"engine": name, "steps seen": pace.steps, "1 running": pace.running_s(1, cached) * 1e3,
                     f"{most} running": pace.running_s(most, most * cached) * 1e3, "+ 1,000 cached tokens": pace.context_s * 1e6,
                     f"+ a prompt of {prompt}": pace.prompts_s(1, prompt, prompt**2) * 1e3,
                     "+ a request, besides steps": pace.overhead_s * 1e3, "half of the steps within": _share(pace.spread)})  # fmt: skip
    return pd.DataFrame(rows)


def curves(paces: Mapping[str, Pace], moods: Mapping[str, Sequence[Pace]], work: sizing.Work) -> pd.DataFrame:
    """A step's fitted time by the answers that run, each half done, for a figure: `engine`, `running`, `ms`; `lo`–`hi` of single rounds."""
    cached, rows = work.prompt_tokens + work.output_tokens / 2, list[dict[str, Any]]()
    for name, pace in paces.items():
        for knot in pace.knots:
            each = [one.running_s(knot, knot * cached) * 1e3 for one in (pace, *moods.get(name, ()))]
            rows.append({"engine": name, "running": knot, "ms": each[0], "lo": min(each), "hi": max(each)})
    return pd.DataFrame(rows, columns=["engine", "running", "ms", "lo", "hi"])


def foretold(table: pd.DataFrame) -> pd.DataFrame:
    """`heldout.foretold` for readers, the misses among them."""
    rows = []
    for row in table.to_dict("records"):
        worst = row["quantile"] == "p99" and row["n"] < 100
        rows.append({"engine": row["contender"], "load": row["load"], "n": row["n"],
                     "what": f"{row['what']} {row['quantile']}" + (" (the worst)" if worst else ""), "measured, ms": row["measured_ms"],
                     "its 95 %": _range(row["lo_ms"], row["hi_ms"]), "foretold, ms": row["told_ms"],
                     "error": f"{row['error']:+.0%}",
                     "aim": f"{'within' if row['within'] else 'MISSED'} {AIMS[row['quantile']]:.0%}",
                     "95 % of Poisson tries": _range(row["from_ms"], row["to_ms"])})  # fmt: skip
    return pd.DataFrame(rows)


def hits(score: pd.DataFrame) -> dict[str, Any]:
    """`heldout.score` as fields for a claim: ttft_p50_within, …_points, …_median, …_largest; the same of ttft_p99, tpot_p50, tpot_p99."""
    told: dict[str, Any] = {}
    for row in score.to_dict("records"):
        name = f"{row['what'].lower()}_{row['quantile']}"
        told |= {f"{name}_{key}": row[key] for key in ("within", "points", "median", "largest", "in_range", "ranged")}
    return told


def carries(table: pd.DataFrame) -> pd.DataFrame:
    """`sizing.capacities` for readers."""
    return pd.DataFrame([{"engine": row["contender"], "SLO": row["slo"].capitalize(), "one machine carries, requests/s": row["per_s"],
                          "by single rounds": _range(row["lo"], row["hi"]), "breaks first": row["breaks"],
                          "why not": None if pd.notna(row["per_s"]) else "not kept by a machine that is nearly idle"}
                         for row in table.to_dict("records")])  # fmt: skip


def counts(table: pd.DataFrame, loads: Sequence[float]) -> pd.DataFrame:
    """Machines (one more than needed) for each of these loads, requests/s, by SLO and engine; by the paces of single rounds in brackets."""
    rows = []
    for row in table.to_dict("records"):
        told: dict[str, Any] = {"SLO": row["slo"].capitalize(), "engine": row["contender"]}
        for load in loads:
            need = [sizing.machines(load, each) if each and pd.notna(each) else None for each in (row["per_s"], row["hi"], row["lo"])]
            few, many = ("no end" if n is None else f"{n + 1:,}" for n in need[1:])
            told[f"{load:,.0f}/s"] = "–" if need[0] is None else f"{need[0] + 1:,} ({few}–{many})"
        rows.append(told)
    return pd.DataFrame(rows)


def plans(day: Day, capacities: pd.DataFrame, hourly: Mapping[str, Hourly], work: sizing.Work) -> pd.DataFrame:
    """`sizing.plans` for each SLO and contender, `slo` the first column."""
    found = []
    for slo, group in capacities.groupby("slo", sort=False):
        each = {name: None if pd.isna(rate) else float(rate) for name, rate in zip(group["contender"], group["per_s"], strict=True)}
        told = sizing.plans(day, each, {name: price.amount for name, price in hourly.items()}, work)
        found.append(told.assign(slo=slo))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["slo", "contender", "way", "each_per_s"])


def planned(table: pd.DataFrame) -> pd.DataFrame:
    """`plans` for readers."""
    rows = []
    for row in table.to_dict("records"):
        told: dict[str, Any] = {"SLO": row["slo"].capitalize(), "engine": row["contender"], "fleet": row["way"]}
        if pd.isna(row["each_per_s"]):
            told |= {"why not": "no machine keeps this SLO"}
        else:
            told |= {"machines": f"{row['least']:,.0f}–{row['most']:,.0f}" if row["least"] < row["most"] else f"{row['most']:,.0f}",
                     "machine-hours": int(row["machine_hours"]), "used": _share(row["utilisation"]), "a day": f"{row['day']:,.0f}",
                     "a million tokens": _three(row["million"])}  # fmt: skip
        rows.append(told)
    return pd.DataFrame(rows)


def fleet(table: pd.DataFrame, *, slo: str = "server") -> dict[str, Any]:
    """The cheapest fleet by the hour within `slo`, and what running the peak's all day costs beside it: fields for a claim."""
    mine = table[(table["slo"] == slo) & table["each_per_s"].notna()]
    hourly, fixed = (mine[mine["way"].str.startswith(way)] for way in ("by the hour, N+1", "the busiest hour"))
    if hourly.empty or fixed.empty:
        return {}
    best = min(hourly.to_dict("records"), key=lambda row: float(row["day"]))
    all_day = fixed[fixed["contender"] == best["contender"]].iloc[0]
    return {"fleet": best["contender"], "machines": int(best["most"]), "fewest": int(best["least"]), "day": best["day"],
            "all_day": float(all_day["day"]), "saved": 1 - best["day"] / float(all_day["day"]), "used": best["utilisation"],
            "fixed_used": float(all_day["utilisation"]), "each": best["each_per_s"]}  # fmt: skip


def hours(day: Day, each_per_s: float) -> pd.DataFrame:
    """A day's load and machines by the hour, for a figure."""
    moving, fixed = (sizing.fleet(day, each_per_s, scaled=scaled) for scaled in (True, False))
    return pd.DataFrame({"hour": range(len(moving.running)), "per_s": day.per_s(), "moving": moving.running, "fixed": fixed.running})


def widest(curve: pd.DataFrame) -> str:
    """What running more answers at a time does to a step, as a figure's title; of the engine of `curves` that it hits least."""
    told = [(rows["ms"].iloc[-1] / rows["ms"].iloc[0], str(name), int(rows["running"].iloc[-1]))
            for name, rows in curve.groupby("engine", sort=False) if rows["ms"].iloc[0] > 0]
    if not told:
        return "No step was recorded"
    times, name, most = min(told)
    return f"{name}: a step of {most} answers takes {times:.1f}× as long as a step of one, and writes {most}× as many tokens"


def against(table: pd.DataFrame) -> pd.DataFrame:
    """`heldout.foretold` with a label for each miss, for a figure."""
    labels = ["" if row["within"] else f"{row['what']} {row['quantile']}" for row in table.to_dict("records")]
    return table.assign(label=labels)


def diagonal(table: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Where foretold equals measured, over the range of `table`."""
    known = pd.concat([table["measured_ms"], table["told_ms"]])
    ends = [] if known.empty else [float(known.min()), float(known.max())]
    return ends, ends


def aimed(score: pd.DataFrame) -> str:
    """How many of the aims were met, as a figure's title."""
    if score.empty:
        return "Nothing was foretold: no open load was recorded"
    within, points = int(score["within"].sum()), int(score["points"].sum())
    worst = max(score.to_dict("records"), key=lambda row: float(row["largest"]))
    return (f"{within} of {points} values foretold within their aim; the largest error is {worst['largest']:.0%}, of a {worst['what']} "
            f"{worst['quantile']}")  # fmt: skip


def scored(score: pd.DataFrame) -> pd.DataFrame:
    """`heldout.score` for readers."""
    return pd.DataFrame([{"what": f"{row['what']} {row['quantile']}", "aim": f"within {row['aim']:.0%}",
                          "met": f"{row['within']} of {row['points']}", "median error": _share(row["median"]),
                          "largest error": _share(row["largest"]),
                          "measured inside 95 % of Poisson tries": f"{row['in_range']} of {row['ranged']}"}
                         for row in score.to_dict("records")])  # fmt: skip


def refitted(table: pd.DataFrame) -> pd.DataFrame:
    """`heldout.refitted` for readers."""
    return pd.DataFrame([{"engine": row["contender"], "streams": row["streams"], "what": f"{row['what']} p50", "n": row["n"],
                          "measured, ms": row["measured_ms"], "foretold, ms": row["told_ms"], "error": f"{row['error']:+.0%}"}
                         for row in table.to_dict("records")])  # fmt: skip


def worked_off(table: pd.DataFrame) -> pd.DataFrame:
    """`heldout.worked_off` for readers."""
    return pd.DataFrame([{"engine": row["contender"], "load": row["load"], "rounds": row["rounds"], "measured, requests/s": row["measured"],
                          "its 95 %": _range(row["lo"], row["hi"]), "foretold": row["told"], "error": f"{row['error']:+.0%}"}
                         for row in table.to_dict("records")])  # fmt: skip


def alone(table: pd.DataFrame) -> pd.DataFrame:
    """`heldout.alone` for readers."""
    return pd.DataFrame([{"engine": row["contender"], "prompt": row["prompt"], "n": row["n"], "TTFT p50, ms": row["measured_ms"],
                          "its 95 %": _range(row["lo_ms"], row["hi_ms"]), "foretold, ms": row["told_ms"], "error": f"{row['error']:+.0%}"}
                         for row in table.to_dict("records")])  # fmt: skip


def rates(capacities: pd.DataFrame, paces: Mapping[str, Pace], slots: Mapping[str, int], work: sizing.Work, *,
          requests: int) -> pd.DataFrame:  # fmt: skip
    """`sizing.foretold` of each contender from an idle machine to past what it carries, `contender` the first column."""
    found = []
    for contender, pace in paces.items():
        mine = capacities[capacities["contender"] == contender]["per_s"].dropna()
        most = max(mine.astype(float).tolist(), default=1 / sizing.alone_s(pace, work))
        told = sizing.foretold([most * share for share in SWEEP], pace, work, slots=slots[contender], requests=requests)
        found.append(told.assign(contender=contender))
    told = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["contender", "rate_per_s", "ttft_p99_ms"])
    return told.assign(lo=float("nan"), hi=float("nan"))  # a simulated tail has no interval of its own


def steepest(curve: pd.DataFrame) -> str:
    """How the tail of `rates` grows with the load, as a figure's title; of the contender whose tail grows most."""
    told = []
    for name, rows in curve.groupby("contender", sort=False):
        half, whole, past = (float(rows["ttft_p99_ms"].iloc[SWEEP.index(share)]) for share in (0.55, 1.0, SWEEP[-1]))
        told.append((past / half, f"{name}: TTFT p99 {half:,.0f} ms at 55% of what it carries, {whole:,.0f} ms at all of it, "
                                  f"{past:,.0f} ms at {SWEEP[-1]:.0%}"))  # fmt: skip
    return max(told)[1] if told else "No load was simulated: there is no pace"


def idle(table: pd.DataFrame, *, slo: str = "server") -> dict[str, Any]:
    """What idleness costs the contender that is cheapest in `dollars.sensitivity`: fields for a claim."""
    mine = table[(table["slo"] == slo) & (table["factor"] == 1.0)].sort_values(["money"]).to_dict("records")
    if not mine:
        return {}
    first = mine[0]
    dear = max((row for row in mine if row["contender"] == first["contender"]), key=lambda row: float(row["money"]))
    return {"first": first["contender"], "cheap": first["money"], "full": first["utilisation"], "dear": dear["money"],
            "little": dear["utilisation"]}  # fmt: skip


def _load(row: Mapping[Any, Any]) -> str:
    kinds = {"closed": "{:g} streams", "open": "{:.2g}/s, Poisson", "pooled": "{:.2g}/s, pool"}
    return kinds[row["kind"]].format(row["level"])


def _money(value: Any, lo: Any, hi: Any) -> str:
    if pd.isna(value):
        return "–"
    return _three(value) + ("" if pd.isna(lo) else f" ({_three(lo)}–{_three(hi) if pd.notna(hi) else 'no end'})")


def _three(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _range(lo: Any, hi: Any) -> str:
    return "–" if pd.isna(lo) or pd.isna(hi) else f"{_three(lo)}–{_three(hi)}"


def _share(value: Any) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.0%}"
