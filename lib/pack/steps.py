"""What the steps of a plan do: ceilings, the client's own error, servers under load, a network on batches. Each point is written at once.

Servers are started, asked, weighed and read by the project's straight way (lib/llm/cell.py). Refuses nothing itself: a form that cannot be
written, an engine that is not here or does not come up, a point that does not fit the time left are rows with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lib import audit, clock, machine, measured, record
from lib.child import Say
from lib.llm import bench, calibration, footprint, synthetic
from lib.llm.cell import cell, held
from lib.llm.client import Client
from lib.llm.contender import ENGINES, Contender
from lib.llm.engines.engine import Spec, Unavailable
from lib.llm.engines.server import Server, serving
from lib.llm.session import Session, limits, weigh
from lib.llm.weights import NotReady
from lib.llm.workload import corpus
from lib.pack import pictures
from lib.pack.plan import Ask, Step, fitting
from lib.process import Died

Left = Callable[[], float]
GROW_S = 60.0  # a server may take so much longer to start than was planned, where the box has it
COPY_BYTES = 2**30


def rival(step: Step) -> Contender:
    return Contender(ENGINES[step.engine], step.precision, options=step.options)


def setting(step: Step, ask: Ask) -> dict[str, record.Scalar]:
    """What a point of the plan is called in the record."""
    if step.does == "serve" and ask.work is not None and ask.load is not None:
        return bench.setting_of(rival(step), bench.Trial(ask.work, ask.load), 0)
    return {"what": step.name, "form": ask.form}


def context(step: Step) -> int:
    """Tokens that a step's server has room for in each slot."""
    return -(-max(ask.work.context for ask in step.asks if ask.work) // 256) * 256


def skip(run: record.Run, step: Step, asks: tuple[Ask, ...], reason: str, status: record.Status = "skipped") -> None:
    """A row for each of `asks` that the run does not hold."""
    for ask in asks:
        if run.measured(setting(step, ask)) is None:
            run.add(record.Point(setting(step, ask), status, reason))


def do(s: Session, step: Step, *, shape: str, left_s: Left, say: Say) -> None:
    """The points of `step` that the run does not hold yet and that fit."""
    todo = [ask for ask in step.asks if s.run.measured(setting(step, ask)) is None]
    if not todo:
        return
    if step.does == "serve":
        _serve(s, step, todo, shape=shape, left_s=left_s, say=say)
        return
    for ask, lacks in fitting(step, left_s):
        if ask not in todo:
            continue
        say(f"{step.name}: {ask.name}")
        if lacks:
            skip(s.run, step, (ask,), lacks)
        elif step.does == "ceilings":
            measured.keep(s.run, setting(step, ask), partial(_ceiling, s, ask), timed=False)
            _give_back(s.device)
        elif step.does == "client":
            measured.keep(s.run, setting(step, ask), partial(_client, s), timed=False)
        else:
            measured.keep(s.run, setting(step, ask), partial(pictures.swept, s.device, ask.form, ask.seconds, most_s=left_s()))


def _ceiling(s: Session, ask: Ask) -> measured.Found:
    """The machine's limits as every notebook has them, and two that a GPU has beside them."""
    import torch

    budget_s = ask.seconds / 10
    if ask.form == "limits":
        limits(s.run, device=s.device, budget_s=budget_s)
        if reason := _unheld(s):
            raise measured.Broke(reason)  # a second call tries again
        return measured.Found({}, {"budget_s": budget_s}, {"repeats": None})
    sync = torch.cuda.synchronize if s.device == "cuda" else None
    if ask.form == "copy":
        source = torch.ones(COPY_BYTES // 4, dtype=torch.float32, device=s.device)
        target = torch.empty_like(source)
        timing = clock.measure(lambda: target.copy_(source), budget_s=budget_s, sync=sync)
        amount, unit = 2 * COPY_BYTES, "B/s"  # read and written
    else:
        if s.device != "cuda":
            raise measured.Skipped("FP8 needs a GPU that multiplies it (sm_89 or newer)")
        n = 8192
        one = torch.ones((), device=s.device)
        a, b = (torch.randn(n, n, device=s.device).to(torch.float8_e4m3fn) for _ in range(2))
        try:
            timing = clock.measure(lambda: torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16),
                                   budget_s=budget_s, sync=sync)
        except RuntimeError as error:
            raise measured.Skipped(f"not supported: {str(error).splitlines()[0]}") from error
        amount, unit = 2 * n**3, "FLOP/s"
    facts = {"rate": amount / min(timing.samples_s), "unit": unit, "amount": amount, "device": s.device}
    return measured.Found({"seconds": list(timing.samples_s)}, facts, {"repeats": audit.repeats(timing.samples_s)})


def _give_back(device: str) -> None:
    """What torch keeps of the card for later would be missing for servers."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def _client(s: Session) -> measured.Found:
    """The client against a server that is exactly on time: its points are the calibration's own."""
    calibration.errors(s.run, streams=(1, 16), rounds=1, waves=1)
    found = [point for point in s.run.points() if point.setting.get("what") == "calibration"]
    if not any(point.status == "ok" for point in found):
        raise measured.Skipped(next((str(point.reason) for point in found), "no calibration"))
    return measured.Found({}, {"points": len(found)}, {"6 books": None})


def _serve(s: Session, step: Step, todo: list[Ask], *, shape: str, left_s: Left, say: Say) -> None:
    who = rival(step)
    try:
        if reason := who.engine.available():
            raise Unavailable(reason)
        model = synthetic.model(shape, (step.form,), say=say)
        weigh(s.run, model)
        spec = Spec(model, step.precision, context=context(step), slots=step.slots, threads=machine.here().threads, device=s.device,
                    options=step.options, extra=who.engine.TELLS)
        if reason := footprint.lacks(who.engine, spec) or _unheld(s):
            raise Unavailable(reason)
        say(f"{step.name}: starting {who.name}")
        patience_s = min(step.start_s + GROW_S, left_s())
        with serving(who.engine, spec, logs=s.run.path / "logs", timeout_s=max(1.0, patience_s)) as server, Client() as client:
            _ask(s, step, todo, server, client, left_s=left_s, say=say)
    except (Unavailable, NotReady, Died) as why:
        status: record.Status = "failed" if isinstance(why, Died) else "skipped"
        s.run.add(record.Point(bench.started(who), status, str(why)))
        skip(s.run, step, tuple(todo), str(why), status)


def _unheld(s: Session) -> str | None:
    """Why points cannot be held against the machine's limits, or None."""
    lacking = [kind for kind in ("read", "matmul") if not any(name.startswith(kind) for name in s.ceilings())]
    return f"no ceiling was measured to hold its points against: {' and '.join(lacking)}" if lacking else None


def _ask(s: Session, step: Step, todo: list[Ask], server: Server, client: Client, *, left_s: Left, say: Say) -> None:
    """A server that is up: what it holds, then point after point. Raises Died, after the row of the point in flight."""
    who, model = rival(step), server.spec.model
    b = held(s, model)
    came = bench.came_up(b, who, server, beside=0)
    told = who.engine.allocated(server.process.log.read_text(errors="replace"), server.spec)
    s.run.add(record.Point(came.setting, came.status, came.reason, came.samples, {**came.facts, "allocated": told}, came.audit))
    text = corpus(model.family.hf)
    for ask, lacks in fitting(step, left_s):
        if ask not in todo or ask.work is None or ask.load is None:
            continue
        say(f"{step.name}: {ask.name}")
        if lacks:
            skip(s.run, step, (ask,), lacks)
            continue
        s.run.add(cell(b, client, server, setting(step, ask), ask.work.asks(text, context=server.spec.context), ask.load))
