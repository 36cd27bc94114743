"""Every alert says what it is, why it stands where it stands, and what to do: in its notice and in the runbook."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lib.monitoring import alerts, cases, config, spec
from lib.monitoring.timing import DRILL, PRODUCTION, seconds

RULES: dict[str, dict[str, Any]] = {f"{rule['alert']} {rule['labels'].get('window', '')}".strip(): rule
                                    for group in config.groups(PRODUCTION) for rule in group["rules"] if "alert" in rule}  # fmt: skip
RECORDED = [rule["record"] for group in config.groups(PRODUCTION) for rule in group["rules"] if "record" in rule]
NAMES = sorted({rule["alert"] for rule in RULES.values()})
ENTRIES = {entry.partition("\n")[0]: entry for entry in (config.HOME / "runbook.md").read_text(encoding="utf-8").split("\n## ")[1:]}
PARTS = ("**Means:**", "**Confirm:**", "**Do:**", "**Not:**")


def test_the_catalogue_is_whole() -> None:
    assert [one.name for one in alerts.ALERTS] == [
        "TargetDown", "TargetMissing", "ErrorBurst", "SilentFailure", "ClientErrors", "EngineStalled", "QueueGrowing", "TtftRegression",
        "ThroughputDrop", "KvCacheFull", "TokenCostSpike", "PrefixCacheLost", "ScoreDrift", "ModelVersionUnexpected", "CameraDown",
        "GpuThrottled", "HostCpuSaturated", "HostMemoryLow", "MemoryGrowing", "Watchdog"]  # fmt: skip
    assert len(RULES) == len(alerts.ALERTS) + 24, "each in one group, and the burn of six objectives in four windows"


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_notice_tells_what_and_where_to_read_on(rule: dict[str, Any]) -> None:
    told = rule["annotations"]
    assert rule["labels"]["severity"] in (("none",) if rule["alert"] == "Watchdog" else ("page", "ticket"))
    assert told["summary"] and told["description"] and told["runbook_url"] == f"monitoring/runbook.md#{rule['alert'].lower()}"
    assert told["dashboard"] in {f"/d/inference-{board}" for board in ("services", "llm", "machine", "slo", "cost")}


@pytest.mark.parametrize("one", alerts.ALERTS, ids=lambda one: one.name)
def test_a_threshold_has_a_reason(one: alerts.Alert) -> None:
    assert len(one.why) > 20 and one.why.count("\n") == 0


def test_what_reads_a_gauge_as_it_is_outlasts_a_scrape_that_failed() -> None:
    keeping = {one.name for one in alerts.ALERTS if one.keeps}
    assert keeping == {case.alert for case in cases.CASES if case.gauge}
    assert all(seconds(one.keeps) == cases.KEEPS_S for one in alerts.ALERTS if one.keeps)
    assert {rule["alert"] for rule in RULES.values() if rule.get("keep_firing_for") == "2m"} == keeping
    drilled = [rule for group in config.groups(DRILL) for rule in group["rules"] if rule.get("alert") in keeping]
    assert {rule["keep_firing_for"] for rule in drilled} == {"800ms"}


def test_the_runbook_has_an_entry_for_each_alert_and_no_other() -> None:
    assert sorted(ENTRIES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_says_what_it_means_how_to_confirm_what_to_do_and_what_it_is_not(name: str) -> None:
    entry = ENTRIES[name]
    at = [entry.find(part) for part in PARTS]
    assert -1 not in at and at == sorted(at), f"{name}: {', '.join(PARTS)}, in this order"
    (queries,) = re.findall(r"```promql\n(.+?)\n```", entry, re.DOTALL)
    for query in queries.splitlines():
        assert spec.unknown(query, RECORDED) is None, (name, query)  # and it parses


def test_what_an_entry_names_in_passing_exists_too() -> None:
    for name, entry in ENTRIES.items():
        for told in re.findall(r"`([a-z_]+:[a-z0-9_:]+|(?:fraud|retail|gateway|gen_ai|node|vllm)_[a-z_]+)`", entry):
            assert spec.unknown(told, RECORDED) is None, (name, told)
        assert set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", entry)) <= set(NAMES), name
