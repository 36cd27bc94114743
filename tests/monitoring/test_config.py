"""The configuration that is committed is the one that is made, and Prometheus and Alertmanager take it at any speed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from time import sleep
from typing import Any

import httpx
import pytest
import yaml

from lib import process
from lib.install import Missing
from lib.monitoring import config, promtool, tools
from lib.monitoring.timing import DRILL, PRODUCTION, Timing, seconds

needs = {name: pytest.mark.skipif(isinstance(tools.find(name), Missing), reason=f"{name} is not on this machine")
         for name in ("prometheus", "promtool", "amtool")}  # fmt: skip
TIMINGS = pytest.mark.parametrize("timing", [PRODUCTION, DRILL], ids=["production", "drill"])


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def parsed(name: str, timing: Timing = PRODUCTION) -> dict[str, Any]:
    told: dict[str, Any] = yaml.safe_load(config.files(timing)[name])
    return told


def test_what_is_committed_is_what_is_made() -> None:
    wanted = {**config.files(PRODUCTION), **config.targets()}
    assert {name: (config.HOME / name).read_text(encoding="utf-8") for name in wanted} == wanted, "python -m lib.monitoring.config --write"
    assert {f"rules/{path.name}" for path in config.HOME.glob("rules/*")} == {name for name in wanted if name.startswith("rules/")}


def test_renewing_takes_away_rules_that_nobody_makes(tmp_path: Path) -> None:
    written(tmp_path, {"rules/old.yml": "groups: []", "runbook.md": "mine"})
    assert config.write(tmp_path)
    assert not (tmp_path / "rules/old.yml").exists() and (tmp_path / "runbook.md").read_text() == "mine"


@needs["promtool"]
@TIMINGS
def test_promtool_finds_nothing_wrong(tmp_path: Path, timing: Timing) -> None:
    folder = written(tmp_path, {**config.files(timing), **config.targets()})
    assert promtool.check_config(folder / "prometheus.yml") is None
    assert promtool.check_rules(sorted(folder.glob("rules/*.yml"))) is None


@needs["amtool"]
@TIMINGS
def test_alertmanager_takes_its_configuration(tmp_path: Path, timing: Timing) -> None:
    file = written(tmp_path, config.files(timing, webhook_url="http://127.0.0.1:1/x")) / "alertmanager.yml"
    done = subprocess.run([str(tools.find("amtool")), "check-config", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs["amtool"]
@pytest.mark.parametrize(("labels", "receiver"), [
    (("alertname=Watchdog", "severity=none"), "watchdog"), (("alertname=ErrorBurst", "severity=page"), "page"),
    (("alertname=KvCacheFull", "severity=ticket"), "ticket"), (("alertname=Unheard"), "ticket"),
])  # fmt: skip
def test_who_is_told(tmp_path: Path, labels: tuple[str, ...], receiver: str) -> None:
    file = written(tmp_path, config.files(PRODUCTION)) / "alertmanager.yml"
    told = [labels] if isinstance(labels, str) else labels
    done = subprocess.run([str(tools.find("amtool")), "config", "routes", "test", f"--config.file={file}", f"--verify.receivers={receiver}",
                           *told], capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_dead_target_hides_its_own_services_tickets_alone() -> None:
    (rule,) = parsed("alertmanager.yml")["inhibit_rules"]
    assert rule["target_matchers"] == ['severity = "ticket"'] and rule["equal"] == ["service"]
    assert 'service =~ ".+"' in rule["source_matchers"], "without it, two alerts that both lack a service count as equal"


@TIMINGS
def test_a_scrape_is_over_before_the_next_and_bounded(timing: Timing) -> None:
    told = parsed("prometheus.yml", timing)
    assert 0 < seconds(told["global"]["scrape_timeout"]) < seconds(told["global"]["scrape_interval"]) == timing.scrape_s
    for job in told["scrape_configs"]:
        assert all(job[limit] for limit in config.LIMITS) and job["file_sd_configs"][0]["files"] == [f"targets/{job['job_name']}.json"]


def test_a_job_that_is_not_there_is_neither_scraped_nor_missed() -> None:
    told = config.files(DRILL, jobs=("gateway", "llm"))
    assert [job["job_name"] for job in yaml.safe_load(told["prometheus.yml"])["scrape_configs"]] == ["gateway", "llm"]
    assert 'absent(up{job="llm"})' in told["rules/stack.yml"] and "retail" not in told["rules/stack.yml"].replace("(fraud|retail|llm)", "")


def test_targets_stand_on_loopback_with_the_labels_that_rules_ask_for() -> None:
    told = {name: json.loads(text) for name, text in config.targets().items()}
    assert set(told) == {f"targets/{job}.json" for job in config.JOBS}
    assert all(address.startswith("127.0.0.1:") for (one,) in told.values() for address in one["targets"])
    assert set(told["targets/llm.json"][0]["labels"]) == {"engine", "model"}


@needs["prometheus"]
def test_prometheus_evaluates_every_rule_of_a_drill(tmp_path: Path) -> None:
    folder = written(tmp_path, config.files(DRILL, jobs=("prometheus",)))
    (folder / "targets").mkdir()
    argv = (str(tools.find("prometheus")), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb")
    with process.running(lambda port: (*argv, f"--web.listen-address=127.0.0.1:{port}"), name="prometheus", logs=folder,
                         health="/-/ready") as served:  # fmt: skip
        url = f"{served.url}/api/v1/rules"
        for _ in range(100):
            groups = httpx.get(url, trust_env=False).raise_for_status().json()["data"]["groups"]
            told = [(rule["name"], rule["health"], rule.get("lastError")) for group in groups for rule in group["rules"]]
            if all(health != "unknown" for _, health, _ in told):
                break
            sleep(0.1)
    assert len(told) == sum(len(group["rules"]) for group in config.groups(DRILL)) and not [rule for rule in told if rule[1] != "ok"]
