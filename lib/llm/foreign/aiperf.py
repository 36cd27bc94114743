"""profile_export_aiperf.json, AIPerf's export of one load, so that what reads its runs reads ours.

Statistics are by its definitions: the first event counts for one token, only requests that succeeded count, a list of gaps is pooled.
Refuses nothing but lengths that nobody knows; that no AIPerf measured this is said in `run_info`, and `aiperf_version` is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from lib.llm.foreign.benchmark import Benchmark, gaps_s, length, steps_s

SCHEMA = "1.4"  # schema_version of AIPerf 0.13.0
QUANTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


def written(b: Benchmark, *, label: str) -> dict[str, Any]:
    """The export of one load. Raises Inexpressible."""
    good, wall_s = b.good, b.wall_s
    lengths, prompts, steps = [length(a) for a in good], [a.prompt_tokens or 0 for a in good], steps_s(good)
    errors = Counter(a.error or "no token came" for a in b.answers if a.error or not a.stamps_s)
    spread: dict[str, tuple[str, Sequence[float]]] = {
        "time_to_first_token": ("ms", [a.stamps_s[0] * 1e3 for a in good]),
        "time_to_second_token": ("ms", [(a.stamps_s[1] - a.stamps_s[0]) * 1e3 for a in good if len(a.stamps_s) > 1]),
        "request_latency": ("ms", [a.stamps_s[-1] * 1e3 for a in good]),
        "inter_token_latency": ("ms", [step * 1e3 for step in steps]),
        "inter_chunk_latency": ("ms", [gap * 1e3 for gap in gaps_s(good)]),
        "output_token_throughput_per_user": ("tokens/sec/user", [1 / step for step in steps if step]),
        "output_sequence_length": ("tokens", lengths), "output_token_count": ("tokens", lengths),
        "input_sequence_length": ("tokens", prompts),
    }  # fmt: skip
    single = {
        "request_throughput": ("requests/sec", len(good) / wall_s), "output_token_throughput": ("tokens/sec", sum(lengths) / wall_s),
        "request_count": ("requests", len(good)), "total_output_tokens": ("tokens", sum(lengths)), "total_osl": ("tokens", sum(lengths)),
        "total_isl": ("tokens", sum(prompts)), "benchmark_duration": ("sec", wall_s),
        **({"error_request_count": ("requests", errors.total())} if errors else {}),
    }  # fmt: skip
    return {
        "schema_version": SCHEMA, **({"benchmark_id": b.run_id} if b.run_id else {}),
        **{tag: _spread(unit, values) for tag, (unit, values) in spread.items() if values},
        **{tag: {"unit": unit, "avg": float(value)} for tag, (unit, value) in single.items()},
        "run_info": {**({"benchmark_id": b.run_id} if b.run_id else {}), "run_label": label, "variation_values": dict(b.setting),
                     "cli_command": "python -m lib.llm.export"},
        "was_cancelled": False,
        "error_summary": [{"error_details": {"message": message}, "count": n} for message, n in errors.items()],
    }  # fmt: skip


def _spread(unit: str, values: Sequence[float]) -> dict[str, Any]:
    return {"unit": unit, "avg": float(np.mean(values)), **{f"p{q}": float(np.percentile(values, q)) for q in QUANTILES},
            "min": min(values), "max": max(values), "std": float(np.std(values)), "count": len(values), "sum": sum(values)}
