"""What the retail notebook claims: fields for its sentences and the tables that stand beside them, from what views computed. Pure.

A field that nobody measured is None or absent, and the sentence that quotes it is refused where it is shown.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lib.measured import points
from lib.pipelines.retail.floor import Floor, FloorState
from lib.pipelines.retail.ladder import LARGE, REFERENCE
from lib.pipelines.retail.load_views import best
from lib.pipelines.retail.session import Session
from lib.pipelines.retail.tracking import Tracks
from lib.vision.labels import Labels

KEEPS_F1 = 0.96
LOOP, FP32, SMALL = "ultralytics", "overlapped", "INT8, smaller"
FLOP_640 = 8.7e9  # of YOLOv8n for 640×640, by Ultralytics' table; in proportion to the pixels, for it is all convolutions
Row = dict[str, Any]


def row(table: pd.DataFrame, column: str, value: str) -> Row:
    """The row of `table` whose `column` says `value`; empty where there is none."""
    if not len(table):
        return {}
    found = table[table[column] == value].to_dict("records")
    return {str(key): thing for key, thing in found[0].items()} if found else {}


def headline(nets: pd.DataFrame, walks: pd.DataFrame, dense: pd.DataFrame) -> Row:
    """The fastest way that looks at every frame and keeps the F1; the most cameras of any set-up, and the strictest of all."""
    net = {"INT8, smaller": "OpenVINO INT8 512×384", "INT8": "OpenVINO INT8", "bf16": "OpenVINO bf16", FP32: "OpenVINO f32"}
    f1 = {way: row(nets, "name", name).get("f1") for way, name in net.items()}
    keeps = [row(walks, "way", way) for way, value in f1.items() if value is not None and value >= KEEPS_F1]
    best = max((way for way in keeps if way), key=lambda way: way["fps"], default={})
    most = best_setup(dense)
    return {**{key: best.get(key) for key in ("way", "fps", "times", "times_lo", "times_hi", "rounds")}, "f1": f1.get(best.get("way", "")),
            "streams": most.get("published"), "strict": most.get("strict"), "setup": most.get("setup")}  # fmt: skip


def unchanged(walks: pd.DataFrame, truth: Labels) -> Row:
    """What is gained at float32, and by gating the quiet part of the picture."""
    fp32, quiet = row(walks, "way", FP32), row(walks, "way", "quiet, gated")
    return {**{key: fp32.get(key) for key in ("times", "times_lo", "times_hi")}, "active": truth.quiet_view.share,
            "quiet": quiet.get("times"), "quiet_lo": quiet.get("times_lo"), "quiet_hi": quiet.get("times_hi")}  # fmt: skip


def ceiling(s: Session) -> pd.DataFrame:
    """Measured matrix products, the frames/s that they would allow, and what the network's fastest variant in that precision gets."""
    flop = FLOP_640 * LARGE[0] * LARGE[1] / 640**2
    taken: dict[str, float] = {}
    for point in points(s.run, "variant"):
        if tuple(point["facts"]["net_hw"]) == LARGE:
            kind = KINDS.get(point["facts"]["precision"])
            if kind:
                taken[kind] = min(taken.get(kind, np.inf), float(np.median(point["samples"]["infer_s"])))
    limits: dict[str, tuple[float, str]] = {}
    for point in points(s.run, "ceiling"):
        limits[point["name"]] = max(limits.get(point["name"], (0.0, "")), (point["facts"]["rate"], point["by"]))
    rows = []
    for kind, (rate, by) in limits.items():
        best = taken.get(kind)
        rows.append({"limit": f"{kind}, {by}", "measured, GFLOP/s": rate / 1e9, "frames/s at most": rate / flop,
                     "fastest variant, frames/s": best and 1 / best, "share": f"{flop / best / rate:.0%}" if best else None})  # fmt: skip
    return pd.DataFrame(rows)


KINDS = {"fp32": "matmul float32", "f32": "matmul float32", "bf16": "matmul bfloat16"}


def whole(fall: pd.DataFrame) -> Row:
    """The last row of a waterfall, and the network's share of it."""
    if not len(fall):
        return {"p50": None}
    last: Row = {str(key): value for key, value in fall.iloc[-1].items()}
    return {**last, "share": row(fall, "stage", "infer")["p50"] / last["p50"]}


def side_by_side(draft: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """Two waterfalls in one table, the budget beside."""
    if not len(draft) or not len(tuned):
        return pd.DataFrame(columns=["stage"])
    table = pd.DataFrame({"stage": tuned["stage"], "first draft, p50": draft["p50"], "first draft, p99": draft["p99"],
                          "tuned, p50": tuned["p50"], "tuned, p99": tuned["p99"], "budget, p99": tuned["budget"]})  # fmt: skip
    kept = [("–" if pd.isna(p99) else "yes" if p99 <= budget else "no") for p99, budget in zip(tuned["p99"], tuned["budget"], strict=True)]
    return table.assign(kept=kept)


def around(s: Session, draft: pd.DataFrame, tuned: pd.DataFrame) -> Row:
    """ms outside of the network, before and after, and the most that a way's stages miss of its wall."""
    missed = [point["facts"]["unexplained_s"] * 1e6 for point in points(s.run, "way") if not point["facts"]["lanes"]]
    rest = {name: sum(fall["p50"].iloc[:-1]) - row(fall, "stage", "infer")["p50"] if len(fall) else None
            for name, fall in (("before", draft), ("after", tuned))}  # fmt: skip
    return {**rest, "unexplained_us": max(missed, default=None)}


def ladder(nets: pd.DataFrame) -> pd.DataFrame:
    """The variants in print."""
    if not len(nets):
        return nets
    return pd.DataFrame({
        "variant": nets["name"], "size": nets["size"], "ms": nets["ms"],
        "95 %": [_range(lo, hi) for lo, hi in zip(nets["lo"], nets["hi"], strict=True)],
        "× reference": nets["times"], "F1, fp32": nets["f1"], "F1, hand": nets["f1_hand"], "AP50, hand": nets["ap_hand"],
        "count off": nets["off_hand"], "memory, MB": nets["mb"].fillna(nets["peak_mb"]),
    })  # fmt: skip


def pick(nets: pd.DataFrame) -> Row:
    """The fastest variant that keeps its F1."""
    keeps = nets[nets["f1"] >= KEEPS_F1].sort_values("times", ascending=False) if len(nets) else nets
    return _first(keeps) if len(keeps) else {"name": None}


def front(nets: pd.DataFrame) -> pd.DataFrame:
    """The variants that see anything, named where nothing is both faster and truer, or where the text speaks of them."""
    seeing = nets[nets["found"] > 0].sort_values("times", ascending=False) if len(nets) else nets
    truest, names = -1.0, []
    for told in seeing.to_dict("records"):
        best_so_far = told["f1"] is not None and told["f1"] > truest
        truest = max(truest, told["f1"] or 0.0)
        names.append(told["name"] if best_so_far or told["name"] in ("PyTorch eager", "ONNX Runtime INT8 s8") else "")
    return seeing.assign(label=names)


def trap(nets: pd.DataFrame) -> Row:
    """What is left of the people when the head is quantised too."""
    caught, whole_, kept = (row(nets, "name", name) for name in ("ONNX Runtime INT8, head too", REFERENCE, "ONNX Runtime INT8 u8"))
    return {"trap": caught.get("found"), "there": whole_.get("found"), "trap_ms": caught.get("ms"), "kept": kept.get("f1")}


def signed(nets: pd.DataFrame) -> Row:
    """INT8 with signed and with unsigned activations, against float32 of the same engine."""
    slow, fast = (row(nets, "name", f"ONNX Runtime INT8 {kind}") for kind in ("s8", "u8"))
    return {"slow_ms": slow.get("ms"), "slow": slow.get("times"), "fast_ms": fast.get("ms"), "fast": fast.get("times")}


def steps(walks: pd.DataFrame, truth: Labels) -> pd.DataFrame:
    """The ways in print, what they cost in truth beside."""
    if not len(walks):
        return walks
    by_hand = len(truth.line(520).crossings)
    get = walks.to_dict("records")
    return pd.DataFrame({
        "way": walks["way"], "what changed": walks["changed"], "frames/s": walks["fps"],
        "× ultralytics (rounds)": [f"{r['times']:.1f} ({r['times_lo']:.1f}–{r['times_hi']:.1f})" for r in get],
        "looked at": [_percent(r.get("looked")) for r in get], "people off": [_percent(r.get("off_hand")) for r in get],
        f"crossings of {by_hand}": [_whole(r.get("entries"), r.get("exits")) for r in get],
        "dwell off": [_percent(r.get("dwell_off")) for r in get], "queue off": [r.get("queue_off") for r in get],
    })  # fmt: skip


def climb(walks: pd.DataFrame) -> Row:
    """From ultralytics' loop to the fastest way that looks at every frame of the whole picture."""
    ours = walks[(walks["looked"] == 1) & (walks["view"] == "whole")] if "looked" in walks else walks
    return {"first": row(walks, "way", LOOP).get("fps"), "best": float(ours["fps"].max()) if len(ours) else None}


def counts(walks: pd.DataFrame, truth: Labels) -> Row:
    """Crossings and people, at float32 and at INT8 and fewer pixels."""
    crossings = len(truth.line(520).crossings)
    fp32, small = row(walks, "way", "in the graph"), row(walks, "way", SMALL)
    counted = {name: int(way["entries"] + way["exits"]) if pd.notna(way.get("entries")) else None
               for name, way in (("fp32", fp32), ("small", small))}  # fmt: skip
    off = None if counted["small"] is None else abs(counted["small"] - crossings) / crossings
    return {**counted, "crossings": crossings, "off": off, "people": fp32.get("off_hand"), "people_small": small.get("off_hand")}


def zones(table: pd.DataFrame) -> Row:
    """How often a zone's count is the hand's, and how often it is within one."""
    if not len(table):
        return {"n": None}
    apart = (table["hand"] - table["found"]).abs()
    return {"n": len(table), "right": float((apart == 0).mean()), "near": float((apart <= 1).mean())}


def outside(stood: pd.DataFrame, floor: Floor) -> Row:
    """The share of person-seconds that no zone holds."""
    if not len(stood):
        return {"lawn": None}
    feet = stood[["x", "y"]].to_numpy(np.float32)
    x, y = feet.T
    boxes = np.column_stack([x - 1, y - 2, x + 1, y])
    state, held = FloorState(floor), np.zeros(len(feet), np.bool_)
    tracks = Tracks(np.arange(len(feet)), boxes, np.ones(len(feet), np.float32))
    for inside in state.inside(tracks):
        held |= inside
    return {"lawn": float(1 - held.mean())}


def grid(table: pd.DataFrame) -> Row:
    """The largest gain of the grid over one frame at a time on all threads."""
    return _first(best(table).sort_values("gain", ascending=False)) if len(table) else {"gain": None}


def best_setup(dense: pd.DataFrame) -> Row:
    """The set-up with the most streams, strictly, whose cameras see the whole picture."""
    whole_view = dense[~dense["setup"].str.contains("quiet")] if len(dense) else dense
    return _first(whole_view.sort_values(["strict", "published"], ascending=False)) if len(whole_view) else {"setup": None}


def soaked(told: Row) -> Row:
    """A soak's fields with the time in minutes."""
    return {**told, "minutes": told["seconds"] / 60} if told else {"minutes": None}


def models(s: Session) -> pd.DataFrame:
    """Every file that was run: size and sum."""
    for point in points(s.run, "models"):
        files = point["facts"]["files"]
        return pd.DataFrame([{"file": name, "MB": one["bytes"] / 1e6, "SHA-256": one["sha256"][:12]} for name, one in files.items()])
    return pd.DataFrame(columns=["file"])


def _first(table: pd.DataFrame) -> Row:
    return {str(key): value for key, value in table.iloc[0].items()}


def _percent(value: Any) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.0%}"


def _whole(*values: Any) -> str:
    return "–" if any(value is None or pd.isna(value) for value in values) else f"{sum(int(value) for value in values)}"


def _range(lo: Any, hi: Any) -> str:
    return "–" if lo is None or pd.isna(lo) else f"{lo:.3g}–{hi:.3g}"
