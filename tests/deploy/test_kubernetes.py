"""The Kubernetes manifests: valid for Kubernetes, of one piece, and every planted mistake is seen."""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.deployed import KUBERNETES, VERSIONS, Doc, Strict, entrypoint, faults, flag, kustomized, offered, read, schema, valid

DOCS = kustomized()
(ADAPTER,) = read(KUBERNETES / "prometheus-adapter.yaml")
EXPORTED = {"fraud": {"fraud_responses_total"}, "retail": {"retail_frames_total"}}  # test_services.py asks the real ones
KINDS = ("Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "PodMonitor", "NetworkPolicy")
INVALID = (jsonschema.ValidationError, kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError)


def named(docs: list[Doc], kind: str, name: str) -> Doc:
    (found,) = [doc for doc in docs if (doc["kind"], doc["metadata"]["name"]) == (kind, name)]
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: f"{doc['kind']}-{doc['metadata']['name']}")
def test_every_object_is_valid(doc: Doc, version: str) -> None:
    valid(doc, version=version)


def test_each_service_has_one_of_each() -> None:
    assert sorted((doc["kind"], doc["metadata"]["name"]) for doc in DOCS) == sorted(
        [("Namespace", "inference"), *((kind, name) for kind in KINDS for name in ("fraud", "retail"))])  # fmt: skip
    (top,) = read(KUBERNETES / "kustomization.yaml")
    written = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml", "prometheus-adapter.yaml"}
    assert set(top["resources"]) == written and named(DOCS, "Namespace", top["namespace"])


def test_the_parts_fit_together() -> None:
    jsonschema.validate(ADAPTER, schema("prometheus-adapter.json"))
    assert offered(ADAPTER) == {"fraud_responses_per_second": "fraud_responses_total", "retail_frames_per_second": "retail_frames_total"}
    assert list(faults(DOCS, ADAPTER, EXPORTED)) == []


def test_the_image_has_the_engine_that_the_arguments_ask_for() -> None:
    for name in ("fraud", "retail"):
        asked = named(DOCS, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]["args"]
        told = entrypoint(name)
        assert told[1:3] == ["-m", f"lib.pipelines.{name}.service"]
        assert flag([*told, *asked], "--engine") == flag(told, "--engine"), f"{name}: its image is made for another engine"


def test_kustomize_makes_the_same_of_it() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on this machine")
    done = subprocess.run(["kubectl", "kustomize", str(KUBERNETES)], text=True, capture_output=True, check=True)
    made = [doc for doc in yaml.load_all(done.stdout, Strict) if doc]
    assert sorted(made, key=str) == sorted(DOCS, key=str)


def pod(doc: Doc) -> Any:
    return doc["spec"]["template"]["spec"]


def container(doc: Doc) -> Any:
    return pod(doc)["containers"][0]


@pytest.mark.parametrize(("kind", "plant"), [
    ("Deployment", lambda doc: doc.update(apiVersion="apps/v1beta1")),
    ("HorizontalPodAutoscaler", lambda doc: doc.update(apiVersion="autoscaling/v1")),
    ("Deployment", lambda doc: container(doc).update(livenesProbe=container(doc).pop("livenessProbe"))),
    ("Deployment", lambda doc: container(doc)["securityContext"].update(readOnlyRootFileSystem=True)),
    ("Deployment", lambda doc: container(doc)["ports"][0].update(containerPort="8000")),
    ("Service", lambda doc: doc["spec"].update(selectors={})),
    ("PodMonitor", lambda doc: doc["spec"]["podMetricsEndpoints"][0].update(interval="15 s")),
    ("PodMonitor", lambda doc: doc["spec"].update(endpoints=[])),
    ("PodDisruptionBudget", lambda doc: doc["spec"].update(maxUnavailble=1)),
    ("NetworkPolicy", lambda doc: doc["spec"].update(policyTypes="Ingress")),
])  # fmt: skip
def test_a_schema_sees_the_planted(kind: str, plant: Callable[[Doc], None]) -> None:
    plant(planted := copy.deepcopy(named(DOCS, kind, "fraud")))
    with pytest.raises(INVALID):
        valid(planted)


@pytest.mark.parametrize(("kind", "plant", "fault"), [
    ("Service", lambda doc: doc["spec"].update(selector={"app.kubernetes.io/name": "retail"}), "Service fraud: selects ['retail']"),
    ("PodDisruptionBudget", lambda doc: doc["spec"]["selector"].update(matchLabels={"app": "fraud"}), "fraud: selects nothing"),
    ("PodMonitor", lambda doc: doc["spec"]["podMetricsEndpoints"][0].update(port="metrics"), "there is no port metrics"),
    ("NetworkPolicy", lambda doc: doc["spec"]["ingress"][0].update(ports=[{"port": "web"}]), "there is no port web"),
    ("HorizontalPodAutoscaler", lambda doc: doc["spec"]["scaleTargetRef"].update(name="frauds"), "there is no {"),
    ("HorizontalPodAutoscaler", lambda doc: doc["spec"]["metrics"][0]["pods"]["metric"].update(name="fraud_requests_per_second"),
     "no rule of the adapter makes fraud_requests_per_second"),
    ("Deployment", lambda doc: container(doc)["args"].extend(["--port", "8001"]), "it listens on 8001"),
    ("Deployment", lambda doc: container(doc)["readinessProbe"]["httpGet"].update(port="https"), "a port https that is not there"),
    ("Deployment", lambda doc: container(doc)["resources"].update(limits={"memory": "1Mi"}), "its memory limit 1Mi is below"),
    ("Deployment", lambda doc: container(doc)["resources"].update(limits={}), "its memory has no limit"),
    ("Deployment", lambda doc: pod(doc).update(terminationGracePeriodSeconds=8), "it is killed after 8 s"),
    ("Deployment", lambda doc: container(doc)["securityContext"].pop("capabilities"), "capabilities is not"),
    ("Deployment", lambda doc: pod(doc)["securityContext"].update(runAsNonRoot=False), "it may run as root"),
    ("Deployment", lambda doc: doc["spec"]["selector"].update(matchLabels={"app": "x"}), "does not match its own pods"),
    ("Deployment", lambda doc: pod(doc)["volumes"].pop(), "its mounts and volumes differ"),
])  # fmt: skip
def test_what_no_schema_sees_is_seen(kind: str, plant: Callable[[Doc], None], fault: str) -> None:
    planted = copy.deepcopy(DOCS)
    plant(named(planted, kind, "fraud"))
    assert any(fault in found for found in faults(planted, ADAPTER, EXPORTED)), list(faults(planted, ADAPTER, EXPORTED))


def test_a_metric_that_the_service_does_not_have_is_seen() -> None:
    assert list(faults(DOCS, ADAPTER, {**EXPORTED, "fraud": {"fraud_requests_total"}})) == [
        "HorizontalPodAutoscaler fraud: the service has no fraud_responses_total"]  # fmt: skip


def test_a_key_said_twice_is_refused() -> None:
    with pytest.raises(yaml.constructor.ConstructorError, match="said twice: name"):
        yaml.load("{name: a, name: b}", Strict)
