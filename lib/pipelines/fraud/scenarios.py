"""MLPerf LoadGen's scenarios over a scorer in this process: SingleStream, Server and Offline. No network, no parsing, no log.

LoadGen decides when a query comes, and by its own rules whether the run was valid. Runs are shorter than MLPerf's ten minutes and have no
accuracy part: not a submission. The scorer is one thread, and LoadGen's; a query that is due meanwhile waits, and its latency says so.

Its price is in the numbers: some 2 µs a query and 1.5 µs a sample of Offline for crossing from C++ to Python and back, and in Server up
to 0.1 ms because it sleeps until a query is due and wakes up late. `scored_per_s` and `issue_delay_s` tell it apart.

What a scorer raises in LoadGen's hands would end the process without a word, so it is kept, the queries that are left get no scores, and
it is raised afterwards.
"""

from __future__ import annotations

import re
import tempfile
from array import array
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.clock import measure
from lib.measured import Found

SCENARIOS = ("SingleStream", "Server", "Offline")
BOUND_S, PERCENTILE = 0.010, 0.99  # of Server
CHUNK = 4096  # rows at a time in Offline
MOST_SAMPLES = 2_000_000  # of Offline: LoadGen hands all to Python at once, as one object each
PROBE_ROWS, PROBE_S = 256, 0.2  # where a whole chunk might take minutes
SHARE, MOST_PER_S = 0.5, 10_000.0  # Server's load where none is asked for: half of what the scorer does row by row, and at most that
RESULTS = {"SingleStream": (r"90\.0th percentile latency \(ns\) : (\d+)", 1e-9, "p90_s"),
           "Server": (r"Completed samples per second\s*: ([\d.]+)", 1.0, "per_s"),
           "Offline": (r"Samples per second: ([\d.e+]+)", 1.0, "per_s")}
SAMPLE = re.compile(r'"issue_start_ns":(\d+),"complete_ns":(\d+)')

Score = Callable[[NDArray[np.float32]], NDArray[np.float64]]


def measured(scenario: str, score: Score, rows: NDArray[np.float32], *, seconds: float, target_per_s: float | None = None) -> Found:
    """Run `scenario` for about `seconds` over `rows`, float32 (n, features), of which LoadGen draws.

    `score`: rows (k, features) → margins (k,); k is 1, and in Offline at most CHUNK. `target_per_s`: of Server's Poisson arrivals.
    Series "queries": latency_ns of each, SingleStream from issued to completed, Server from scheduled (LoadGen's stamps), Offline chunks.
    Facts: LoadGen's result with its unit (p90_s or per_s), valid and which of its constraints are unmet, n, scored_per_s (samples ÷ time
    inside the scorer); of Server target_per_s and issue_delay_s (median, how late LoadGen issued). Raises ValueError, and whatever
    `score` raises.
    """
    if scenario not in SCENARIOS or not seconds > 0 or not len(rows):
        raise ValueError(f"{scenario!r} for {seconds} s over {len(rows)} rows; scenarios are {', '.join(SCENARIOS)}")
    import mlperf_loadgen as loadgen

    alone_s = measure(lambda: score(rows[:1]), budget_s=PROBE_S, warmup_s=0.05).median_s
    together = rows[:CHUNK if alone_s * CHUNK < 1 else PROBE_ROWS]
    rows_per_s = len(together) / measure(lambda: score(together), budget_s=PROBE_S, warmup_s=0.05, at_least=1).median_s
    target_per_s = target_per_s or min(MOST_PER_S, SHARE / alone_s)
    settings = loadgen.TestSettings()
    settings.scenario, settings.mode = loadgen.TestScenario.__members__[scenario], loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count = int(seconds * 1000), 1
    settings.single_stream_expected_latency_ns = int(0.7e9 * (alone_s + 2e-6))  # too high a guess and it runs out of queries
    settings.server_target_qps = target_per_s
    settings.server_target_latency_ns, settings.server_target_latency_percentile = int(BOUND_S * 1e9), PERCENTILE
    settings.offline_expected_qps = 1.5 * rows_per_s  # here as well: what is drawn must last
    if scenario == "Offline":
        settings.min_duration_ms = int(1000 * min(seconds, MOST_SAMPLES / (1.65 * rows_per_s)))
    system = _System(loadgen, score, rows)
    summary, trace = _run(loadgen, settings, system)
    if system.error is not None:
        raise system.error
    taken_ns = trace[:, 1] if scenario == "Server" else np.array(system.taken_ns, np.int64)
    pattern, scale, unit = RESULTS[scenario]
    result, valid = re.search(pattern, summary), "Result is : VALID" in summary
    unmet = ", ".join(re.findall(r"^\s*(.*) satisfied\s*: NO", summary, re.M))
    facts = {unit: None if result is None else float(result[1]) * scale, "valid": valid, "unmet": unmet or None, "n": system.samples,
             "scored_per_s": system.samples / (system.scored_ns / 1e9), "target_per_s": target_per_s if scenario == "Server" else None,
             "issue_delay_s": float(np.median(trace[:, 0])) / 1e9 if scenario == "Server" else None, "submission": False}
    return Found({}, facts, {}, {"queries": pd.DataFrame({"latency_ns": taken_ns})})


class _System:
    """What LoadGen asks: scores at once, in its thread."""

    def __init__(self, loadgen: Any, score: Score, rows: NDArray[np.float32]) -> None:
        self._loadgen, self._score, self._rows = loadgen, score, rows
        self.taken_ns = array("q")
        self.samples = self.scored_ns = 0
        self.error: BaseException | None = None

    def issue(self, queries: list[Any]) -> None:
        for start in range(0, len(queries), CHUNK):
            began_ns = perf_counter_ns()
            chunk = queries[start:start + CHUNK]
            if self.error is None:
                try:
                    self._do([query.index for query in chunk])
                except BaseException as error:  # also Ctrl-C: between the frames of C++ nothing may fly
                    self.error = error
            self._loadgen.QuerySamplesComplete([self._loadgen.QuerySampleResponse(query.id, 0, 0) for query in chunk])
            self.taken_ns.append(perf_counter_ns() - began_ns)

    def _do(self, indices: list[int]) -> None:
        first = indices[0]
        rows = self._rows[first:first + 1] if len(indices) == 1 else self._rows[indices]
        began_ns = perf_counter_ns()
        margins = self._score(rows)
        self.scored_ns += perf_counter_ns() - began_ns
        self.samples += len(indices)
        if len(margins) != len(indices):
            raise ValueError(f"the scorer gave {len(margins)} margins for {len(indices)} rows")


def _run(loadgen: Any, settings: Any, system: _System) -> tuple[str, NDArray[np.int64]]:
    """LoadGen's summary, and of Server (issue delay, latency) from scheduled of every query, shape (n, 2), ns."""
    with tempfile.TemporaryDirectory(prefix="loadgen-") as logs:
        log = loadgen.LogSettings()
        log.log_output.outdir, log.log_output.copy_summary_to_stdout = logs, False
        log.enable_trace = settings.scenario == loadgen.TestScenario.Server  # the only place where scheduled times are told
        sut = loadgen.ConstructSUT(system.issue, lambda: None)
        library = loadgen.ConstructQSL(len(system._rows), len(system._rows), lambda _: None, lambda _: None)
        try:
            loadgen.StartTestWithLogSettings(sut, library, settings, log)
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(sut)
        found = []
        if log.enable_trace:
            with (Path(logs) / "mlperf_log_trace.json").open() as trace:
                found = [(int(match[1]), int(match[2])) for line in trace if (match := SAMPLE.search(line))]
        return (Path(logs) / "mlperf_log_summary.txt").read_text(), np.array(found, np.int64).reshape(-1, 2)
