"""Where things live. Everything the project writes goes below the clone or below one cache directory of the user."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
FIGURES = ROOT / "figures"
INPUTS = ROOT / "data" / "inputs"
RUNS = ROOT / "data" / "runs"
REFERENCE = ROOT / "data" / "reference"
PUBLISHED = ROOT / "data" / "published"
REPORT = ROOT / "report"


def cache() -> Path:
    """The user's cache for builds and weights, shared by all clones: $INFERENCE_CACHE, else the XDG cache directory."""
    if chosen := os.environ.get("INFERENCE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inference-portfolio"


def logs() -> Path:
    """Where servers that we start print to."""
    return cache() / "logs"
