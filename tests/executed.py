"""A notebook's cells run in the test's own process, so that what they read may be another shelf of records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from lib import figures, home, press


def said(notebook: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each table, claim and figure says in plain text, in order; figures are drawn into `folder`, without a browser."""
    shown: list[str] = []

    def no_browser(*_: object, **__: object) -> bytes:
        raise press.PrintFailed("none in this test")

    monkeypatch.setattr(figures, "_display", lambda bundle, metadata=None: shown.append(bundle["text/plain"]))
    monkeypatch.setattr(press, "picture", no_browser)
    monkeypatch.setenv("INFERENCE_FIGURES", str(folder))
    names: dict[str, Any] = {}
    for cell in nbformat.read(home.NOTEBOOKS / f"{notebook}.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    return shown
