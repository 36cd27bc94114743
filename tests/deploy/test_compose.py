"""The compose file: valid, open to this machine alone, sealed, and of the same images and ports as the Kubernetes manifests."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lib.monitoring import config
from lib.monitoring.timing import PRODUCTION, seconds
from tests.deploy.deployed import DEPLOY, DRAINS_S, flag, kustomized, read, schema

(COMPOSE,) = read(DEPLOY / "compose.yaml")
MONITORING = DEPLOY.parent / "monitoring"
SERVICES = COMPOSE["services"]
SPECIFICATION = Path("/usr/lib/python3/dist-packages/compose/config/compose_spec.json")  # Debian's docker-compose brings it


def test_it_is_valid() -> None:
    jsonschema.validate(COMPOSE, schema("compose.json"))


def test_the_specification_agrees() -> None:
    """The whole of it, where a package of this machine has it; that one is older than `name` and `additional_contexts`."""
    if not SPECIFICATION.exists():
        pytest.skip("no docker-compose of Debian's on this machine, which brings the specification")
    older = copy.deepcopy(COMPOSE)
    older.pop("name", None)
    for one in older["services"].values():
        one.get("build", {}).pop("additional_contexts", None)
    jsonschema.validate(older, json.loads(SPECIFICATION.read_text()))


def test_docker_reads_it() -> None:
    if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker compose on this machine")
    command = ["docker", "compose", "--file", str(DEPLOY / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("plant", [
    lambda one: one.update(readonly=one.pop("read_only")), lambda one: one.update(cap_drop="ALL"), lambda one: one.update(mem_limit=256),
    lambda one: one["healthcheck"].update(intervall="10s"), lambda one: one.update(ports=[8000]), lambda one: one.pop("image"),
])  # fmt: skip
def test_a_planted_mistake_is_seen(plant: Any) -> None:
    plant((planted := copy.deepcopy(COMPOSE))["services"]["fraud"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(planted, schema("compose.json"))


@pytest.mark.parametrize("name", SERVICES)
def test_it_is_sealed_and_open_to_this_machine_alone(name: str) -> None:
    one = SERVICES[name]
    assert one["read_only"] and one["cap_drop"] == ["ALL"] and one["security_opt"] == ["no-new-privileges:true"]
    assert int(one["user"].partition(":")[0]) > 0 and "privileged" not in one
    assert all(port.startswith("127.0.0.1:") for port in one.get("ports", []))
    assert one["cpus"] > 0 and one["mem_limit"] and one["pids_limit"]
    assert one["healthcheck"]["test"][0] == "CMD", "there is no shell in a distroless image"
    named = {volume.partition(":")[0] for volume in one.get("volumes", []) if volume[0] not in "./$"}
    assert named <= COMPOSE["volumes"].keys()
    assert all(volume.endswith(":ro") for volume in one.get("volumes", []) if volume[0] in "./$")


@pytest.mark.parametrize("name", ["fraud", "retail"])
def test_it_is_what_kubernetes_runs(name: str) -> None:
    (deployment,) = [doc for doc in kustomized() if (doc["kind"], doc["metadata"]["name"]) == ("Deployment", name)]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    one, port = SERVICES[name], flag(SERVICES[name]["command"], "--port")
    assert one["image"] == container["image"]
    assert one["user"] == "{runAsUser}:{runAsGroup}".format(**deployment["spec"]["template"]["spec"]["securityContext"])
    assert [int(port)] == [each["containerPort"] for each in container["ports"]]
    assert one["ports"] == [f"127.0.0.1:{port}:{port}"] and f"127.0.0.1:{port}{container['readinessProbe']['httpGet']['path']}" in str(one)
    assert int(one["stop_grace_period"].removesuffix("s")) > DRAINS_S[name]


@pytest.mark.parametrize("name", ["fraud", "retail"])
def test_the_dockerfile_has_what_is_built(name: str) -> None:
    build = SERVICES[name]["build"]
    assert (DEPLOY / build["context"]).resolve() == DEPLOY.parent
    text = (DEPLOY.parent / build["dockerfile"]).read_text(encoding="utf-8")
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.M))
    assert build["target"] in stages
    foreign = set(re.findall(r"--from=(\w+)|from=(\w+),", text))
    assert set(build["additional_contexts"]) == {one or other for one, other in foreign} - stages


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        if volume.startswith("."):
            assert (DEPLOY / volume.partition(":")[0]).exists(), volume


def test_every_target_is_a_service_of_this_file_or_of_the_host() -> None:
    for job in config.PORTS:
        (group,) = json.loads((DEPLOY / "targets" / f"{job}.json").read_text())
        (target,) = group["targets"]
        assert group["labels"] == config.LABELS.get(job, {})  # as in monitoring/targets: rules ask for them
        host, _, port = target.partition(":")
        assert int(port) == config.PORTS[job]
        if host == "localhost":  # Prometheus itself, and who shares its network
            assert job == "prometheus" or SERVICES[job]["network_mode"] == "service:prometheus"
        elif host == "host.docker.internal":
            assert f"{host}:host-gateway" in SERVICES["prometheus"]["extra_hosts"]
        else:
            assert host in SERVICES
    assert {path.stem for path in (DEPLOY / "targets").iterdir()} == set(config.PORTS)


def test_prometheus_has_the_configuration_of_monitoring() -> None:
    mounts = dict(volume.removesuffix(":ro").rsplit(":", 1)[::-1] for volume in SERVICES["prometheus"]["volumes"])
    (scraped,) = read(MONITORING / "prometheus.yml")
    assert mounts["/etc/prometheus/prometheus.yml"] == "../monitoring/prometheus.yml"
    for pattern in (*scraped["rule_files"], *(file for job in scraped["scrape_configs"] for file in job["file_sd_configs"][0]["files"])):
        folder, _, name = pattern.partition("/")
        assert list((DEPLOY / mounts[f"/etc/prometheus/{folder}"]).glob(name)), f"{pattern} finds nothing"
    (told,) = scraped["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert told == f"127.0.0.1:{config.PORTS['alertmanager']}" and SERVICES["alertmanager"]["network_mode"] == "service:prometheus"
    assert int(flag(SERVICES["gateway"]["command"], "--port")) == config.PORTS["gateway"]


def test_the_series_outlive_the_longest_window() -> None:
    (kept,) = [word.partition("=")[2] for word in SERVICES["prometheus"]["command"] if "retention.time" in word]
    assert seconds(kept) > 30 * 86_400  # the error budget's


def test_grafana_finds_its_source_and_the_dashboards_find_it() -> None:
    (sources,) = read(MONITORING / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")
    (source,) = sources["datasources"]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert host in SERVICES and int(port) == config.PORTS["prometheus"]
    assert seconds(source["jsonData"]["timeInterval"]) == PRODUCTION.scrape_s  # or $__rate_interval would be another
    for path in sorted((MONITORING / "grafana" / "dashboards").iterdir()):
        board = json.loads(path.read_text(encoding="utf-8"))
        (chosen,) = [one["current"]["value"] for one in board["templating"]["list"] if one["type"] == "datasource"]
        assert chosen == source["uid"], path.name


def test_grafana_finds_its_dashboards() -> None:
    mounts = dict(volume.removesuffix(":ro").rsplit(":", 1)[::-1] for volume in SERVICES["grafana"]["volumes"])
    (providers,) = read(MONITORING / "grafana" / "provisioning" / "dashboards" / "inference.yaml")
    folder = DEPLOY / mounts[providers["providers"][0]["options"]["path"]]
    assert (folder / Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).name).exists()
    assert (DEPLOY / mounts["/etc/grafana/provisioning"] / "datasources").is_dir()
    assert SERVICES["grafana"]["environment"]["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
