"""What the retail service is started with: engines and precisions that there are, a clip only where there is one, reasons in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.pipelines.retail import service
from lib.vision import yolo

ROOT = Path(__file__).resolve().parents[3]


def said(*options: str, **env: str) -> str:
    """The last line of a service that does not come up."""
    command = [sys.executable, "-m", "lib.pipelines.retail.service", "--port", "0", *options]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env={**os.environ, **env})
    assert ran.returncode == 1, ran.stderr
    return ran.stderr.strip().splitlines()[-1]


def test_every_engine_has_a_file_for_what_it_offers() -> None:
    assert set(service.FILES.values()) <= set(yolo.STEPS)
    assert {engine for engine, _ in service.FILES} == set(service.Engine)


def test_a_directory_without_models_is_a_reason(tmp_path: Path) -> None:
    assert "holds no YOLOv8n" in said("--models", str(tmp_path))
    assert "holds no YOLOv8n" in said(RETAIL_MODELS=str(tmp_path))


@pytest.fixture
def built() -> yolo.Yolo:
    try:
        return yolo.load()
    except yolo.NotReady as reason:
        pytest.skip(str(reason))


def test_what_an_engine_does_not_have_is_refused_with_what_it_has(built: yolo.Yolo) -> None:
    assert said("--engine", "torch", "--precision", "int8") == "retail service: --precision int8: torch has f32"
    assert said("--engine", "onnxruntime", "--precision", "bf16") == "retail service: --precision bf16: onnxruntime has int8, f32"


def test_without_a_clip_there_are_no_cameras_to_begin_with(built: yolo.Yolo, tmp_path: Path) -> None:
    elsewhere = {"INFERENCE_CACHE": str(tmp_path)}  # where nobody fetched anything
    assert "there is no clip to play" in said("--models", str(built.root), "--cameras", "1", **elsewhere)
    assert "vtest.avi" in said("--models", str(built.root), "--samples", str(tmp_path), **elsewhere)
