"""A Prometheus' time series as one small frame, and a real Prometheus made of such a frame again: what was recorded can be asked anew.

The frame has a row a sample: `series` (its canonical text), `dt_ms` (since the series' sample before; its first one's since 1970) and
`dvalue` (the change of the float's 64 bits, taken as an integer): exact for every float, and mostly zeros, which Parquet packs to nothing.
Staleness markers do not survive, for Prometheus shows them to nobody: rebuilt, a series ends `lookback` after its last sample.
Refuses text that is no series.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.install import Missing
from lib.monitoring import promtool, tools
from lib.monitoring.prometheus import Client, series
from lib.process import running

LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
SERIES = re.compile(rf"([a-zA-Z_:][a-zA-Z0-9_:]*)?(?:\{{({LABEL.pattern}(?:,{LABEL.pattern})*)?\}})?", re.DOTALL)
PLAIN = {"n": "\n", "\\": "\\", '"': '"'}
PASSES = 2  # rules may stand on rules, which promtool cannot see before they are there


def export(client: Client, matchers: Sequence[str], start_s: float, end_s: float, *, every_s: float | None = None) -> pd.DataFrame:
    """What was scraped and recorded of `matchers`, both ends included. `every_s`: of each such span and series only the last sample.

    Raises Unanswered.
    """
    parts = [client.raw(matcher, start_s, end_s) for matcher in matchers]
    return packed(pd.concat(parts, ignore_index=True), every_s=every_s)


def packed(samples: pd.DataFrame, *, every_s: float | None = None) -> pd.DataFrame:
    """Samples (series, t_s, value) as the small frame. One of two at the same instant counts."""
    frame = pd.DataFrame({"series": samples.series.astype("category"), "t_ms": (samples.t_s * 1000).round().astype("int64"),
                          "bits": samples.value.to_numpy(np.float64).view(np.int64)})
    frame = frame.drop_duplicates(["series", "t_ms"]).sort_values(["series", "t_ms"], kind="stable", ignore_index=True)
    if every_s is not None:
        frame = frame[~frame.assign(slot=frame.t_ms // round(every_s * 1000)).duplicated(["series", "slot"], keep="last")]
    before = frame.groupby("series", observed=True)[["t_ms", "bits"]].shift(fill_value=0)
    return pd.DataFrame({"series": frame.series, "dt_ms": frame.t_ms - before.t_ms,
                         "dvalue": frame.bits - before.bits}).reset_index(drop=True)  # bits may wrap round, and will back


def unpacked(frame: pd.DataFrame) -> pd.DataFrame:
    """The samples of a small frame: series, t_s, value."""
    of = frame.groupby("series", observed=True, sort=False)
    return pd.DataFrame({"series": frame.series, "t_s": of.dt_ms.cumsum() / 1000,
                         "value": of.dvalue.cumsum().to_numpy(np.int64).view(np.float64)})


def labels(text: str) -> dict[str, str]:
    """The labels of a series' canonical text, its name as `__name__`. Raises ValueError."""
    if (whole := SERIES.fullmatch(text)) is None:
        raise ValueError(f"{text[:80]!r} is no series; one reads name{{label=\"value\"}}")
    found = {name: re.sub(r"\\(.)", lambda hit: PLAIN[hit[1]], value, flags=re.DOTALL) for name, value in LABEL.findall(whole[2] or "")}
    return {"__name__": whole[1], **found} if whole[1] else found


def openmetrics(frame: pd.DataFrame) -> Iterator[str]:
    """A small frame's lines as OpenMetrics text, series by series."""
    samples = unpacked(frame)
    for text, t, value in zip(samples.series, samples.t_s, samples.value, strict=True):
        yield f"{text} {_number(value)} {t:.3f}\n"
    yield "# EOF\n"


@contextlib.contextmanager
def rebuilt(frame: pd.DataFrame, folder: Path, *, rules: Iterable[Path] = (), every_s: float = 15,
            lookback: str = "5m") -> Iterator[Client]:
    """A Prometheus on loopback that knows the frame's samples and nothing else, until the block is left.

    `rules`: files whose recording rules are evaluated over all that time, every `every_s`, and added. `folder` is new or empty.
    Raises promtool.Failed, lib.process.Died, and FileNotFoundError where Prometheus is not on this machine.
    """
    with served(openmetrics(frame), folder, lookback=lookback) as client:
        if not (wanted := tuple(rules)):
            yield client
            return
        times = unpacked(frame).t_s
        promtool.record(wanted, folder / "data", url=client.url, start_s=times.min(), end_s=times.max(), every_s=every_s)
    for _ in range(1, PASSES):
        with _serving(folder, lookback) as client:  # it reads new blocks when it starts
            promtool.record(wanted, folder / "data", url=client.url, start_s=times.min(), end_s=times.max(), every_s=every_s)
    with _serving(folder, lookback) as client:
        yield client


@contextlib.contextmanager
def served(lines: Iterable[str], folder: Path, *, lookback: str = "5m") -> Iterator[Client]:
    """The same of OpenMetrics text that need not be a frame first."""
    folder.mkdir(parents=True, exist_ok=True)
    with (text := folder / "samples.txt").open("w", encoding="utf-8") as out:
        out.writelines(lines)
    promtool.blocks(text, folder / "data")
    text.unlink()
    with _serving(folder, lookback) as client:
        yield client


@contextlib.contextmanager
def _serving(folder: Path, lookback: str) -> Iterator[Client]:
    if isinstance(program := tools.find("prometheus"), Missing):
        raise FileNotFoundError(program.reason)
    (config := folder / "prometheus.yml").write_text("global: {evaluation_interval: 1d}\n")
    argv = (str(program), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn",
            "--storage.tsdb.retention.time=100y", f"--query.lookback-delta={lookback}")
    with running(lambda port: (*argv, f"--web.listen-address=127.0.0.1:{port}"), name="rebuilt prometheus", logs=folder,
                 health="/-/ready") as process:
        yield Client(process.url, timeout_s=600)


def relabelled(text: str, **added: str) -> str:
    """A series' text with labels added or replaced."""
    return series({**labels(text), **added})


def _number(value: float) -> str:
    return "NaN" if value != value else f"{value:+}".replace("inf", "Inf") if abs(value) == np.inf else repr(float(value))
