"""What being watched costs: the processors' time of everything that watches, and what a scrape does to the latency of whoever is scraped.

The latter is paired: the same load on the fraud service, seconds with a Prometheus that scrapes it ten times a second, seconds without one,
in turn. Ten times a second is far more than anybody asks for, so that an effect could be seen; per scrape it is the same. That Prometheus
shares the service's processor, not the client's: there it would make the clock late. So this is the most that being scraped can cost.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from lib import audit
from lib.home import logs
from lib.install import Missing
from lib.measured import Found, Skipped, cores, keep
from lib.monitoring import tools
from lib.monitoring.session import Session
from lib.monitoring.stand import Stand, stand
from lib.monitoring.timing import PRODUCTION
from lib.pipelines import arrivals
from lib.pipelines.caller import Caller
from lib.pipelines.fraud.bench import LAG_BUDGET_S, serving
from lib.pipelines.fraud.data import ledger
from lib.pipelines.fraud.replay import Replay
from lib.process import Process, running

RATE_PER_S, SCRAPES_PER_S = 500.0, 10
WATCHERS = ("gateway", "prometheus", "alertmanager", "node", "gpu")
SECONDS = {"smoke": (1.0, 1, 5.0), "quick": (3.0, 6, 45.0), "full": (3.0, 12, 90.0)}  # a side of a pair, pairs, of the whole stack


def measured(s: Session, profile: str) -> None:
    """Both, unless the run holds them."""
    if s.model is None:
        return
    side_s, pairs, stack_s = SECONDS[profile]
    keep(s.run, {"what": "scraped"}, partial(_scraped, side_s, pairs))
    keep(s.run, {"what": "watchers"}, partial(_watchers, stack_s))


def _scraped(side_s: float, pairs: int) -> Found:
    """Latencies from schedule in µs, side by side; the order within a pair alternates."""
    ours, theirs = cores()
    stream = Replay(ledger(), "overhead")
    samples: dict[str, list[list[int]]] = {"plain": [], "scraped": []}
    lag_s: list[float] = []
    with serving() as server, Caller(cores=theirs) as caller:
        caller.closed(server.port, stream.requests(5_000), 16, 0.5)
        n = round(RATE_PER_S * side_s)
        for pair in range(pairs):
            for side in ("plain", "scraped") if pair % 2 == 0 else ("scraped", "plain"):
                with _scraping(server, ours) if side == "scraped" else contextlib.nullcontext():
                    calls = caller.run(server.port, stream.requests(n), arrivals.poisson(RATE_PER_S, n, seed=pair), timeout_s=2)
                samples[side].append((np.minimum(calls.latency_s, 10.0) * 1e6).astype(int).tolist())
                lag_s += calls.lag_s.tolist()
    return Found(samples, {"rate_per_s": RATE_PER_S, "scrapes_per_s": SCRAPES_PER_S, "side_s": side_s},
                 {"5 lag": audit.client_lag(lag_s, budget_s=LAG_BUDGET_S)})


@contextlib.contextmanager
def _scraping(server: Process, on: tuple[int, ...]) -> Iterator[None]:
    """A Prometheus with one target."""
    if isinstance(program := tools.find("prometheus"), Missing):
        raise Skipped(program.reason)
    with tempfile.TemporaryDirectory(prefix="scraping-") as scratch:
        (file := Path(scratch) / "prometheus.yml").write_text(
            f"global: {{scrape_interval: {1000 // SCRAPES_PER_S}ms, scrape_timeout: {1000 // SCRAPES_PER_S}ms}}\n"
            f"scrape_configs: [{{job_name: fraud, static_configs: [{{targets: ['127.0.0.1:{server.port}']}}]}}]\n")
        argv = (str(program), f"--config.file={file}", f"--storage.tsdb.path={scratch}/data", "--log.level=warn")
        with running(lambda port: (*argv, f"--web.listen-address=127.0.0.1:{port}"), name="scraping prometheus", logs=logs(),
                     health="/-/ready", cores=on):
            yield


def _watchers(seconds: float) -> Found:
    """CPU seconds and resident memory of each process of the stack over `seconds` of the usual load, as production would scrape it."""
    with tempfile.TemporaryDirectory(prefix="watchers-") as scratch, stand(PRODUCTION, Path(scratch)) as here:
        time.sleep(5)
        before, began = _spent(here), time.monotonic()
        time.sleep(seconds)
        after, wall_s = _spent(here), time.monotonic() - began
        memory = {name: psutil.Process(here.pid(name)).memory_info().rss for name in after}
        series = here.prometheus.instant("prometheus_tsdb_head_series")
    used: Mapping[str, Any] = {name: {"cpu_s": after[name] - before[name], "rss_bytes": memory[name]} for name in after}
    return Found({}, {"wall_s": wall_s, "used": used, "watchers": list(WATCHERS), "scrape_s": PRODUCTION.scrape_s,
                      "head_series": float(series["value"].iloc[0]) if len(series) else None}, {"6 books": _none_died(after)})


def _spent(here: Stand) -> dict[str, float]:
    spent = {}
    for name in here.processes:
        root = psutil.Process(here.pid(name))
        times = [one.cpu_times() for one in (root, *root.children(recursive=True))]
        spent[name] = sum(t.user + t.system for t in times)
    return spent


def _none_died(spent: Mapping[str, float]) -> str | None:
    missing = [name for name in WATCHERS if name not in spent]
    return f"not running: {', '.join(missing)}" if missing else None
