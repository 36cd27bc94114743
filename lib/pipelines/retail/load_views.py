"""What cameras under load say: stream density by two rules, batches, the network's grid, and a service that ran for a while. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from lib.measured import points, series
from lib.pipelines.retail import density
from lib.pipelines.retail.density import Window
from lib.pipelines.retail.session import Session
from lib.pipelines.retail.soak import BREAKS
from lib.pipelines.retail.views import spread

SETTLED_S = 150.0  # of a soak: until then rings of the last frames fill up; half of a soak that is shorter than twice that


def climbs(s: Session) -> pd.DataFrame:
    """One row a set-up and count of streams: mean and slowest rate, age at p99 and error of the counts, worst of the last two windows."""
    rows = []
    for point in points(s.run, "density"):
        windows = [Window(**{**window, "rates": tuple(window["rates"])}) for window in point["facts"]["windows"]]
        for streams in sorted({window.streams for window in windows}):
            last = [window for window in windows if window.streams == streams][-density.AGREE :]
            ages = [window.age_p99_s for window in last if window.age_p99_s is not None]
            wrongs = [window.wrong for window in last if window.wrong is not None]
            rows.append({
                "setup": point["setup"], "streams": streams, "rate": min(window.rate for window in last),
                "slowest": min(min(window.rates) for window in last), "age_ms": 1e3 * max(ages) if ages else None,
                "wrong": max(wrongs) if wrongs else None, "lost": sum(window.lost for window in last) / sum(window.due for window in last),
                "passes": all(window.keeps_up for window in last), "strictly": all(window.strictly for window in last),
            })  # fmt: skip
    return pd.DataFrame(rows)


def densities(s: Session) -> pd.DataFrame:
    """One row a set-up: streams by Intel's rule and by the stricter one, and what the first count that fails strictly fails by."""
    rows, climbed = [], climbs(s)
    for point in points(s.run, "density"):
        windows = [Window(**{**window, "rates": tuple(window["rates"])}) for window in point["facts"]["windows"]]
        mine = climbed[climbed["setup"] == point["setup"]]
        failed = mine[~mine["strictly"]].head(1).to_dict("records")
        rows.append({
            "setup": point["setup"], "published": density.density(windows), "strict": density.density(windows, lambda seen: seen.strictly),
            "ends": "the most that was tried" if mine["passes"].all() else "the rate", "fails by": _why(failed[0]) if failed else "–",
        })  # fmt: skip
    return pd.DataFrame(rows)


def _why(row: dict[Any, Any]) -> str:
    reasons = []
    if row["slowest"] < density.TOLERANCE * density.TARGET_FPS:
        reasons.append(f"{row['slowest']:.1f} frames/s")
    if pd.isna(row["age_ms"]) or row["age_ms"] > 1e3 * density.AGE_S:
        reasons.append(f"age {row['age_ms']:.0f} ms")
    if pd.isna(row["wrong"]) or row["wrong"] > density.WRONG:
        reasons.append(f"counts off by {row['wrong']:.0%}")
    return f"{row['streams']}: {', '.join(reasons)}"


def batches(s: Session) -> pd.DataFrame:
    """One row a number of streams and batch: frames/s of all, share lost, age p50 and p99 in ms, frames that shared an inference."""
    rows = []
    for point in points(s.run, "batch"):
        frames, facts = series(s.run, point, "frames"), point["facts"]
        told = spread(frames["age_ms"])
        rows.append({
            "streams": int(point["streams"]), "batch": int(point["batch"]), "frames/s": facts["through"] / facts["wall_s"],
            "lost": facts["lost"] / max(1, facts["lost"] + facts["through"]), "age p50, ms": told["p50"],
            "age p99, ms": "too few frames" if told["p99"] is None else f"{told['p99']:.0f}",
            "together": float(frames.loc[frames["batch"] > 0, "batch"].mean()),
        })  # fmt: skip
    return pd.DataFrame(rows).sort_values(["streams", "batch"], ignore_index=True) if rows else pd.DataFrame()


def sweep(s: Session) -> pd.DataFrame:
    """One row a point of the grid: frames/s, and how long a frame's inference took (p50)."""
    rows = [{"name": point["name"], "threads": int(point["threads"]), "side by side": int(point["workers"]), "batch": int(point["batch"]),
             "frames/s": point["facts"]["frames_per_s"], "ms": 1e3 * float(np.median(point["samples"]["infer_s"]))}
            for point in points(s.run, "sweep")]  # fmt: skip
    return pd.DataFrame(rows)


def best(table: pd.DataFrame) -> pd.DataFrame:
    """The fastest point of the grid for each variant, beside the one that most would take: all threads for one frame at a time."""
    rows = []
    for name, mine in table.groupby("name", sort=False):
        top = mine.sort_values("frames/s").iloc[-1]
        usual = mine[(mine["threads"] == mine["threads"].max()) & (mine["side by side"] == 1) & (mine["batch"] == 1)]
        gain = float(top["frames/s"] / usual["frames/s"].iloc[0]) if len(usual) else None
        rows.append({"name": name, **{key: top[key] for key in ("threads", "side by side", "batch", "frames/s", "ms")}, "gain": gain})
    return pd.DataFrame(rows)


def lined(table: pd.DataFrame) -> pd.DataFrame:
    """The grid at all threads, with a name for each of its lines: variant, and how many inferences run side by side."""
    whole = table[table["threads"] == table["threads"].max()] if len(table) else table
    names = [f"{row['name'].removeprefix('OpenVINO ')}, {row['side by side']} at a time" for row in whole.to_dict("records")]
    return whole.assign(line=names)


def soak(s: Session) -> dict[str, Any]:
    """The longest soak: what memory did (MB/min, 95 %), what was heard, and how the camera that broke came back. Empty where none ran."""
    found = max(points(s.run, "soak"), key=lambda point: point["seconds"], default=None)
    if found is None:
        return {}
    facts, table = found["facts"], series(s.run, found, "course")
    states = table[f"{BREAKS} state"].to_numpy()
    failed = np.flatnonzero(states == "failed")
    back = np.flatnonzero((table["at_s"].to_numpy() > facts["mended_s"]) & (states == "running"))
    return {
        "seconds": facts["seconds"], **trend(table, "rss_bytes"),
        "fds_first": int(_settled(table)["fds"].iloc[0]), "fds_last": int(table["fds"].iloc[-1]),
        "threads_first": int(_settled(table)["threads"].iloc[0]), "threads_last": int(table["threads"].iloc[-1]),
        "events": sum(facts["events"].values()), "pictures": facts["pictures"],
        "failed_after_s": float(table["at_s"].iloc[failed[0]]) - facts["broken_s"] if len(failed) else None,
        "back_after_s": float(table["at_s"].iloc[back[0]]) - facts["mended_s"] if len(back) and len(failed) else None,
        "others_lost": int(sum(table[f"{name} dropped"].iloc[-1] for name in ("cam-1", "cam-2"))),
        "cpu": float((table["cpu_s"].iloc[-1] - table["cpu_s"].iloc[0]) / (table["at_s"].iloc[-1] - table["at_s"].iloc[0])),
    }  # fmt: skip


def course(s: Session) -> pd.DataFrame:
    """The longest soak as it went, in some 100 moments: minutes, MB, and each camera's frames/s."""
    found = max(points(s.run, "soak"), key=lambda point: point["seconds"], default=None)
    if found is None:
        return pd.DataFrame(columns=["minutes", "mb"])
    table = series(s.run, found, "course")
    few = table.iloc[:: max(1, len(table) // 100)]
    return few.assign(minutes=(few["at_s"] / 60).round(3), mb=(few["rss_bytes"] / 1e6).round(1))


def trend(table: pd.DataFrame, column: str) -> dict[str, float]:
    """MB a minute after warming up: Theil and Sen's slope, which single jumps do not bend, with its 95 % interval."""
    settled = _settled(table)
    slope, _, lo, hi = scipy_stats.theilslopes(settled[column] / 1e6, settled["at_s"] / 60)
    return {"mb": float(table[column].iloc[-1] / 1e6), "mb_per_min": float(slope), "lo": float(lo), "hi": float(hi)}


def _settled(table: pd.DataFrame) -> pd.DataFrame:
    settled: pd.DataFrame = table[table["at_s"] >= min(SETTLED_S, table["at_s"].iloc[-1] / 2)]
    return settled
