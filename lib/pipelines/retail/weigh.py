"""What a variant of the network weighs, in a process that holds nothing else: `python -m lib.pipelines.retail.weigh NAME` prints JSON."""

from __future__ import annotations

import json
import sys

import numpy as np
import psutil

from lib.pipelines.retail import ladder, walk
from lib.pipelines.retail.session import shop


def weighed(name: str) -> dict[str, int]:
    """Bytes resident before the detector is made, after it, and after five inferences. Raises what making it raises."""
    watched, variant, process = shop(), ladder.named(name), psutil.Process()
    before = process.memory_info().rss
    made = variant.detector(watched)
    after = process.memory_info().rss
    prepare, canvas = walk.preparing(made), np.zeros((1, *made.net_hw, 3), np.uint8)
    for _ in range(5):
        made.infer(prepare(canvas))
    return {"before_bytes": before, "made_bytes": after, "used_bytes": process.memory_info().rss}


if __name__ == "__main__":
    print(json.dumps(weighed(sys.argv[1])))
