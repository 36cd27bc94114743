"""What is measured without a network: parity of the engines, the ladder of scoring, bytes to decision by stages, batches and threads,
the price of the history's store and of the log, and MLPerf LoadGen's scenarios.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.measured import Found, keep
from lib.pipelines.fraud import bench, forest, ladder, levels, parity, scenarios, shipped
from lib.pipelines.fraud.bench import Plan
from lib.pipelines.fraud.data import ledger
from lib.pipelines.fraud.journal import Journal
from lib.pipelines.fraud.ladder import Blank, Nowhere
from lib.pipelines.fraud.model import Model
from lib.pipelines.fraud.outcomes import outcome, policies
from lib.pipelines.fraud.pipeline import STAGES, Log, Pipeline
from lib.pipelines.fraud.redis_windows import RedisWindows
from lib.pipelines.fraud.replay import Replay
from lib.pipelines.fraud.session import Session
from lib.pipelines.fraud.verdict import Costs, probability
from lib.pipelines.fraud.windows import Embedded
from lib.progress import Progress

BATCH = 1024
SIZES = (1, 16, 256, BATCH, 16_384)
MICRO = (1, 8, 64, 512)


def model(s: Session) -> None:
    """What scores, and what its verdicts would have cost on the days it has not seen."""
    if s.model is not None:
        keep(s.run, {"what": "model"}, partial(_model, s.model), timed=False)


def parities(s: Session) -> None:
    """Every engine against the native model: all rows of the ledger, and rows fuzzed around every threshold."""
    if s.model is None:
        return
    for step in ladder.SCORING[2:]:
        keep(s.run, {"what": "parity", "step": step.name}, partial(_parity, s.model, step), timed=False)


def steps(s: Session, plan: Plan) -> None:
    """The ladder: the shipped pipeline, its forest elsewhere, then our model engine by engine; one row warm and cold, and batches."""
    if s.model is None:
        return
    rows = sampled(s.model, plan.rows)
    todo = [*shipped.STEPS, *(step.name for step in ladder.SCORING)]
    with Progress(len(todo), "climbing the ladder") as progress:
        for name in shipped.STEPS:
            keep(s.run, {"what": "step", "step": name}, partial(shipped.measured, name, rows=plan.shipped, budget_s=plan.batch_s))
            progress.advance(name)
        for step in ladder.SCORING:
            keep(s.run, {"what": "step", "step": step.name}, partial(_step, s.model, step, rows, plan))
            progress.advance(step.name)


def grids(s: Session, plan: Plan) -> None:
    """Rows a second by batch size and threads, of the engines that can use them."""
    if s.model is None:
        return
    rows = sampled(s.model, max(SIZES) * 2)
    for make in (forest.Native, forest.Onnx, forest.OneDal, forest.Compiled):
        for threads in sorted({1, os.cpu_count() or 1}):
            for size in SIZES if threads == 1 or make is not forest.Compiled else ():  # it runs on the thread that calls
                setting = {"what": "batch", "engine": make.__name__, "threads": threads, "rows": size}
                keep(s.run, setting, partial(_batch, s.model, make, threads, rows, size, plan.batch_s))


def paths(s: Session, plan: Plan) -> None:
    """Bytes to bytes in process, one transaction at a time, from json and pandas to the whole pipeline with its log."""
    if s.model is None:
        return
    bodies = Replay(ledger(), "path").bodies(plan.rows)
    for name, make in ways().items():
        keep(s.run, {"what": "path", "way": name}, partial(_path, s.model, make, bodies, plan))


def stages(s: Session, plan: Plan) -> None:
    """Where the time goes in the pipeline, by batch size and by where the windows are kept."""
    if s.model is None:
        return
    bodies = Replay(ledger(), "stage").bodies(max(plan.rows, 4 * max(MICRO)))
    for store in ("embedded", "redis"):
        for size in MICRO:
            keep(s.run, {"what": "stages", "windows": store, "rows": size}, partial(_stages, s.model, store, size, bodies))
    for durable in (False, True):
        keep(s.run, {"what": "log", "durable": durable}, partial(_log, s.model, durable, bodies[:2_000]))


def loadgen(s: Session, plan: Plan) -> None:
    """MLPerf LoadGen's SingleStream, Server and Offline over the scorer alone, best and shipped."""
    if s.model is None:
        return
    for scenario in scenarios.SCENARIOS:
        for system in ("compiled", "shipped"):
            keep(s.run, {"what": "scenario", "scenario": scenario, "system": system}, partial(_scenario, s.model, scenario, system, plan))


def sampled(model: Model, n: int) -> NDArray[np.float32]:
    """`n` different rows of the ledger, drawn once and for all."""
    rows: NDArray[np.float32] = model.rows()
    return np.ascontiguousarray(rows[np.random.default_rng(0).permutation(len(rows))[:n]])


def ways() -> dict[str, Callable[[Model, Path], Any]]:
    """Bytes to bytes, from the first version to the whole: name → what makes it, given the model and a directory for its log."""

    def whole(scorer: Any, windows: Any, log: Callable[[Path], Log]) -> Callable[[Model, Path], Any]:
        def make(model: Model, place: Path) -> Callable[[bytes], Any]:
            line = Pipeline(model=model, scorer=scorer(model), windows=windows, journal=log(place))
            return lambda body: line.decide((body,))

        return make

    def nowhere(_: Path) -> Log:
        return Nowhere()

    return {
        "json, pandas, LightGBM": lambda model, _: ladder.frames(model),
        "json, NumPy, LightGBM": lambda model, _: ladder.arrays(model),
        "msgspec, struct, LightGBM": whole(forest.Native, lambda _: Blank(), nowhere),
        "msgspec, struct, ONNX Runtime": whole(forest.Onnx, lambda _: Blank(), nowhere),
        "msgspec, struct, compiled": whole(forest.Compiled, lambda _: Blank(), nowhere),
        "… with history": whole(forest.Compiled, Embedded.resumed, nowhere),
        "… with history and log": whole(forest.Compiled, Embedded.resumed, lambda place: Journal(place / "decisions.sqlite")),
    }


def _model(model: Model) -> Found:
    whole, facts, costs = ledger(), model.facts, Costs()
    fitted, known = facts["trained_on"], facts["trained_on"] + facts["calibrated_on"]
    scores = probability(forest.Native(model).margins(np.ascontiguousarray(model.rows())), model.calibration)
    unseen, p = whole[slice(known, None)], scores[known:]
    told = {name: outcome(verdicts, unseen.amount, unseen.fraud, costs) for name, verdicts in policies(p, unseen.amount, costs).items()}
    moved = levels.drift(scores, whole.second, slice(fitted, known))
    return Found(
        {}, {**facts, "version": model.version, "outcomes": told, "costs": asdict(costs), "drift": moved}, {"6 books": split(facts)}
    )


def split(facts: Mapping[str, Any]) -> str | None:
    """Fitting, calibration and judgement share no transaction and leave none out."""
    parts = facts["trained_on"], facts["calibrated_on"], facts["judged_on"]
    if min(parts) > 0 and sum(parts) == facts["transactions"]:
        return None
    return f"parts of {parts} transactions are not the {facts['transactions']} there are"


def _parity(model: Model, step: ladder.Step) -> Found:
    facts = parity.against_native(model, step.make(model))
    flips = facts["flips"] + facts["flips_near_thresholds"]
    return Found({}, facts, {"6 parity": f"{flips} decisions differ from the native model's" if flips else None})


def _step(model: Model, step: ladder.Step, rows: NDArray[np.float32], plan: Plan) -> Found:
    scorer = step.make(model)
    warm = ladder.singles(scorer.margins, rows)
    cold = ladder.cold(scorer.margins, rows[: plan.cold])
    taken = ladder.batches(scorer.margins, rows, size=min(BATCH, len(rows)), budget_s=plan.batch_s)
    return Found(
        {"batch_s": taken},
        {"batch_rows": min(BATCH, len(rows)), "changed": step.changed},
        {},
        {"warm": pd.DataFrame({"ns": warm}), "cold": pd.DataFrame({"ns": cold})},
    )


def _batch(model: Model, make: Callable[..., forest.Scorer], threads: int, rows: NDArray[np.float32], size: int, budget_s: float) -> Found:
    scorer = make(model, threads=threads) if threads > 1 else make(model)
    return Found({"batch_s": ladder.batches(scorer.margins, rows, size=size, budget_s=budget_s)}, {}, {})


def _path(model: Model, make: Callable[[Model, Path], Callable[[bytes], Any]], bodies: list[bytes], plan: Plan) -> Found:
    with tempfile.TemporaryDirectory(prefix="fraud-") as place:
        taken = ladder.each(make(model, Path(place)), bodies, warmup=0)
    return Found({}, {}, {}, {"ns": pd.DataFrame({"ns": taken[len(taken) // 20 :]})})  # the first twentieth warms up


def _stages(model: Model, store: str, size: int, bodies: list[bytes]) -> Found:
    if store == "redis":
        with bench.redis() as url:
            return _staged(model, lambda _: RedisWindows(url), size, bodies)
    return _staged(model, Embedded.resumed, size, bodies)


def _staged(model: Model, windows: Any, size: int, bodies: list[bytes]) -> Found:
    with tempfile.TemporaryDirectory(prefix="fraud-") as place:
        line = Pipeline(model=model, scorer=forest.Compiled(model), windows=windows, journal=Journal(Path(place) / "decisions.sqlite"))
        rows, refused = [], 0
        for start in range(0, len(bodies) - size + 1, size):
            refused += sum(reply.status != 200 for reply in line.decide(bodies[start : start + size]))
            rows.append(line.stamps_ns)
        line.close()
    stamps = np.array(rows)[len(rows) // 20 :]  # the first twentieth warms up
    frame = pd.DataFrame(np.diff(stamps, axis=1).astype(np.int32), columns=list(STAGES))
    whole = stamps[:, -1] - stamps[:, 0]
    adds_up = None if (frame.sum(axis=1).to_numpy() == whole).all() else "stages do not add up to the whole"
    return Found({}, {}, {"6 books": f"{refused} transactions were refused" if refused else None, "1 stages": adds_up}, {"stages": frame})


def _log(model: Model, durable: bool, bodies: list[bytes]) -> Found:
    """What a commit costs; durable waits for the disk, so fewer of them."""
    with tempfile.TemporaryDirectory(prefix="fraud-", dir=model.root.parent) as place:  # a real disk, where /tmp may be memory
        journal = Journal(Path(place) / "decisions.sqlite", durable=durable)
        line = Pipeline(model=model, scorer=forest.Compiled(model), windows=Embedded.resumed, journal=journal)
        taken = []
        for body in bodies[:300] if durable else bodies:
            line.decide((body,))
            taken.append(line.spent_ns()["log"] / 1e9)
        line.close()
    return Found({"commit_s": taken}, {}, {})


def _scenario(model: Model, scenario: str, system: str, plan: Plan) -> Found:
    if system == "shipped":
        return shipped.scenario(scenario, seconds=plan.scenario_s)
    rows = sampled(model, plan.rows)
    return scenarios.measured(scenario, forest.Compiled(model).margins, rows, seconds=plan.scenario_s)
