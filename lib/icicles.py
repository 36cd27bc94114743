"""Where the time of one inference goes, from the whole to its parts: an icicle, wide where it is slow; and a roofline with layers under it.

Pure: frames in, figures out, in the look of figures.py. Refuses nothing that is missing: it is not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lib.figures import INK, OTHERS, PIECES, QUIET

LEAST = 0.004  # of the whole: what is narrower would be a line


def icicle(modules: pd.DataFrame, whole_us: float, *, root: str) -> go.Figure:
    """`modules`: module (a dotted path), whole_us. Parents are paths' beginnings; a parent's rest is its own work, pale."""
    known = {str(name): float(us) for name, us in zip(modules["module"], modules["whole_us"], strict=True) if us >= LEAST * whole_us}
    above = {name: next((one for one in _above(name) if one in known), "") for name in known}
    whole = {"": whole_us, **known}
    for name in sorted(whole, key=lambda one: -one.count(".") - bool(one)):  # medians of parts may exceed the median of the whole
        whole[name] = max(whole[name], sum(whole[part] for part, parent in above.items() if parent == name))
    labels, parents, values, ids = [root], [""], [whole[""] / 1e3], [""]
    for name in known:  # in the order of computing
        labels.append(name.removeprefix(f"{above[name]}.") if above[name] else name)
        parents.append(above[name])
        values.append(whole[name] / 1e3)
        ids.append(name)
    depth = [0 if not one else one.count(".") + 1 for one in ids]
    colours = ["#e6eaef" if not d else OTHERS[(d - 1) % len(OTHERS)].colour for d in depth]
    fig = go.Figure(go.Icicle(ids=[one or root for one in ids], labels=labels, parents=["" if i == 0 else p or root for i, p in
                              enumerate(parents)], values=values, branchvalues="total", tiling={"orientation": "v"}, sort=False,
                              marker={"colors": colours, "line": {"color": "white", "width": 1}}, opacity=0.82,
                              hovertemplate="<b>%{id}</b><br>%{value:.2f} ms<extra></extra>"))  # fmt: skip
    return fig.update_layout(margin={"l": 8, "r": 8, "b": 8})


def _above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]


def roofline(points: pd.DataFrame, bandwidths: Mapping[str, float], rate: float, *, by: str = "stage") -> go.Figure:
    """`points`: layer, shape, flop, us, intensity (FLOP/B), rate (FLOP/s), and `by`. Slopes are memories, the flat line is `rate`."""
    fig = go.Figure()
    if not len(points):
        return fig
    lo, hi = float(points["intensity"].min()), 2 * float(points["intensity"].max())
    lo = 0.5 * min(lo, *(rate / bandwidth for bandwidth in bandwidths.values()))  # every ridge is seen
    for nth, (name, bandwidth) in enumerate(bandwidths.items()):
        ridge = rate / bandwidth
        if ridge > lo:
            x = np.geomspace(lo, min(ridge, hi), 20)
            line = {"color": QUIET, "width": 1.5, "dash": ("dot", "dash", "solid")[nth % 3]}
            fig.add_scatter(x=x.tolist(), y=(x * bandwidth / 1e9).tolist(), mode="lines", hoverinfo="skip", line=line,
                            name=f"{name}, {bandwidth / 1e9:.0f} GB/s")  # fmt: skip
    fig.add_scatter(x=[lo, hi], y=[rate / 1e9] * 2, mode="lines", line={"color": INK, "width": 1.5}, hoverinfo="skip",
                    name=f"best kernel, {rate / 1e9:.0f} GFLOP/s")  # fmt: skip
    for (group, rows), style in zip(points.groupby(by, sort=False), PIECES, strict=False):
        size = 7 + 16 * np.sqrt(rows["us"] / points["us"].max())
        fig.add_scatter(x=rows["intensity"].tolist(), y=(rows["rate"] / 1e9).tolist(), mode="markers", name=str(group),
                        marker={"size": size.tolist(), "symbol": style.symbol, "color": style.colour, "opacity": 0.75,
                                "line": {"width": 1, "color": "white"}},
                        customdata=rows[["layer", "shape", "us"]].to_numpy().tolist(),
                        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]:.0f} µs, %{y:.0f} GFLOP/s at "
                        "%{x:.0f} FLOP/B<extra></extra>")  # fmt: skip
    fig.update_xaxes(type="log", showgrid=True, title="FLOP per byte that has to move").update_yaxes(type="log", title="GFLOP/s")
    return fig
