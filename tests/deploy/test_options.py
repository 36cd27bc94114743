"""Every option and variable that the manifests name is the service's own, by its own --help. Needs no model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache

import pytest

from tests.deploy.deployed import DEPLOY, entrypoint, kustomized, read


@cache
def known(service: str) -> set[str]:
    """Options and environment variables that --help tells of."""
    done = subprocess.run([sys.executable, "-m", f"lib.pipelines.{service}.service", "--help"], text=True, capture_output=True, check=True,
                          env={**os.environ, "COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
    return set(re.findall(r"--[a-z][a-z-]*|(?<=env var: )[A-Z_]+", done.stdout))


def asked(service: str) -> set[str]:
    """What the manifests and the image say."""
    (deployment,) = [doc for doc in kustomized() if (doc["kind"], doc["metadata"]["name"]) == ("Deployment", service)]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (compose,) = read(DEPLOY / "compose.yaml")
    words = [*entrypoint(service), *container["args"], *compose["services"][service]["command"]]
    return {word for word in words if word.startswith("--")} | {one["name"] for one in container.get("env", [])}


@pytest.mark.parametrize("service", ["fraud", "retail"])
def test_the_service_knows_what_it_is_told(service: str) -> None:
    assert asked(service) - known(service) == set()


@pytest.mark.parametrize("service", ["fraud", "retail"])
def test_what_it_does_not_know_would_be_seen(service: str) -> None:
    assert {"--threds", "REDIS"} - known(service) == {"--threds", "REDIS"}
    assert {"--threads", "--host", "--port"} <= known(service)
