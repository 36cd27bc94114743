"""The manifests as read, and what schemas cannot see: that their parts speak of each other, and of what the services really have."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from lib import home
from lib.pipelines import serve
from lib.pipelines.retail import service as retail

DEPLOY, SCHEMAS = home.ROOT / "deploy", Path(__file__).with_name("schemas")
KUBERNETES = DEPLOY / "kubernetes"
VERSIONS = ("1.32", "1.37")  # the oldest and the newest that the manifests are for; preStop.sleep and the restricted profile are in both
OURS = {"PodMonitor": "podmonitor.json"}  # kinds that no Kubernetes schema has
DRAINS_S = {
    "fraud": inspect.signature(serve.run).parameters["drain_s"].default,
    "retail": inspect.signature(retail.main).parameters["drain_s"].default,
}
Doc = dict[str, Any]
BYTES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


class Strict(yaml.SafeLoader):
    """YAML without keys that are said twice, of which the last would silently win."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value]
        if twice := {name for name in names if names.count(name) > 1 and name != "<<"}:
            raise yaml.constructor.ConstructorError(None, None, f"said twice: {', '.join(sorted(twice))}", node.start_mark)
        return super().construct_mapping(node, deep)


def read(path: Path) -> list[Doc]:
    return [doc for doc in yaml.load_all(path.read_text(encoding="utf-8"), Strict) if doc]


def kustomized() -> list[Doc]:
    """Every object that `kubectl apply --kustomize` would send, in the namespace of the kustomization."""
    (top,) = read(KUBERNETES / "kustomization.yaml")
    docs = [doc for name in top["resources"] for doc in read(KUBERNETES / name)]
    for doc in docs:
        if doc["kind"] != "Namespace":
            doc["metadata"]["namespace"] = top["namespace"]
    return docs


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / name).read_text(encoding="utf-8"))


def valid(doc: Doc, *, version: str = VERSIONS[-1]) -> None:
    """Raises ValidationError of either package, SchemaNotFoundError for what Kubernetes does not know."""
    if doc.get("kind") in OURS:
        jsonschema.validate(doc, schema(OURS[doc["kind"]]))
    else:
        kubernetes_validate.validate(doc, version, strict=True)


def quantity(told: str | float) -> float:
    """Processors or bytes."""
    found = re.fullmatch(r"([\d.]+)(m|Ki|Mi|Gi)?", str(told))
    assert found, told
    return float(found[1]) * {"m": 1e-3, None: 1.0, **BYTES}[found[2]]


def flag(args: Sequence[str], name: str) -> str:
    """The last value of an option, as the command line has it."""
    return [after for before, after in pairwise(args) if before == name][-1]


def offered(adapter: Doc) -> dict[str, str]:
    """Metric that the adapter offers → series that it is made of."""
    found = {}
    for rule in adapter["rules"]["custom"]:
        series = rule["seriesQuery"].partition("{")[0]
        name = rule["name"]
        found[re.sub(name.get("matches", "^(.*)$"), re.sub(r"\$\{(\d)\}", r"\\\1", name["as"]), series)] = series
    return found


def faults(docs: Sequence[Doc], adapter: Doc, exported: Mapping[str, set[str]]) -> Iterator[str]:
    """What does not fit. `exported`: service → names of the samples that its /metrics has."""
    deployments = {doc["metadata"]["name"]: doc for doc in docs if doc["kind"] == "Deployment"}
    for doc in docs:
        name, spec = doc["metadata"]["name"], doc.get("spec", {})
        here = f"{doc['kind']} {name}"
        if doc["kind"] == "Deployment":
            yield from (f"{here}: {fault}" for fault in _of_pod(name, spec))
            continue
        if doc["kind"] == "Namespace":
            continue
        if doc["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            if (target["kind"], target["apiVersion"], target["name"]) not in {("Deployment", "apps/v1", known) for known in deployments}:
                yield f"{here}: there is no {target}"
            for metric in spec["metrics"]:
                wanted = metric["pods"]["metric"]["name"]
                if (series := offered(adapter).get(wanted)) is None:
                    yield f"{here}: no rule of the adapter makes {wanted}"
                elif series not in exported[name]:
                    yield f"{here}: the service has no {series}"
            continue
        selector = spec.get("podSelector") or spec["selector"]
        wanted = selector.get("matchLabels", selector)
        chosen = [known for known, one in deployments.items() if wanted.items() <= one["spec"]["template"]["metadata"]["labels"].items()]
        if chosen != [name]:
            yield f"{here}: selects {chosen or 'nothing'}"
        ports = {port["name"] for known in chosen for port in _container(deployments[known]["spec"])["ports"]}
        asked = [port["targetPort"] for port in spec.get("ports", [])] + [end["port"] for end in spec.get("podMetricsEndpoints", [])]
        asked += [port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]]
        yield from (f"{here}: there is no port {port}" for port in asked if port not in ports)


def _container(spec: Doc) -> Doc:
    (container,) = spec["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def _of_pod(name: str, spec: Doc) -> Iterator[str]:
    """A Deployment in itself."""
    pod, container, labels = spec["template"]["spec"], _container(spec), spec["template"]["metadata"]["labels"]
    selectors = [spec["selector"], *(spread["labelSelector"] for spread in pod["topologySpreadConstraints"])]
    if not all(selector["matchLabels"].items() <= labels.items() for selector in selectors):
        yield "its selector does not match its own pods"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    if set(ports.values()) != {int(flag(container["args"], "--port"))}:
        yield f"it listens on {flag(container['args'], '--port')}, its ports are {ports}"
    probes = [container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    yield from (f"it is probed at a port {probe['port']} that is not there" for probe in probes if probe["port"] not in ports)
    requests, limits = (container["resources"][side] for side in ("requests", "limits"))
    if "memory" not in limits:
        yield "its memory has no limit"
    for what, most in limits.items():
        if quantity(most) < quantity(requests[what]):
            yield f"its {what} limit {most} is below its request {requests[what]}"
    needed = container["lifecycle"]["preStop"]["sleep"]["seconds"] + DRAINS_S[name]
    if pod["terminationGracePeriodSeconds"] < needed:
        yield f"it is killed after {pod['terminationGracePeriodSeconds']} s, an orderly end takes up to {needed:g} s"
    if {mount["name"] for mount in container["volumeMounts"]} != {volume["name"] for volume in pod["volumes"]}:
        yield "its mounts and volumes differ"
    yield from _unrestricted(pod["securityContext"], container["securityContext"])


def _unrestricted(pod: Doc, container: Doc) -> Iterator[str]:
    """What Kubernetes' restricted profile would refuse, and a root that can be written."""
    wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    yield from (f"{key} is not {value}" for key, value in wanted.items() if container.get(key) != value)
    if not pod.get("runAsNonRoot") or not pod.get("runAsUser") or pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "it may run as root, or without a seccomp profile"


def entrypoint(service: str) -> list[str]:
    """What the distroless image runs before the arguments."""
    text = (DEPLOY / f"{service}.Dockerfile").read_text(encoding="utf-8")
    found = json.loads(re.findall(r"^ENTRYPOINT (\[.*\])$", text.partition(" AS distroless")[2], re.M)[-1])
    assert isinstance(found, list)
    return found
