"""A forest of one line of C and transactions for it: what it says of one can be computed by hand."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

FOREST = """
void forest_root(double *rows, double *out, int start, int end) {
    for (int i = start; i < end; i++) {
        double sum = 0;
        for (int j = 0; j < 35; j++) sum += (j + 1) * rows[35 * i + j];
        out[i] = sum / 1e5;
    }
}
"""
RNG = np.random.default_rng(0)
BODIES = [json.dumps({"id": f"tx-{i}", "time": 100_000 + i, "amount": i / 100, "v": RNG.normal(size=28).tolist()}).encode()
          for i in range(40)]


def compiled(root: Path) -> Path:
    """The forest as the shared library that every server loads. Skips the test where there is no compiler."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler")
    (root / "forest.c").write_text(FOREST)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", root / "forest.so", root / "forest.c"], check=True)
    return root / "forest.so"
