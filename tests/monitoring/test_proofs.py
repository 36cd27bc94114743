"""Every alert fires when it should and only then: promtool says so, of the rules that are taken home."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lib.install import Missing
from lib.monitoring import cases, closure, config, proofs, recorded, tools
from lib.monitoring.timing import PRODUCTION

GROUPS = config.groups(PRODUCTION)
ALERTS = {(rule["alert"], rule["labels"].get("window", "")) for group in GROUPS for rule in group["rules"] if "alert" in rule}
KINDS = {"fires", "resolves", "gap", "below", "idle"}
needs_promtool = pytest.mark.skipif(isinstance(tools.find("promtool"), Missing), reason="promtool is not on this machine")


@pytest.fixture(scope="module")
def everything() -> dict[str, tuple[list[Any], dict[str, Any]]]:
    return proofs.everything(GROUPS)


def test_every_alert_has_all_its_proofs() -> None:
    shown: dict[tuple[str, str], set[str]] = {}
    for case in cases.CASES:
        for proof in proofs.proofs(case):
            shown.setdefault((case.alert, case.only.get("window", "")), set()).update(proof.kinds)
    assert set(shown) == ALERTS - {("Watchdog", "")}, "Watchdog fires through a restart of everything: proofs.restart"
    assert not {alert: KINDS - kinds for alert, kinds in shown.items() if KINDS - kinds}
    against_a_week = {rule["alert"] for group in GROUPS for rule in group["rules"] if "alert" in rule and "median1w" in rule["expr"]}
    assert {alert for (alert, _), kinds in shown.items() if "young" in kinds} == against_a_week != set()


@needs_promtool
def test_promtool_agrees_with_every_proof(everything: dict[str, Any]) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda told: proofs.tried(told[1], told[0]), everything.values()))
    assert not (wrong := {name: said for name, said in zip(everything, found, strict=True) if said}), "\n".join(wrong.values())[:4000]


def test_every_recorded_series_has_a_value_that_it_ought_to_have() -> None:
    made = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
    assert {name for name in made if not name.endswith("_median1w")} == {value.name for value in recorded.values()}, "medians: their alerts"


@needs_promtool
def test_nothing_fires_when_everything_begins_anew() -> None:
    assert proofs.tried(proofs.restart(GROUPS), GROUPS) is None


@needs_promtool
@pytest.mark.parametrize(("alert", "old", "new"), [
    ("FraudLatencyBudgetBurn", "14.4 *", "20 *"), ("QueueGrowing", "> 4", "> 3"), ("TargetDown", "up == 0", "up != 0"),
    ("ErrorBurst", ">= 3", ">= 1"),
])  # fmt: skip
def test_a_rule_that_is_wrong_fails_its_proofs(everything: dict[str, Any], alert: str, old: str, new: str) -> None:
    groups, tests = next(told for name, told in everything.items() if name.startswith(alert.lower()))
    wrong = [{**group, "rules": [{**rule, "expr": rule["expr"].replace(old, new)} if rule.get("alert") == alert else rule
                                 for rule in group["rules"]]} for group in groups]  # fmt: skip
    assert wrong != groups and proofs.tried(tests, groups) is None and "FAILED" in (proofs.tried(tests, wrong) or "")


def test_what_is_committed_is_up_to_date() -> None:
    made = proofs.files()
    assert {path.name: path.read_text(encoding="utf-8") for path in proofs.TESTS.glob("*.yml")} == made


def test_an_alert_stands_on_what_it_reads_and_nothing_else() -> None:
    (group,) = closure.of(GROUPS, "FraudLatencyBudgetBurn", {"window": "1h"})
    assert {rule.get("record", rule.get("alert")) for rule in group["rules"]} == {
        "slo:sli_error:ratio_rate1h", "slo:sli_error:ratio_rate5m", "slo:errors:increase1h", "FraudLatencyBudgetBurn"}
    with pytest.raises(KeyError, match="no rule alerts Nobody"):
        closure.of(GROUPS, "Nobody")


def test_a_crossing_is_a_share_of_the_window() -> None:
    assert cases.crossing(0.2, usual=0, hurt=0.5, window_s=300) == pytest.approx((120, 180))
    assert cases.crossing(0.6, usual=0.2, hurt=1.0, window_s=300) == pytest.approx((150, 150))
