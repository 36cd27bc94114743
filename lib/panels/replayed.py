"""A round of the drill on its dashboards: the answers that Prometheus gave then, scenario after scenario, and bands where the faults were.

As a picture in the notebook, and all five as one page that can be pointed at. Between two scenarios Prometheus began anew; there the
courses have a gap.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lib import figures, press
from lib.measured import points, series
from lib.monitoring import dashboards
from lib.monitoring.session import Session
from lib.panels.draw import WIDTH, Band, draw
from lib.panels.page import page

SHOWN_PX, QUALITY = 920, 52  # of the JPEG: text can be read, and a notebook stays below half a megabyte


@dataclass(frozen=True, slots=True)
class Round:
    """Answers and bands, in seconds from the round's beginning; `end_s` is its end."""

    answers: pd.DataFrame
    bands: tuple[Band, ...]
    end_s: float


def of(s: Session, turn: int = 0) -> Round | None:
    """Round `turn` in the order in which it went; None where it was not drilled."""
    found = sorted((p for p in points(s.run, "drill") if p["round"] == turn), key=lambda point: point["facts"]["began_unix"])
    if not found:
        return None
    began = found[0]["facts"]["began_unix"]
    parts, bands = [], []
    for point in found:
        facts, at_s = point["facts"], point["facts"]["injected_unix"] - began
        shown = series(s.run, point, "panels")
        parts.append(shown.assign(t_s=shown["t_s"] + at_s))
        if not facts["control"]:
            bands.append(Band(at_s, at_s + facts["undone_s"], point["scenario"]))
    return Round(pd.concat(parts, ignore_index=True), tuple(bands), at_s + facts["ended_s"])


def show(s: Session, board: Mapping[str, Any], slug: str, takeaway: str) -> None:
    """`board` as a picture under what it shows; without a round, or without a browser, a line says so."""
    from PIL import Image

    if (one := of(s)) is None:
        figures.claim("Nothing was drilled here, so the dashboard is empty.")
        return
    fig = draw(board, one.answers, start_s=0, end_s=one.end_s, marks=one.bands)
    try:
        png = press.picture(fig, width=WIDTH, height=int(fig.layout.height))
    except press.PrintFailed as reason:
        figures.claim("The dashboard {title} could not be drawn: {reason}", title=board["title"], reason=str(reason))
        return
    whole = Image.open(io.BytesIO(png)).convert("RGB")
    kept = io.BytesIO()
    small = whole.resize((SHOWN_PX, round(whole.height * SHOWN_PX / whole.width)), Image.Resampling.LANCZOS)
    small.save(kept, "JPEG", quality=QUALITY, optimize=True)
    figures.photo(kept.getvalue(), slug, takeaway, width=SHOWN_PX)


def write(s: Session, path: Path) -> str | None:
    """All five as one page; its name, None where nothing was drilled."""
    if (one := of(s)) is None:
        return None
    told = page(dashboards.ALL, one.answers, start_s=0, end_s=one.end_s, marks=one.bands, title=f"A drill, run {s.run.run_id}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(told, encoding="utf-8")
    return path.name
