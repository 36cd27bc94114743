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

from tests.deploy.deployed import DEPLOY, DRAINS_S, flag, kustomized, read, schema

(COMPOSE,) = read(DEPLOY / "compose.yaml")
(SCRAPED,) = read(DEPLOY / "prometheus.yml")
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
    assert all(port.startswith("127.0.0.1:") for port in one["ports"])
    assert one["cpus"] > 0 and one["mem_limit"] and one["pids_limit"]
    assert one["healthcheck"]["test"][0] == "CMD", "there is no shell in a distroless image"
    named = {volume.partition(":")[0] for volume in one.get("volumes", []) if not volume.startswith(".")}
    assert named <= COMPOSE["volumes"].keys()


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


def test_prometheus_reads_both_services_and_itself() -> None:
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in SCRAPED["scrape_configs"]}
    assert targets == {"prometheus": ["localhost:9090"], **{name: [f"{name}:{flag(SERVICES[name]['command'], '--port')}"]
                                                           for name in ("fraud", "retail")}}  # fmt: skip
    assert SERVICES["prometheus"]["volumes"][0].startswith("./prometheus.yml:/etc/prometheus/prometheus.yml")


def test_promtool_agrees() -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("no promtool on this machine")
    done = subprocess.run([promtool, "check", "config", str(DEPLOY / "prometheus.yml")], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
