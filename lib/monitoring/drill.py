"""The drill: real services under open load, faults one after another in random order, and when whoever is on call would have known.

Each scenario begins with the same clean week and a Prometheus and an Alertmanager that remember nothing of the one before. All stamps are
of one clock: this machine's. What was injected has to be seen by a witness that is not Prometheus, else the scenario is no evidence; a
scenario in which something fires before anything is done is none either. Refuses to start where Prometheus or a service is missing.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from lib.measured import Broke, Found, keep
from lib.monitoring import config, dashboards, faults, forecast, promtool, tsdb, week
from lib.monitoring.dashboards import query
from lib.monitoring.faults import USUAL, Scenario
from lib.monitoring.session import Session
from lib.monitoring.stand import Stand, stand
from lib.monitoring.timing import DRILL, PRODUCTION
from lib.monitoring.webhook import Notice
from lib.progress import Progress

STEP_S = 1.0  # of what the panels show
SHOWN_S = 4.0  # of a page whose numbers are over the shown time: shorter than calm, so that calm and fault are not mixed
WATCHDOG = "Watchdog"
# Of every round but the first only the answers are kept, of the first the series too: enough to ask again what was not asked.
KEPT = ('{__name__=~"up|ALERTS|gateway_requests_total|gateway_request_seconds_.+|gen_ai_.+|llamacpp:.+|fraud_decisions_total|'
        'retail_frames_total|retail_frame_age_seconds_bucket|slo:.+|service:.+|llm:.+|host:.+|.+_price_usd.*"}',)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """`rounds` of all `scenarios`. Seconds: under the usual load at first, calm before a fault, after the alert came, for the all-clear."""

    scenarios: tuple[str, ...]
    rounds: int
    settle_s: float = 30.0
    calm_s: float = 5.0
    after_s: float = 2.0
    clear_s: float = 16.0


ALL = tuple(one.name for one in faults.SCENARIOS)
PLANS = {
    "smoke": Plan(("engine killed", "nothing"), 1, settle_s=12.0, calm_s=4.0),
    "quick": Plan(ALL, 1),
    "full": Plan(ALL, 3),
}


def drilled(s: Session, plan: Plan) -> None:
    """Every scenario of every round that the run does not hold yet, a point each."""
    todo = [setting for setting in _settings(plan) if s.run.measured(setting) is None]
    if s.model is None or not todo:
        return
    with (tempfile.TemporaryDirectory(prefix="drill-") as scratch, Progress(len(todo), "drill") as progress,
          stand(DRILL, Path(scratch), wanted=("fraud", "retail", "llm")) as here):  # fmt: skip
        clean = _settled(here, plan)
        for setting in todo:
            what = faults.named(str(setting["scenario"]))
            keep(s.run, setting, partial(_scenario, here, what, plan, clean, series=setting["round"] == 0))
            progress.advance(what.name)


def _settings(plan: Plan) -> Iterator[dict[str, Any]]:
    """Rounds in an order of their own each, seeded, so that no fault always follows the same one."""
    for turn in range(plan.rounds):
        order = random.Random(turn).sample(plan.scenarios, len(plan.scenarios))
        yield from ({"what": "drill", "round": turn, "scenario": name} for name in order)


@dataclass(frozen=True, slots=True)
class _Clean:
    """What the rules read over long windows, and how it goes under the usual load."""

    selectors: Mapping[str, bool]
    lines: Sequence[week.Line]


def _settled(here: Stand, plan: Plan) -> _Clean:
    selectors = week.needed(config.groups(PRODUCTION))
    here.load.plan(USUAL)
    time.sleep(plan.settle_s)
    return _Clean(selectors, week.measured(here.prometheus, selectors, at_s=time.time(), over_s=0.6 * plan.settle_s))


def _afresh(here: Stand, clean: _Clean) -> None:
    """Both servers begin anew, on the clean week."""
    lines = week.continued(here.prometheus, clean.selectors, clean.lines)

    def fill(data: Path) -> None:
        with (text := data.with_name("week.txt")).open("w", encoding="utf-8") as out:
            out.writelines(week.openmetrics(lines, until_s=time.time(), timing=DRILL))
        promtool.blocks(text, data)

    here.afresh(fill)


def _scenario(here: Stand, what: Scenario, plan: Plan, clean: _Clean, *, series: bool) -> Found:
    what.ready(here)
    _afresh(here, clean)
    began_s = time.time()
    _calm(here)
    calm_from_s = time.time()
    time.sleep(plan.calm_s)
    before = what.sees.read(here, calm_from_s, time.time())
    asked_s = time.time()
    early = sorted({n.alert for n in _told(here, began_s) if n.status == "firing"})
    with what.inject(here) as low:
        injected_s = time.time()
        here.notices.wait_for(lambda told: any(n.status == "firing" and n.alert in what.right for n in told), what.hold_s, since=asked_s)
        time.sleep(plan.after_s)
        cleared_s = time.time()
        during = what.sees.read(here, injected_s, cleared_s)
        seen_s = low[0] - injected_s if isinstance(low, list) and low else 0.0
    undone_s = time.time()
    _all_clear(here, asked_s, plan.clear_s)
    time.sleep(2 * STEP_S)
    ended_s = time.time()
    notices = [n.json(since=injected_s) for n in _told(here, began_s)]
    facts = {
        "began_unix": began_s, "injected_unix": injected_s, "calm_s": calm_from_s - injected_s, "asked_s": asked_s - injected_s,
        "cleared_s": cleared_s - injected_s, "undone_s": undone_s - injected_s, "ended_s": ended_s - injected_s, "seen_s": seen_s,
        "evaluation_s": DRILL.evaluation_s, "scrape_s": DRILL.scrape_s, "control": what.control, "right": list(what.right),
        "service": what.service, "does": what.what,
        "witness": what.sees.what, "before": before, "during": during, "due": forecast.of(what, DRILL, seen_s=seen_s), "notices": notices,
    }  # fmt: skip
    impact = what.control or what.sees.impact(before, during)
    checks = {
        "impact": None if impact else f"{what.sees.what}: {before} before, {during} during: nothing was seen to happen",
        "calm": f"fired before anything was done: {', '.join(early)}" if early else None,
    }
    return Found({}, facts, checks, _kept(here, began_s, ended_s, injected_s, series=series))


def _calm(here: Stand, *, patience_s: float = 60) -> None:
    """Wait until all is scraped and nothing is pending. Raises Broke."""
    until = time.monotonic() + patience_s
    while True:
        targets, alerts = here.prometheus.targets(), here.prometheus.alerts()
        down, loud = targets.loc[targets["health"] != "up", "job"].tolist(), sorted(set(alerts["alertname"]) - {WATCHDOG})
        if len(targets) and len(alerts) and not down and not loud:  # the watchdog is there once rules were evaluated
            return
        if time.monotonic() > until:
            raise Broke(f"not calm after {patience_s:g} s: down {down}, pending or firing {loud}")
        time.sleep(0.3)


def _told(here: Stand, since_s: float) -> list[Notice]:
    return [n for n in here.notices.since(since_s) if n.alert != WATCHDOG]


def _all_clear(here: Stand, since_s: float, patience_s: float) -> None:
    """Wait until each alert that fired was taken back, and none is on its way."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        last = {(n.alert, tuple(sorted(n.labels.items()))): n.status for n in _told(here, since_s)}
        if "firing" not in last.values() and not set(here.prometheus.alerts()["alertname"]) - {WATCHDOG}:
            return
        time.sleep(0.2)


def _kept(here: Stand, began_s: float, ended_s: float, injected_s: float, *, series: bool) -> dict[str, pd.DataFrame]:
    """What the dashboards showed, what the rules said, and every request as its client saw it; times from the injection."""
    shown = query.asked(here.prometheus, dashboards.ALL, timing=DRILL, start_s=began_s, end_s=ended_s, step_s=STEP_S,
                        shown_s=SHOWN_S)  # fmt: skip
    alerts = here.prometheus.range('ALERTS{alertname!="Watchdog"}', began_s, ended_s, DRILL.evaluation_s)[["series", "t_s", "value"]]
    requests = here.load.requests(began_s, ended_s)
    for frame, times in ((shown, ["t_s"]), (alerts, ["t_s"]), (requests, ["due_s", "sent_s", "first_s", "last_s", "done_s"])):
        frame[times] = (frame[times] - injected_s).round(4)
    kept = {"panels": shown, "alerts": alerts, "requests": requests}
    return {**kept, "series": tsdb.export(here.prometheus, KEPT, began_s, ended_s, every_s=1.0)} if series else kept
