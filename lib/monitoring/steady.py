"""A stretch of usual load between two silences, known three times over: by every request's line, by the counters, by what Prometheus says.

What percentiles from buckets are worth, and whether a bill from counters is the bill of the log, can only be told where both are there
to the last request; so nothing is in flight when it begins and when it ends.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from lib.measured import Found, keep
from lib.monitoring import dashboards, request_log, tokens
from lib.monitoring.dashboards import query
from lib.monitoring.faults import NO_LOAD, USUAL
from lib.monitoring.session import Session
from lib.monitoring.stand import Stand, stand
from lib.monitoring.timing import DRILL, duration

SECONDS = {"smoke": 6.0, "quick": 60.0, "full": 120.0}
# vLLM takes seconds for a completion on two processors; what it cannot serve would fail.
LOAD = {"llamacpp": USUAL, "vllm": {**USUAL, "llm": {**USUAL["llm"], "rate": 0.2}}}
LOG = "requests.jsonl"  # of the gateway, in the stand's folder
QUIET_S = 3.0  # no load: what is in flight ends, and the counters are scraped
STEP_S = 1.0
QUANTILES = (0.5, 0.95, 0.99)
HISTOGRAMS = {"gateway_request_seconds": "service", "gen_ai_server_time_to_first_token_seconds": "model",
              "gen_ai_server_time_per_output_token_seconds": "model"}  # fmt: skip


def measured(s: Session, profile: str) -> None:
    """With llama.cpp, then with vLLM, whose own histograms and KV cache llama.cpp lacks."""
    if s.model is None:
        return
    for engine in ("llamacpp", "vllm") if profile != "smoke" else ("llamacpp",):
        keep(s.run, {"what": "steady", "engine": engine}, partial(_steady, engine, SECONDS[profile]))


def _steady(engine: str, seconds: float) -> Found:
    with (tempfile.TemporaryDirectory(prefix="steady-") as scratch,
          stand(DRILL, Path(scratch), wanted=("fraud", "retail", "llm"), llm=engine) as here):  # fmt: skip
        here.load.plan(LOAD[engine])
        time.sleep(4 * QUIET_S)  # first touch of everything
        here.load.plan(NO_LOAD)
        time.sleep(QUIET_S)
        first, began_s = _counters(here), time.time()
        here.load.plan(LOAD[engine])
        time.sleep(seconds)
        here.load.plan(NO_LOAD)
        time.sleep(QUIET_S if engine == "llamacpp" else 3 * QUIET_S)
        last, ended_s = _counters(here), time.time()
        window = duration(round(ended_s - began_s, 1))
        told = {f"{name} {q}": _rows(here, f"histogram_quantile({q}, sum by ({by}, le) (increase({name}_bucket[{window}])))", ended_s)
                for name, by in HISTOGRAMS.items() for q in QUANTILES}  # fmt: skip
        grown = _rows(here, f"sum by (type) (increase(gen_ai_tokens_total[{window}]))", ended_s)
        entries = [one for one in request_log.read(here.folder / LOG) if one is not None and began_s <= one.t_unix < ended_s]
        shown = query.asked(here.prometheus, dashboards.ALL, timing=DRILL, start_s=began_s, end_s=ended_s, step_s=STEP_S)
    shown["t_s"] = (shown["t_s"] - began_s).round(3)
    log = pd.DataFrame([msgspec.structs.asdict(one) for one in entries])
    log["t_unix"] = (log["t_unix"] - began_s).round(4)
    counted = {kind: _total(last, kind) - _total(first, kind) for kind in tokens.TYPES}
    written = tokens.logged(entries)
    checks = {"6 books": None if counted == written else f"the log has {written} tokens, the counters rose by {counted}"}
    facts = {"seconds": seconds, "window": window, "scrape_s": DRILL.scrape_s, "counted": counted, "quantiles": told, "increase": grown}
    return Found({}, facts, checks, {"log": log, "panels": shown})


def _total(rows: list[dict[str, Any]], kind: str) -> float:
    return sum(float(row["value"]) for row in rows if row.get("type") == kind)


def _counters(here: Stand) -> list[dict[str, Any]]:
    return _rows(here, '{__name__=~"gen_ai_tokens_total|gateway_requests_total"}', time.time())


def _rows(here: Stand, expr: str, at_s: float) -> list[dict[str, Any]]:
    found = here.prometheus.instant(expr, at_s)
    return [{str(key): value for key, value in row.items() if value == value} for row in found.to_dict("records")]
