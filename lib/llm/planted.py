"""A planted failure: honest samples with one known mistake put in, to show that the audit sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lib import audit
from lib.llm.model import Shape

MISTAKE = "TPOT halved, as if every event carried two tokens"


def halved_tpot(cell: Mapping[str, Any], shape: Shape, *, bandwidth: float, cache_bytes: float) -> pd.DataFrame:
    """The checks that look at TPOT, on the fastest request of a recorded cell: as measured, and with the planted mistake."""
    samples, facts = cell["samples"], cell["facts"]
    honest = [(tpot, i) for i, tpot in enumerate(samples["tpot_s"]) if tpot is not None][facts["warmup"]:]
    tpot, i = min(honest)
    reads = shape.decode_bytes(facts["weights_bytes"], 0)
    rows = []
    for what, value in (("as measured", tpot), (MISTAKE, tpot / 2)):
        adds = audit.tpot_adds_up(samples["ttft_s"][i], samples["last_s"][i], samples["output_tokens"][i],
                                  samples["first_tokens"][i] or 1, value)
        floor = audit.decode_floor(value, reads, bandwidth, cache_bytes=cache_bytes)
        rows += [{"TPOT": what, "check": "1 · adds up to the answer's time", "verdict": adds or "passes"},
                 {"TPOT": what, "check": "3 · no faster than memory", "verdict": floor or "passes"}]
    return pd.DataFrame(rows)
