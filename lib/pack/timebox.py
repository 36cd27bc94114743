"""A profile of this machine in a box of time: the plan followed, every point in a run of its own, which a second call goes on with.

Refuses a box that is too small for anything. What does not fit, is not here or breaks is a row; no server is left behind, however it ends.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic, sleep

from lib import home, install, session
from lib.child import Say
from lib.llm import contender, synthetic, weights
from lib.llm.session import Session
from lib.pack import plan, steps
from lib.pack.manifest import Refused
from lib.pack.plan import Step
from lib.pack.stand import LOCK

NOTEBOOK = "40_gpu"
MEANWHILE = ("bf16", "f16")  # what the steps that are wanted most load, 16 GB each at the shape of 8b
RESERVE_S = 15.0  # of the box, for what ends a server and packs what was recorded


def record(*, minutes: float, shape: str, dry: bool = False, only: Sequence[str] = (), say: Say = print) -> Session:
    """Follow the plan for `minutes`. `dry`: the small one. Raises Refused."""
    ends = monotonic() + 60 * minutes - min(RESERVE_S, 6 * minutes)
    chosen = [step for step in (plan.DRY if dry else plan.BIG) if not only or step.name in only]
    if strange := sorted(set(only) - {step.name for step in chosen}):
        raise Refused(f"no step {strange[0]!r}; there are: {', '.join(step.name for step in (plan.DRY if dry else plan.BIG))}")

    def left_s() -> float:
        return ends - monotonic()

    try:
        plan.check(chosen, left_s())
    except ValueError as reason:
        raise Refused(str(reason)) from reason
    built(left_s, forms=[step.form for step in chosen if step.does == "serve"], shape=shape, say=say)
    say(f"the whole plan takes about {plan.total_s(chosen) / 60:.0f} min, the box is {minutes:g} min")
    s = opened(shape, dry=dry, say=say)

    def do(step: Step) -> None:
        steps.do(s, step, shape=shape, left_s=left_s, say=say)

    with over(left_s() + RESERVE_S):
        plan.follow(chosen, left_s=left_s, do=do, skip=lambda step, asks, reason: steps.skip(s.run, step, tuple(asks), reason))
    points = s.run.points()
    for point in points:
        if point.status != "ok":
            say(f"{point.status}: {point.key}: {point.reason}")
    say(f"{len(points)} points, {sum(point.status == 'ok' for point in points)} of them ok: run {s.run.run_id}")
    return s


@contextmanager
def over(seconds: float) -> Iterator[None]:
    """Leave the block by SystemExit after `seconds`, whatever hangs in it; servers end on the way out."""
    def end(*_: object) -> None:
        sys.exit("the box is over, and a point was still in flight; what was measured before it is kept")
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def opened(shape: str, *, dry: bool, say: Say) -> Session:
    """The run that this machine goes on with. No model yet: each step writes the form that it needs."""
    synthetic.shape(shape)  # before anything is begun
    told = session.opened(NOTEBOOK, mode="live", lacks=None, parameters={"shape": shape, "plan": "dry" if dry else "big"},
                          versions=contender.versions())
    if told.here is not None and not told.here.gpus:
        say(f"{told.here.gpu_status}; the processor is measured")
    return Session(told, None)


def built(left_s: Callable[[], float], *, forms: Sequence[str] = (), shape: str = "tiny", say: Say) -> None:
    """Wait for a build that unpacking left, for it would disturb whatever is measured; half of the box at most.

    Meanwhile the first checkpoints are written, of `forms` those that need none of what is built.
    """
    lock, until = home.cache() / "brought" / "llamacpp" / LOCK, monotonic() + left_s() / 2
    todo = [form for form in dict.fromkeys(forms) if form in MEANWHILE]
    said = False
    while lock.exists() and isinstance(install.find("llamacpp"), install.Missing) and not lock.with_name("failed.json").exists():
        if monotonic() > until:
            say("llama.cpp is still being built; what is measured meanwhile is disturbed, and its audit will say so")
            return
        if not said:
            say("llama.cpp is being built; waiting for it")
            said = True
        if todo:
            with suppress(weights.NotReady):  # its own step says why
                synthetic.model(shape, todo[:1], say=say)
            del todo[0]
        else:
            sleep(1)
