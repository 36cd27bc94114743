"""The accounts that a run holds of a network: eager PyTorch's three, each by an instrument of its own, and those of other engines.

Reads points and the series that lie beside them; ledger.py does the arithmetic. A run of before there were three has none of eager
PyTorch's: its passes were not held against those of their own turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib import stats
from lib.measured import points, series
from lib.profiling import ledger
from lib.profiling.session import Session
from lib.profiling.watcher import WAYS
from lib.stats import Estimate

PROFILER, HOOKS, ONEDNN = "torch.profiler", "module hooks", "oneDNN"
SERIES = {"profiler": "operators", "whole": "trace", "hooks": "calls", "onednn": "primitives"}  # of each way of looking
ENGINES = ("ONNX Runtime", "OpenVINO")
OF_LITTLE = "little_"  # what was measured of pictures with little to compute
CALLS = ["pass", "module", "kind", "leaf", "whole_us", "own_us", "calls"]


def calls(told: Sequence[Sequence[Sequence[int]]], modules: Sequence[tuple[str, str, bool]]) -> pd.DataFrame:
    """CALLS of what the hooks told, a list a pass: a row a call of a module, in the order in which they ended."""
    rows = [[number, *modules[which], whole / 1e3, own / 1e3, inside]
            for number, each in enumerate(told) for which, whole, own, inside in each]  # fmt: skip
    return pd.DataFrame(rows, columns=CALLS)


def traced(s: Session, network: str) -> dict[str, Any] | None:
    """The point of eager PyTorch's passes, watched and unwatched."""
    return next((p for p in points(s.run, "traced") if p["network"] == network), None)


def flat(turns: Sequence[Any]) -> list[float]:
    """Seconds of passes, whether they were kept by turn or not."""
    return [float(one) for turn in turns for one in np.atleast_1d(turn)]


def bare_us(s: Session, network: str) -> float | None:
    """A pass that nobody looks at, µs: the median."""
    told = traced(s, network)
    return None if told is None else 1e6 * float(np.median(flat(told["samples"]["bare_s"])))


def primitives(s: Session, told: dict[str, Any] | None) -> pd.DataFrame | None:
    """What oneDNN said of a point's passes, if it was asked."""
    return None if told is None or "primitives" not in told["facts"]["series"] else series(s.run, told, "primitives")


def beside(samples: Mapping[str, Any], way: str, of: str = "") -> list[list[float]]:
    """The unwatched passes right before and right after those of a way, by turn; before way 3 of the session, those of its turn."""
    bare = samples[f"{of}bare_s"]
    if len(bare) == len(samples[f"{of}{way}_s"]):
        return list(bare)
    return [bare[k] + bare[k + 1] for k in range(WAYS.index(way), len(bare) - 1, len(WAYS))]


def eager(s: Session, network: str) -> dict[str, pd.DataFrame]:
    """PROFILER, HOOKS, ONEDNN → part, n, us, share; empty where the network was not watched in turns."""
    told = traced(s, network)
    if told is None or "calls" not in told["facts"]["series"]:
        return {}
    samples, ways = told["samples"], _ways(told)
    cost = costs_us(told, _rows(s, told))
    walls = {way: [1e6 * one for one in flat(samples[f"{way}_s"])] for way in ways.values()}
    at = {name: ledger.pace(beside(samples, way), len(walls[way]), flat(samples["bare_s"])) for name, way in ways.items()}
    scopes_us = 0.0
    if "scopes_s" in samples:
        turns = zip(samples["scopes_s"], samples["bare_s"], strict=True)
        scopes_us = 1e6 * float(np.median([np.median(scopes) - np.median(bare) for scopes, bare in turns]))
    return {
        PROFILER: ledger.profiler(series(s.run, told, SERIES[ways[PROFILER]]), at[PROFILER], event_us=cost["event"],
                                  nested_us=cost["nested"], scopes_us=scopes_us),
        HOOKS: ledger.hooked(series(s.run, told, "calls"), walls["hooks"], at[HOOKS], module_us=cost["module"]),
        ONEDNN: ledger.onednn(series(s.run, told, "primitives"), walls["onednn"], at[ONEDNN], line_us=cost["line"]),
    }


def _ways(told: Mapping[str, Any]) -> dict[str, str]:
    """Account → the way of looking that it is of. Before way 3 of the session the profiler's had the modules' scopes in it."""
    return {PROFILER: "profiler" if "operators" in told["facts"]["series"] else "whole", HOOKS: "hooks", ONEDNN: "onednn"}


def _rows(s: Session, told: Mapping[str, Any]) -> dict[str, float]:
    """Way → rows of its account in a pass: each of them is an event, a call or a line that was told of."""
    frames = {way: series(s.run, told, SERIES[way]) for way in _ways(told).values()}
    return {way: (len(frame) if "kind" not in frame else int((frame["kind"] != "pass").sum())) / frame["pass"].nunique()
            for way, frame in frames.items()}  # fmt: skip


def costs_us(told: Mapping[str, Any], rows: Mapping[str, float]) -> dict[str, float]:
    """What watching costs → µs: an "event", one that is "nested" in another, a "module", a "line". `rows` of a pass, by way.

    Before way 4 of the session it was measured on an operator and a module that do nothing and on a small convolution.
    """
    if "little_rows" in told["facts"]:
        event, module, line = (_row_us(told, way, rows[way]) for way in ("profiler", "hooks", "onednn"))
        return {"event": event, "nested": event, "module": module, "line": line}
    us = {what: (each["seen"] - each["bare"]) / 1e3 for what, each in told["facts"]["cost_ns"].items()}
    return {"nested": us["event"], **us}


def page_us(told: Mapping[str, Any]) -> float:
    """µs of a page that is touched first, beyond what touching it again takes."""
    page = told["facts"]["cost_ns"]["page"]
    return float(page["first"] - page["again"]) / 1e3


def _row_us(told: Mapping[str, Any], way: str, rows: float) -> float:
    """µs a row: what watching adds to a little picture's pass, and the pages that this one touches first besides, at their price."""
    samples, facts, each_us = told["samples"], told["facts"], page_us(told)
    seen, bare = samples[f"{OF_LITTLE}{way}_s"], beside(samples, way, OF_LITTLE)
    adds_us = 1e6 * float(np.mean([np.median(one) - np.median(other) for one, other in zip(seen, bare, strict=True)]))
    few, many = (float(np.median(each[way]) - np.median(each["bare"])) for each in (facts[f"{OF_LITTLE}faults"], facts["faults"]))
    return max(0.0, adds_us - each_us * few) / float(facts["little_rows"][way]) + each_us * max(0.0, many) / rows


def engines(s: Session, network: str) -> dict[str, pd.DataFrame]:
    """Engine → part, n, us, share, of those that told in turns."""
    found = {}
    for one in _engines(s, network):
        walls = [1e6 * wall for wall in flat(one["samples"]["watched_s"])]
        at = ledger.pace(one["samples"]["bare_s"], len(walls))
        found[str(one["engine"])] = ledger.engine(series(s.run, one, "nodes"), walls, at, node_us=one["facts"]["node_us"])
    return found


def _engines(s: Session, network: str) -> list[dict[str, Any]]:
    return [p for p in points(s.run, "engine") if p["network"] == network and "node_us" in p["facts"]]


def watching(s: Session, network: str) -> dict[str, tuple[Estimate, float]]:
    """Account → what watching adds to a pass, in its turns, and what it was expected to, from its cost apart: shares of a pass."""
    told, found = traced(s, network), dict[str, tuple[Estimate, float]]()
    if told is not None and "calls" in told["facts"]["series"]:
        bare_us, cost = 1e6 * float(np.median(flat(told["samples"]["bare_s"]))), costs_us(told, _rows(s, told))
        for name, way in _ways(told).items():
            frame = series(s.run, told, SERIES[way])
            apart = {"calls": cost["module"] * len(frame), "primitives": cost["line"] * len(frame)}.get(SERIES[way])
            if apart is None:
                nested = int(ledger.nested(frame).sum())
                apart = cost["nested"] * nested + cost["event"] * (int((frame["kind"] != "pass").sum()) - nested)
            found[name] = _adds(told["samples"][f"{way}_s"], beside(told["samples"], way)), apart / frame["pass"].nunique() / bare_us
    for one in _engines(s, network):
        bare, nodes = one["samples"]["bare_s"], series(s.run, one, "nodes")
        share = one["facts"]["node_us"] * len(nodes) / nodes["pass"].nunique() / (1e6 * float(np.median(flat(bare))))
        found[str(one["engine"])] = (_adds(one["samples"]["watched_s"], bare), share)
    return found


def _adds(watched: Sequence[Sequence[float]], bare: Sequence[Sequence[float]]) -> Estimate:
    told = stats.mean([float(np.median(one) / np.median(other)) - 1 for one, other in zip(watched, bare, strict=True)])
    assert told is not None, "there is a turn"
    return told
