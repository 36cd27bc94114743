"""Small multiples: one panel a thing, all on one scale, so that the odd one out is seen without reading a number.

Pure: frames in, figures out; `figures.show` titles and displays them. Refuses nothing that is missing: it is a gap in its line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.figures import INK, LINE, OTHERS, PIECES, QUIET

CHANGED = OTHERS[3].colour


def panels(frame: pd.DataFrame, panel: str, x: str, y: str, *, x_title: str, y_title: str, by: str | None = None, lo: str = "lo",
           hi: str = "hi", marks: Sequence[Mapping[str, Any]] = (), columns: int = 3) -> go.Figure:
    """`y` over `x` with intervals `lo`–`hi`, a panel for each `panel`, a line for each `by`, in the order of `frame`.

    `marks`: a dashed line in a panel at an `x`, with its `text`. Where an interval is unknown there is a dot alone.
    """
    names = frame[panel].drop_duplicates().tolist()
    rows = max(1, ceil(len(names) / columns))
    fig = make_subplots(rows=rows, cols=min(columns, max(1, len(names))), shared_xaxes="all", shared_yaxes="all", subplot_titles=names,
                        horizontal_spacing=0.03, vertical_spacing=min(0.16, 0.5 / rows))  # fmt: skip
    named: set[str] = set()
    for nth, name in enumerate(names):
        at, mine = {"row": nth // columns + 1, "col": nth % columns + 1}, frame[frame[panel] == name]
        lines = [(None, mine)] if by is None else [(str(line), part) for line, part in mine.groupby(by, sort=False)]
        for turn, (line, part) in enumerate(lines):
            style = PIECES[turn % len(PIECES)] if by else OTHERS[0]
            fig.add_scatter(
                x=part[x].tolist(), y=_known(part[y]), name=line, legendgroup=line, showlegend=line is not None and line not in named,
                mode="lines+markers", line={"color": style.colour, "width": 1.5}, marker={"size": 7, "symbol": style.symbol},
                error_y={"array": _known(part[hi] - part[y]), "arrayminus": _known(part[y] - part[lo]), "thickness": 1.2, "width": 3},
                hovertemplate=f"<b>{name}</b><br>{line or x} %{{x}}: %{{y:.4~g}}<extra></extra>", **at,
            )  # fmt: skip
            named.add(line or "")
    for mark in marks:
        if mark[panel] in names:
            nth = names.index(mark[panel])
            fig.add_vline(x=mark[x], line={"color": CHANGED, "dash": "dash", "width": 1.5}, row=nth // columns + 1, col=nth % columns + 1,
                          annotation={"text": mark["text"], "font": {"color": CHANGED, "size": 12}})  # fmt: skip
    fig.for_each_annotation(lambda one: one.update(font={"size": 12, "color": QUIET}) if one.text in names else one)
    fig.update_xaxes(showgrid=False, linecolor=LINE)
    fig.update_xaxes(title_text=x_title, row=rows).update_yaxes(title_text=y_title, row=(rows + 1) // 2, col=1)
    return fig.update_layout(font_color=INK, legend_y=1.08)  # above the panels' names


def _known(column: pd.Series[float]) -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in column]
