"""What others have published, with model, precision, load and source. Never a ratio with a number of ours."""

from __future__ import annotations

import pandas as pd

from lib.home import PUBLISHED


def latency() -> pd.DataFrame:
    """Published single-stream and serving figures, one row each, as text, as published."""
    return pd.read_csv(PUBLISHED / "llm.csv", dtype=str, keep_default_na=False)
