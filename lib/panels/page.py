"""Dashboards as one page that opens from disk and needs nothing beside it: Grafana's grid in CSS, numbers as text, courses live."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from lib.figures import FONT
from lib.panels.clock import EPOCH_S
from lib.panels.draw import ROW_PX, Band, answers_of, cells, panel

HERE = Path(__file__).parent


def page(dashboards: Sequence[Mapping[str, Any]], answers: pd.DataFrame, *, start_s: float, end_s: float, marks: Sequence[Band] = (),
         title: str = "Inference, watched", runbook: str = "monitoring/runbook.md") -> str:  # fmt: skip
    """HTML of `dashboards`. `answers` as for `draw`; `runbook`: where the entries are that panels link to."""

    def shown(board: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, Any]:
        at = one["gridPos"]
        if one["type"] == "row":
            return {"heading": True, "title": one["title"]}
        told = {"heading": False, "id": one["id"], "title": one["title"], "says": one["description"], "columns": at["w"], "figure": None,
                "height": at["h"] * ROW_PX - 8, "cells": [],
                "links": [(link["title"], link["url"].replace("${runbook}", runbook)) for link in one["links"]]}  # fmt: skip
        if one["type"] == "stat":
            frame = answers_of(answers, board, one)
            return {**told, "cells": cells(one, frame[(frame.t_s >= start_s) & (frame.t_s <= end_s)])}
        fig = panel(board, one["id"], answers, start_s=start_s, end_s=end_s, marks=marks, width=round(at["w"] * 58),
                    height=told["height"] - 34)  # fmt: skip
        fig.update_layout(width=None, template=None, font_family=FONT)
        return {**told, "figure": json.dumps(json.loads(fig.to_json()), separators=(",", ":")).replace("</", "<\\/")}

    boards = [{"uid": board["uid"], "title": board["title"], "says": board["description"],
               "panels": [shown(board, one) for one in board["panels"]]} for board in dashboards]  # fmt: skip
    setting = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = setting.get_template("page.html.j2")
    return template.render(boards=boards, title=title, when=_when(start_s, end_s), font=FONT, plotly=get_plotlyjs())


def _when(start_s: float, end_s: float) -> str:
    if start_s < EPOCH_S:
        return f"{end_s - start_s:.0f} s"
    first, last = (datetime.fromtimestamp(at, UTC) for at in (start_s, end_s))
    return f"{first:%Y-%m-%d %H:%M:%S} – {last:%H:%M:%S} UTC"
