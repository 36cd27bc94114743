"""Objectives and error budgets: what was promised, what is left of it, how fast it burns, and which alerts say so."""

from __future__ import annotations

from typing import Any

from lib.monitoring.dashboards.board import board
from lib.monitoring.dashboards.panel import GREEN, ORANGE, RED, YELLOW, Ask, Step, course, number, states
from lib.monitoring.slo import PAIRS

OF = '{service=~"$service"}'
COLOURS = (YELLOW, YELLOW, ORANGE, RED)  # 1, 3: tickets; 6, 14.4: pages
FACTORS = tuple(Step(pair.factor, colour) for pair, colour in zip(sorted(PAIRS, key=lambda pair: pair.factor), COLOURS, strict=True))
LEFT = (Step(0.0, ORANGE), Step(0.25, GREEN))
BURN = ["FraudAvailabilityBudgetBurn", "FraudLatencyBudgetBurn", "LlmAvailabilityBudgetBurn", "LlmTtftBudgetBurn", "LlmTpotBudgetBurn",
        "RetailFreshnessBudgetBurn"]
SHORT, LONG = ("5m", "30m", "1h", "2h"), ("6h", "1d", "3d")


def _burn(window: str) -> Ask:
    ratio = f"slo:sli_error:ratio_rate{window}{OF}"
    return Ask(f"{ratio} / on (service, slo) group_left () slo:error_budget:ratio{OF}", "{{service}} {{slo}}")


def objectives() -> dict[str, Any]:
    top = [
        number("Objective", "percentunit",
               "What was promised: the share of valid events that are to be good over thirty days.",
               Ask(f"slo:objective:ratio{OF}", "{{service}} {{slo}}"), width=24, height=3, decimals=1),
        number("Good over the last hour", "percentunit",
               "The indicator itself. Below the objective the budget burns faster than it comes back.",
               Ask(f"1 - slo:sli_error:ratio_rate1h{OF}", "{{service}} {{slo}}"), width=24, height=3, decimals=2,
               steps=[Step(0.975, ORANGE), Step(0.99, GREEN)], empty="no events"),
        number("Error budget left", "percentunit",
               "Of the failures that thirty days allow. At 0 the promise is broken: stop changing things.",
               Ask(f"slo:error_budget_left:ratio{OF}", "{{service}} {{slo}}"), width=24, height=3, decimals=1, steps=LEFT,
               empty="no events", runbook=BURN),
    ]  # fmt: skip
    says = ("How many times faster than allowed the budget burns, over {}. 1 uses it up in thirty days, 14.4 uses 2 % in an hour. "
            "An alert fires while a long and a short window are both above its line.")
    burn = [course(f"Burn rate over {window}", "suffix:×", says.format(window), _burn(window), width=6 if window in SHORT else 8,
                   steps=FACTORS, runbook=BURN) for window in (*SHORT, *LONG)]  # fmt: skip
    budget = [
        course("Error budget left", "percentunit",
               "Over thirty days. A cliff is an incident, a slope is a quality that is not what was promised.",
               Ask(f"slo:error_budget_left:ratio{OF}", "{{service}} {{slo}}"), width=12, steps=[Step(0, GREEN)], least=None, most=1,
               empty="no events", runbook=BURN),
        course("Valid events", "cps",
               "Events a second that an objective counts. Few of them make a ratio that jumps: alerts wait for enough.",
               Ask(f"slo:events:rate5m{OF}", "{{service}} {{slo}}"), width=12),
    ]  # fmt: skip
    alerts = [
        number("Pages", "none",
               "Alerts that are to wake someone.",
               Ask('count(ALERTS{alertstate="firing",severity="page"}) or vector(0)', "page"), width=3, height=7, steps=[Step(1, RED)]),
        states("Alerts",
               "Each alert while it fires, and lighter while it waits for its `for`.",
               Ask('max by (alertname, service) (ALERTS{alertstate="firing",alertname!="Watchdog"}) * 2 or '
                   'max by (alertname, service) (ALERTS{alertstate="pending",alertname!="Watchdog"})', "{{alertname}} {{service}}"),
               width=21, colours=[("1", "pending", YELLOW), ("2", "firing", RED)], empty="no alert"),
    ]  # fmt: skip
    return board("slo", "Objectives and error budgets", "What was promised, what is left of it, how fast it burns, and what alerts say.",
                 {"": top, "Burn rate": burn, "Budget": budget, "Alerts": alerts},
                 variables={"service": "slo:objective:ratio"})  # fmt: skip
