"""Chart forms beyond dots with intervals: rankings, waterfalls, courses, lines, clouds, panels, treemaps. In the look of figures.py.

Pure: frames in, figures out; `figures.show` titles and displays them. Refuses nothing that is missing: it is not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.figures import ENGINES, GRID, INK, LINE, OTHERS, PAPER, PIECES, QUIET

MARKS = (*ENGINES.values(), *OTHERS)


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
    order = {"categoryorder": "array", "categoryarray": names}  # else those that have a line would come first
    fig.update_yaxes(autorange="reversed", showgrid=False, **order)
    fig.update_xaxes(showgrid=True, **(_log_axis(frame[list(values)].to_numpy().ravel()) if log else {"rangemode": "tozero"}))
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


def lines(frame: pd.DataFrame, x: str, y: str, by: str, *, x_title: str, y_title: str, log: bool = False) -> go.Figure:
    """`y` over `x`, a line with marks for each `by`."""
    fig = go.Figure()
    for nth, (name, rows) in enumerate(frame.groupby(by, sort=False)):
        style = MARKS[nth % len(MARKS)]
        fig.add_scatter(
            x=rows[x].tolist(), y=_known(rows[y]), name=str(name), mode="lines+markers", line={"color": style.colour, "width": 2},
            marker={"size": 9, "symbol": style.symbol}, hovertemplate="%{x}: %{y:.4~g}<extra>" + str(name) + "</extra>",
        )  # fmt: skip
    return fig.update_layout(xaxis_title=x_title, yaxis={"title": y_title, **({"type": "log", "dtick": 1} if log else {})})


def cloud(frame: pd.DataFrame, x: str, y: str, label: str, by: str, *, x_title: str, y_title: str, log: bool = False) -> go.Figure:
    """A mark for each row at (`x`, `y`), named by `label`, in the colour of its `by`."""
    fig = go.Figure()
    for nth, (name, rows) in enumerate(frame.groupby(by, sort=False)):
        style = ENGINES.get(str(name).partition(" ")[0]) or MARKS[nth % len(MARKS)]
        sides = ["bottom center" if turn % 2 else "top center" for turn in range(len(rows))]
        fig.add_scatter(
            x=_known(rows[x]), y=_known(rows[y]), text=rows[label].tolist(), name=str(name), mode="markers+text", textposition=sides,
            textfont={"size": 12, "color": QUIET}, cliponaxis=False, marker={"size": 11, "symbol": style.symbol, "color": style.colour},
            hovertemplate="<b>%{text}</b><br>%{x:.4~g}, %{y:.4~g}<extra></extra>",
        )  # fmt: skip
    axis = {"title": x_title, "showgrid": True, **(_log_axis(frame[x].to_numpy()) if log else {})}
    return fig.update_layout(xaxis=axis, yaxis_title=y_title)


def panels(frame: pd.DataFrame, x: str, values: Mapping[str, str], by: str, *, x_title: str, y_title: str) -> go.Figure:
    """One panel below the other for each `by`: `values` (column → label) over `x`, the first as a line, the others as marks."""
    names = frame[by].drop_duplicates().tolist()
    fig = make_subplots(rows=len(names), cols=1, shared_xaxes=True, vertical_spacing=0.07, subplot_titles=names)
    for row, name in enumerate(names, start=1):
        mine = frame[frame[by] == name]
        for nth, ((column, label), style) in enumerate(zip(values.items(), OTHERS, strict=False)):
            fig.add_scatter(
                x=mine[x].tolist(), y=_known(mine[column]), name=label, legendgroup=label, showlegend=row == 1, row=row, col=1,
                mode="markers" if nth else "lines", line={"color": style.colour, "width": 2, "shape": "hv"},
                marker={"size": 9, "symbol": style.symbol, "color": style.colour},
                hovertemplate=f"{name}, {label}: " + "%{y} at %{x:.4~g}<extra></extra>",
            )  # fmt: skip
    fig.update_annotations(font={"size": 13, "color": QUIET}, x=0, xanchor="left")
    fig.update_yaxes(rangemode="tozero", dtick=2)
    return fig.update_xaxes(title_text=x_title, row=len(names), col=1).update_yaxes(title_text=y_title, row=(len(names) + 1) // 2, col=1)


def front(frame: pd.DataFrame, x: str, y: str, label: str, by: str, on: str, *, x_title: str, y_title: str, log: bool = False) -> go.Figure:
    """A mark for each row at (`x`, `y`) named by `label`, those of one `by` joined in their order; rows that are `on` the front lie on it.

    Nothing lies beyond the front: it is drawn as the steps below which everything is surpassed, both axes counting upwards.
    """
    fig = cloud(frame, x, y, label, by, x_title=x_title, y_title=y_title, log=log)
    fig.update_traces(mode="lines+markers+text", line={"width": 1, "color": LINE}, textposition="top right")
    best = frame[frame[on].astype(bool)].dropna(subset=[x, y]).sort_values(x)
    style = {"width": 2, "dash": "dash", "color": QUIET, "shape": "vh"}
    return fig.add_scatter(x=best[x].tolist(), y=best[y].tolist(), mode="lines", name="front", line=style, hoverinfo="skip")


def descent(frame: pd.DataFrame, step: str, value: str, *, unit: str, x_title: str) -> go.Figure:
    """From the first `step` to the last, what remains of `value` and what each step took off the one before it, or put on top.

    `unit` comes before each number. A step without a value has an empty row.
    """
    fig, names, values = go.Figure(), frame[step].tolist(), _known(frame[value])
    before = [next((known for known in reversed(values[:n]) if known is not None), None) for n in range(len(values))]
    change = [None if now is None or last is None else now - last for now, last in zip(values, before, strict=True)]
    for label, colour, sign in (("saved by this step", "#dfe4ea", -1), ("added by this step", OTHERS[3].colour, 1)):
        mine = [delta if delta is not None and delta * sign > 0 else None for delta in change]
        if any(delta is not None for delta in mine):
            ends = [last if sign < 0 else now for last, now in zip(before, values, strict=True)]
            base = [None if delta is None or end is None else end - abs(delta) for delta, end in zip(mine, ends, strict=True)]
            fig.add_bar(
                y=names, x=[None if delta is None else abs(delta) for delta in mine], base=base, name=label, orientation="h",
                marker={"color": colour}, hovertemplate="<b>%{y}</b><br>" + label + f": {unit}%{{x:.4~g}}<extra></extra>",
            )  # fmt: skip
    left = [now if delta is None or now is None else now - max(0.0, delta) for now, delta in zip(values, change, strict=True)]
    words = ["" if now is None else f"{unit}{now:.3g}" for now in values]
    fig.add_bar(
        y=names, x=left, name="remains", orientation="h", marker={"color": OTHERS[0].colour}, customdata=words,
        hovertemplate="<b>%{y}</b><br>%{customdata}<extra></extra>",
    )  # fmt: skip
    tops = [max(filter(None, (now, last)), default=None) for now, last in zip(values, before, strict=True)]
    fig.add_scatter(y=names, x=tops, mode="text", text=words, textposition="middle right", showlegend=False, hoverinfo="skip",
                    textfont={"size": 13, "color": INK}, cliponaxis=False)  # fmt: skip
    most = max(filter(None, tops), default=1.0)
    fig.update_yaxes(autorange="reversed", showgrid=False).update_xaxes(showgrid=True, range=[0, 1.12 * most])
    return fig.update_layout(barmode="overlay", xaxis_title=x_title, yaxis_title="")


# What a server's place does, in the order of the legend. What is idle is not drawn.
DOES = {"prefill": ("prefill", OTHERS[2].colour), "decode": ("decode", OTHERS[0].colour), "padding": ("padding", OTHERS[1].colour),
        "straggler": ("held for the batch", LINE)}  # fmt: skip


def slots(frame: pd.DataFrame, by: str, *, x_title: str = "s", y_title: str = "place") -> go.Figure:
    """One panel below the other for each `by`, on one time axis: what each place did, and for which request.

    `frame`: rows of `place`, `request`, `kind` (prefill, decode, padding, straggler), `from_s` and `to_s`.
    """
    names = frame[by].drop_duplicates().tolist()
    heights = [frame[frame[by] == name]["place"].max() + 1.5 for name in names]
    fig = make_subplots(
        rows=len(names), cols=1, shared_xaxes=True, vertical_spacing=0.2 / len(names), subplot_titles=names, row_heights=heights
    )
    named: set[str] = set()
    for row, name in enumerate(names, start=1):
        for kind, (label, colour) in DOES.items():
            mine = frame[(frame[by] == name) & (frame["kind"] == kind)]
            if len(mine):
                fig.add_bar(
                    x=(mine["to_s"] - mine["from_s"]).round(3).tolist(), base=mine["from_s"].round(3).tolist(), width=0.86,
                    y=(mine["place"] + 1).tolist(), customdata=mine["request"].tolist(), name=label, legendgroup=label,
                    showlegend=label not in named, orientation="h", marker={"color": colour, "line": {"width": 0.5, "color": PAPER}},
                    hovertemplate=f"request %{{customdata}}: {label}, %{{x:.3~g}} s from %{{base:.3~g}} s<extra></extra>", row=row, col=1,
                )  # fmt: skip
                named.add(label)
    fig.update_annotations(font={"size": 13, "color": QUIET}, x=0, xanchor="left")
    fig.update_yaxes(autorange="reversed", showgrid=False, showticklabels=False).update_xaxes(rangemode="tozero", showgrid=True)
    fig.update_xaxes(title_text=x_title, row=len(names), col=1).update_yaxes(title_text=y_title, row=(len(names) + 1) // 2, col=1)
    return fig.update_layout(barmode="overlay")


def treemap(frame: pd.DataFrame, path: Sequence[str], value: str, *, unit: str) -> go.Figure:
    """A whole, cut along the columns of `path` from the coarsest to the finest: areas are `value`, colours the second column's.

    The first column's wholes stand side by side, all on one scale, so that a small one looks small.
    """
    nodes: dict[str, dict[str, Any]] = {}
    totals: dict[str, float] = {}
    colours = dict(zip(frame[path[1]].drop_duplicates(), PIECES, strict=False)) if len(path) > 1 else {}
    for *row, size in frame[[*path, value]].itertuples(index=False):
        for depth in range(1, len(path) + 1):
            key = "/".join(map(str, row[:depth]))
            colour = colours[row[1]].colour if depth > 1 and row[1] in colours else GRID
            parent = "/".join(map(str, row[: depth - 1]))
            totals[key] = totals.get(key, 0) + float(size)
            seen = nodes.setdefault(key, {"label": str(row[depth - 1]), "parent": parent, "value": 0.0, "colour": colour})
        seen["value"] += float(size)  # of the leaf alone: those above it are added up when it is drawn
    leaves = nodes.keys() - {node["parent"] for node in nodes.values()}
    names = {key: _broken(node["label"]) if key in leaves else f"{node['label']} " for key, node in nodes.items()}
    labels = [f"{name}{_three(totals[key])} {unit}" for key, name in names.items()]
    fig = go.Figure()
    fig.add_treemap(
        ids=list(nodes), labels=labels, parents=[node["parent"] for node in nodes.values()],
        values=[round(node["value"], 3) for node in nodes.values()], branchvalues="remainder", tiling={"packing": "squarify", "pad": 2},
        marker={"colors": [node["colour"] for node in nodes.values()], "line": {"width": 1, "color": PAPER}, "cornerradius": 2},
        texttemplate="%{label}", hovertemplate="%{id}<br>%{label}<extra></extra>", textfont={"size": 12}, pathbar={"visible": False},
        root={"color": PAPER},
    )  # fmt: skip
    return fig.update_layout(uniformtext={"minsize": 9, "mode": "hide"}, margin={"l": 8, "r": 8, "b": 8})


def _broken(name: str) -> str:
    """A leaf's name over its number; a long one is broken at its hyphens, for what does not fit is not shown."""
    return (name.replace("-", "-<br>") if len(name) > 12 else name) + "<br>"


def _three(value: float) -> str:
    """Three digits that count, for a label."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _log_axis(values: Any) -> dict[str, Any]:
    """A logarithmic axis: a tick a decade, or at 1, 2 and 5 of each where there are fewer than two."""
    known = [float(value) for value in values if pd.notna(value) and value > 0]
    if not known or max(known) / min(known) >= 100:
        return {"type": "log", "dtick": 1}
    ticks = [digit * 10.0**power for power in range(-6, 9) for digit in (1, 2, 5)]
    return {"type": "log", "tickvals": [tick for tick in ticks if min(known) / 2 <= tick <= max(known) * 2]}


def _known(column: pd.Series[Any]) -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in column]
