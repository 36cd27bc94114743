"""What a drill ought to find, written down before it: for each fault the alert that is due first, and when, from what the fault does.

A fault is a level that an indicator jumps to, and how long that takes to be seen in what is scraped; the thresholds are those of the rules
(a test holds the two together). Refuses a scenario that nobody forecast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.monitoring import alerts, predict
from lib.monitoring.alerts import Alert
from lib.monitoring.faults import CUT_EVERY, DELAY_S, GAP_S, MORE_CAMERAS, PAUSE_S, PICTURES, TOKENS_TIMES, USUAL, Scenario
from lib.monitoring.services import FPS
from lib.monitoring.slo import PAIRS
from lib.monitoring.timing import Timing

OBJECTIVE, FRESH, FAST = 0.99, 0.975, PAIRS[0]
BURSTING, SILENT, FEWEST, PRESSED, SHIFTED, DEARER = 0.2, 0.05, 3, 0.6, 0.1, 2.0  # the rules' thresholds
INVALID, FEWEST_INVALID, UNCACHED = 0.25, 10, 0.5
PICTURES_PER_S = 40.0  # what a core looks at, frames or still pictures
SCORED_S = 0.002  # what the fraud service takes for a transaction with its history in Redis
CALM_PRESSURE = 0.3  # what waits for a processor when nothing is wrong, on a machine that is busy


@dataclass(frozen=True, slots=True)
class Signal:
    """`after_s`: until the alert's condition holds in what can be scraped; `over_s`: until it has ended after the fault has."""

    alert: str
    after_s: float
    over_s: float = 0.0


def signals(name: str, timing: Timing) -> tuple[Signal, ...]:
    """For each alert that would be right, when its condition comes true. Raises KeyError for a scenario without a forecast."""
    window_s, answer_s = timing.seconds("5m"), 1 / USUAL["llm"]["rate"]
    half = 0.5  # of the completions fail

    def burn(alert: str, share: float, lag_s: float = 0.0) -> Signal:
        """What is under way when a fault begins is not counted yet: for `lag_s` the window only loses what was good."""
        long_s, bound = timing.seconds("1h"), FAST.factor * (1 - OBJECTIVE)
        after = lag_s + predict.burnt(factor=FAST.factor, objective=OBJECTIVE, window_s=long_s - lag_s, share=share)
        return Signal(alert, after, lag_s + predict.held(threshold=bound, window_s=window_s, level=share))

    def burst(service: str, share: float, per_s: float | None = None) -> Signal:
        few_s = FEWEST / ((per_s or USUAL[service]["rate"]) * share)
        return Signal("ErrorBurst", max(few_s, predict.crossed(threshold=BURSTING, window_s=window_s, level=share)),
                      predict.held(threshold=BURSTING, window_s=window_s, level=share))

    # Who comes in the last tenth of a second of a pause is answered in time, but for those who wait already and are answered first.
    ahead_s = USUAL["fraud"]["rate"] * (PAUSE_S - 0.1) * SCORED_S
    slow = (PAUSE_S - 0.1 + ahead_s) / (PAUSE_S + GAP_S)
    pressed = (PRESSED - CALM_PRESSURE) / (1 - CALM_PRESSURE) * window_s
    invalid = predict.crossed(threshold=INVALID, window_s=window_s, level=1 / CUT_EVERY)
    cameras, stale = 1 + MORE_CAMERAS, FAST.factor * (1 - FRESH)
    unseen = 1 - PICTURES_PER_S / (cameras * FPS)
    late = predict.crossed(threshold=stale, window_s=timing.seconds("1h"), level=unseen, times=cameras)
    dear = (DEARER - 1) / (TOKENS_TIMES - 1) * window_s
    table: Mapping[str, tuple[Signal, ...]] = {
        "added latency": (burn("LlmTtftBudgetBurn", 1.0, DELAY_S + answer_s), Signal("TtftRegression", DELAY_S + answer_s, window_s)),
        "error burst": (burst("llm", half), burn("LlmAvailabilityBudgetBurn", half)),
        "engine killed": (Signal("TargetDown", 0.0),),
        "engine hung": (Signal("TargetDown", 0.8 * timing.scrape_s), Signal("EngineStalled", window_s)),
        "queue flood": (Signal("QueueGrowing", window_s), burn("LlmTtftBudgetBurn", 1.0, 1.0)),
        "processors starved": (Signal("HostCpuSaturated", pressed, window_s - pressed),),
        "memory pressure": (Signal("HostMemoryLow", 0.0),),
        "constant scores": (Signal("ScoreDrift", 0.0, window_s),),
        "no prediction": (Signal("SilentFailure", FEWEST * answer_s, predict.held(threshold=SILENT, window_s=window_s, level=1.0)),),
        "exporter gone": (Signal("TargetDown", 0.0),),
        "slow dependency": (burn("FraudLatencyBudgetBurn", slow),),
        "dependency lost": (burst("fraud", 1.0), burn("FraudAvailabilityBudgetBurn", 1.0)),
        "wrong version": (Signal("ModelVersionUnexpected", 0.0),),
        "token jump": (Signal("TokenCostSpike", 1.0 + dear, window_s),),
        "bad requests": (Signal("ClientErrors", max(FEWEST_INVALID * CUT_EVERY / USUAL["fraud"]["rate"], invalid),
                                predict.held(threshold=INVALID, window_s=window_s, level=1 / CUT_EVERY)),),
        "wrong retail model": (Signal("ModelVersionUnexpected", 0.0),),
        "too many pictures": (burst("retail", 1 - PICTURES_PER_S / PICTURES, PICTURES),),
        # What is new has no rate before it was looked at twice; so many frames more are most of every window that remembers them.
        "many cameras": (Signal("RetailFreshnessBudgetBurn", timing.scrape_s + late, timing.seconds("30m")),),
        "unique prompts": (Signal("PrefixCacheLost", answer_s + UNCACHED * window_s, UNCACHED * window_s),),
        "memory leak": (Signal("MemoryGrowing", 0.0),),
        "camera lost": (Signal("CameraDown", 0.2),),
    }
    return table[name]


def of(what: Scenario, timing: Timing, *, seen_s: float = 0.0) -> dict[str, Any] | None:
    """The forecast as a record keeps it: which is due first, when, how far off it may be, and when each would be over. None for a control.

    `seen_s`: how long the injection itself took until there was anything to be seen, where that is not known beforehand (memory is filled
    as fast as the machine can).
    """
    if what.control:
        return None
    told = {}
    for signal in signals(what.name, timing):
        alert = _alert(signal.alert)
        due = predict.due(seen_s + signal.after_s, timing, for_=(alert.for_ if alert else None) or "0s")
        over = predict.over(signal.over_s + timing.seconds((alert.keeps if alert else None) or "0s"), timing)
        told[signal.alert] = {"at_s": due.at_s, "slack_s": due.slack_s, "over_s": over.at_s, "over_slack_s": over.slack_s}
    first = min(told, key=lambda name: told[name]["at_s"])
    return {"by": first, "at_s": told[first]["at_s"], "slack_s": told[first]["slack_s"], "alerts": told}


def _alert(name: str) -> Alert | None:
    """None for one that an objective makes: it has no `for`."""
    return next((one for one in alerts.ALERTS if one.name == name), None)
