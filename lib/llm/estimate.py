"""How long a plan will take, before it starts: from the bytes and FLOPs its requests must cost here, and what starting an engine takes.

An estimate, never a result: it is printed and forgotten. Refuses nothing; what is unknown is left out of the sum.
"""

from __future__ import annotations

from collections.abc import Sequence

from lib.llm.load import Load, Open, Replay
from lib.llm.model import Shape
from lib.llm.session import Session
from lib.llm.workload import Request
from lib.progress import told

REACHED = 0.2  # of the machine's ceilings, over a whole cell with its ramp and drain
START_S = {"cpu": 15.0, "cuda": 60.0}  # an engine, on average


def seconds(requests: Sequence[Request], load: Load, shape: Shape, *, bandwidth: float, matmul: float) -> float:
    """A cell's time at REACHED of the ceilings; `bandwidth` in B/s, `matmul` in FLOP/s. Open loads last as long as their schedule."""
    prefill_s = sum(shape.prefill_flops(len(one.prompt)) for one in requests) / matmul
    together = min(load.in_flight, len(requests))
    step_s = shape.decode_bytes(2 * shape.parameters, max(len(one.prompt) for one in requests) * together) / bandwidth
    worked_s = (prefill_s + sum(one.output_tokens for one in requests) * step_s / together) / REACHED
    lasts_s = len(requests) / load.rate_per_s if isinstance(load, Open) else load.times_s[-1] if isinstance(load, Replay) else 0.0
    return max(worked_s, lasts_s)


def announce(s: Session, cells: Sequence[tuple[Load, Sequence[Request], int]], *, starts: int) -> None:
    """Print what is about to be measured and for about how long: `cells` as (load, all rounds' requests, rounds)."""
    rates = s.ceilings()
    if not cells or s.model is None:
        return
    bandwidth = max(rate for name, rate in rates.items() if name.startswith("read"))
    matmul = max(rate for name, rate in rates.items() if name.startswith("matmul"))
    total_s = starts * START_S[s.device] + sum(
        seconds(requests[:len(requests) // rounds], load, s.model.shape, bandwidth=bandwidth, matmul=matmul)
        for load, requests, rounds in cells)
    done = sum(p.setting.get("what") == "cell" for p in s.run.points())
    plan = f"{len(cells)} cells to measure ({done} measured before), {starts} engines to start"
    print(f"{s.run.notebook}: {plan}: about {told(total_s)}", flush=True)
