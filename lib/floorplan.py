"""A floor seen by its camera, with what happened on it: where people stood, over a small picture of the place, zones outlined.

In the look of figures.py; pixels of the frame on both axes, y downwards. Refuses nothing that is missing: it is not drawn.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from lib.figures import QUIET

CELL = 12  # pixels of the frame a cell of the map
BLUR = 1.1  # cells
Point = tuple[float, float]


def heat(x: NDArray[np.float32], y: NDArray[np.float32], seconds: float, outlines: Mapping[str, Sequence[Point]], ground: bytes,
         frame_hw: tuple[int, int]) -> go.Figure:
    """Person-seconds on each cell of the floor; each (`x`, `y`) is somebody standing there for `seconds`. `ground`: a JPEG of the place."""
    height, width = frame_hw
    stood, _, _ = np.histogram2d(y, x, bins=(height // CELL, width // CELL), range=((0, height), (0, width)))
    warmth = gaussian_filter(stood * seconds, BLUR)
    fig = go.Figure()
    source = "data:image/jpeg;base64," + base64.b64encode(ground).decode()
    fig.add_layout_image(source=source, xref="x", yref="y", x=0, y=0, sizex=width, sizey=height, sizing="stretch", layer="below",
                         opacity=0.7)  # fmt: skip
    fig.add_heatmap(
        z=np.round(warmth, 2).tolist(), x0=CELL / 2, dx=CELL, y0=CELL / 2, dy=CELL, zmin=0, zmax=float(np.quantile(warmth, 0.995)),
        colorscale=[[0, "rgba(255,237,160,0)"], [0.08, "rgba(254,217,118,0.45)"], [0.4, "rgba(253,141,60,0.75)"],
                    [1, "rgba(189,0,38,0.9)"]],
        colorbar={"title": {"text": "person-seconds", "side": "right"}, "thickness": 12, "outlinewidth": 0},
        hovertemplate="(%{x}, %{y}): %{z:.2f} person-seconds<extra></extra>",
    )  # fmt: skip
    for name, corners in outlines.items():
        ring = [*corners, corners[0]]
        fig.add_scatter(x=[at for at, _ in ring], y=[at for _, at in ring], mode="lines", showlegend=False, hoverinfo="skip",
                        line={"color": "#1f2933", "width": 1.5, "dash": "dot"})  # fmt: skip
        middle = np.mean(corners, axis=0)
        fig.add_annotation(x=middle[0], y=middle[1], text=name, showarrow=False, font={"size": 13, "color": "#1f2933"},
                           bgcolor="rgba(255,255,255,0.75)")  # fmt: skip
    fig.update_xaxes(range=[0, width], showgrid=False, title_text="pixels of the frame", color=QUIET)
    return fig.update_yaxes(range=[height, 0], showgrid=False, scaleanchor="x", constrain="domain")
