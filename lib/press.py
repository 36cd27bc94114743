"""Figures as PNG: one headless browser a process, started on first use. Refuses to wait for ever on one that does not start."""

from __future__ import annotations

import asyncio
import atexit
import io
import threading
from functools import cache
from typing import Any

import plotly.graph_objects as go

SCALE = 1.5  # pixels of the PNG per figure pixel: sharp enough on dense screens, and ten figures stay below half a megabyte
LIMIT_S = 60


class PrintFailed(RuntimeError):
    """No picture could be made of a figure; the message says why and what to do."""


def picture(fig: go.Figure, *, width: int, height: int) -> bytes:
    """`fig` as PNG of `width` × `height` px at SCALE, reduced to 96 colours. PrintFailed without a working browser."""
    from PIL import Image

    browser, loop = _press()
    opts = {"format": "png", "width": width, "height": height, "scale": SCALE}
    job = asyncio.run_coroutine_threadsafe(browser.calc_fig(fig.to_dict(), opts), loop)
    try:
        full = job.result(LIMIT_S)
    except TimeoutError:
        raise PrintFailed(f"the browser took more than {LIMIT_S} s over it") from None
    small = io.BytesIO()
    flat = Image.open(io.BytesIO(full)).convert("RGB").quantize(96, dither=Image.Dither.NONE)
    flat.save(small, "PNG", optimize=True)
    return small.getvalue()


@cache
def _press() -> tuple[Any, asyncio.AbstractEventLoop]:
    """One browser a process (it takes seconds to start, a figure 0.2 s), on a thread of its own, closed at exit.

    Kaleido's own server would wait for ever when its browser fails to start; this one gives up with a reason.
    """
    from kaleido import Kaleido
    from kaleido.errors import BrowserFailedError, ChromeNotFoundError

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="figures").start()

    async def opened() -> Any:
        browser = Kaleido(mathjax=False)  # MathJax would come from the net
        await browser.open()
        return browser

    try:
        browser = asyncio.run_coroutine_threadsafe(opened(), loop).result(LIMIT_S)
    except ChromeNotFoundError:
        raise PrintFailed("no chromium found; install the package chromium, or point BROWSER_PATH at one") from None
    except (BrowserFailedError, TimeoutError) as failure:
        raise PrintFailed(f"chromium did not start ({failure or 'no answer'}); BROWSER_PATH names another") from failure
    atexit.register(lambda: asyncio.run_coroutine_threadsafe(browser.close(), loop).result(10))
    return browser, loop
