"""A sweep of the null server for a grid to measure: real cells, whose audit is not disturbed by whatever else this machine does.

Nodes import it by name (the table of an errand), so what it changes is changed there too, in the process of a cell alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib import audit
from lib.grid import Sweep
from lib.llm import bench, cell
from lib.llm.contender import Contender
from lib.llm.engines import null
from lib.llm.weights import Family
from tests.test_bench import SHAPE, Fake, Tiny

PLAN = bench.Plan((16, 64), 60, 4, 3)  # a cell of four answers takes about two seconds
SLOW = null.Truth(ttft_s=0.02, tpot_s=0.008)


def rivals(*, among: list[str]) -> list[Contender]:
    return [Contender(Fake(truth=SLOW)), Contender(Fake("absent", reason="needs an NVIDIA GPU"))]


def measure(s: Any, rivals: Any, plan: Any) -> object:
    bench.corpus, cell.LAG_BUDGET_S, audit.undisturbed = lambda hf: tuple(range(9000)), 1.0, lambda host, cores: None  # type: ignore[assignment]
    return bench.latency(s, rivals, plan)


SWEEPS = {"99_null": Sweep(rivals, {"smoke": PLAN}, measure, lambda name: Tiny(name, SHAPE, Family(name, Path(), {}, "", "")))}
