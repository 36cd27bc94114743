"""Dollars in readers' units: what a million predictions cost at each step and utilisation, when a GPU pays, what a year and a nine cost.

Pure: points and prices in, frames and the fields of sentences out. Every rate is one that met its SLA; where none did, there is no price.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from lib.pipelines.cost import allocation_views, money, prices, sizing
from lib.pipelines.cost.allocation_views import MIB
from lib.pipelines.cost.cells import LADDERS, Cell, Service
from lib.pipelines.cost.money import Tariff
from lib.pipelines.cost.session import Session
from lib.pipelines.cost.sizing import HEADROOM

SERVICES: tuple[Service, ...] = ("fraud", "retail")
UNIT = {"fraud": "transactions", "retail": "frames"}
EACH = 0.995  # how often a single replica is up: an assumption, and the notebook says so
UTILISATIONS = (0.3, 0.5, 0.7, 1.0)


def tariff(vcpu_usd: float | None = None, gb_usd: float | None = None) -> Tariff:
    """Of data/prices.csv, or the user's own. Raises ValueError for a price that is none."""
    return Tariff(prices.priced(prices.VCPU, vcpu_usd).usd, prices.priced(prices.MEMORY, gb_usd).usd)


def sources(vcpu_usd: float | None = None, gb_usd: float | None = None) -> pd.DataFrame:
    """Every price that a dollar figure rests on: unit, source, date."""
    own = {prices.VCPU: vcpu_usd, prices.MEMORY: gb_usd}
    rows = [prices.priced(name, own.get(name)) for name, price in prices.prices().items() if price.unit.endswith("-hour")]
    return pd.DataFrame([{"price": p.name, "USD": f"{p.usd:g}", "for a": p.unit, "where": p.region, "as of": p.as_of.isoformat(),
                          "source": p.source} for p in rows])  # fmt: skip


def steps(s: Session, service: Service, rates: Tariff, utilisation: float) -> pd.DataFrame:
    """From the framework as it is to the best setting, then to the best engine: dollars a million at each step, and what the step saved."""
    grid = {row["cell"]: row for row in allocation_views.cells(s, service).to_dict("records")}
    rungs = list(LADDERS[service])
    allocated, winner = allocation_views.best(s, service, same=True), allocation_views.best(s, service)
    if allocated is not None:
        rungs.append(("right-sized", allocated))
    if winner is not None and winner != allocated:
        rungs.append((f"{winner.name.split(',')[0]}, right-sized", winner))
    rows: list[dict[str, Any]] = []
    for step, rung in rungs:
        row = grid.get(rung)
        usd = None if row is None or pd.isna(row["per_s"]) else _usd(rung, row, rates, utilisation)
        known = [earlier["usd"] for earlier in rows if earlier["usd"] is not None]
        rows.append({"service": service, "step": step, "setting": rung.name, "cell": rung, "usd": usd,
                     "per_core": None if row is None else row["per_core"],
                     "saved": known[-1] - usd if usd is not None and known else None})  # fmt: skip
    return pd.DataFrame(rows)


def _usd(rung: Cell, row: Mapping[Hashable, Any], rates: Tariff, utilisation: float) -> float | None:
    memory_bytes = row["peak_mb"] * 1e6 * HEADROOM if pd.notna(row["peak_mb"]) else 0.0
    return money.per_million(rates.hour(rung.cpus, memory_bytes), row["per_s"], utilisation)


def saved(fall: pd.DataFrame) -> dict[str, Any]:
    """First and cheapest step: dollars, factor, and the step that saved most."""
    told: dict[str, Any] = dict.fromkeys(("first", "first_usd", "best", "best_usd", "times", "lever", "lever_usd"))
    known = fall.dropna(subset=["usd"])
    if len(known) < 2:
        return told
    rows = known.to_dict("records")
    cheapest, lever = min(rows, key=lambda row: row["usd"]), max(rows[1:], key=lambda row: row["saved"])
    return {"first": rows[0]["step"], "first_usd": rows[0]["usd"], "best": cheapest["step"], "best_usd": cheapest["usd"],
            "times": rows[0]["usd"] / cheapest["usd"], "lever": lever["step"], "lever_usd": lever["saved"]}  # fmt: skip


def as_it_comes(falls: Mapping[Service, pd.DataFrame]) -> dict[str, Any]:
    """What ONNX Runtime costs as it comes, in each service, as a multiple of the framework as it is and of the cheapest."""
    told: dict[str, Any] = {}
    for service, fall in falls.items():
        usd = dict(zip(fall["step"], fall["usd"], strict=True))
        onnx, first, best = usd.get("ONNX Runtime, as it is"), fall["usd"].iloc[0], saved(fall)["best_usd"]
        known = onnx is not None and first is not None and best is not None
        told |= {f"{service}_first": onnx / first if known else None, f"{service}_best": onnx / best if known else None}
    return told


def headline(falls: Mapping[Service, pd.DataFrame], utilisation: float) -> dict[str, Any]:
    """For a claim: the cheapest of each service, and how often that the framework as it is costs."""
    told: dict[str, Any] = {"utilisation": utilisation}
    for service, fall in falls.items():
        known = saved(fall)
        told |= {f"{service}_usd": known["best_usd"], f"{service}_times": known["times"]}
    return told


def utilisations(falls: Mapping[Service, pd.DataFrame], asked: float) -> pd.DataFrame:
    """The cheapest step of each service at several utilisations: what an idle hour costs those that are not."""
    rows = []
    for service, fall in falls.items():
        cheapest = saved(fall)["best_usd"]
        row = {"service": service, "a million": UNIT[service]}
        priced = {f"{share:.0%} utilised": "no price" if cheapest is None else f"${cheapest * asked / share:.3g}" for share in UTILISATIONS}
        rows.append({**row, **priced})
    return pd.DataFrame(rows)


def gpus(falls: Mapping[Service, pd.DataFrame], utilisation: float) -> pd.DataFrame:
    """What each GPU must carry within the same SLA to cost as much a prediction; what it does carry was not measured."""
    rows = []
    for service, fall in falls.items():
        cheapest = saved(fall)["best_usd"]
        for price in prices.prices().values():
            if price.unit == "GPU-hour":
                even = money.break_even_per_s(cheapest, price.usd, utilisation)
                rows.append({"service": service, "GPU": price.name, "USD an hour": f"{price.usd:.2f}", "as of": price.as_of.isoformat(),
                             "breaks even at, a second": None if even is None else round(even), "of": UNIT[service],
                             "carries": "not measured: no GPU was at hand"})  # fmt: skip
    return pd.DataFrame(rows)


def even(falls: Mapping[Service, pd.DataFrame], utilisation: float, gpu: str = "H100 hyperscaler") -> dict[str, Any]:
    """The break-even of one GPU for both services."""
    usd = prices.priced(gpu).usd
    told = {service: money.break_even_per_s(saved(fall)["best_usd"], usd, utilisation) for service, fall in falls.items()}
    return {"gpu": gpu.split()[0], "usd": usd, "fraud": told.get("fraud"), "retail": told.get("retail")}


def years(s: Session, rates: Tariff, peaks: Mapping[str, float]) -> pd.DataFrame:
    """For a peak load of each service: replicas, with spares, their availability and what a year of them costs."""
    rows = []
    for service, told in _advised(s).items():
        hour = rates.hour(told.cpu_limit or told.cpu_request, told.memory_limit_bytes)
        needed = money.replicas(peaks[service], told.per_s)
        if needed is None:
            continue
        rows += [{"service": service, "peak, a second": peaks[service], "replicas": f"{needed}{f' + {step.spare}' * bool(step.spare)}",
                  "all of the peak carried": f"{step.availability:.6%}", "nines": round(money.nines(step.availability), 1),
                  "USD a year": step.usd_year} for step in money.spares(needed, EACH, hour)]  # fmt: skip
    return pd.DataFrame(rows)


def nine(table: pd.DataFrame, service: Service) -> dict[str, Any]:
    """What one spare replica brings and costs."""
    told: dict[str, Any] = dict.fromkeys(("before", "after", "usd", "share"))
    mine = table[table["service"] == service] if len(table) else table
    if len(mine) < 2:
        return told
    usd = mine["USD a year"].tolist()
    return {"before": mine["nines"].iloc[0], "after": mine["nines"].iloc[1], "usd": usd[1] - usd[0], "share": usd[1] / usd[0] - 1}


def advice(s: Session) -> pd.DataFrame:
    """What to ask of a scheduler for one replica, with the reasons."""
    rows = []
    for service, told in _advised(s).items():
        options = " ".join(f"{name} {value}".strip() for name, value in told.options.items())
        limit = "none" if told.cpu_limit is None else f"{told.cpu_limit:g}"
        rows += [
            {"service": service, "ask for": "cpu", "value": f"request {told.cpu_request:g}, limit {limit}", "because": told.why["cpu"]},
            {"service": service, "ask for": "memory", "because": told.why["memory"],
             "value": f"request {told.memory_request_bytes // MIB} Mi, limit {told.memory_limit_bytes // MIB} Mi"},
            {"service": service, "ask for": "options", "value": options, "because": told.why["threads"]},
            {"service": service, "ask for": "replicas", "value": f"1 for {told.per_s:,.0f}/s", "because": told.why["replicas"]},
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=["service", "ask for", "value", "because"])


def _advised(s: Session) -> dict[str, Any]:
    try:
        return dict(sizing.advice(s))
    except LookupError:
        return {}

