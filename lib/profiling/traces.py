"""A pass of each profiled network as a trace file: Perfetto opens it, and TensorBoard's profiler plugin finds it by its name.

Beside it the Python stacks of its operators, folded, as flame-graph tools (speedscope, flamegraph.pl) read them.

    python -m lib.profiling.traces [FOLDER]        from the recorded run, to report/traces; then tensorboard --logdir report/traces
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lib import home
from lib.measured import points, series
from lib.profiling import trace
from lib.profiling.session import Session, session
from lib.session import NothingRecorded

STACKS = "stacks.txt"
NAME = "one.pt.trace.json.gz"  # what torch-tb-profiler looks for; a folder is a run of its


def write(s: Session, folder: Path) -> list[Path]:
    """FOLDER/<network>/one.pt.trace.json.gz of each network that was traced: the pass that took the median time."""
    made = []
    for point in points(s.run, "traced"):
        path = folder / point["network"] / NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        trace.write(json.loads(series(s.run, point, "one")["json"].iloc[0]), path)
        lines = series(s.run, point, "stacks")["line"].tolist()
        path.with_name(STACKS).write_text("\n".join([*lines, ""]), encoding="utf-8")
        made.append(path)
    return made


if __name__ == "__main__":
    to = Path(sys.argv[1]) if len(sys.argv) > 1 else home.REPORT / "traces"
    try:
        for each in write(session("30_profile_layers", profile="quick", mode="recorded"), to):
            print(f"{each.stat().st_size / 1e3:6.0f} kB  {each}")
    except NothingRecorded as reason:
        sys.exit(str(reason))
