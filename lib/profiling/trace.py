"""A trace of torch.profiler as a tidy frame: who ran inside whom, for how long, of which that was its own, in which module and pass.

Reads Chrome's trace format (.json, or .json.gz), which Perfetto and TensorBoard read too; writes a smaller one of a single pass. Refuses a
file that was cut off, and one without a whole pass in it: numbers of half a pass are none.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.profiling.words import PASS, SCOPE

COLUMNS = ["name", "kind", "begin_us", "dur_us", "self_us", "parent", "depth", "module", "pass", "shapes"]
KINDS = {"cpu_op": "operator", "user_annotation": "scope"}


class BadTrace(ValueError):
    """A file that is no whole trace; the message says where it ends."""


def read(path: Path) -> pd.DataFrame:
    """COLUMNS, a row an event of the thread that infers, in order of time: operators and scopes, within whole passes.

    `self_us`: without those inside it. `parent`: the row around it, -1 for a pass. `module`: the innermost scope's name, "" outside of all.
    `pass`: counted from 0. Raises BadTrace.
    """
    return tidy(parsed(path))


def tidy(told: Mapping[str, Any]) -> pd.DataFrame:
    """As `read`, of what was parsed already. Raises BadTrace."""
    events = [e for e in told.get("traceEvents", ()) if e.get("ph") == "X" and e.get("cat") in KINDS]
    passes = [e for e in events if e["name"] == PASS]
    if not passes:
        raise BadTrace(f"the trace has no scope {PASS!r}: no whole pass was recorded")
    thread = passes[0]["tid"]
    events = sorted((e for e in events if e["tid"] == thread), key=lambda e: (e["ts"], -e["dur"]))
    rows: list[list[Any]] = []
    open_: list[int] = []
    number = -1
    for e in events:
        begin, end = float(e["ts"]), float(e["ts"]) + float(e["dur"])
        while open_ and rows[open_[-1]][2] + rows[open_[-1]][3] <= begin + 1e-9:
            open_.pop()
        if e["name"] == PASS:
            number, open_ = number + 1, []
        elif not open_:
            continue  # outside of a pass
        parent = open_[-1] if open_ else -1
        scope = e["name"].removeprefix(SCOPE) if e["name"].startswith(SCOPE) else None
        module = scope if scope is not None else (rows[parent][7] if parent >= 0 else "")
        shapes = json.dumps(e.get("args", {}).get("Input Dims", []))
        kind = "pass" if parent < 0 else KINDS[e["cat"]]
        rows.append([e["name"], kind, begin, end - begin, end - begin, parent, len(open_), module, number, shapes])
        if parent >= 0:
            rows[parent][4] -= end - begin
        open_.append(len(rows) - 1)
    return pd.DataFrame(rows, columns=COLUMNS)


def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Several traces as one: passes are counted on, rows point at the same rows."""
    told, rows, passes = list[pd.DataFrame](), 0, 0
    for frame in frames:
        parent = frame["parent"].where(frame["parent"] < 0, frame["parent"] + rows)
        told.append(frame.assign(parent=parent, **{"pass": frame["pass"] + passes}))
        rows, passes = rows + len(frame), passes + int(frame["pass"].max()) + 1
    return pd.concat(told, ignore_index=True)


def modules(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a module and pass: `whole_us` of its scope, `own_us` of operators and glue directly in it, `operators` in it, `order`."""
    scopes = frame[(frame["kind"] == "scope") & frame["name"].str.startswith(SCOPE)]
    own = frame[frame["kind"] != "pass"].groupby(["pass", "module"])["self_us"].sum()
    count = frame[frame["kind"] == "operator"].groupby(["pass", "module"]).size()
    told = scopes.groupby(["pass", "module"], sort=False)["dur_us"].sum().rename("whole_us").to_frame()
    told = told.assign(own_us=own, operators=count).fillna({"own_us": 0.0, "operators": 0})
    return told.assign(order=np.arange(len(told))).reset_index()


def leaves(frame: pd.DataFrame) -> pd.DataFrame:
    """The operators that PyTorch was asked for, not those that they call: the outermost in their module, with all they took.

    The rest of a pass is what its caller does between them: Python, scopes, dispatch.
    """
    inside = frame["parent"].map(frame["kind"]).fillna("pass")
    return frame[(frame["kind"] == "operator") & (inside != "operator")]


def one_pass(told: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The trace of a single pass, times from its beginning: small enough to be committed, and Perfetto still opens it. Raises BadTrace."""
    passes = sorted((e for e in told.get("traceEvents", ()) if e.get("name") == PASS and e.get("ph") == "X"), key=lambda e: e["ts"])
    if number >= len(passes):
        raise BadTrace(f"there is no pass {number}; the trace has {len(passes)}")
    begin, end, thread = passes[number]["ts"], passes[number]["ts"] + passes[number]["dur"], passes[number]["tid"]
    kept = [{"ph": "X", "cat": e["cat"], "name": e["name"], "pid": 1, "tid": 1, "ts": round(e["ts"] - begin, 3), "dur": e["dur"],
             "args": {key: e["args"][key] for key in ("Input Dims",) if key in e.get("args", {})}}
            for e in told["traceEvents"] if e.get("ph") == "X" and e.get("cat") in KINDS and e["tid"] == thread
            and begin <= e["ts"] and e["ts"] + e["dur"] <= end]  # fmt: skip
    return {"schemaVersion": 1, "displayTimeUnit": "ms", "traceEvents": sorted(kept, key=lambda e: (e["ts"], -e["dur"]))}


def write(told: Mapping[str, Any], path: Path) -> None:
    """In gzip, the same bytes for the same trace."""
    path.write_bytes(gzip.compress(json.dumps(told, separators=(",", ":")).encode(), mtime=0))


def parsed(path: Path) -> dict[str, Any]:
    """A trace as it was written, plain or in gzip. Raises BadTrace where it is cut off or no trace."""
    whole = path.read_bytes()
    try:
        text = gzip.decompress(whole) if whole[:2] == b"\x1f\x8b" else whole
        told = json.loads(text)
    except (EOFError, zlib.error, gzip.BadGzipFile) as reason:
        raise BadTrace(f"{path.name} is cut off after {len(whole):,} bytes: its gzip has no end ({reason})") from reason
    except ValueError as reason:
        raise BadTrace(f"{path.name} is cut off or no trace: {reason}") from reason
    if not isinstance(told, dict) or not isinstance(told.get("traceEvents"), list):
        raise BadTrace(f"{path.name} is JSON, and no trace: it has no list traceEvents")
    return told
