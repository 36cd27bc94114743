"""The configuration of the whole set as text: Prometheus, its rules, Alertmanager, and where targets are found.

Written from the objectives in monitoring/slo and the code beside this file, for a stack of any speed: production's is committed in
monitoring/, a drill's is made where it runs. Limits keep a target that went wrong from filling the database: what exceeds them is a
failed scrape, and TargetDown says so.

    python -m lib.monitoring.config --write      renews monitoring/
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lib.home import ROOT
from lib.monitoring import alerts, rules, spec, vocabulary
from lib.monitoring.alerts import JOBS
from lib.monitoring.rules import Group
from lib.monitoring.timing import PRODUCTION, Timing, duration

HOME = ROOT / "monitoring"
ALERTMANAGER, WEBHOOK = "127.0.0.1:9093", "http://127.0.0.1:9095/"
PORTS = {"gateway": 8080, "fraud": 8000, "retail": 8010, "llm": 8081, "node": 9100, "gpu": 9400, "prometheus": 9090, "alertmanager": 9093}
LABELS = {"llm": {"engine": "llama.cpp", "model": "smollm2-135m"}}  # of targets: rules ask for them
STACK = "stack"  # the group of alerts that stand on nothing recorded
LIMITS = {"body_size_limit": "4MB", "sample_limit": 8000, "label_limit": 64, "label_name_length_limit": 64, "label_value_length_limit": 256,
          "target_limit": 64}  # fmt: skip
MADE = "# Made by `python -m lib.monitoring.config --write`; change monitoring/slo/*.yaml or lib/monitoring, not this file.\n"


def groups(timing: Timing, *, jobs: Sequence[str] = JOBS, slo: Path = HOME / "slo") -> list[Group]:
    """All rules. Alerts stand behind the recorded series that they read, in one group: its rules are evaluated in turn, groups at once."""
    told = alerts.catalogue(jobs)
    subjects = [*vocabulary.groups(timing), Group(name=STACK, rules=[])]
    for group in subjects:
        group["rules"] = [*group["rules"], *(rules.timed(one.rule, timing) for one in told if one.group == group["name"])]
    return [*rules.groups(spec.load(slo), timing), *subjects]


def files(timing: Timing, *, webhook_url: str = WEBHOOK, alertmanager: str = ALERTMANAGER, jobs: Sequence[str] = JOBS,
          slo: Path = HOME / "slo") -> dict[str, str]:
    """Relative path → text: prometheus.yml, alertmanager.yml and rules/*.yml. Whoever starts the set writes its `targets`.

    `jobs`: those that are scraped, and missed when they vanish. Raises spec.BadSpec.
    """
    by_file: dict[str, list[Group]] = {}
    for group in groups(timing, jobs=jobs, slo=slo):
        by_file.setdefault("slo" if group["name"].startswith("slo-") else group["name"], []).append(group)
    return {"prometheus.yml": _text(_prometheus(timing, alertmanager, jobs)), "alertmanager.yml": _text(_alertmanager(timing, webhook_url)),
            **{f"rules/{name}.yml": _text({"groups": of}) for name, of in by_file.items()}}  # fmt: skip


def targets(addresses: Mapping[str, str] | None = None, *, labels: Mapping[str, Mapping[str, str]] = LABELS) -> dict[str, str]:
    """Relative path → text of targets/*.json, by job: its address (host:port), the default ports on loopback where none are given."""
    told = {job: f"127.0.0.1:{port}" for job, port in PORTS.items()} if addresses is None else addresses
    return {f"targets/{job}.json": json.dumps([{"targets": [address], "labels": dict(labels.get(job, {}))}], indent=2) + "\n"
            for job, address in told.items()}  # fmt: skip


def _prometheus(timing: Timing, alertmanager: str, jobs: Sequence[str]) -> dict[str, Any]:
    return {
        "global": {
            "scrape_interval": duration(timing.scrape_s), "scrape_timeout": duration(min(10.0, 0.8 * timing.scrape_s)),
            "evaluation_interval": duration(timing.evaluation_s), "external_labels": {"stack": "inference"},
        },
        "rule_files": ["rules/*.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {"job_name": job, **LIMITS, "file_sd_configs": [{"files": [f"targets/{job}.json"], "refresh_interval": timing.wait("5m")}]}
            for job in jobs
        ],
    }  # fmt: skip


def _alertmanager(timing: Timing, webhook_url: str) -> dict[str, Any]:
    def receiver(name: str) -> dict[str, Any]:
        return {"name": name, "webhook_configs": [{"url": webhook_url, "send_resolved": True, "max_alerts": 100}]}

    return {
        "route": {
            "receiver": "ticket", "group_by": ["alertname", "service", "job"],
            "group_wait": timing.wait("30s"), "group_interval": timing.wait("5m"), "repeat_interval": timing.wait("4h"),
            "routes": [
                {"matchers": ['alertname = "Watchdog"'], "receiver": "watchdog", "group_wait": timing.wait("30s"),
                 "repeat_interval": timing.wait("5m")},
                {"matchers": ['severity = "page"'], "receiver": "page", "repeat_interval": timing.wait("1h")},
            ],
        },
        # A target that is down explains its service's tickets. Never its pages: callers who suffer are told of whatever the cause. Without
        # `service` in the source two alerts that both lack it would count as equal, and a lost exporter would hide the host's troubles.
        "inhibit_rules": [{"source_matchers": ['alertname = "TargetDown"', 'service =~ ".+"'], "target_matchers": ['severity = "ticket"'],
                           "equal": ["service"]}],
        "receivers": [receiver(name) for name in ("page", "ticket", "watchdog")],
    }  # fmt: skip


class _Dumper(yaml.SafeDumper):
    """No anchors: a file that is read by people repeats itself rather than point elsewhere."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(tree: Mapping[str, Any]) -> str:
    return MADE + yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=140)


def write(folder: Path = HOME) -> list[Path]:
    """Renew what is committed, at production's timing; the files that were written. Rules that nobody makes any more go."""
    wanted = {**files(PRODUCTION), **targets()}
    for old in folder.glob("rules/*.yml"):
        if old.relative_to(folder).as_posix() not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in wanted]


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("python -m lib.monitoring.config --write renews Prometheus' and Alertmanager's configuration in monitoring/")
    print("\n".join(str(path.relative_to(ROOT)) for path in write()))
