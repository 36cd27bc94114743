"""False alarms as a bound: days of clean time through the real rules, as promtool evaluates them.

Clean time is a healthy stack whose events vary as events do: Poisson counts at rates that swing with the day, durations drawn from recorded
clean requests, errors as rare as they were there, gauges that tremble, a restart of every counter a day. None of it should wake anybody. No
alarm in T hours means at most 3 ÷ T an hour with 95 % confidence. What it cannot say: what nobody recorded happens in no clean hour.
Refuses to be made of requests that were not clean.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from scipy import stats

from lib.monitoring import config, healthy, prometheus, promtool, tsdb
from lib.monitoring.rules import Group
from lib.monitoring.scenes import World, together, told
from lib.monitoring.timing import PRODUCTION

SWING = 0.5  # the rate goes from half of the mean at night to one and a half by day
TREMBLE = 0.1  # of a gauge, as a share of it
EVALUATED_S = 60  # rules are judged each minute: four times as seldom as in production, in a quarter of the time
FIRED = 'sum by (alertname) (count_over_time(ALERTS{alertstate="firing",alertname!="Watchdog"}[%s]))'
STEADY = ("up", "deployment_", "token_price_usd", "machine_", "fraud_model_info", "retail_model_info", "retail_cameras",
          "node_memory_MemTotal")  # fmt: skip
# What requests in progress fill goes with their rate, as Little's law has it.
BUSY = ("llamacpp:requests_processing", "vllm:num_requests_running", "vllm:kv_cache_usage_perc", "gateway_in_flight")
SAME = ('retail_frames_total{camera="door",instance="retail:1",job="retail",outcome="seen"}', "retail_frame_age_seconds_count")


@dataclass(frozen=True, slots=True)
class Quiet:
    """`alarms`: at how many evaluations of `hours` it fired, by name.

    `bound_per_h`: the most alarms an hour that are likely (95 %, Poisson), where each of those evaluations counts as an alarm of its own.
    """

    hours: float
    alarms: Mapping[str, int]
    requests: int
    errors: int

    @property
    def bound_per_h(self) -> float:
        return float(stats.chi2.ppf(0.95, 2 * (sum(self.alarms.values()) + 1)) / 2 / self.hours)


def shares(samples_s: Sequence[float], edges: Sequence[str]) -> dict[str, float]:
    """How many of the samples lie at or below each edge, as shares. Raises ValueError for no samples."""
    if not len(samples_s):
        raise ValueError("there are no samples to draw from")
    known = np.sort(np.asarray(samples_s, float))
    return {edge: float(np.searchsorted(known, np.inf if edge == "+Inf" else float(edge), side="right") / len(known)) for edge in edges}


def clean(log: pd.DataFrame) -> tuple[World, int, int]:
    """The healthy stack with the durations of the requests in `log` (as the gateway writes it); how many there were, and errors.

    Where none failed, the rate of errors is that of half an error. Raises ValueError where more than a hundredth did.
    """
    errors = int((~log["outcome"].isin(["ok", "client"])).sum())
    if errors > 0.01 * len(log):
        raise ValueError(f"{errors} of {len(log)} requests failed: that was no clean time")
    share = max(errors, 0.5) / len(log)
    of = dict(iter(log[log["outcome"] == "ok"].groupby("service")))
    return together(
        healthy.stack(),
        *(healthy.asked(service, "timeout", share) for service in healthy.RATES),
        healthy.answered(shares(of["fraud"]["duration_s"].tolist(), list(healthy.FRAUD))),
        healthy.answered(shares(of["llm"]["duration_s"].tolist(), list(healthy.LLM)), "llm"),
        healthy.first_tokens(shares(of["llm"]["ttft_s"].dropna().tolist(), list(healthy.FIRST))),
        healthy.each_token(shares(of["llm"]["tpot_s"].dropna().tolist(), list(healthy.EACH))),
    ), len(log), errors  # fmt: skip


def series(world: World, *, hours: float, seed: int) -> dict[str, str]:
    """Series → values as promtool writes them, one each scrape. Buckets of one histogram are one draw."""
    step_s, chance = PRODUCTION.scrape_s, np.random.default_rng(seed)
    times = np.arange(int(hours * 3600 / step_s) + 1) * step_s
    day = 1 + SWING * np.sin(2 * np.pi * times / 86_400)
    histograms: dict[str, dict[float, str]] = {}
    values: dict[str, NDArray[np.float64]] = {}
    for name, level in world.items():
        labels = tsdb.labels(name)
        if level.value is None:
            continue
        if "le" in labels and labels["__name__"].endswith("_bucket"):
            whole = name.replace(f'le="{labels["le"]}"', "le")
            histograms.setdefault(whole, {})[float(labels["le"].replace("+Inf", "inf"))] = name
        elif labels["__name__"].startswith(STEADY):
            values[name] = np.full(len(times), level.value)
        elif not level.counter:
            swing = day if labels["__name__"].startswith(BUSY) else 1.0
            values[name] = level.value * swing * np.clip(1 + TREMBLE * chance.standard_normal(len(times)), 0, None)
        elif labels["__name__"].startswith("node_"):  # seconds of processors: as much as there is, more or less
            values[name] = _grown(level.value * step_s * np.clip(1 + TREMBLE * chance.standard_normal(len(times)), 0, None), times)
        elif not labels["__name__"].endswith(("_count", "_sum")):
            values[name] = _grown(chance.poisson(level.value * step_s * day).astype(float), times)
    for edges in histograms.values():
        rises = np.array([world[edges[edge]].value or 0.0 for edge in sorted(edges)])
        events = chance.poisson(np.outer(day, np.diff(rises, prepend=0.0).clip(0) * step_s))
        for edge, grown in zip(sorted(edges), np.cumsum(events, axis=1).T, strict=True):
            values[edges[edge]] = _grown(grown.astype(float), times)
        last = tsdb.labels(edges[max(edges)])
        count = {label: value.removesuffix("_bucket") + "_count" if label == "__name__" else value for label, value in last.items()
                 if label != "le"}  # fmt: skip
        values[prometheus.series(count)] = values[edges[max(edges)]]
    seen, looked = (next(name for name in values if name.startswith(one)) for one in SAME)
    values[seen] = values[looked]  # a frame that was seen has an age
    return {name: told(found) for name, found in values.items()}


def _grown(rises: NDArray[np.float64], times: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """A counter that begins anew each day, in the middle of it."""
    whole = np.concatenate([[0.0], np.cumsum(rises[:-1])])
    for restart_s in np.arange(43_200, times[-1], 86_400):
        at = int(np.searchsorted(times, restart_s))
        whole[at:] -= whole[at]
    return whole


def replayed(log: pd.DataFrame, *, hours: float, seed: int = 0, groups: Sequence[Group] | None = None) -> Quiet:
    """`hours` of clean time through the rules. Raises promtool.Failed, ValueError."""
    world, requests, errors = clean(log)
    span = f"{round(hours * 60)}m"
    test = {"interval": f"{PRODUCTION.scrape_s:g}s", "input_series": [
        {"series": name, "values": values} for name, values in series(world, hours=hours, seed=seed).items()
    ], "promql_expr_test": [{"expr": FIRED % span, "eval_time": span, "exp_samples": []}]}  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="quiet-") as scratch:
        (rules := Path(scratch) / "rules.yml").write_text(yaml.dump({"groups": list(groups or config.groups(PRODUCTION))}, sort_keys=False))
        file = Path(scratch) / "test.yml"
        file.write_text(yaml.dump({"rule_files": [str(rules)], "evaluation_interval": f"{EVALUATED_S}s", "tests": [test]}, width=2**31))
        said = promtool.test_rules([file])
    return Quiet(hours, _alarms(said or ""), requests, errors)


def _alarms(said: str) -> dict[str, int]:
    """What promtool got where nothing was expected: {alertname="…"} and in how many evaluations."""
    found = re.findall(r'\{alertname="(\w+)"\} ([0-9.E+]+)', said)
    if said and not found:
        raise promtool.Failed(f"promtool said what cannot be read: {said[:300]}")
    return {name: round(float(n)) for name, n in found}


def joined(found: Sequence[Quiet]) -> Quiet:
    """Stretches of one stack's clean time as one. Raises ValueError for none."""
    if not found:
        raise ValueError("no time was replayed")
    alarms: Counter[str] = sum((Counter(one.alarms) for one in found), Counter())
    return Quiet(sum(one.hours for one in found), dict(alarms), found[0].requests, found[0].errors)


def facts(found: Quiet) -> dict[str, Any]:
    """As a record keeps it."""
    return {"hours": found.hours, "alarms": dict(found.alarms), "requests": found.requests, "errors": found.errors,
            "evaluated_s": EVALUATED_S}  # fmt: skip
