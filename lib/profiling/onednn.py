"""What oneDNN says it did (ONEDNN_VERBOSE=profile_exec), as a frame: a row a primitive with its time, shape, implementation.

It speaks of its own primitives alone. What PyTorch computes without it (batch norms, additions, pooling, dispatch) is in no line, so its
sum is always less than the pass. Refuses lines whose template it does not know: fields would be taken for others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from lib.profiling.words import END, PASS

COLUMNS = ["pass", "primitive", "implementation", "memory", "problem", "us"]
TEMPLATE = ["operation", "engine", "primitive", "implementation", "prop_kind", "memory_descriptors", "attributes", "auxiliary",
            "problem_desc", "exec_time"]  # fmt: skip
_PROBLEM = re.compile(r"(mb|ic|oc|ih|oh|kh|sh|dh|ph|iw|ow|kw|sw|dw|pw|g)(\d+)")


class BadVerbose(ValueError):
    """Lines that are not oneDNN's, or not as this reader knows them."""


def read(lines: Iterable[str]) -> pd.DataFrame:
    """COLUMNS, of the passes between the worker's marks, in the order in which they were done. Raises BadVerbose."""
    rows, number, known = [], -1, False
    for line in lines:
        line = line.strip()
        if line == PASS:
            number += 1
        elif line == END:
            break
        elif "primitive,info,template:" in line:
            told = line.partition("template:")[2].split(",")
            if told != TEMPLATE:
                raise BadVerbose(f"oneDNN's lines have other fields than {', '.join(TEMPLATE)}: {', '.join(told)}")
            known = True
        elif line.startswith("onednn_verbose,") and ",primitive,exec," in line and number >= 0:
            fields = line.split(",primitive,exec,")[1].split(",")
            if len(fields) != len(TEMPLATE) - 1:
                raise BadVerbose(f"a line has {len(fields)} fields, not {len(TEMPLATE) - 1}: {line[:160]}")
            _, primitive, implementation, _, memory, _, _, problem, ms = fields
            rows.append([number, primitive, implementation, memory, problem, float(ms) * 1e3])
    if number < 0 or not known:
        raise BadVerbose("there is no pass in what was said" if known else "oneDNN said nothing: PyTorch runs without it")
    return pd.DataFrame(rows, columns=COLUMNS)


def convolution(problem: str) -> dict[str, int]:
    """The sizes of a convolution's problem: mb, ic, oc, ih, oh, kh, sh, … ("g" for groups, 1 unless told). Raises BadVerbose."""
    found = {name: int(value) for name, value in _PROBLEM.findall(problem)}
    if not {"mb", "ic", "oc", "oh", "ow", "kh", "kw"} <= found.keys():
        raise BadVerbose(f"no convolution: {problem}")
    return {"g": 1, **found}


def macs(problem: str) -> int:
    """Multiply-adds of a convolution's problem."""
    at = convolution(problem)
    return at["mb"] * at["oc"] * at["oh"] * at["ow"] * at["ic"] // at["g"] * at["kh"] * at["kw"]


def sums(frame: pd.DataFrame) -> pd.DataFrame:
    """primitive, a pass's median number and µs, the most used implementation."""
    by = frame.groupby(["pass", "primitive"])["us"].agg(["size", "sum"]).reset_index()
    told = by.groupby("primitive")[["size", "sum"]].median()
    most = frame.groupby("primitive")["implementation"].agg(lambda names: names.value_counts().index[0])
    return told.set_axis(["n", "us"], axis=1).assign(implementation=most).sort_values("us", ascending=False).reset_index()
