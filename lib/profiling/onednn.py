"""What oneDNN says it did, as a frame: a row a primitive with its beginning, time, shape, implementation.

It speaks of its own primitives alone, but with a clock (ONEDNN_VERBOSE_TIMESTAMP=1): what PyTorch does without it (batch norms, additions,
pooling, dispatch) lies between two lines, and whether inside an operator or between two is told by their layouts.
Refuses lines whose template it does not know: fields would be taken for others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from lib.profiling.words import END, PASS

COLUMNS = ["pass", "primitive", "implementation", "memory", "problem", "us", "begin_us"]
TEMPLATE = ["timestamp", "operation", "engine", "primitive", "implementation", "prop_kind", "memory_descriptors", "attributes", "auxiliary",
            "problem_desc", "exec_time"]  # fmt: skip
_MARK = re.compile(rf"({PASS}|{END}) (\d+)")
_PROBLEM = re.compile(r"(mb|ic|oc|ih|oh|kh|sh|dh|ph|iw|ow|kw|sw|dw|pw|g)(\d+)")


class BadVerbose(ValueError):
    """Lines that are not oneDNN's, or not as this reader knows them."""


def read(lines: Iterable[str]) -> pd.DataFrame:
    """COLUMNS, of the passes between the worker's marks, in the order in which they were done; begin_us counts from the mark.

    Raises BadVerbose.
    """
    rows, number, began_us, known = list[list[object]](), -1, None, False
    for line in lines:
        line = line.strip()
        if mark := _MARK.fullmatch(line):
            number, began_us = (number + 1, int(mark[2]) / 1e3) if mark[1] == PASS else (number, None)
        elif "primitive,info,template:" in line:
            told = line.partition("template:")[2].split(",")
            if told != TEMPLATE:
                raise BadVerbose(f"oneDNN's lines have other fields than {', '.join(TEMPLATE)}: {', '.join(told)}")
            known = True
        elif line.startswith("onednn_verbose,") and ",primitive,exec," in line and began_us is not None:
            head, _, tail = line.partition(",primitive,exec,")
            fields = [head.rpartition(",")[2], *tail.split(",")]
            if len(fields) != len(TEMPLATE) - 1:
                raise BadVerbose(f"a line has {len(fields)} fields, not {len(TEMPLATE) - 1}: {line[:160]}")
            stamp_ms, _, primitive, implementation, _, memory, _, _, problem, ms = fields
            rows.append([number, primitive, implementation, memory, problem, float(ms) * 1e3, float(stamp_ms) * 1e3 - began_us])
    if number < 0 or not known:
        raise BadVerbose("there is no pass in what was said" if known else "oneDNN said nothing: PyTorch runs without it")
    return pd.DataFrame(rows, columns=COLUMNS)


def calls(frame: pd.DataFrame) -> list[int]:
    """For each primitive the number, in its pass, of PyTorch's operator that called it: a convolution with the reorders around it.

    A reorder from blocks of channels to a plain layout ends the operator before it; any other begins the one after it.
    """
    told, number, last, done = list[int](), -1, None, True
    for one in frame.to_dict("records"):
        if one["pass"] != last:
            number, last, done = -1, one["pass"], True
        ends = one["primitive"] == "reorder" and _blocked(one["memory"], "src") and not _blocked(one["memory"], "dst")
        if done and not (ends and number >= 0):
            number += 1
        told.append(number)
        done = ends or one["primitive"] != "reorder"
    return told


def of_weights(memory: str) -> bool:
    """Whether a reorder's target is a weight's: blocked in its output channels, by oneDNN's capital A."""
    return ":A" in memory.rpartition("dst:")[2]


def _blocked(memory: str, which: str) -> bool:
    """Whether a layout has blocks, which oneDNN writes as capitals: aBcd16b."""
    found = re.search(rf"{which}:[^ ]*?blocked:(\w+)", memory)
    return found is not None and found[1] != found[1].lower()


def convolution(problem: str) -> dict[str, int]:
    """The sizes of a convolution's problem: mb, ic, oc, ih, oh, kh, sh, … ("g" for groups and "sh", 1 unless told). Raises BadVerbose."""
    found = {name: int(value) for name, value in _PROBLEM.findall(problem)}
    if not {"mb", "ic", "oc", "oh", "ow", "kh", "kw"} <= found.keys():
        raise BadVerbose(f"no convolution: {problem}")
    return {"g": 1, "sh": 1, **found}


def sums(frame: pd.DataFrame) -> pd.DataFrame:
    """primitive, a pass's median number and µs, the most used implementation."""
    by = frame.groupby(["pass", "primitive"])["us"].agg(["size", "sum"]).reset_index()
    told = by.groupby("primitive")[["size", "sum"]].median()
    most = frame.groupby("primitive")["implementation"].agg(lambda names: names.value_counts().index[0])
    return told.set_axis(["n", "us"], axis=1).assign(implementation=most).sort_values("us", ascending=False).reset_index()
