"""What happened when, a row an episode: how long it lasted, what was said of it and when, and when that was due. And what showed what.

Pure: frames in, figures out, in the look of figures.py. Refuses nothing that is missing: it is not drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from lib.figures import ENGINES, INK, LINE, OTHERS, QUIET

RIGHT, OTHER = ENGINES["transformers"].colour, ENGINES["llama.cpp"].colour


def timeline(events: pd.DataFrame, due: pd.DataFrame, rows: Sequence[str], *, x_title: str) -> go.Figure:
    """`events`: row, kind (fault, pending, firing, resolved), alert, right, from_s, to_s. `due`: row, at_s, slack_s: a bracket.

    `rows` from top to bottom. Firing is a full mark, over an open one; what is right has a colour of its own.
    """
    fig = go.Figure()
    _spans(fig, events[events["kind"] == "fault"], "fault", colour="#dfe3e8", width=22)
    _spans(fig, events[events["kind"] == "pending"], "pending", colour=LINE, width=3)
    fig.add_scatter(
        x=due["at_s"].tolist(), y=due["row"].tolist(), mode="markers", name="when it was due",
        marker={"symbol": "line-ns", "size": 14, "line": {"width": 2, "color": INK}},
        error_x={"array": due["slack_s"].tolist(), "thickness": 1.5, "width": 6, "color": INK},
        hovertemplate="<b>%{y}</b><br>due after %{x:.1f} s<extra></extra>",
    )  # fmt: skip
    for right, colour, said in ((True, RIGHT, "the right alert"), (False, OTHER, "another alert")):
        for kind, symbol in (("firing", "circle"), ("resolved", "circle-open")):
            found = events[(events["kind"] == kind) & (events["right"] == right)]
            fig.add_scatter(
                x=found["from_s"].tolist(), y=found["row"].tolist(), mode="markers", customdata=found[["alert"]].to_numpy().tolist(),
                name=said if kind == "firing" else f"{said} is over", marker={"symbol": symbol, "size": 10, "color": colour,
                                                                             "line": {"width": 2, "color": colour}},
                hovertemplate="<b>%{y}</b><br>%{customdata[0]} " + kind + " after %{x:.1f} s<extra></extra>",
            )  # fmt: skip
    fig.update_yaxes(categoryorder="array", categoryarray=list(rows), range=[len(rows) - 0.5, -0.5], dtick=1, showgrid=False)
    fig.update_xaxes(showgrid=True)
    return fig.add_vline(x=0, line={"color": QUIET, "width": 1}).update_layout(xaxis_title=x_title, yaxis_title="")


def _spans(fig: go.Figure, spans: pd.DataFrame, name: str, *, colour: str, width: int) -> None:
    x: list[float | None] = []
    y: list[str | None] = []
    for row in spans.to_dict("records"):
        x += [row["from_s"], row["to_s"], None]
        y += [row["row"], row["row"], None]
    fig.add_scatter(x=x, y=y, mode="lines", name=name, line={"color": colour, "width": width}, hoverinfo="skip")


def matrix(
    cells: pd.DataFrame, x: str, y: str, value: str, *, x_title: str = "", levels: Sequence[tuple[float, str, str]] = ()
) -> go.Figure:  # fmt: skip
    """One square for each (x, y), coloured by level: (value, colour, words) from the lowest up; names keep the order in which they come.

    A pair that is not there stays white.
    """
    columns, rows = list(dict.fromkeys(cells[x])), list(dict.fromkeys(cells[y]))
    wide = cells.pivot_table(index=y, columns=x, values=value, aggfunc="max").reindex(index=rows, columns=columns)
    numbers = [level for level, _, _ in levels]
    fig = go.Figure()
    for level, colour, words in levels:
        hit = wide == level
        fig.add_heatmap(
            z=[[1 if here else None for here in row] for row in hit.to_numpy().tolist()], x=columns, y=rows, showscale=False,
            xgap=1.5, ygap=1.5, colorscale=[[0, colour], [1, colour]], hovertemplate="<b>%{y}</b> · %{x}: " + words + "<extra></extra>",
        )  # fmt: skip
        fig.add_scatter(x=[None], y=[None], mode="markers", name=words, marker={"symbol": "square", "size": 12, "color": colour})
    assert set(wide.stack().dropna()) <= set(numbers), "a level without a colour"
    small = max(len(rows), len(columns)) > 20  # every name stands there, if small
    fig.update_yaxes(autorange="reversed", showgrid=False, ticks="", dtick=1, tickfont_size=11 if small else None)
    fig.update_xaxes(showgrid=False, tickangle=-50, side="bottom", ticks="", dtick=1, tickfont_size=10 if small else None)
    return fig.update_layout(xaxis_title=x_title, yaxis_title="", legend={"itemsizing": "constant"})


SHOWS = ((0.0, "#eef1f4", "nothing to be seen"), (1.0, OTHERS[0].colour, "the panel moved"))
