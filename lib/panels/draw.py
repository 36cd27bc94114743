"""A dashboard's JSON, drawn by plotly on the grid that Grafana would draw it on: numbers, courses, and bands of states.

One figure for a dashboard, or for one panel of it. A panel says that it has no data, and why where it knows. Refuses a type of panel
that our dashboards do not have: it would be shown wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape as _escape
from math import ceil, floor, isfinite, log10
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lib.figures import ENGINES, GRID, INK, LINE, OTHERS, PAPER, QUIET, template
from lib.monitoring.dashboards.query import panels
from lib.panels.clock import hours
from lib.panels.units import decades, formatted, ticks

BACK = "#f4f5f7"
WIDTH, ROW_PX, GAP_PX = 1400, 38, 8  # a grid's row is 30 px and a gap of 8
COLOURS = {"green": "#1a7f4b", "yellow": "#b58100", "orange": "#d55e00", "red": "#c4261d", "text": INK, "transparent": INK}
PALETTE = tuple(dict.fromkeys(mark.colour for mark in (*ENGINES.values(), *OTHERS)))  # the most unlike first
TEXT_PX, SMALL_PX, CHARACTER_PX = 12, 11, 6.1
TOP_PX = 18  # above a course, for the names of what is marked
Json = Mapping[str, Any]
escape = partial(_escape, quote=False)  # plotly knows no &#x27;


@dataclass(frozen=True, slots=True)
class Band:
    """Something that lasted from `start_s` to `end_s`, drawn behind every course."""

    start_s: float
    end_s: float
    label: str
    colour: str = "#c4261d"


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of a panel: what it is called, how it is written, its colour."""

    name: str
    text: str
    colour: str


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels from the top left of a figure of `width` × `height`."""

    x: float
    y: float
    w: float
    h: float
    width: float
    height: float

    def inside(self, left: float, top: float, right: float, bottom: float) -> Box:
        return Box(self.x + left, self.y + top, self.w - left - right, self.h - top - bottom, self.width, self.height)

    @property
    def across(self) -> list[float]:
        return [self.x / self.width, (self.x + self.w) / self.width]

    @property
    def down(self) -> list[float]:
        return [1 - (self.y + self.h) / self.height, 1 - self.y / self.height]


def draw(dashboard: Json, answers: pd.DataFrame, *, start_s: float, end_s: float, marks: Sequence[Band] = (),
         width: int = WIDTH) -> go.Figure:  # fmt: skip
    """`dashboard` as one figure. `answers`: dashboard, panel, ref, series, t_s, value, as dashboards.query.answer gives them."""
    height = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in dashboard["panels"]) * ROW_PX + GAP_PX
    fig = _figure(width, height, BACK)
    column = (width - GAP_PX) / 24
    for one in dashboard["panels"]:
        at = one["gridPos"]
        box = Box(GAP_PX + at["x"] * column, GAP_PX + at["y"] * ROW_PX, at["w"] * column - GAP_PX, at["h"] * ROW_PX - GAP_PX, width, height)
        if one["type"] == "row":
            _say(fig, f"<b>{escape(one['title'])}</b>", box.x + 4, box.y + box.h / 2, box, size=14, yanchor="middle")
            continue
        fig.add_shape(type="rect", xref="paper", yref="paper", x0=box.across[0], x1=box.across[1], y0=box.down[0], y1=box.down[1],
                      fillcolor=PAPER, line={"color": LINE, "width": 1}, layer="below")  # fmt: skip
        _say(fig, f"<b>{escape(one['title'])}</b>", box.x + 10, box.y + 6, box, size=TEXT_PX + 1)
        _put(fig, one, answers_of(answers, dashboard, one), box.inside(0, 26, 0, 0), start_s, end_s, marks)
    return fig


def panel(dashboard: Json, panel_id: int, answers: pd.DataFrame, *, start_s: float, end_s: float, marks: Sequence[Band] = (),
          width: int = 640, height: int = 260) -> go.Figure:  # fmt: skip
    """One panel of `dashboard` alone, without its title. Raises ValueError for a panel that it does not have."""
    found = [one for one in panels(dashboard) if one["id"] == panel_id]
    if not found:
        raise ValueError(f"{dashboard['uid']} has no panel {panel_id}")
    fig = _figure(width, height, PAPER)
    _put(fig, found[0], answers_of(answers, dashboard, found[0]), Box(0, 0, width, height, width, height), start_s, end_s, marks)
    return fig


def cells(one: Json, frame: pd.DataFrame) -> list[Cell]:
    """The numbers that the panel shows: the last known value of each series, coloured by its threshold."""
    told = one["fieldConfig"]["defaults"]
    last = frame[frame.value.notna()].sort_values(["ref", "series", "t_s"]).drop_duplicates(["ref", "series"], keep="last")
    names = one["options"]["textMode"] == "name"
    found = [Cell("" if names or len(last) == 1 else series, series if names else formatted(value, told["unit"], told.get("decimals")),
                  _colour(told["thresholds"], value)) for series, value in zip(last.series, last.value, strict=True)]  # fmt: skip
    return found or [Cell("", _empty(one), QUIET)]


def _figure(width: int, height: int, back: str) -> go.Figure:
    return go.Figure().update_layout(template=template(), width=width, height=height, paper_bgcolor=back, plot_bgcolor=PAPER,
                                     margin={"l": 0, "r": 0, "t": 0, "b": 0}, showlegend=False, hovermode="x unified", barmode="overlay",
                                     font_size=TEXT_PX)  # fmt: skip


def answers_of(answers: pd.DataFrame, dashboard: Json, one: Json) -> pd.DataFrame:
    """What belongs to a panel."""
    return answers[answers.dashboard.eq(dashboard["uid"]) & answers.panel.eq(one["id"])]


def _put(fig: go.Figure, one: Json, frame: pd.DataFrame, box: Box, start_s: float, end_s: float, marks: Sequence[Band]) -> None:
    frame = frame[(frame.t_s >= start_s) & (frame.t_s <= end_s)]
    if one["type"] == "stat":
        _numbers(fig, cells(one, frame), box)
    elif one["type"] not in ("timeseries", "state-timeline"):
        raise ValueError(f"panel {one['title']!r} is a {one['type']}, which is not drawn: use a stat, a timeseries or a state-timeline")
    elif frame.value.map(isfinite).sum() == 0:
        _say(fig, escape(_empty(one)), box.x + box.w / 2, box.y + box.h / 2 - 8, box, colour=QUIET, xanchor="center", yanchor="middle")
    elif one["type"] == "timeseries":
        _course(fig, one, frame, box, start_s, end_s, marks)
    else:
        _states(fig, one, frame, box, start_s, end_s, marks)


def _numbers(fig: go.Figure, found: Sequence[Cell], box: Box) -> None:
    wide = box.w / len(found)
    for nth, cell in enumerate(found):
        size = max(12, min(30, (wide - 12) / max(len(cell.text), 1) / 0.6))
        middle = box.x + wide * (nth + 0.5)
        _say(fig, f"<b>{escape(cell.text)}</b>", middle, box.y + box.h * (0.42 if cell.name else 0.45), box, size=size, colour=cell.colour,
             xanchor="center", yanchor="middle")  # fmt: skip
        _say(fig, escape(cell.name), middle, box.y + box.h * 0.84, box, size=min(SMALL_PX, (wide - 4) / max(len(cell.name), 1) / 0.55),
             colour=QUIET, xanchor="center", yanchor="middle")  # fmt: skip


def _course(fig: go.Figure, one: Json, frame: pd.DataFrame, box: Box, start_s: float, end_s: float, marks: Sequence[Band]) -> None:
    told = one["fieldConfig"]["defaults"]
    stacked = told["custom"].get("stacking", {}).get("mode") == "normal"
    log = told["custom"].get("scaleDistribution", {}).get("type") == "log"
    names = list(dict.fromkeys(frame.sort_values(["ref", "series"], kind="stable").series))
    drawn = {name: PALETTE[nth % len(PALETTE)] for nth, name in enumerate(names)}
    rows = _legend(fig, drawn, box)
    known = frame[frame.value.map(isfinite)]
    tops = known.groupby("t_s").value.sum() if stacked else known.value
    lo, hi = _decades(known.value) if log else _span(told, tops)
    values, texts = (decades if log else ticks)(lo, hi, told["unit"])
    left = 16 + CHARACTER_PX * max(map(len, texts))
    x, y = _axes(fig, box.inside(left, TOP_PX if marks else 6, 16, 24 + 15 * rows), start_s, end_s)
    for name, colour in drawn.items():
        points = _gapped(frame[frame.series == name])
        fig.add_scatter(x=points.t_s.tolist(), y=[value if isfinite(value) else None for value in points.value], name=name, mode="lines",
                        line={"color": colour, "width": 1.8}, xaxis=x, yaxis=y, stackgroup=y if stacked else None,
                        fillcolor=_pale(colour, 0.3) if stacked else None, hovertemplate="%{y:.4~g}")  # fmt: skip
    span = [log10(lo), log10(hi)] if log else [lo, hi]
    _axis(fig, y).update(type="log" if log else "linear", range=span, tickvals=values, ticktext=texts)
    _thresholds(fig, told, x, y, lo, hi, start_s, end_s)
    _bands(fig, marks, x, y, box, start_s, end_s)


def _states(fig: go.Figure, one: Json, frame: pd.DataFrame, box: Box, start_s: float, end_s: float, marks: Sequence[Band]) -> None:
    told = one["fieldConfig"]["defaults"]
    mapped = {float(value): shown for mapping in told["mappings"] for value, shown in mapping["options"].items()}
    names = sorted(set(frame.series), reverse=True)
    rows = _legend(fig, {shown["text"]: COLOURS[shown["color"]] for shown in mapped.values()}, box)
    left = min(box.w / 3, 24 + CHARACTER_PX * max(map(len, names)))
    x, y = _axes(fig, box.inside(left, TOP_PX if marks else 6, 16, 24 + 15 * rows), start_s, end_s)
    step = frame.t_s.drop_duplicates().sort_values().diff().min()
    for value, shown in mapped.items():
        now = frame[frame.value == value].sort_values("t_s")
        for name, points in now.groupby("series"):
            runs = points.groupby((points.t_s.diff() > 1.5 * step).cumsum()).t_s.agg(["min", "max"])
            fig.add_bar(orientation="h", base=runs["min"].tolist(), x=(runs["max"] - runs["min"] + (step if step > 0 else 0)).tolist(),
                        y=[names.index(str(name))] * len(runs), width=0.7, marker={"color": COLOURS[shown["color"]]}, xaxis=x, yaxis=y,
                        name=shown["text"], hovertemplate=f"{escape(str(name))}: {shown['text']}<extra></extra>")  # fmt: skip
    _axis(fig, y).update(range=[-0.6, len(names) - 0.4], tickvals=list(range(len(names))), ticktext=names, showgrid=False)
    _bands(fig, marks, x, y, box, start_s, end_s)


def _axes(fig: go.Figure, box: Box, start_s: float, end_s: float) -> tuple[str, str]:
    """A new pair of axes in `box`."""
    tail = sum(name.startswith("yaxis") for name in fig.layout) + 1  # the pair that every figure has stays unused
    values, texts = hours(start_s, end_s, most=max(3, int(box.w / 95)))
    small = {"tickfont": {"size": SMALL_PX, "color": QUIET}, "automargin": False, "ticks": "", "fixedrange": False}
    fig.update_layout({
        f"xaxis{tail}": {"domain": box.across, "anchor": f"y{tail}", "range": [start_s, end_s], "tickvals": values, "ticktext": texts,
                         **small},
        f"yaxis{tail}": {"domain": box.down, "anchor": f"x{tail}", "gridcolor": GRID, "zeroline": False, **small},
    })  # fmt: skip
    return f"x{tail}", f"y{tail}"


def _axis(fig: go.Figure, name: str) -> Any:
    return fig.layout[f"{name[0]}axis{name[1:]}"]


def _legend(fig: go.Figure, drawn: Mapping[str, str], box: Box) -> int:
    """Names with their colours under the panel, wrapped to its width; how many rows they take."""
    rows, used = [""], 0.0
    for name, colour in drawn.items():
        wide = CHARACTER_PX * (len(name) + 4)
        if used and used + wide > box.w - 24:
            rows, used = [*rows, ""], 0.0
        rows[-1] += f'<span style="color:{colour}">▬</span> {escape(name)}   '
        used += wide
    _say(fig, "<br>".join(rows), box.x + 12, box.y + box.h - 5, box, size=SMALL_PX, colour=QUIET, yanchor="bottom")
    return len(rows)


def _say(fig: go.Figure, text: str, x: float, y: float, box: Box, *, size: float = TEXT_PX, colour: str = INK, xanchor: str = "left",
         yanchor: str = "top") -> None:  # fmt: skip
    if text:
        fig.add_annotation(text=text, x=x / box.width, y=1 - y / box.height, xref="paper", yref="paper", showarrow=False, align="left",
                           xanchor=xanchor, yanchor=yanchor, font={"size": size, "color": colour}, borderpad=0)  # fmt: skip


def _thresholds(fig: go.Figure, told: Json, x: str, y: str, lo: float, hi: float, start_s: float, end_s: float) -> None:
    """Where Grafana draws them: inside what the axis shows, which they do not stretch."""
    if told["custom"]["thresholdsStyle"]["mode"] != "off":
        for step in told["thresholds"]["steps"]:
            if step["value"] is not None and lo <= step["value"] <= hi:
                fig.add_shape(type="line", xref=x, yref=y, x0=start_s, x1=end_s, y0=step["value"], y1=step["value"],
                              line={"color": COLOURS[step["color"]], "width": 1.3, "dash": "dash"})  # fmt: skip


def _bands(fig: go.Figure, marks: Sequence[Band], x: str, y: str, box: Box, start_s: float, end_s: float) -> None:
    for mark in marks:
        first, last = max(mark.start_s, start_s), min(mark.end_s, end_s)
        if first < last:
            fig.add_shape(type="rect", xref=x, yref=f"{y} domain", x0=first, x1=last, y0=0, y1=1, fillcolor=mark.colour, opacity=0.1,
                          line_width=0, layer="below")  # fmt: skip
            if (last - first) / (end_s - start_s) * (box.w - 70) > CHARACTER_PX * len(mark.label):
                fig.add_annotation(text=escape(mark.label), x=first, y=1, xref=x, yref=f"{y} domain", xanchor="left", yanchor="bottom",
                                   showarrow=False, font={"size": 10, "color": mark.colour}, borderpad=2)  # fmt: skip


def _span(told: Json, values: pd.Series[float]) -> tuple[float, float]:
    """Where the axis begins and ends: as told, else a little beyond what there is."""
    lo, hi = min(told.get("min", values.min()), values.min()), max(values.max(), values.min())
    room = (hi - lo) * 0.06
    top = max(told["max"], hi) if "max" in told else hi + room if hi > lo else hi + (abs(hi) or 1)
    return (lo if "min" in told and lo == told["min"] else lo - room), top


def _decades(values: pd.Series[float]) -> tuple[float, float]:
    """Whole powers of ten around what a logarithmic axis can show."""
    known = values[values > 0]
    return (10.0 ** floor(log10(known.min())), 10.0 ** ceil(log10(known.max() * 1.0001))) if len(known) else (0.1, 1.0)


def _gapped(points: pd.DataFrame) -> pd.DataFrame:
    """One series in the order of time, broken where samples are missing."""
    points = points.sort_values("t_s")[["t_s", "value"]]
    step = points.t_s.diff().median()
    after = points[points.t_s.diff() > 1.5 * step]
    holes = pd.DataFrame({"t_s": after.t_s - step / 2, "value": float("nan")})
    return pd.concat([points, holes]).sort_values("t_s") if len(holes) else points


def _colour(thresholds: Json, value: float) -> str:
    reached = [step["color"] for step in thresholds["steps"] if step["value"] is None or value >= step["value"]]
    return COLOURS[reached[-1]] if len(thresholds["steps"]) > 1 else INK


def _empty(one: Json) -> str:
    return str(one["fieldConfig"]["defaults"].get("noValue") or "No data")


def _pale(colour: str, share: float) -> str:
    return f"rgba({','.join(str(int(colour[n:n + 2], 16)) for n in (1, 3, 5))},{share})"
