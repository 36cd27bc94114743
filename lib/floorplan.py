"""A floor seen by its camera, with where people stood: heat over a small picture of the place, zones outlined. A JPEG, for a photograph
under colours is a photograph.

Refuses nothing that is missing: it is not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

CELL = 8  # pixels of the frame a cell of the map
BLUR = 1.6  # cells
PALE = 0.55  # of the picture below
LINE, INK, PAPER = (255, 255, 255), (41, 31, 31), (240, 240, 240)  # BGR
Point = tuple[float, float]


def warmth(x: NDArray[np.float32], y: NDArray[np.float32], seconds: float, frame_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Person-seconds in each cell of the floor, (h // CELL, w // CELL), blurred; each (`x`, `y`) is somebody standing for `seconds`."""
    height, width = frame_hw
    stood, _, _ = np.histogram2d(y, x, bins=(height // CELL, width // CELL), range=((0, height), (0, width)))
    blurred: NDArray[np.float64] = cv2.GaussianBlur(stood * seconds, (0, 0), BLUR, borderType=cv2.BORDER_CONSTANT)
    return blurred


def heat(warm: NDArray[np.float64], outlines: Mapping[str, Sequence[Point]], ground: bytes, frame_hw: tuple[int, int]) -> bytes:
    """`warm` as colours over `ground`, a JPEG of the place; `outlines`: zones by name, in pixels of the frame."""
    height, width = frame_hw
    below = cv2.resize(cv2.imdecode(np.frombuffer(ground, np.uint8), cv2.IMREAD_COLOR), (width, height), interpolation=cv2.INTER_CUBIC)
    share = np.clip(warm / max(float(np.quantile(warm, 0.995)), 1e-9), 0, 1)
    smooth = cv2.resize(share.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colours = cv2.applyColorMap((255 * smooth).astype(np.uint8), cv2.COLORMAP_INFERNO)
    cover = np.sqrt(smooth)[:, :, None]  # little is shown faintly, none not at all
    drawn: NDArray[np.uint8] = np.ascontiguousarray((PALE * below * (1 - cover) + colours * cover).astype(np.uint8))
    for name, corners in outlines.items():
        ring = np.array(corners).round().astype(np.int32)
        cv2.polylines(drawn, [ring], isClosed=True, color=LINE, thickness=1, lineType=cv2.LINE_AA)
        x, y = ring.mean(axis=0).astype(int).tolist()
        (wide, high), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.55, 1)
        cv2.rectangle(drawn, (x - wide // 2 - 4, y - high - 4), (x + wide // 2 + 4, y + 6), PAPER, cv2.FILLED)
        cv2.putText(drawn, name, (x - wide // 2, y), cv2.FONT_HERSHEY_SIMPLEX, 0.55, INK, 1, cv2.LINE_AA)
    _, jpeg = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 45])
    return jpeg.tobytes()
