"""The manifests are what the recorded run advises: numbers, options and reasons go in, and advice that cannot be kept does not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib import home
from lib.pipelines.cost import manifests
from lib.pipelines.cost.advice import Advice
from lib.pipelines.cost.manifests import PLACE, PLACEHOLDERS, BadAdvice

WHY = {"cpu": "0.4 processors are busy at 2,000/s", "memory": "the peak was 91 MB", "threads": "a second one waits", "replicas": "N + 1"}
ADVICE = {
    "fraud": Advice("fraud", 0.4, None, 96 << 20, (128 << 20) - 5, {"--engine": "onnx", "--threads": "1", "--no-spin": ""}, 2000.0,
                    "99 % within 10 ms", WHY),
    "retail": Advice("retail", 1.0, 1.5, 500 << 20, 700 << 20, {"--batch": "4"}, 33.3, "frames in time", WHY),
}  # fmt: skip


def filled(name: str, advice: Advice) -> tuple[str, dict[str, Any]]:
    text = manifests.filled(PLACE / f"{name}.yaml.in", advice, origin="run x")
    return text, {doc["kind"]: doc for doc in yaml.safe_load_all(text)}


def test_numbers_options_and_reasons_are_in_it() -> None:
    text, docs = filled("fraud", ADVICE["fraud"])
    container = docs["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"] == {"requests": {"cpu": "400m", "memory": "96Mi"}, "limits": {"memory": "128Mi"}}
    assert container["args"] == ["--host", "0.0.0.0", "--port", "8000", "--engine", "onnx", "--threads", "1", "--no-spin"]
    assert docs["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["target"] == {"type": "AverageValue", "averageValue": "1400"}
    assert all(f"# {why}" in text for why in WHY.values()) and text.startswith("# Written by") and "run x" in text
    assert "# 70% of the 2,000/s that a replica carries within its SLA (99 % within 10 ms)" in text


def test_a_cpu_limit_is_there_only_if_one_is_advised() -> None:
    _, docs = filled("retail", ADVICE["retail"])
    limits = docs["Deployment"]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "1500m", "memory": "700Mi"}
    assert docs["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["target"]["averageValue"] == "23"


@pytest.mark.parametrize(("wrong", "told"), [
    ({"memory_limit_bytes": 1 << 20}, "a limit is below its request"), ({"cpu_limit": 0.1}, "a limit is below its request"),
    ({"per_s": 0.0}, "carries 0.0/s"), ({"per_s": float("nan")}, "carries nan/s"),
])  # fmt: skip
def test_advice_that_cannot_be_kept_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(BadAdvice, match=told):
        filled("fraud", replace(ADVICE["fraud"], **wrong))


def test_a_service_without_advice_is_refused() -> None:
    with pytest.raises(BadAdvice, match="templates for fraud, retail, and advice for fraud"):
        manifests.manifests({"fraud": ADVICE["fraud"]}, origin="run x")


def test_committed_is_what_the_recorded_run_says() -> None:
    if (found := manifests.recorded()) is None:
        pytest.skip("no run of the cost notebook is recorded yet")
    origin, advice = found
    for path, text in manifests.manifests(advice, origin=origin).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: python -m lib.pipelines.cost.manifests --write"


def test_until_then_they_are_marked_as_what_they_are() -> None:
    if manifests.recorded() is not None:
        pytest.skip("a run is recorded: nothing is a placeholder any more")
    for path, text in manifests.manifests(PLACEHOLDERS, origin="PLACEHOLDERS, for nothing is recorded yet").items():
        assert path.read_text(encoding="utf-8") == text and "PLACEHOLDER" in text


def test_the_command_says_what_is_out_of_date_and_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    for template in PLACE.glob("*.yaml.in"):
        (tmp_path / template.name).write_text(template.read_text())
    monkeypatch.setattr(manifests, "PLACE", tmp_path)
    monkeypatch.setattr(manifests, "recorded", lambda: ("run x", ADVICE))
    for arguments, status, told in (([], 1, "fraud.yaml, retail.yaml out of date"), (["--write"], 0, "fraud.yaml, retail.yaml written"),
                                    ([], 0, "nothing out of date")):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["manifests", *arguments])
        with pytest.raises(SystemExit) as ended:
            manifests.main()
        assert (ended.value.code, told in capsys.readouterr().out) == (bool(status), True)


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "lib.pipelines.cost.manifests", "--help"], cwd=home.ROOT, text=True, capture_output=True,
                          check=True)
    assert "--write" in done.stdout
