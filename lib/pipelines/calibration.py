"""Can the load client be trusted at this rate? Measured against a server that does nothing (noop.py), on this machine, beside the results.

What remains of a latency here is loopback, the kernel's scheduling and the client itself: the floor below which this client sees nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib import process, stats
from lib.pipelines import arrivals
from lib.pipelines.caller import Caller, Calls

REQUEST = b"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 600\r\n\r\n" + b" " * 600


def calibrate(rates_per_s: Sequence[float], *, logs: Path, seconds: float = 2.0, server: Sequence[int] | None = (0,),
              client: Sequence[int] | None = (1,), seed: int = 0) -> pd.DataFrame:
    """One row a rate (Poisson, `seconds` each) and a first one for the closed loop at 64 streams (rate NaN).

    Columns: rate_per_s asked for; achieved_per_s (answered ÷ wall); lag_p99_s; latency_p50_s and latency_p99_s from due; cpu_s of the
    client, a request; n; unanswered. `server` and `client` are processor cores. Raises process.Died, OSError.
    """
    serve = process.running(lambda port: (sys.executable, "-m", "lib.pipelines.noop", str(port)), name="noop", logs=logs, cores=server)
    with serve as noop, Caller(cores=client) as caller:
        caller.closed(noop.port, [REQUEST], 16, 0.3)  # first touch
        rows = [_row(None, caller.closed(noop.port, [REQUEST], 64, seconds))]
        for rate in rates_per_s:
            n = max(1, round(rate * seconds))
            rows.append(_row(rate, caller.run(noop.port, [REQUEST] * n, arrivals.poisson(rate, n, seed=seed))))
    return pd.DataFrame(rows)


def _row(rate: float | None, calls: Calls) -> dict[str, float | int | None]:
    latency_s, answered = calls.latency_s, int((calls.status == 200).sum())
    return {"rate_per_s": rate, "achieved_per_s": answered / calls.wall_s, "lag_p99_s": _quantile(calls.lag_s, 0.99),
            "latency_p50_s": _quantile(latency_s, 0.5), "latency_p99_s": _quantile(latency_s, 0.99),
            "cpu_s": calls.cpu_s / len(latency_s), "n": len(latency_s), "unanswered": len(latency_s) - answered}


def _quantile(samples: np.ndarray, q: float) -> float | None:
    return None if (told := stats.quantile(samples.tolist(), q)) is None else told.value


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as logs:
        print(calibrate([1000, 2000, 10_000, 20_000, 45_000, 60_000], logs=Path(logs)).to_string(index=False))
