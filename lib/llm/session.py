"""A session: the run that a notebook speaks of, on this machine or recorded elsewhere, with its model and its ceilings.

Refuses unknown profiles and modes before anything starts, and never shows a recorded run as if it were this machine's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import pandas as pd

from lib import audit, machine, record
from lib.llm import contender, weights
from lib.llm.model import Model, Shape, load
from lib.session import Opened, checked, opened


@dataclass(frozen=True, slots=True)
class Asked:
    """A cell that a run does not hold yet: its setting, and that of its engine's start."""

    start: Mapping[str, record.Scalar]
    setting: Mapping[str, record.Scalar]


Choose: TypeAlias = Callable[[Sequence[Asked]], Sequence[bool]]


def everything(asked: Sequence[Asked]) -> list[bool]:
    return [True] * len(asked)


@dataclass(frozen=True, slots=True)
class Session:
    """One notebook's measurements: the run that speaks here, of one machine; 90_verdict has what was recorded on every other.

    `model` and `here` are None where nothing is measured (mode "recorded", or no weights): then `run` is a recorded one. `choose`:
    which of the cells that a sweep lacks are measured now (lib/grid.py has them measured one by one elsewhere).
    """

    opened: Opened
    model: Model | None
    choose: Choose = everything

    @property
    def run(self) -> record.Run:
        return self.opened.run

    @property
    def here(self) -> machine.Machine | None:
        return self.opened.here

    @property
    def note(self) -> str | None:
        return self.opened.note

    @property
    def device(self) -> str:
        return "cuda" if self.here and self.here.gpus else "cpu"

    def frame(self) -> pd.DataFrame:
        """All points of the run that speaks, one row each; `origin` says whether it was measured here. No other machine's: no ratio may
        join two.
        """
        return self.run.frame().assign(origin="this run" if self.here else "recorded")

    def ceilings(self) -> dict[str, float]:
        """Measured limits of the run's machine by name: B/s and FLOP/s."""
        return {str(p.setting["name"]): float(p.facts["rate"]) for p in self.run.points()
                if p.setting.get("what") == "ceiling" and p.facts.get("rate")}

    def ceiling_table(self) -> pd.DataFrame:
        """Every limit that was tried: measured rate, published peak where known, the spread of its samples."""
        rows = []
        for p in self.run.points():
            if p.setting.get("what") == "ceiling":
                seconds = p.samples.get("seconds") or []
                rate, unit = p.facts["rate"], p.facts["unit"]
                rows.append({"limit": p.setting["name"], "measured": _rate(rate, unit) if rate else p.reason, "samples": len(seconds),
                             "median ÷ best": sorted(seconds)[len(seconds) // 2] / min(seconds) if seconds else None,
                             "published peak": self._peak(str(p.setting["name"]))})
        return pd.DataFrame(rows)

    def _peak(self, limit: str) -> str:
        gpus = self.run.environment["gpus"]
        known = machine.peak(gpus[0]["name"] if gpus else self.run.environment["cpu"])
        column = "bandwidth_bytes_per_s" if limit.startswith("read") else "bf16_flop_per_s" if "16" in limit else None
        if known is None or column is None:
            return "not known"
        return f"{_rate(float(known[column]), 'B/s' if column.startswith('band') else 'FLOP/s')} ({known['source']})"

    def physics(self, prompt_tokens: Sequence[int]) -> pd.DataFrame:
        """What the model must cost on this machine before anything runs: bytes, FLOPs, and the times they take at the ceilings."""
        shape, rates = self.shape(), self.ceilings()
        matmul = max(rate for name, rate in rates.items() if name.startswith("matmul") and "int" not in name)
        read = max(rate for name, rate in rates.items() if name.startswith("read"))
        rows = []
        for n in prompt_tokens:
            flops, reads = shape.prefill_flops(n), shape.decode_bytes(2 * shape.parameters, n)
            rows.append({"prompt tokens": n, "prefill, GFLOP": flops / 1e9, "TTFT floor, ms": flops / matmul * 1e3,
                         "KV cache, MB": n * shape.kv_bytes_per_token() / 1e6, "bytes a step, MB": reads / 1e6,
                         "TPOT floor, ms": reads / read * 1e3})
        return pd.DataFrame(rows)

    def shape(self) -> Shape:
        """The shape of the model that the run measured."""
        return Shape(**next(p for p in self.run.points() if p.setting.get("what") == "model").facts["shape"])


def session(notebook: str, *, profile: str, mode: str, model: str = "smollm2-135m", fresh: bool = False, **parameters: Any) -> Session:
    """Open the run of `notebook` that this machine continues, or in mode "recorded" the newest one that was recorded.

    "auto" measures what can run here and falls back to recorded runs where there are no weights, saying so in `note`.
    Raises ValueError for an unknown profile or mode, NotReady in mode "live" without weights, NothingRecorded.
    """
    checked(profile, mode)
    loaded, lacks = None, None
    if mode != "recorded":
        try:
            loaded = load(weights.named(model))
        except weights.NotReady as reason:
            if mode == "live":
                raise
            lacks = str(reason)
    told = opened(notebook, mode=mode, lacks=lacks, parameters={"profile": profile, "model": model, **parameters},
                  versions=contender.versions(), fresh=fresh)
    return Session(told, None) if loaded is None else prepared(told, loaded, profile=profile)


def prepared(told: Opened, loaded: Model, *, profile: str, choose: Choose = everything) -> Session:
    """The session over an opened run, once that holds what the model weighs and what the machine can do."""
    if told.here is not None:
        weigh(told.run, loaded)
        limits(told.run, device="cuda" if told.here.gpus else "cpu", budget_s=0.3 if profile == "smoke" else 1.0)
    return Session(told, loaded, choose)


def weigh(run: record.Run, loaded: Model) -> None:
    """Keep what the model is and weighs, once a run."""
    if run.measured({"what": "model"}) is None:
        stored = {form: loaded.weights_bytes(form) for form in ("bf16", *loaded.family.gguf)}
        facts = {"name": loaded.name, "shape": asdict(loaded.shape), "weights_bytes": stored, "parent": loaded.family.parent,
                 "licence": loaded.family.licence}
        weighed = audit.stored_precision(loaded.bits_per_weight("bf16"), "16-bit")
        run.add(record.Point({"what": "model"}, "ok", None, {}, facts, {"4 precision": weighed}))


def limits(run: record.Run, *, device: str, budget_s: float) -> None:
    """Measure the machine's limits, once a run unless it then had none to hold points against, and keep them in it."""
    known = [str(p.setting["name"]) for p in run.points() if p.setting.get("what") == "ceiling" and p.facts.get("rate")]
    if all(any(name.startswith(kind) for name in known) for kind in ("read", "matmul")):
        return
    for one in machine.ceilings(device=device, budget_s=budget_s):
        samples = {"seconds": list(one.timing.samples_s)} if one.timing else {}
        checks = {"repeats": audit.repeats(one.timing.samples_s)} if one.timing else {}
        wrong = next(filter(None, checks.values()), None)
        run.add(record.Point({"what": "ceiling", "name": one.name, "device": device},
                             "invalid" if wrong else "ok" if one.rate else "skipped", wrong or one.reason, samples,
                             {"rate": one.rate, "unit": one.unit, "amount": one.amount}, checks))


def _rate(rate: float, unit: str) -> str:
    return f"{rate / 1e9:,.0f} G{unit}"
