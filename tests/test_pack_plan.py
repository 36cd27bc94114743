"""A box of time: what is wanted most comes first, what does not fit says so, nothing overruns, nothing is measured twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import home, install, machine, record, session
from lib.llm import cell, contender, weights
from lib.llm.engines import llamacpp, null
from lib.llm.session import Session
from lib.machine import Machine
from lib.pack import pictures, plan, steps, timebox
from lib.pack.manifest import Refused
from lib.pack.plan import Ask, Step
from lib.profiling import asks
from tests.test_bench import Fake

CPU = Machine("a", 2, 2, (), None, 2**34, None, False, (), "no GPU: a test", "Linux", "3", {})


def quiet(_: str) -> None:
    pass


class Clock:
    """A clock that work moves, and nothing else."""

    def __init__(self, box_s: float) -> None:
        self.now, self.box_s = 0.0, box_s
        self.log = list[str]()

    def left_s(self) -> float:
        return self.box_s - self.now

    def do(self, step: Step) -> None:
        self.now += step.start_s
        for ask, lacks in plan.fitting(step, self.left_s):
            self.log.append(f"{'-' if lacks else '+'}{step.name}.{ask.form}")
            self.now += 0 if lacks else ask.seconds

    def skip(self, step: Step, asks: Iterable[Ask], reason: str) -> None:
        self.log += [f"-{step.name}.{ask.form}" for ask in asks]


def step(name: str, start_s: float, *seconds: float) -> Step:
    return Step(name, "ceilings", start_s, tuple(Ask(s, form=str(i)) for i, s in enumerate(seconds)))


PLAN = (step("a", 10, 5, 5), step("b", 100, 5), step("c", 1, 4, 30, 4))


@pytest.mark.parametrize(("box_s", "log"), [
    (1000, "+a.0 +a.1 +b.0 +c.0 +c.1 +c.2"),
    (30, "+a.0 +a.1 -b.0 +c.0 -c.1 +c.2"),  # a later, smaller one still fits, of steps and of points
    (16, "+a.0 -a.1 -b.0 -c.0 -c.1 -c.2"),
    (5, "-a.0 -a.1 -b.0 +c.0 -c.1 -c.2"),
])  # fmt: skip
def test_the_first_fits_first_and_what_is_skipped_makes_room(box_s: float, log: str) -> None:
    clock = Clock(box_s)
    plan.follow(PLAN, left_s=clock.left_s, do=clock.do, skip=clock.skip)
    assert " ".join(clock.log) == log


@given(st.lists(st.tuples(st.floats(0, 100), st.lists(st.floats(0.1, 100), min_size=1, max_size=5)), min_size=1, max_size=6),
       st.floats(0, 300))
def test_estimates_that_hold_never_overrun_and_every_point_is_told_of_once(told: list[tuple[float, list[float]]], box_s: float) -> None:
    clock, made = Clock(box_s), [step(str(i), start, *seconds) for i, (start, seconds) in enumerate(told)]
    plan.follow(made, left_s=clock.left_s, do=clock.do, skip=clock.skip)
    assert clock.now <= box_s + 1e-6
    assert [line[1:] for line in clock.log] == [f"{one.name}.{ask.form}" for one in made for ask in one.asks]


def test_a_box_too_small_for_anything_says_what_would_be_needed() -> None:
    plan.check(PLAN, 5)
    with pytest.raises(plan.TooSmall, match="a box of 4 s is too small for anything: c takes 5 s"):
        plan.check(PLAN, 4.4)
    with pytest.raises(ValueError, match="without steps"):
        plan.check((), 1)
    with pytest.raises(Refused, match="too small for anything"):
        timebox.record(minutes=0.01, shape="tiny", dry=True, say=quiet)
    with pytest.raises(Refused, match="no step 'trtllm'"):
        timebox.record(minutes=5, shape="tiny", dry=True, only=["trtllm"], say=quiet)


@pytest.mark.parametrize("steps_", [plan.BIG, plan.DRY])
def test_plans_are_sound(steps_: tuple[Step, ...]) -> None:
    assert len({one.name for one in steps_}) == len(steps_) and steps_[0].does == "ceilings", "points are held against ceilings"
    settings = [record.canonical(steps.setting(one, ask)) for one in steps_ for ask in one.asks]
    assert len(set(settings)) == len(settings), "no two points are one"
    for one in steps_:
        for ask in one.asks:
            if ask.load is not None and ask.work is not None:
                assert ask.load.in_flight <= one.slots or one.engine == "vllm", "no slot, no measurement"
                ask.load.check(len(ask.work.asks(tuple(range(200_000)))))


def test_the_big_plan_asks_for_what_is_worth_most_first() -> None:
    wanted = ["ceilings", "vllm", "llamacpp", "llamacpp-q4", "vllm-fp8", "vllm-int4"]
    assert [one.name for one in plan.BIG][: len(wanted)] == wanted
    streams = [ask.load.setting for ask in plan.BIG[1].asks if ask.load]
    assert streams[:5] == [{"streams": n} for n in (1, 4, 16, 64, 256)] and {"wave": 64} in streams


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path / "cache"))
    run = record.begin(timebox.NOTEBOOK, parameters={}, environment=CPU.environment(), root=tmp_path / "runs")
    return Session(session.Opened(run, (), CPU), None)


def rows(s: Session) -> list[tuple[str, str, str | None]]:
    return [(str(point.setting["what"]), point.status, point.reason) for point in s.run.points()]


def far() -> float:
    return 1e6


def test_an_engine_that_is_not_here_is_a_row_for_its_start_and_for_each_point(opened: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "available", lambda: "no llama.cpp: a test")
    one = next(one for one in plan.DRY if one.name == "llamacpp")
    steps.do(opened, one, shape="tiny", left_s=far, say=quiet)
    assert rows(opened) == [("start", "skipped", "no llama.cpp: a test"), *[("cell", "skipped", "no llama.cpp: a test")] * len(one.asks)]


def test_without_ceilings_nothing_is_measured_and_the_row_says_so(opened: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "available", lambda: None)
    monkeypatch.setattr(install, "find", lambda name: install.Missing(name, "no tools: a test"))
    steps.do(opened, next(one for one in plan.DRY if one.name == "llamacpp"), shape="tiny", left_s=far, say=quiet)
    assert "no ceiling was measured to hold its points against: read and matmul" in str(rows(opened)[-1][2])
    steps.do(opened, next(one for one in plan.DRY if one.name == "llamacpp-q4"), shape="tiny", left_s=far, say=quiet)
    assert rows(opened)[-1][2] == "q4_k_m needs llama.cpp's tools: no tools: a test"


def test_ceilings_that_were_not_found_are_looked_for_again(opened: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, found = Step("ceilings", "ceilings", 0, (Ask(1, form="limits"),)), [None, 1e9]

    def ceilings(*, device: str, budget_s: float) -> list[machine.Ceiling]:
        return [machine.Ceiling(name, "", rate, None, 0, "a bad mood") for name, rate in (("read", 1e9), ("matmul", found[0]))]

    monkeypatch.setattr(machine, "ceilings", ceilings)
    for _ in range(3):
        steps.do(opened, asked, shape="tiny", left_s=far, say=quiet)
        told = opened.run.points()[-1] if found[0] is None else opened.run.measured({"what": "ceilings", "form": "limits"})
        assert told is not None and (told.status, told.setting["what"]) == ("ok" if found[0] else "failed", "ceilings"), found
        found = found[1:] or found


def test_what_no_longer_fits_is_a_row_and_a_second_call_tries_it_again(opened: Session) -> None:
    one = step("pictures", 0, 5)
    for _ in range(2):
        steps.skip(opened.run, one, one.asks, "no time left: a test")
    assert rows(opened) == [("pictures", "skipped", "no time left: a test")]
    assert opened.run.measured(steps.setting(one, one.asks[0])) is None, "skipped is not measured"
    opened.run.add(record.Point(steps.setting(one, one.asks[0]), "ok"))
    steps.skip(opened.run, one, one.asks, "no time left: a test")
    assert rows(opened) == [("pictures", "ok", None)], "what was measured stays"


def test_a_processor_has_no_fp8_and_no_graph(opened: Session) -> None:
    steps.do(opened, Step("ceilings", "ceilings", 0, (Ask(1, form="float8"),)), shape="tiny", left_s=far, say=quiet)
    steps.do(opened, Step("pictures", "pictures", 0, (Ask(1, form="cuda graph"),)), shape="tiny", left_s=far, say=quiet)
    assert [(what, status) for what, status, _ in rows(opened)] == [("ceilings", "skipped"), ("pictures", "skipped")]
    assert "FP8 needs a GPU" in str(rows(opened)[0][2]) and "graph needs an NVIDIA GPU" in str(rows(opened)[1][2])


HANGS = """
import sys, time
from lib.pack import timebox

with timebox.over(0.05):
    pass
time.sleep(0.1)  # the alarm is off
began = time.monotonic()
try:
    with timebox.over(0.1):
        try:
            time.sleep(20)
        finally:
            print("ended", time.monotonic() - began < 5)
finally:
    print("out")
"""


def test_whatever_hangs_ends_with_the_box() -> None:
    """In a process of its own: a signal needs the stack that is set aside for it, and native code of other tests may have taken it away."""
    ran = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, cwd=home.ROOT, timeout=60, check=False)
    assert (ran.returncode, ran.stdout.split()) == (1, ["ended", "True", "out"]), ran.stderr
    assert "the box is over" in ran.stderr, "servers end on the way out"


def follows(monkeypatch: pytest.MonkeyPatch, opened: Session, do: Callable[..., None]) -> None:
    monkeypatch.setattr(timebox, "opened", lambda shape, **_: opened)
    monkeypatch.setattr(steps, "do", do)


def test_the_record_follows_the_plan_in_its_order(opened: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    done = list[str]()

    def do(s: Session, one: Step, **more: Any) -> None:
        done.append(one.name)
        assert more["left_s"]() <= 60 * 10

    follows(monkeypatch, opened, do)
    timebox.record(minutes=10, shape="tiny", dry=True, say=quiet)
    assert done == [one.name for one in plan.DRY]
    done.clear()
    timebox.record(minutes=0.75, shape="tiny", dry=True, say=quiet)  # 40 s for a server of vLLM do not fit
    assert "ceilings" in done and "vllm" not in done
    assert any("no time left: needs about 43 s" in str(reason) for _, _, reason in rows(opened))


def test_a_build_that_goes_on_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))
    said = list[str]()
    timebox.built(far, say=said.append)
    assert not said, "nothing is built here"
    place = tmp_path / "brought" / "llamacpp"
    place.mkdir(parents=True)
    (place / "building").touch()
    timebox.built(lambda: 0.0, say=said.append)
    assert "still being built" in said[-1]
    monkeypatch.setattr(timebox, "sleep", lambda _: (place / "ok.json").write_text(json.dumps({"platform": "cpu", "version": "1"})))
    written = list[str]()
    monkeypatch.setattr(timebox.synthetic, "model", lambda shape, forms, say: written.extend(forms))
    timebox.built(far, forms=["bf16", "w4a16", "f16", "bf16"], say=said.append)
    assert said[-1] == "llama.cpp is being built; waiting for it"
    assert written == ["bf16", "f16"], "what is loaded first and needs no tool of what is built is written meanwhile"
    (place / "ok.json").unlink()
    (place / "failed.json").write_text(json.dumps({"reason": "no", "tail": []}))
    timebox.built(far, say=said.append)


def test_a_shape_that_nobody_knows() -> None:
    with pytest.raises(weights.NotReady, match="no shape '70b'"):
        timebox.opened("70b", dry=True, say=quiet)


@pytest.fixture
def ready(opened: Session, monkeypatch: pytest.MonkeyPatch) -> Session:
    """With ceilings far above what the null server does, whatever else runs here."""
    monkeypatch.setattr(cell, "LAG_BUDGET_S", 1.0)
    monkeypatch.setattr(cell.audit, "undisturbed", lambda host, cores: None)
    for name, unit in (("read bandwidth, 1 thread", "B/s"), ("matmul float32", "FLOP/s")):
        facts = {"rate": 1e15, "unit": unit, "amount": 1.0}
        opened.run.add(record.Point({"what": "ceiling", "name": name, "device": "cpu"}, "ok", None, {}, facts, {"repeats": None}))
    return opened


SERVED = Step("server", "serve", 5, (plan.closed(1, 5, prompt=16, output=4), plan.closed(2, 500, prompt=16, output=4)), engine="llamacpp",
              slots=2)  # fmt: skip


@pytest.mark.skipif(null.available() is not None, reason=null.available() or "")
def test_a_server_is_asked_point_after_point_until_the_box_is_full(ready: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Fake()
    monkeypatch.setitem(contender.ENGINES, "llamacpp", engine)
    for _ in range(2):
        steps.do(ready, SERVED, shape="tiny", left_s=lambda: 100.0, say=quiet)
    first, second = (point for point in ready.run.points() if point.setting["what"] == "cell")
    assert (first.status, first.reason, len(first.samples["ttft_s"])) == ("ok", None, 5) and first.audit["1 tpot"] is None
    assert second.status == "skipped" and "needs about 500 s, 100 s are left of the box" in str(second.reason)
    start = next(point for point in ready.run.points() if point.setting["what"] == "start")
    assert start.status == "ok" and start.facts["allocated"] == {} and start.facts["spec"]["slots"] == 2
    model = next(point for point in ready.run.points() if point.setting["what"] == "model")
    assert model.facts["parent"] == "tiny shape, random weights, quality not measured"
    assert len(engine.started) == 2, "a second call starts it for what is missing"
    assert len(engine.asked) == 5, "and measures nothing twice"


@pytest.mark.skipif(null.available() is not None, reason=null.available() or "")
def test_a_server_that_dies_is_a_row_and_the_next_step_goes_on(ready: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contender.ENGINES, "llamacpp", Fake(dies=True))
    steps.do(ready, SERVED, shape="tiny", left_s=far, say=quiet)
    told = [point for point in ready.run.points() if point.setting["what"] in ("start", "cell")]
    assert {point.status for point in told} == {"failed"} and all("no such layer" in str(point.reason) for point in told)


def test_forms_of_a_network_are_swept_as_the_notebook_sweeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def ask(job: str, network: str, **more: Any) -> tuple[dict[str, Any], str]:
        asked.update(more, job=job, network=network)
        rows = [{"batch": 1, "ns": [[2_000_000], [1_000_000]], "peak_bytes": 7}, {"batch": 2, "lacks": "OutOfMemoryError: a test"}]
        return {"rows": rows, "facts": {}}, ""

    monkeypatch.setattr(asks, "ask", ask)
    monkeypatch.setenv("PYTHONPATH", "brought")
    told = pictures.swept("cpu", "channels_last, fp16", 8.0, most_s=20)
    assert told.samples == {"1": [[0.002], [0.001]]} and told.facts["lacks"] == {"2": "OutOfMemoryError: a test"}
    assert told.facts["network"] == "resnet50, random weights" and told.facts["peak_bytes"] == {"1": 7} and told.checks == {"6 books": None}
    assert (asked["job"], asked["network"], asked["variant"], asked["device"]) == ("swept", "resnet50", "channels_last, fp16", "cpu")
    assert asked["timeout_s"] == 20 and asked["budget_s"] * len(asked["batches"]) < 8
    assert asked["env"]["PYTHONPATH"].endswith(":brought")
