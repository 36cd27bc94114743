"""Chart forms beyond dots with intervals: rankings, waterfalls against a budget, and courses over time. In the look of figures.py.

Pure: frames in, figures out; `figures.show` titles and displays them. Refuses nothing that is missing: it is not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lib.figures import INK, LINE, OTHERS, QUIET


def ranking(frame: pd.DataFrame, y: str, values: Mapping[str, str], *, x_title: str, log: bool = True) -> go.Figure:
    """One row for each `y`, top to bottom as in `frame`; on it a mark for each of `values` (column → label), joined by a thin line."""
    fig = go.Figure()
    names = frame[y].tolist()
    for name, row in zip(names, frame[list(values)].to_dict("records"), strict=True):
        known = [v for v in row.values() if pd.notna(v)]
        if len(known) > 1:
            fig.add_scatter(
                x=[min(known), max(known)],
                y=[name, name],
                mode="lines",
                line={"color": LINE, "width": 3},
                showlegend=False,
                hoverinfo="skip",
            )
    for (column, label), style in zip(values.items(), OTHERS, strict=False):
        fig.add_scatter(
            x=_known(frame[column]),
            y=names,
            mode="markers",
            name=label,
            marker={"size": 11, "symbol": style.symbol, "color": style.colour},
            hovertemplate="<b>%{y}</b><br>" + label + ": %{x:.4~g}<extra></extra>",
        )
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(showgrid=True, **({"type": "log", "dtick": 1} if log else {"rangemode": "tozero"}))
    return fig.update_layout(xaxis_title=x_title, yaxis_title="")


def waterfall(frame: pd.DataFrame, y: str, value: str, tail: str, budget: str, *, x_title: str) -> go.Figure:
    """Stage after stage: a bar of `value` that begins where the last ended, its `tail` as a mark and its `budget` as a bracket.

    Tail and budget begin where the stage's own bar does, so each is read against that stage alone.
    """
    ends = frame[value].cumsum()
    begins = (ends - frame[value]).tolist()
    names = frame[y].tolist()
    fig = go.Figure()
    for label, column, colour, width in (
        ("budget, p99", budget, "#eceff3", 0.86),
        ("p99", tail, OTHERS[1].colour, 0.22),
        ("p50", value, OTHERS[0].colour, 0.55),
    ):
        fig.add_bar(
            y=names,
            x=frame[column].tolist(),
            base=begins,
            name=label,
            orientation="h",
            width=width,
            marker={"color": colour},
            hovertemplate="<b>%{y}</b><br>" + label + ": %{x:.4~g}<extra></extra>",
        )
    fig.update_yaxes(autorange="reversed", showgrid=False).update_xaxes(showgrid=True)
    return fig.update_layout(barmode="overlay", xaxis_title=x_title, yaxis_title="", legend_traceorder="reversed")


def course(
    frame: pd.DataFrame,
    x: str,
    lines: Mapping[str, str],
    *,
    x_title: str,
    y_title: str,
    behind: tuple[str, str] | None = None,
    log: bool = False,
) -> go.Figure:
    """`lines` (column → label) over `x`; `behind` (column, label) as a pale area on a second axis, to say what went on meanwhile."""
    fig = go.Figure()
    if behind is not None:
        fig.add_scatter(
            x=frame[x].tolist(),
            y=_known(frame[behind[0]]),
            name=behind[1],
            yaxis="y2",
            fill="tozeroy",
            mode="lines",
            line={"color": "#d9dee5", "width": 0},
            fillcolor="rgba(160,170,184,0.28)",
            hovertemplate="%{x:.4~g}: %{y:,.4~g} " + behind[1] + "<extra></extra>",
        )
        fig.update_layout(
            yaxis2={
                "overlaying": "y",
                "side": "right",
                "showgrid": False,
                "rangemode": "tozero",
                "tickmode": "auto",
                "nticks": 5,
                "tickfont": {"color": QUIET},
                "title": {"text": behind[1], "font": {"color": QUIET, "size": 14}},
                "layer": "below traces",
            }
        )
    for (column, label), style in zip(lines.items(), OTHERS, strict=False):
        fig.add_scatter(
            x=frame[x].tolist(),
            y=_known(frame[column]),
            name=label,
            mode="lines",
            line={"color": style.colour, "width": 2},
            hovertemplate="%{x:.4~g}: %{y:.4~g}<extra>" + label + "</extra>",
        )
    return fig.update_layout(xaxis_title=x_title, yaxis={"title": y_title, **({"type": "log", "dtick": 1} if log else {})}, font_color=INK)


def _known(column: pd.Series[Any]) -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in column]
