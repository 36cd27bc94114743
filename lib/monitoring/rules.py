"""Objectives as Prometheus rules: the indicator over every window, the budget, and alerts on how fast it burns.

Google's SRE workbook, chapter 5: each alert looks through two windows, and fires while both burn too fast. All windows up to three days
are rates of the counters themselves, so a restart of what is counted costs nothing; the thirty days of the budget are sums of recorded
event rates, never an average of ratios. Without traffic a ratio is 0, for nothing failed; without the counters it is absent.
Rules are written in production's words; `timed` says them for a stack of another speed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from lib.monitoring.slo import PAIRS
from lib.monitoring.spec import WINDOW, Slo
from lib.monitoring.timing import Timing, duration, seconds

Rule: TypeAlias = dict[str, Any]  # as Prometheus' YAML has it
Group: TypeAlias = dict[str, Any]

PERIOD = "30d"
FEWEST_ERRORS = 3  # in the long window: a request and its retry that fail at night wake nobody, and an outage has three soon enough
RUNBOOK = "monitoring/runbook.md"
_RANGE = re.compile(r"\[((?:\d+(?:ms|[smhdw]))+)(?::((?:\d+(?:ms|[smhdw]))+))?\]")


def groups(slos: Sequence[Slo], timing: Timing) -> list[Group]:
    """One group an objective, whose alerts see what was recorded at the same instant; a slower one for what is left of the budgets."""
    each = [{"name": f"slo-{slo.service}-{slo.name}", "rules": [timed(rule, timing) for rule in (*_recorded(slo, timing), *_alerts(slo))]}
            for slo in slos]  # fmt: skip
    return [*each, {"name": "slo-budget", "interval": duration(max(timing.evaluation_s, timing.seconds("1m"))),
                    "rules": [timed(_left(), timing)]}]  # fmt: skip


def timed(rule: Rule, timing: Timing) -> Rule:
    """A rule of production's words in those of `timing`: ranges, steps of subqueries and waits. Names of series stay."""

    def told(match: re.Match[str]) -> str:
        return f"[{timing.window(match[1])}{f':{timing.window(match[2])}' if match[2] else ''}]"

    waits: Rule = {key: timing.wait(rule[key]) for key in ("for", "keep_firing_for") if key in rule}
    return {**rule, "expr": _RANGE.sub(told, rule["expr"]), **waits}


def words(share: float) -> str:
    """A pair's window, a share of thirty days: "1h"."""
    return duration(round(share * seconds(PERIOD)))


def windows() -> list[str]:
    """All windows of all pairs, the shortest first."""
    return sorted({words(share) for pair in PAIRS for share in (pair.short, pair.long)}, key=seconds)


def notice(alert: str, board: str, summary: str, description: str) -> dict[str, str]:
    """What a notice says, and where it leads."""
    return {"summary": summary, "description": description, "runbook_url": f"{RUNBOOK}#{alert.lower()}",
            "dashboard": f"/d/inference-{board}"}  # fmt: skip


def _recorded(slo: Slo, timing: Timing) -> Iterator[Rule]:
    def record(name: str, expr: str) -> Rule:
        return {"record": name, "expr": expr, "labels": {"service": slo.service, "slo": slo.name}}

    yield record("slo:objective:ratio", f"vector({slo.objective / 100})")
    yield record("slo:error_budget:ratio", f"vector({slo.budget})")
    yield record("slo:errors:rate5m", _errors(slo, "5m"))
    yield record("slo:events:rate5m", _total(slo, "5m"))
    for each in windows():
        yield record(f"slo:sli_error:ratio_rate{each}", f"{_errors(slo, each)} / ({_total(slo, each)} > 0) or 0 * {_total(slo, each)}")
    for each in (words(pair.long) for pair in PAIRS):
        yield record(f"slo:errors:increase{each}", f"{_errors(slo, each)} * {timing.seconds(each):g}")


def _left() -> Rule:
    """For all objectives at once: what they recorded tells them apart."""
    events = f"sum_over_time(slo:events:rate5m[{PERIOD}])"
    spent = f"sum_over_time(slo:errors:rate5m[{PERIOD}]) / ({events} > 0)"
    return {"record": "slo:error_budget_left:ratio", "expr": f"1 - {spent} / slo:error_budget:ratio or 1 + 0 * {events}"}


def _alerts(slo: Slo) -> Iterator[Rule]:
    of = f'{{service="{slo.service}",slo="{slo.name}"}}'
    for pair in PAIRS:
        long, short, bound = words(pair.long), words(pair.short), f"{pair.factor:g} * {slo.budget}"
        told = notice(slo.alert, "slo", f"{slo.service} burns its {slo.name} budget {pair.factor:g} times too fast",
                           f"{{{{ $value | humanizePercentage }}}} of what counts in {long} was bad; {slo.objective} % is to be good. "
                           f"{slo.description}")  # fmt: skip
        yield {
            "alert": slo.alert,
            "expr": f"slo:sli_error:ratio_rate{long}{of} > {bound} and slo:sli_error:ratio_rate{short}{of} > {bound}"
                    f" and slo:errors:increase{long}{of} >= {FEWEST_ERRORS}",
            "labels": {**slo.labels, "severity": pair.severity, "window": long}, "annotations": told,
        }  # fmt: skip


def _errors(slo: Slo, window: str) -> str:
    # A difference of two counters that grow by turns may lie below 0 by a hair, or by an event that was counted between two reads.
    return f"clamp_min({slo.errors.replace(WINDOW, window)}, 0)"


def _total(slo: Slo, window: str) -> str:
    return slo.total.replace(WINDOW, window)
