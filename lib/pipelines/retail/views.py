"""What the points of the retail run say: tables and fields for claims, one function a question. Pure but for reading the run's Parquet.

Invalid points are left out of every number. Speeds are ratios inside one round, so of one machine within a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib import stats
from lib.measured import points, series
from lib.pipelines.retail import ladder
from lib.pipelines.retail.floor import Floor, FloorState
from lib.pipelines.retail.footage import FPS
from lib.pipelines.retail.ladder import REFERENCE
from lib.pipelines.retail.session import Session
from lib.pipelines.retail.tracking import Tracks
from lib.pipelines.retail.walk import STAGES
from lib.vision import agreement
from lib.vision.boxes import Boxes
from lib.vision.labels import Labels

# ms at p99 for one frame of one camera at 10 frames/s; together half of the time between two frames, so that a second camera has room.
BUDGET_MS = {"decode": 5.0, "gate": 0.5, "letterbox": 1.5, "normalise": 1.5, "infer": 34.0, "boxes": 1.0, "track": 4.0, "floor": 2.0,
             "event": 0.5}  # fmt: skip
SHOWN = 0.25  # the score above which YOLO's own predict loop shows a box
WARM = 5  # frames at the beginning that are not timed


def variants(s: Session, truth: Labels) -> pd.DataFrame:
    """One row a variant, in the ladder's order: inference in ms, how many times the reference's pace, and what it still sees.

    `f1`: against the reference on all judged frames; `f1_hand`, `ap_hand`, `off_hand` (mean error of the count): on the hand-labelled ones.
    """
    said = {point["name"]: boxes(s, point) for point in points(s.run, "variant") if point["round"] == 0}
    memory = {point["name"]: point["facts"] for point in points(s.run, "memory")}
    rows = []
    for variant in ladder.VARIANTS:
        turns = [point for point in points(s.run, "variant") if point["name"] == variant.name]
        if not turns or variant.name not in said:
            continue
        taken = stats.median([1e3 * t for point in turns for t in point["samples"]["infer_s"]])
        gains = [float(np.median(point["samples"]["beside_s"]) / np.median(point["samples"]["infer_s"])) for point in turns]
        facts, weighed = turns[0]["facts"], memory.get(variant.name)
        value, lo, hi = (taken.value, taken.lo, taken.hi) if taken else (None, None, None)
        rows.append({
            "name": variant.name, "engine": variant.engine, "precision": variant.precision,
            "size": f"{variant.net_hw[1]}×{variant.net_hw[0]}", "changed": variant.changed, "ms": value, "lo": lo, "hi": hi,
            "times": float(np.median(gains)), **judged(said[variant.name], said.get(REFERENCE), truth),
            "mb": (weighed["used_bytes"] - weighed["before_bytes"]) / 1e6 if weighed else None,
            "peak_mb": facts["peak_bytes"] / 1e6 if "peak_bytes" in facts else None,
        })  # fmt: skip
    return pd.DataFrame(rows)


def judged(found: dict[int, Boxes], reference: dict[int, Boxes] | None, truth: Labels) -> dict[str, Any]:
    """What was found in the judged frames, held against the reference and, in the frames that have them, against hand labels."""
    sure = {number: there.above(SHOWN) for number, there in found.items()}
    by_hand = [number for number in sure if number in truth.frames]
    people = [truth.persons(number) for number in by_hand]
    right = agreement.f1(people, [sure[number] for number in by_hand])
    row = {
        "found": sum(map(len, sure.values())),
        "f1": None,
        "f1_hand": right.f1,
        "precision_hand": right.precision,
        "recall_hand": right.recall,
        "ap_hand": agreement.average_precision(people, [found[number] for number in by_hand]),
        "off_hand": agreement.count_error([len(there) for there in people], [len(sure[number]) for number in by_hand]),
    }
    if reference is not None:
        row["f1"] = agreement.f1([reference[number].above(SHOWN) for number in sure], list(sure.values())).f1
    return row


def boxes(s: Session, point: dict[str, Any]) -> dict[int, Boxes]:
    """What a variant found, by frame; a frame without any is there, empty."""
    table = series(s.run, point, "boxes")
    by_frame = dict(iter(table.groupby("frame")))
    return {number: _boxes(by_frame.get(number, table.iloc[:0])) for number in point["facts"]["frames"]}


def _boxes(rows: pd.DataFrame) -> Boxes:
    corners = rows[["left", "top", "right", "bottom"]].to_numpy(np.float32)
    return Boxes(corners, rows["score"].to_numpy(np.float32), np.zeros(len(rows), np.int32))


# --- ways ---


def ways(s: Session, truth: Labels) -> pd.DataFrame:
    """One row a way: frames/s, how many times ultralytics' loop of the same round, and how far what it reports is off.

    `off_hand`: mean error of the people counted in hand-labelled frames, as a share; `off`, `queue_off`, `dwell_off`: against the way
    `in the graph`, float32 and every frame, over the whole clip; crossings beside those counted by hand.
    """
    loops = {(point["view"], point["round"]): point for point in points(s.run, "loop")}
    rows: dict[str, dict[str, Any]] = {}
    for (view, _), point in loops.items():
        name = "ultralytics" if view == "whole" else "quiet, ultralytics"
        row = rows.setdefault(name, {"way": name, "changed": "its predict loop, as documented", "view": view, "fps": [], "times": []})
        row["fps"].append(1 / float(np.mean(point["samples"]["frame_s"])))
        row["times"].append(1.0)
    for point in points(s.run, "way"):
        facts = point["facts"]
        row = rows.setdefault(point["name"], {"way": point["name"], "fps": [], "times": []})
        row |= {"changed": facts["changed"], "view": facts["view"]}
        row["fps"].append(fps := facts["frames"] / facts["wall_s"])
        if loop := loops.get((facts["view"], point["round"])):
            row["times"].append(fps * float(np.mean(loop["samples"]["frame_s"])))
        if point["round"] == 0:
            row |= reported(s, point, truth) | {"looked": facts["looked"] / facts["frames"]}
    told = [{**row, "rounds": len(row["fps"]), **_middle(row["fps"], "fps"), **_middle(row["times"], "times")} for row in rows.values()]
    return pd.DataFrame(told)


def _middle(values: Sequence[float], name: str) -> dict[str, float | None]:
    """Median, least and most of a handful of rounds."""
    if not values:
        return {name: None, f"{name}_lo": None, f"{name}_hi": None}
    return {name: float(np.median(values)), f"{name}_lo": min(values), f"{name}_hi": max(values)}


def reported(s: Session, point: dict[str, Any], truth: Labels) -> dict[str, Any]:
    """How far a walk of the whole clip is off, in what it tells."""
    told = series(s.run, point, "frames")
    if point["facts"]["view"] != "whole":
        return {}
    by_hand = [number for number in sorted(truth.frames) if number < len(told)]
    people = np.array([len(truth.frames[number]) for number in by_hand])
    row: dict[str, Any] = {
        "off_hand": share(told["people"].to_numpy()[by_hand], people),
        "entries": int(told["entries"].iloc[-1]),
        "exits": int(told["exits"].iloc[-1]),
    }
    if (best := reference(s)) is not None and len(best) == len(told):
        zones = [name for name in map(str, told) if name.startswith("in ")]
        dwells = [name for name in map(str, told) if name.startswith("dwell ")]
        row |= {
            "off": share(told["people"], best["people"]),
            "zones_off": share(told[zones].to_numpy(), best[zones].to_numpy()),
            "queue_off": float(np.abs(told["queue"] - best["queue"]).mean()),
            "dwell_off": share(told[dwells].to_numpy(), best[dwells].to_numpy()),
        }
    return row


def share(found: Any, truth: Any) -> float | None:
    """Mean absolute error as a share of the mean truth."""
    there: NDArray[np.float64] = np.asarray(truth, float)
    return float(np.abs(np.asarray(found, float) - there).sum() / there.sum()) if there.sum() else None


def reference(s: Session) -> pd.DataFrame | None:
    """What the float32 walk over every frame reported, frame by frame."""
    for point in points(s.run, "way"):
        if point["name"] == "in the graph" and point["round"] == 0:
            return series(s.run, point, "frames")
    return None


def waterfall(s: Session, way: str) -> pd.DataFrame:
    """One row a stage of a way that goes frame by frame: ms at p50 and p99, and the budget. The last row is the whole."""
    for point in points(s.run, "way"):
        if point["name"] == way and point["round"] == 0 and not point["facts"]["lanes"]:
            told = series(s.run, point, "frames").iloc[WARM:]
            spans = {stage: told[f"{stage}, µs"] / 1e3 for stage in STAGES}
            rows = [{"stage": stage, **spread(taken), "budget": BUDGET_MS[stage]} for stage, taken in spans.items()]
            return pd.DataFrame([*rows, {"stage": "whole", **spread(sum(spans.values())), "budget": sum(BUDGET_MS.values())}])
    return pd.DataFrame(columns=["stage", "p50", "p99", "budget"])


def spread(ms: Any) -> dict[str, float | int | None]:
    """p50 with its 95 % interval and p99; None where the sample is too small."""
    values = np.asarray(ms, float).tolist()
    middle, tail = stats.median(values), stats.quantile(values, 0.99)
    of_middle = (middle.value, middle.lo, middle.hi) if middle else (None, None, None)
    return {**dict(zip(("p50", "lo", "hi"), of_middle, strict=True)), "p99": tail.value if tail else None, "n": len(values)}


def copies(frame_hw: tuple[int, int], net_hw: tuple[int, int]) -> pd.DataFrame:
    """Bytes that each step writes for one frame, from the shapes alone: as first drafted, in buffers that stay, and in the graph.

    What is written into a buffer that stays is written, but not allocated, and stays in the cache.
    """
    frame, canvas = 3 * frame_hw[0] * frame_hw[1], 3 * net_hw[0] * net_hw[1]
    rows = [
        ("decode: YUV to BGR, uint8", frame, frame, frame),
        ("letterbox, uint8", canvas, canvas, canvas),
        ("channels before pixels, uint8", canvas, canvas, 0),
        ("to float32", 4 * canvas, 0, 0),
        ("divide by 255, float32", 4 * canvas, 4 * canvas, 0),
        ("inside the graph, float32", 0, 0, 4 * canvas),
    ]
    table = pd.DataFrame(rows, columns=["step", "first draft", "vectorised", "in the graph"])
    return pd.concat([table, pd.DataFrame([{"step": "together", **table.iloc[:, 1:].sum()}])], ignore_index=True)


def zone_counts(s: Session, truth: Labels, way: str, floor: Floor) -> pd.DataFrame:
    """People in each zone at every hand-labelled frame: by hand, and as the way reported. Seconds from the clip's begin."""
    found = next((point for point in points(s.run, "way") if point["name"] == way and point["round"] == 0), None)
    if found is None:
        return pd.DataFrame(columns=["zone", "second", "hand", "found"])
    told, state, rows = series(s.run, found, "frames"), FloorState(floor), list[dict[str, Any]]()
    for number in sorted(truth.frames):
        if number >= len(told):
            continue
        people = truth.frames[number]
        by_hand = state.inside(Tracks(np.arange(len(people)), people, np.ones(len(people), np.float32)))
        rows += [{"zone": zone.name, "second": number / FPS, "hand": int(inside.sum()), "found": int(told[f"in {zone.name}"].iloc[number])}
                 for zone, inside in zip(floor.zones, by_hand, strict=True)]  # fmt: skip
    return pd.DataFrame(rows)


def shelf(s: Session) -> pd.DataFrame:
    """Still pictures: what is there by hand, and what the float32 and the INT8 network count."""
    rows: dict[str, dict[str, str]] = {}
    for point in points(s.run, "shelf"):
        for told in point["facts"]["rows"]:
            row = rows.setdefault(told["picture"], {"picture": told["picture"], "by hand": _counts(told["there"])})
            row[f"found, {told['precision']}"] = _counts(told["found"])
    return pd.DataFrame(rows.values())


def _counts(things: dict[str, int]) -> str:
    return ", ".join(f"{many} {name}" for name, many in sorted(things.items())) or "nothing"


def jpeg(s: Session, what: str, series_name: str = "jpegs") -> bytes:
    """A picture that the run kept. Raises LookupError."""
    for point in points(s.run, what):
        return bytes(series(s.run, point, series_name)["jpeg"][0])
    raise LookupError(f"run {s.run.run_id} kept no picture of {what}")


def stood(s: Session, way: str) -> pd.DataFrame:
    """Where everybody stood in every frame of the clip: x and y in pixels."""
    for point in points(s.run, "way"):
        if point["name"] == way and point["round"] == 0:
            return series(s.run, point, "feet")
    return pd.DataFrame(columns=["frame", "id", "x", "y"])
