"""Machines abreast: what each recorded machine told, in print. Pure."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd


def abreast(told: pd.DataFrame) -> pd.DataFrame:
    """A row a machine (column `machine`, unique) turned into a column a machine: a page is longer than wide. None is unknown."""
    wide = told.set_index("machine").T.map(_printed)
    return wide.rename_axis("what").rename_axis(None, axis=1).reset_index()


def _printed(value: Any) -> str | None:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
