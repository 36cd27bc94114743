"""The real services, started with the very words of the manifests: they take them, answer the probes, have the metrics, end in time."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lib.install import Missing
from lib.pipelines.fraud import model
from lib.process import Process, running
from lib.vision import yolo
from tests.deploy.deployed import DEPLOY, DRAINS_S, KUBERNETES, entrypoint, faults, kustomized, read

pytestmark = pytest.mark.engine
DOCS = kustomized()


def container(name: str) -> Any:
    (found,) = [doc for doc in DOCS if (doc["kind"], doc["metadata"]["name"]) == ("Deployment", name)]
    return found["spec"]["template"]["spec"]["containers"][0]


def ready(name: str) -> None:
    """Skips where this machine has no model."""
    if name == "fraud" and isinstance(found := model.ready(), Missing):
        pytest.skip(found.reason)
    if name == "retail":
        try:
            yolo.load()
        except yolo.NotReady as reason:
            pytest.skip(str(reason))


@pytest.fixture(params=["kubernetes fraud", "kubernetes retail", "compose fraud", "compose retail"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Process]]:
    """A service as its image would run it, but on loopback, at a free port, with its log here."""
    where, _, name = request.param.partition(" ")
    ready(name)
    asked = container(name)["args"] if where == "kubernetes" else read(DEPLOY / "compose.yaml")[0]["services"][name]["command"]
    words = [{"0.0.0.0": "127.0.0.1", "/data/decisions.sqlite": str(tmp_path / "log.sqlite")}.get(word, word)
             for word in [*entrypoint(name)[1:], *asked]]  # fmt: skip
    with running(lambda port: (sys.executable, *words, "--port", str(port)), name=name, logs=tmp_path, timeout_s=120) as process:
        yield name, process


def test_the_service_is_what_the_manifests_say(served: tuple[str, Process]) -> None:
    name, process = served
    with httpx.Client(base_url=process.url, trust_env=False, timeout=10) as http:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert http.get(container(name)[probe]["httpGet"]["path"]).status_code == 200
        (monitor,) = [doc for doc in DOCS if (doc["kind"], doc["metadata"]["name"]) == ("PodMonitor", name)]
        text = http.get(monitor["spec"]["podMetricsEndpoints"][0]["path"]).text
    exported = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    declared = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}  # a family of cameras has no sample without one
    (adapter,) = read(KUBERNETES / "prometheus-adapter.yaml")
    docs = [doc for doc in DOCS if doc["metadata"]["name"] == name]
    assert list(faults(docs, adapter, {name: exported | declared})) == []
    began = time.monotonic()
    assert process.signal(signal.SIGTERM) == 0
    assert time.monotonic() - began < DRAINS_S[name] + 1
