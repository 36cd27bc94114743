"""The ledger: what each form of each model costs on one thread, from a process that starts to answers in batches.

Every round of every form is a process of its own on one processor, forms in turn, so that a machine's pace, which changes with the minute,
falls on all of them. The files were read before, so they are in the page cache: a start from a cold disk takes longer. Refuses to time
what is not the file that was built, or does not run as it says.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Timer
from time import perf_counter_ns
from typing import Any

import numpy as np

from lib import home
from lib.child import PR_SET_PDEATHSIG
from lib.measured import Broke, Found, Skipped, keep
from lib.pipelines.cost import ledger_truth
from lib.pipelines.cost.ledger_forms import FOREST, FORMS, MODELS, NET_HW, Form
from lib.pipelines.cost.session import Priced, Session
from lib.pipelines.fraud.model import NotReady as NoForest
from lib.progress import Progress
from lib.vision import classifier, yolo

MOST = 1_000  # samples kept of a window: of more, every so manieth
LATEST_S = 400.0  # a form that has not ended by then never will
UNSEEN_S = 0.05  # the parent wakes up later than the child answers


@dataclass(frozen=True, slots=True)
class LedgerPlan:
    """How much a profile asks of the ledger; times in seconds. `rows` of the forest, every so manieth picture and frame: what is judged.

    `compiled_rounds`: those in which PyTorch is compiled too, each time anew, which takes a minute.
    """

    forms: tuple[Form, ...]
    rounds: int
    compiled_rounds: int
    warm_s: float
    latency_s: float
    batch_s: float
    batches: tuple[int, ...]
    rows: int
    crops_every: int
    frames_every: int


FEW = tuple(form for form in FORMS if form.model in (FOREST, MODELS[-1]) and form.engine not in ("PyTorch compiled", "tl2cgen"))
MOST_FORMS = tuple(form for form in FORMS if form.engine not in ("PyTorch compiled", "tl2cgen")
                   and (form.model, form.name) != (MODELS[-1], "ONNX Runtime INT8, signed"))  # fmt: skip
PLANS = {
    "smoke": LedgerPlan(FEW, 1, 0, 0.05, 0.1, 0.05, (4,), 2_000, 8, 54),
    "quick": LedgerPlan(MOST_FORMS, 3, 0, 0.1, 0.2, 0.05, (4,), 20_000, 2, 27),
    "full": LedgerPlan(FORMS, 5, 3, 0.5, 4.0, 1.0, (4, 8), 56_000, 1, 9),
}
FOREST_BATCHES = {4: 64, 8: 1_024}  # a row is a thousandth of a picture's work


def ledger(s: Session, plan: LedgerPlan) -> None:
    """Every form of the plan, round after round; what a form answers is judged in its first."""
    if s.model is None:
        return
    todo = [(form, turn) for turn in range(plan.rounds) for form in plan.forms
            if (turn < plan.compiled_rounds or form.engine != "PyTorch compiled") and (turn == 0 or form.skip is None)]  # fmt: skip
    left = [(form, turn) for form, turn in todo if s.run.measured({**form.setting, "round": turn}) is None]
    given: dict[str, Given] = {}
    with tempfile.TemporaryDirectory(prefix=".ledger-", dir=home.cache()) as scratch, Progress(len(left), "the ledger") as progress:
        for form, turn in left:
            keep(s.run, {**form.setting, "round": turn}, partial(_measured, s.model, form, plan, turn, given, Path(scratch)))
            progress.advance(f"{form.model}, {form.name}")


@dataclass(frozen=True, slots=True)
class Given:
    """A model's inputs to time on and those to judge by, as files, and what the latter are: frames, photographs."""

    inputs: Path
    judged: Path
    of: tuple[Any, ...]


def _measured(priced: Priced, form: Form, plan: LedgerPlan, turn: int, given: dict[str, Given], scratch: Path) -> Found:
    if form.skip:
        raise Skipped(form.skip)
    try:
        file = form.path(priced)
    except (NoForest, yolo.NotReady, classifier.NotReady) as reason:
        raise Skipped(str(reason)) from reason
    if form.model not in given:
        given[form.model] = inputs(priced, form.model, plan, scratch)
    using, answers = given[form.model], scratch / "answers.npy"
    sizes = tuple(FOREST_BATCHES[size] for size in plan.batches) if form.model == FOREST else plan.batches
    asked = {
        "engine": form.engine, "file": str(file), "net_hw": NET_HW.get(form.model), "precision": form.precision,
        "inputs": str(using.inputs), "warm_s": plan.warm_s, "latency_s": plan.latency_s, "batches": [1, *sizes],
        "batch_s": plan.batch_s, "most": MOST, "judged": None if turn else str(using.judged), "answers": str(answers),
    }  # fmt: skip
    told = in_process(asked, what=f"{form.model}, {form.name}", scratch=scratch)
    batches = {f"batch_{size}_s": taken for size, taken in told["batch_s"].items()}
    kept = {name: told[name] for name in ("answered", "loaded_bytes", "used_bytes", "peak_bytes", "cold_s")}
    facts: dict[str, Any] = {**kept, "kind": form.kind, "engine": form.engine, "precision": form.precision,
                             "file_bytes": weighed(file), "threads": 1, "batches": [1, *sizes]}  # fmt: skip
    checks = {"1 cold": adds_up(told["cold_s"], told["seen_s"]), "4 bits": _bits(priced, form, file),
              "6 file": _as_built(priced, form, file),
              "5 alone": None if told["processors"] == 1 else f"the process had {told['processors']} processors"}  # fmt: skip
    series = None
    if not turn:
        judged = ledger_truth.judged(priced, form, np.load(answers), using.of, using.judged)
        facts, checks, series = {**facts, **judged.facts}, checks | {"6 answers": judged.wrong}, judged.series
    return Found({"latency_s": told["latency_s"], **batches}, facts, checks, series)


def inputs(priced: Priced, model: str, plan: LedgerPlan, scratch: Path) -> Given:
    """What a model is asked, written to `scratch`."""
    name = hashlib.sha256(model.encode()).hexdigest()[:8]
    timed, judged = scratch / f"{name}-timed.npy", scratch / f"{name}-judged.npy"
    shown, of = ledger_truth.shown(priced, model, rows=plan.rows, crops_every=plan.crops_every, frames_every=plan.frames_every)
    np.save(judged, shown)
    np.save(timed, shown[: 4_096 if model == FOREST else 8])
    return Given(timed, judged, of)


def in_process(asked: Mapping[str, Any], *, what: str, scratch: Path, core: int | None = None) -> dict[str, Any]:
    """What ledger_worker.py says to `asked`, on one processor of its own (`core`, else the first that we may use), and two readings more.

    "cold_s": interpreter, import, load and first, in seconds, from the start of the process; "seen_s": until we saw the first answer.
    Raises Skipped where the form cannot run here, Broke when the process ends badly or not at all.
    """
    question, core = scratch / "asked.json", min(os.sched_getaffinity(0)) if core is None else core
    question.write_text(json.dumps(dict(asked)))
    with tempfile.TemporaryDirectory(dir=scratch) as compiled, (scratch / "log").open("w+b") as log:
        env = {**os.environ, "PYTHONPATH": str(home.ROOT), "TORCHINDUCTOR_CACHE_DIR": compiled, "ORT_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-m", "lib.pipelines.cost.ledger_worker", str(question)]
        spawned_ns = perf_counter_ns()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=home.ROOT, env=env,
                              preexec_fn=partial(_alone, core)) as process:  # fmt: skip
            timer = Timer(LATEST_S, process.kill)
            timer.start()
            try:
                assert process.stdout is not None
                early = process.stdout.readline()
                seen_ns = perf_counter_ns()
                late = process.stdout.read()
            finally:
                timer.cancel()
                if process.poll() is None and sys.exc_info()[0] is not None:
                    process.kill()
        log.seek(0)
        last = (log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    if not early or (process.returncode and not late):
        raise Broke(f"{what}: its process ended with status {process.returncode}: {last}")
    first = json.loads(early)
    if "cannot" in first:
        raise (Skipped if first["kind"] in ("WrongDevice", "NotReady", "ImportError", "ModuleNotFoundError") else Broke)(first["cannot"])
    if process.returncode:
        raise Broke(f"{what}: its process ended with status {process.returncode}: {last}")
    return {**json.loads(late), "cold_s": parts(spawned_ns, first["cold_ns"]), "seen_s": (seen_ns - spawned_ns) / 1e9}


def parts(spawned_ns: int, cold_ns: Mapping[str, int]) -> dict[str, float]:
    """Seconds from the start of the process to its first answer, part by part; the making of the first input counts for none of them."""
    return {"interpreter": (cold_ns["started"] - spawned_ns) / 1e9, "import": (cold_ns["imported"] - cold_ns["started"]) / 1e9,
            "load": (cold_ns["loaded"] - cold_ns["imported"]) / 1e9, "first": (cold_ns["answered"] - cold_ns["began"]) / 1e9}  # fmt: skip


def adds_up(cold_s: Mapping[str, float], seen_s: float) -> str | None:
    """The parts, by the child's clock, make up what the parent waited, by its own; the input's making and a wake-up come on top."""
    whole = sum(cold_s.values())
    if min(cold_s.values()) >= 0 and whole - 0.001 <= seen_s <= whole + UNSEEN_S + 0.1 * whole:
        return None
    return f"the parts of the start add up to {whole:.3f} s, its parent waited {seen_s:.3f} s for the first answer"


def weighed(file: Path) -> int:
    """Bytes of a model's file; OpenVINO's is two."""
    return sum(part.stat().st_size for part in ((file, file.with_suffix(".bin")) if file.suffix == ".xml" else (file,)))


def _as_built(priced: Priced, form: Form, file: Path) -> str | None:
    if form.model == FOREST:  # its version is the sum of the trees' text, from which all others were made
        found = hashlib.sha256((file.parent / "model.txt").read_bytes()).hexdigest()[:12]
        return None if found == priced.forest.version else f"model.txt is {found}, the model says that it is {priced.forest.version}"
    told = form.built(priced)
    found = yolo.summed(file)["sha256"]
    return None if told and told["sha256"] == found else f"{file.name} is {found[:12]}, which is not what was built"


def _bits(priced: Priced, form: Form, file: Path) -> str | None:
    """INT8 shows in the file: less than half of float32's bytes."""
    if form.precision != "INT8":
        return None
    full = next(other for other in FORMS if other.model == form.model and other.kind == "onnx").path(priced)
    share = weighed(file) / weighed(full)
    return None if share < 0.5 else f"{file.name} is {share:.0%} of {full.name}: that is not INT8"


def _alone(core: int) -> None:
    os.sched_setaffinity(0, {core})
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
