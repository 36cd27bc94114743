"""How a finding looks: one template, one colour per engine, and figures that say what was found.

A figure's title is its takeaway; its spread is drawn, not only its middle. It is shown live and, for pages that run no
scripts, as a PNG; both are kept as files under `folder()`. Refuses a claim that quotes what nobody measured, and
a figure whose slug does not name its notebook.
"""

from __future__ import annotations

import base64
import html
import json
import math
import os
import re
import string
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lib import home, press

# Latin and Traditional Chinese on macOS, Windows and Linux; "Noto Sans CJK TC" is what fonts-noto-cjk installs.
# A Chinese font sets "·" as wide as a character, so titles do better without it.
FONT = '-apple-system, "Segoe UI", "Noto Sans CJK TC", "PingFang TC", "Microsoft JhengHei", system-ui, sans-serif'
INK, QUIET, GRID, PAPER = "#1f2933", "#5b6673", "#e6e9ed", "#ffffff"
LINE = "#c3c9d0"
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Mark:
    """How a thing is drawn everywhere: a colour that colour-blind readers tell apart, a symbol for grey print."""

    colour: str
    symbol: str


# Okabe and Ito's palette, darkened where a thin line on white would be too faint.
ENGINES = {
    "vLLM": Mark("#0072b2", "circle"),
    "llama.cpp": Mark("#d55e00", "square"),
    "transformers": Mark("#009e73", "diamond"),
    "TensorRT-LLM": Mark("#b0539a", "triangle-up"),
    "null": Mark("#7d8793", "x"),
}
# What runs trees and networks: never in one figure with the engines above, so their colours serve again; nor do these two meet.
SCORERS = {
    "LightGBM": Mark("#7d8793", "circle"),
    "ONNX Runtime": Mark("#0072b2", "square"),
    "oneDAL": Mark("#d55e00", "diamond"),
    "lleaves": Mark("#009e73", "triangle-up"),
    "PyTorch": Mark("#d55e00", "diamond"),
    "OpenVINO": Mark("#009e73", "triangle-up"),
}
OTHERS = (Mark("#3b8fc7", "circle"), Mark("#c98a00", "square"), Mark("#5f6caf", "diamond"), Mark("#a4513a", "triangle-up"))
PIECES = (*OTHERS, Mark("#7d8793", "x"), Mark(LINE, "circle"))  # of a whole: six at most
# What a page with a dark background draws instead of each colour above.
DARK = {
    INK: "#e4e8ee", QUIET: "#9aa5b3", GRID: "#262d37", LINE: "#414b58", PAPER: "rgba(0,0,0,0)",
    "#0072b2": "#58aee8", "#d55e00": "#f08a4b", "#009e73": "#35c79c", "#b0539a": "#d88bc6", "#7d8793": "#9aa5b3",
    "#3b8fc7": "#6db8ec", "#c98a00": "#e5b04a", "#5f6caf": "#98a4e6", "#a4513a": "#dd8f79",
}  # fmt: skip
DASHES, OPEN = ("solid", "dot", "dash", "longdash"), ("", "-open", "-dot", "-open-dot")


class NotMeasured(ValueError):
    """A sentence asked for a value that is None, NaN, infinite or absent."""


def template() -> go.layout.Template:
    """The one look: white paper, faint horizontal lines, the finding at the top left, the legend under it."""
    axis = {"gridcolor": GRID, "linecolor": LINE, "tickcolor": LINE, "zeroline": False, "automargin": True,
            "title": {"font": {"size": 14, "color": QUIET}, "standoff": 10}, "tickfont": {"size": 13, "color": QUIET}}
    return go.layout.Template(layout={
        "font": {"family": FONT, "size": 14, "color": INK}, "paper_bgcolor": PAPER, "plot_bgcolor": PAPER,
        "colorway": [m.colour for m in (*OTHERS, *ENGINES.values())], "autotypenumbers": "strict",
        "hovermode": "closest",
        "title": {"x": 0, "xref": "paper", "xanchor": "left", "yref": "container", "yanchor": "top",
                  "font": {"size": 18, "weight": 600, "color": INK}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "font": {"size": 13}},
        "margin": {"l": 64, "r": 24, "b": 56}, "hoverlabel": {"align": "left", "font": {"family": FONT}},
        "xaxis": {**axis, "showgrid": False, "showline": True, "ticks": "outside"}, "yaxis": axis,
    })  # fmt: skip


def mark(name: str) -> Mark | None:
    """The mark of the engine or scorer that `name` begins with ("llama.cpp Q4_0": llama.cpp); None for what is neither."""
    found = [style for known, style in (ENGINES | SCORERS).items() if re.match(re.escape(known) + r"(?!\w)", name)]
    return found[0] if found else None


def folder() -> Path:
    """Where figures are written: $INFERENCE_FIGURES, which the runner sets; else below the git-ignored report/."""
    return Path(os.environ.get("INFERENCE_FIGURES") or home.REPORT / "figures")


def show(fig: go.Figure, slug: str, takeaway: str, *, width: int = 900, height: int = 460) -> None:
    """Display `fig` live and as PNG (`width` × `height` px), titled with what it found, and keep both as files.

    `slug` is "<notebook>--<figure>", as in "10_llm_latency--ttft". Without a browser there is no PNG; a line says so.
    """
    _checked(slug)
    titled = title(fig, takeaway, width=width, height=height)
    live = json.loads(titled.to_json())
    folder().mkdir(parents=True, exist_ok=True)
    kept = json.dumps(live, ensure_ascii=False, sort_keys=True)
    (folder() / f"{slug}.json").write_text(kept + "\n", encoding="utf-8")
    live["config"] = {"displaylogo": False, "responsive": True}
    bundle = {"application/vnd.plotly.v1+json": live, "text/plain": takeaway}
    try:
        png = press.picture(titled, width=width, height=height)
    except press.PrintFailed as reason:
        _say_once(f"Figures stay without a PNG, live only: {reason}")
    else:
        (folder() / f"{slug}.png").write_bytes(png)
        bundle["image/png"] = base64.b64encode(png).decode()
    size = {"width": width, "height": height}
    _display(bundle, {"image/png": size, "figure": {"slug": slug, "takeaway": takeaway}})


def photo(jpeg: bytes, slug: str, takeaway: str, *, width: int) -> None:
    """Display a photograph `width` px wide under what it shows, and keep it as a file. `slug` as in `show`."""
    _checked(slug)
    folder().mkdir(parents=True, exist_ok=True)
    (folder() / f"{slug}.jpg").write_bytes(jpeg)
    _display({"text/markdown": f"**{takeaway}**", "text/plain": takeaway})
    bundle = {"image/jpeg": base64.b64encode(jpeg).decode(), "text/plain": takeaway}
    _display(bundle, {"image/jpeg": {"width": width}, "photo": {"slug": slug, "takeaway": takeaway}})


def _checked(slug: str) -> None:
    if not re.fullmatch(r"\d\d_[a-z0-9_]+--[a-z0-9_-]+", slug):
        raise ValueError(f"a figure is named <notebook>--<figure>, for instance 10_llm_latency--ttft; {slug!r} is not")


@cache
def _say_once(line: str) -> None:
    _display({"text/plain": line})


def _display(bundle: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
    from IPython.display import display

    display(bundle, raw=True, metadata=metadata)  # type: ignore[no-untyped-call]


def title(fig: go.Figure, takeaway: str, *, width: int, height: int) -> go.Figure:
    """A copy of `fig` in our template under `takeaway`, wrapped to `width` px, with room for it and the legend."""
    copy = go.Figure(fig)
    lines = wrapped(takeaway, columns=(width - 88 - _label_px(copy)) // 10)
    named = sum(bool(trace.name) and trace.showlegend is not False for trace in copy.data)
    copy.update_layout(template=template(), height=height, showlegend=bool(named))
    top = 14 if len(lines) == 1 else 30  # px; plotly sets the first of several lines 14 px higher than an only one
    rows = max(-(-named // 5), -(-sum(map(_legend_px, copy.data)) // (width - 88)))  # of the legend: five short names fit one
    copy.update_layout(margin_t=30 + 24 * len(lines) + 26 * rows, title_y=1 - top / height)
    return copy.update_layout(title_text="<br>".join(html.escape(line, quote=False) for line in lines))


def _label_px(fig: go.Figure) -> int:
    """How far words along the vertical axis push a figure to the right, and its title with it."""
    words = [value for trace in fig.data if "y" in trace for value in (() if trace.y is None else trace.y) if isinstance(value, str)]
    return max(0, 7 * max(map(len, words), default=0) - 40)


def _legend_px(trace: Any) -> int:
    return 50 + 8 * len(trace.name) if trace.name and trace.showlegend is not False else 0


def wrapped(text: str, *, columns: int) -> list[str]:
    """`text` in lines of `columns` columns: a Chinese character takes two and may end a line, a word stays whole."""

    def cells(piece: str) -> int:
        return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in piece)

    lines = [""]
    for piece in re.findall(r"[\u2e80-\u9fff\uf900-\ufaff]|\s+|[^\s\u2e80-\u9fff\uf900-\ufaff]+", text):
        full = cells(lines[-1] + piece.rstrip()) > columns
        if full and lines[-1].strip() and not re.match(r"[，。；：、！？）」]", piece):
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]


def interval_dots(frame: pd.DataFrame, x: str, y: str, lo: str, hi: str, by: str, *, x_title: str = "", y_title: str = "") -> go.Figure:
    """Medians `y` over `x` with their intervals `lo`–`hi`, a series for each `by`; categories on `x` are not joined.

    A missing `y` is a gap, and a series without any `y` stays in the legend as "not measured".
    """
    fig = go.Figure()
    seen: dict[Mark, int] = {}
    for name, rows in frame.groupby(by, sort=False):
        style = mark(str(name)) or OTHERS[len(seen) % len(OTHERS)]
        nth = seen[style] = seen.get(style, -1) + 1  # an engine again, at another precision: same colour, other dash
        measured = rows[y].notna().any()
        spread = [rows[hi] - rows[y], rows[y] - rows[lo]]
        fig.add_scatter(
            name=str(name) if measured else f"{name} ({NOT_MEASURED})", x=rows[x].tolist(), y=_known(rows[y]),
            mode="lines+markers" if pd.api.types.is_numeric_dtype(rows[x]) else "markers",
            line={"color": style.colour, "width": 2, "dash": DASHES[nth % len(DASHES)]},
            marker={"size": 9, "symbol": style.symbol + OPEN[nth % len(OPEN)]},
            error_y={"array": _known(spread[0]), "arrayminus": _known(spread[1]), "thickness": 1.5, "width": 4},
            customdata=list(zip(_known(rows[lo]), _known(rows[hi]), strict=True)),
            hovertemplate="<b>%{fullData.name}</b><br>%{x}: %{y:.4~g} "
            "(%{customdata[0]:.4~g} – %{customdata[1]:.4~g})<extra></extra>",
        )  # fmt: skip
    return fig.update_layout(xaxis_title=x_title or x, yaxis_title=y_title or y)


def _known(column: pd.Series[Any]) -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in column]


def ceiling(fig: go.Figure, y: float, label: str, *, side: str = "left") -> go.Figure:
    """Draw the limit `y` that physics or the machine sets across `fig`, named by `label` at its left or right end."""
    return fig.add_hline(y=y, line={"color": QUIET, "width": 1.5, "dash": "dash"}, annotation_text=label,
                         annotation_position=f"top {side}", annotation_font={"size": 13, "color": QUIET})  # fmt: skip


def limit(fig: go.Figure, x: Sequence[float], y: Sequence[float], label: str) -> go.Figure:
    """Draw the limit `y` over `x` that no measurement can cross, where it is not the same everywhere."""
    line = {"color": QUIET, "width": 1.5, "dash": "dash"}
    return fig.add_scatter(x=list(x), y=list(y), mode="lines", name=label, line=line, hoverinfo="skip")


def parts(frame: pd.DataFrame, y: str, pieces: Mapping[str, str], *, x_title: str) -> go.Figure:
    """Where a whole goes: one bar for each `y`, its `pieces` (column → label, at most six) end to end. A missing one is not drawn."""
    if len(pieces) > len(PIECES):
        raise ValueError(f"{len(pieces)} pieces of a whole: more than {len(PIECES)} cannot be told apart")
    fig = go.Figure()
    for (column, label), style in zip(pieces.items(), PIECES, strict=False):
        fig.add_bar(y=frame[y].tolist(), x=_known(frame[column]), name=label, orientation="h", marker={"color": style.colour},
                    hovertemplate="<b>%{y}</b><br>" + label + ": %{x:.4~g}<extra></extra>")  # fmt: skip
    return fig.update_layout(barmode="stack", xaxis_title=x_title, yaxis={"autorange": "reversed"})


def table(frame: pd.DataFrame, caption: str) -> None:
    """Display `frame` as a plain HTML table that GitHub shows as well as our report, headed by `caption`."""
    plain = f"{caption}\n{frame.to_string(index=False)}"
    _display({"text/html": table_html(frame, caption), "text/plain": plain})


def table_html(frame: pd.DataFrame, caption: str) -> str:
    """`frame` as HTML without styles or classes: numbers to the right, what is unknown written out."""

    def row(tag: str, cells: Iterator[tuple[str, bool]]) -> str:
        side = {True: "right", False: "left"}
        return "<tr>" + "".join(f'<{tag} align="{side[number]}">{text}</{tag}>' for text, number in cells) + "</tr>"

    right = [any(map(_is_number, frame[name].tolist())) for name in frame]
    head = row("th", zip((html.escape(str(name)) for name in frame), right, strict=True))
    words = [any(isinstance(value, str) for value in frame[name]) for name in frame]  # there, nothing said is no gap
    rows = frame.itertuples(index=False, name=None)
    body = "".join(row("td", zip(map(_cell, values, words), right, strict=True)) for values in rows)
    return f"<table><caption>{html.escape(caption)}</caption><thead>{head}</thead><tbody>{body}</tbody></table>"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _cell(value: Any, among_words: bool) -> str:
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return "–" if among_words else f"<em>{NOT_MEASURED}</em>"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else html.escape(str(value))


def claim(sentence: str, *, otherwise: str | None = None, **values: Any) -> None:
    """Display `sentence`, its fields filled from `values`, as a quotation; NotMeasured if one of them is unknown.

    `otherwise` says what can be said without the missing ones, for instance when only one of two engines ran; when even
    that cannot be said, the reason stands there.
    """
    try:
        text = filled(sentence, **values)
    except NotMeasured as missing:
        if otherwise is None:
            raise
        try:
            text = filled(otherwise, **values)
        except NotMeasured:
            text = f"Nothing can be claimed here: {missing}"
    _display({"text/markdown": f"> **{text}**", "text/plain": text}, {"claim": True})


def said(sentence: str, **values: Any) -> str:
    """`sentence` filled, for a figure's title; where a value is unknown, the reason why nothing can be said."""
    try:
        return filled(sentence, **values)
    except NotMeasured as missing:
        return f"Nothing can be claimed here: {missing}"


def filled(sentence: str, **values: Any) -> str:
    """`sentence.format(**values)`, but NotMeasured when a field it quotes is absent, None, NaN or infinite."""
    quoted = f"the claim {sentence!r} quotes"
    for _, name, _, _ in string.Formatter().parse(sentence):
        if name is None:
            continue
        try:
            value, _ = string.Formatter().get_field(name, (), values)
        except (KeyError, AttributeError, IndexError):
            raise NotMeasured(f"{quoted} {name!r}, which is not among {', '.join(values) or 'no values'}") from None
        if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
            raise NotMeasured(f"{quoted} {name!r}, which is {value}: {NOT_MEASURED}")
    return sentence.format(**values)
