"""What a dashboard asks of Prometheus, as Grafana would ask it: variables and `$__rate_interval` put in, series named by their legends.

Refuses a variable that the dashboard does not define, and a panel that asks another data source than Prometheus.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lib.monitoring import timing as clock
from lib.monitoring.prometheus import Client
from lib.monitoring.timing import FEWEST_SCRAPES, Timing

COLUMNS = ["dashboard", "panel", "ref", "series", "t_s", "value"]


@dataclass(frozen=True, slots=True)
class Query:
    """`legend`: a series' name, with `{{label}}` for a label's value. `empty`: what the panel says without a series, if it may."""

    dashboard: str
    panel: int
    title: str
    ref: str
    expr: str
    legend: str
    instant: bool
    empty: str | None

    def named(self, labels: Mapping[str, str]) -> str:
        """What Grafana calls the series with these labels."""
        return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), self.legend).strip()


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel but the rows' headings; those of collapsed rows too."""
    for one in dashboard.get("panels") or ():
        yield from one.get("panels") or () if one["type"] == "row" else (one,)


def queries(dashboard: Mapping[str, Any], *, timing: Timing, step_s: float, range_s: float | None = None) -> list[Query]:
    """Every query of `dashboard`, ready for Prometheus. `range_s`: what `$__range` is; without it what the dashboard shows at first.

    `$__rate_interval` is Grafana's: the step and a scrape, but no less than four scrapes. Raises ValueError.
    """
    shown_s = range_s or timing.seconds(str(dashboard["time"]["from"]).removeprefix("now-"))
    put = {"__rate_interval": clock.duration(max(step_s + timing.scrape_s, FEWEST_SCRAPES * timing.scrape_s)),
           "__interval": clock.duration(step_s), "__range": clock.duration(shown_s), **_variables(dashboard)}  # fmt: skip
    found = []
    for panel in panels(dashboard):
        for target in panel["targets"]:
            if (kind := (target.get("datasource") or panel.get("datasource") or {}).get("type")) != "prometheus":
                raise ValueError(f"{dashboard['uid']}: panel {panel['title']!r} asks {kind!r}, not a Prometheus")
            empty = panel["fieldConfig"]["defaults"].get("noValue")
            found.append(Query(dashboard["uid"], panel["id"], panel["title"], target["refId"], filled(target["expr"], put),
                               target.get("legendFormat", ""), bool(target.get("instant")), empty))  # fmt: skip
    return found


def asked(client: Client, dashboards: Iterable[Mapping[str, Any]], *, timing: Timing, start_s: float, end_s: float, step_s: float,
          shown_s: float | None = None) -> pd.DataFrame:  # fmt: skip
    """What every panel shows of that time: COLUMNS. Raises Unanswered.

    A number over the whole of the shown time is asked at the end, of all of it; with `shown_s` at every step, of the last `shown_s`, as
    somebody sees it whose page shows so much and is renewed.
    """
    ours = [query for board in dashboards for query in queries(board, timing=timing, step_s=step_s, range_s=shown_s or end_s - start_s)]
    first_s = {True: end_s if shown_s is None else start_s, False: start_s}  # of what is asked once, and of a course
    return pd.concat([answer(query, client.range(query.expr, first_s[query.instant], end_s, step_s)) for query in ours],
                     ignore_index=True)  # fmt: skip


def filled(expr: str, values: Mapping[str, str]) -> str:
    """`expr` with `$name` and `${name}` replaced. Raises ValueError for a name that `values` lacks."""

    def value(found: re.Match[str]) -> str:
        if (name := found[1] or found[2]) not in values:
            raise ValueError(f"{expr}: there is no variable {name}; the dashboard has {', '.join(sorted(values))}")
        return values[name]

    return re.sub(r"\$(?:(\w+)|{(\w+)(?::\w+)?})", value, expr)


def answer(query: Query, found: pd.DataFrame) -> pd.DataFrame:
    """`found`, as prometheus.Client.range gives it, under the names that a panel shows: the columns COLUMNS."""
    names = pd.Series([query.named(labels) for labels in found.labels], index=found.index, dtype="str")
    return found[["t_s", "value"]].assign(dashboard=query.dashboard, panel=query.panel, ref=query.ref, series=names)[COLUMNS]


def _variables(dashboard: Mapping[str, Any]) -> dict[str, str]:
    told = {}
    for one in dashboard["templating"]["list"]:
        value = (one.get("current") or {}).get("value") or one.get("query")
        told[one["name"]] = one["allValue"] if value == "$__all" else str(value)
    return told
