"""Clean time is clean, is made of what was recorded, and a rule that is too nervous fires in it."""

from __future__ import annotations

import copy
import re
from itertools import pairwise

import pandas as pd
import pytest
from pytest import approx

from lib.install import Missing
from lib.monitoring import config, quiet, tools, tsdb
from lib.monitoring.quiet import Quiet
from lib.monitoring.timing import PRODUCTION

needs_promtool = pytest.mark.skipif(isinstance(tools.find("promtool"), Missing), reason="promtool is not on this machine")


def log(*, failed: int = 0) -> pd.DataFrame:
    rows = [{"service": service, "outcome": "ok", "duration_s": 0.02, "ttft_s": 0.1, "tpot_s": 0.01}
            for service in ("fraud", "llm", "retail") for _ in range(100)]  # fmt: skip
    return pd.DataFrame([*rows, *({"service": "fraud", "outcome": "timeout", "duration_s": 1.0} for _ in range(failed))])


def read(values: str) -> list[float]:
    """promtool's shorthand, written out: "1+2x3" is 1 3 5 7."""
    found: list[float] = []
    for word in values.split():
        told = re.fullmatch(r"(-?[\d.]+(?:e[+-]?\d+)?)([+-][\d.]+(?:e[+-]?\d+)?)?(?:x(\d+))?", word)
        assert told, word
        found += [float(told[1]) + float(told[2] or 0) * k for k in range(int(told[3] or 0) + 1)]
    return found


def test_the_bound_is_the_rule_of_three() -> None:
    assert Quiet(72, {}, 1, 0).bound_per_h == approx(3 / 72, rel=0.002)
    assert Quiet(72, {"A": 1}, 1, 0).bound_per_h == approx(4.744 / 72, rel=0.001)
    assert Quiet(72, {"A": 3}, 1, 0).bound_per_h == Quiet(72, {"A": 1, "B": 2}, 1, 0).bound_per_h == approx(7.754 / 72, rel=0.001)


def test_stretches_add_up() -> None:
    assert quiet.joined([Quiet(24, {"A": 1}, 9, 1), Quiet(24, {"A": 2, "B": 1}, 9, 1)]) == Quiet(48, {"A": 3, "B": 1}, 9, 1)
    with pytest.raises(ValueError, match="no time"):
        quiet.joined([])


def test_shares_are_of_the_samples() -> None:
    assert quiet.shares([0.1, 0.2, 0.3, 5.0], ["0.1", "0.25", "1", "+Inf"]) == {"0.1": 0.25, "0.25": 0.5, "1": 0.75, "+Inf": 1.0}
    with pytest.raises(ValueError, match="no samples"):
        quiet.shares([], ["1"])


def test_what_was_not_clean_is_refused() -> None:
    with pytest.raises(ValueError, match="no clean time"):
        quiet.clean(log(failed=30))
    assert quiet.clean(log())[1:] == (300, 0)


def test_buckets_never_fall_below_the_smaller_ones_and_counters_only_begin_anew_at_a_restart() -> None:
    made = {name: read(values) for name, values in quiet.series(quiet.clean(log())[0], hours=2, seed=1).items()}
    assert {len(values) for values in made.values()} == {481}
    buckets = sorted((float(tsdb.labels(name)["le"].replace("+Inf", "inf")), values) for name, values in made.items()
                     if name.startswith("gen_ai_server_time_to_first_token_seconds_bucket"))  # fmt: skip
    assert len(buckets) >= 3
    for (_, small), (_, large) in pairwise(buckets):
        assert all(a <= b for a, b in zip(small, large, strict=True))


def test_what_requests_fill_goes_with_their_rate() -> None:
    """At night half as many tokens come of half as many requests in progress: a request is no slower."""
    made = quiet.series(quiet.clean(log())[0], hours=24, seed=1)
    (running,) = [values for name, values in made.items() if name.startswith("vllm:num_requests_running")]
    values = read(running)
    quarter = len(values) // 4
    dawn, dusk = (sum(values[at - 100:at + 100]) / 200 for at in (quarter, 3 * quarter))
    assert dawn / dusk == approx(3, rel=0.15)


@needs_promtool
def test_an_hour_wakes_nobody_and_a_nervous_rule_does() -> None:
    assert quiet.replayed(log(), hours=1).alarms == {}
    groups = copy.deepcopy(config.groups(PRODUCTION))
    rule = next(rule for group in groups for rule in group["rules"] if rule.get("alert") == "HostCpuSaturated")
    rule["expr"], rule["for"] = "host:cpu_pressure:ratio > 0.1", "1m"
    assert set(quiet.replayed(log(), hours=1, groups=groups).alarms) == {"HostCpuSaturated"}
