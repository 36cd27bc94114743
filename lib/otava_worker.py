"""Apache Otava in the environment that it wants, looking for changes in many series at once for otava.py.

A script for that environment's Python: `otava_worker.py JOB ANSWER`. JOB is JSON: "least", the smallest change that counts (a share), and
"series", each with its "values" and a "ladder" of p from lenient to strict. ANSWER is a list a series: for each rung at which Otava finds
anything, what it finds; it goes no further down than that. It refuses nothing: what may be asked is decided by who asks.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from otava.analysis import compute_change_points  # type: ignore[import-not-found]


def found(values: list[float], ladder: list[float], least: float) -> list[list[dict[str, Any]]]:
    """What Otava finds at each rung, as far down as it finds anything. It wants a list: of an array it does not cut its windows out."""
    told = []
    for p in ladder:
        points, _ = compute_change_points(list(values), max_pvalue=p, min_magnitude=least)
        if not points:
            break
        told.append([{"at": int(point.index), "before": float(point.stats.mean_1), "after": float(point.stats.mean_2),
                      "p": float(point.stats.pvalue)} for point in points])  # fmt: skip
    return told


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # SciPy's, where both sides of a step do not vary at all
    job = json.loads(Path(sys.argv[1]).read_text())
    answer = [found(one["values"], one["ladder"], job["least"]) for one in job["series"]]
    Path(sys.argv[2]).write_text(json.dumps(answer))
