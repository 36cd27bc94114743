"""Margins with their intervals, one row each and a line at 1: what is told apart, at a glance. In the look of figures.py.

Pure: a frame in, a figure out. Refuses nothing that is missing: a margin without an interval is a mark without a bar.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lib.figures import INK, OTHERS, QUIET, mark

WIDEST = 30.0  # bars that reach further leave the page: their numbers are in the table
TICKS = [0.25, 0.5, 1, 2, 3, 5, 10, 20, 30]


def forest(frame: pd.DataFrame, *, y: str, by: str, told: str, x_title: str) -> go.Figure:
    """A row for each `y` (top to bottom as in `frame`): `margin` with `lo`–`hi`, in the colour of its `by`; hollow where not `told`."""
    fig, names = go.Figure(), frame[y].tolist()
    for name, rows in frame.groupby(by, sort=False):
        style = mark(str(name)) or OTHERS[0]
        symbols = [style.symbol + ("" if apart else "-open") for apart in rows[told]]
        fig.add_scatter(
            name=str(name), showlegend=False, x=rows["margin"].tolist(), y=rows[y].tolist(), mode="markers+text", textposition="top center",
            text=[f"{name}, {value:.1f}×" for value in rows["margin"]], textfont={"size": 12, "color": INK}, cliponaxis=False,
            marker={"size": 11, "symbol": symbols, "color": style.colour, "line": {"width": 2, "color": style.colour}},
            error_x={"array": _known(rows["hi"] - rows["margin"]), "arrayminus": _known(rows["margin"] - rows["lo"]), "thickness": 2,
                     "width": 5, "color": style.colour},
            hovertemplate="<b>%{y}</b><br>%{fullData.name}: %{x:.3~g}× the next<extra></extra>",
        )  # fmt: skip
    fig.add_vline(x=1, line={"color": QUIET, "width": 1.5, "dash": "dash"})
    lows = [value for value in [*frame["lo"], *frame["margin"]] if pd.notna(value)]
    highs = [value for value in [*frame["hi"], *frame["margin"]] if pd.notna(value)]
    ends = [max(0.2, 0.8 * min([1.0, *lows])), min(WIDEST, 1.3 * max([2.0, *highs]))]
    ends[1] = max(ends[1], 1.3 * max([1.0, *frame["margin"].dropna()]))
    fig.update_xaxes(type="log", range=[math.log10(end) for end in ends], tickvals=TICKS, ticktext=[f"{tick:g}×" for tick in TICKS],
                     showgrid=True)  # fmt: skip
    fig.update_yaxes(autorange="reversed", showgrid=True, categoryorder="array", categoryarray=names)
    return fig.update_layout(xaxis_title=x_title, yaxis_title="", margin_r=72)  # the last label may reach past the axis


def _known(column: pd.Series[Any]) -> list[float]:
    """A bar's half; what is unknown has none."""
    return [0.0 if pd.isna(value) else float(value) for value in column]
