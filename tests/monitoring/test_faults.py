"""Faults are undone whatever happens, controls name no alert, and each witness tells from the requests or the thing itself what it saw."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pandas as pd
import psutil
import pytest
from pytest import approx

from lib import measured
from lib.home import ROOT
from lib.measured import Skipped
from lib.monitoring import config, deploys, faults, leak, services, witness
from lib.monitoring.timing import PRODUCTION
from lib.monitoring.witness import Witness
from tests.monitoring import drilled

SENT = ["service", "due_s", "sent_s", "first_s", "done_s", "status", "tokens", "prompt", "cached"]


class Stand:
    """What a fault asks of a stand; it notes what was asked."""

    def __init__(self, folder: Path, sent: pd.DataFrame | None = None) -> None:
        self.did: list[Any] = []
        self.folder = folder
        self.clip = folder / "clip.mp4"
        self.ports = {"fraud": 8000}
        self.urls = {"gateway": "http://gateway", "node": "http://node", "retail": "http://retail"}
        self.shim = SimpleNamespace(toxic=lambda **toxic: self.did.append(toxic))
        self.load = SimpleNamespace(plan=lambda changes: self.did.append(dict(changes)), requests=self.requests)
        self.prometheus = SimpleNamespace(range=self.range)
        self.process: subprocess.Popen[bytes] | None = None
        self._sent = pd.DataFrame(columns=SENT) if sent is None else sent

    def requests(self, start_s: float, end_s: float) -> pd.DataFrame:
        return self._sent[(self._sent["due_s"] >= start_s) & (self._sent["due_s"] < end_s)]

    def range(self, expr: str, start_s: float, end_s: float, step_s: float) -> pd.DataFrame:
        self.did.append(expr)
        return pd.DataFrame({"t_s": [start_s + 0.1, start_s + 0.2]})

    def pid(self, name: str) -> int:
        assert self.process is not None
        return self.process.pid

    def restart(self, name: str) -> None:
        self.did.append(f"restart {name}")

    def replace(self, name: str, *options: str) -> None:
        self.did.append(f"replace {name}")

    def prepare(self, name: str, *options: str, changed: Any = None) -> None:
        self.did.append((name, options) if changed is None else (name, changed))

    @contextmanager
    def redis_cli(self) -> Iterator[Any]:
        yield SimpleNamespace(execute_command=lambda *words: self.did.append(words))


@pytest.fixture
def stand(tmp_path: Path) -> Any:
    return Stand(tmp_path)


@pytest.fixture
def busy(stand: Any) -> Iterator[Any]:
    """The same with a process that can be killed."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stand.process:
        yield stand
        stand.process.kill()


# --- the list ---


def test_controls_name_no_alert_and_every_alert_that_is_named_is_a_rule() -> None:
    names = [one.name for one in faults.SCENARIOS]
    assert len(set(names)) == len(names)
    rules = {rule["alert"] for group in config.groups(PRODUCTION) for rule in group["rules"] if "alert" in rule}
    for one in faults.SCENARIOS:
        assert set(one.right) <= rules
        assert one.control == one.what.startswith("control: ") == (one.service == "none")
    assert {one.control for one in faults.SCENARIOS} == {True, False}


def test_a_scenario_that_is_not_there_is_refused_with_those_that_are() -> None:
    assert faults.named("idle").name == "idle"
    with pytest.raises(ValueError, match=r"no scenario 'fire'; there are: added latency, .*deploy"):
        faults.named("fire")


# --- done and undone ---


@pytest.mark.parametrize("name", ["added latency", "error burst", "no prediction"])
def test_the_way_to_the_engine_is_clean_again_whatever_happens(stand: Any, name: str) -> None:
    with pytest.raises(RuntimeError, match="the drill broke"), faults.named(name).inject(stand):
        assert len(stand.did) == 1 and stand.did[0]
        raise RuntimeError("the drill broke")
    assert stand.did[1:] == [{}]


@pytest.mark.parametrize("name", ["queue flood", "token jump", "idle", "load step", "bad requests", "too many pictures", "unique prompts"])
def test_the_usual_load_goes_on_whatever_happens(stand: Any, name: str) -> None:
    with pytest.raises(RuntimeError, match="the drill broke"), faults.named(name).inject(stand):
        assert stand.did and stand.did != [dict(faults.USUAL)]
        raise RuntimeError("the drill broke")
    assert stand.did[1:] == [dict(faults.USUAL)]


def test_without_load_nothing_is_sent_and_usual_load_is_even() -> None:
    assert {name: flow["rate"] for name, flow in faults.NO_LOAD.items()} == dict.fromkeys(faults.USUAL, 0.0)
    assert all(flow["rate"] > 0 and flow["even"] for flow in faults.USUAL.values())


def test_the_usual_load_names_all_that_a_fault_may_change() -> None:
    """Else it would not be undone: a plan says what changes, and what it does not name stays."""
    changed: dict[str, set[str]] = {}
    noted = Stand(Path())
    for name in ("token jump", "idle", "load step", "bad requests", "too many pictures", "unique prompts"):
        with faults.named(name).inject(noted):  # type: ignore[arg-type]
            for service, flow in noted.did[-1].items():
                changed.setdefault(service, set()).update(flow)
    assert all(names <= set(faults.USUAL[service]) for service, names in changed.items()) and len(changed) == 3


def test_what_was_killed_comes_back(busy: Any) -> None:
    with faults.named("engine killed").inject(busy):
        assert busy.process.wait(5) == -signal.SIGKILL and busy.did == []
    assert busy.did == ["restart llm"]


def test_what_hangs_goes_on_afterwards(busy: Any) -> None:
    process = psutil.Process(busy.process.pid)

    def state(wanted: str, *, is_it: bool) -> bool:
        until = time.monotonic() + 5
        while (process.status() == wanted) != is_it and time.monotonic() < until:
            time.sleep(0.01)
        return (process.status() == wanted) == is_it

    with faults.named("engine hung").inject(busy):
        assert state(psutil.STATUS_STOPPED, is_it=True)
    assert state(psutil.STATUS_STOPPED, is_it=False) and busy.did == []


def test_the_camera_s_footage_is_cut_off_and_whole_again(stand: Any) -> None:
    stand.clip.write_bytes(b"footage")
    with faults.named("camera lost").inject(stand):
        assert stand.clip.read_bytes() == b""
    assert stand.clip.read_bytes() == b"footage"


def test_cameras_are_switched_on_as_the_service_offers_it_and_off_again(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were on when one was refused, too."""
    room = faults.MORE_CAMERAS

    def put(url: str, *, json: Any, **_: Any) -> httpx.Response:
        assert json == {"source": "own"}
        if fits := len(stand.did) < room:
            stand.did.append(url)
        return httpx.Response(201 if fits else 409, request=httpx.Request("PUT", url))

    def delete(url: str, **_: Any) -> httpx.Response:
        if was_on := url in stand.did:
            stand.did.remove(url)
        return httpx.Response(204 if was_on else 404, request=httpx.Request("DELETE", url))

    monkeypatch.setattr(faults.httpx, "put", put)
    monkeypatch.setattr(faults.httpx, "delete", delete)
    begun_s, until = time.time(), time.monotonic() + 5
    with faults.named("many cameras").inject(stand) as seen:
        while len(stand.did) < room and time.monotonic() < until:
            time.sleep(0.005)
        assert len(set(stand.did)) == room and stand.did[0].startswith("http://retail/v1/cameras/")
        assert isinstance(seen, list) and len(seen) == 1 and begun_s <= seen[0] <= time.time()
    assert stand.did == []
    room = 3
    with pytest.raises(httpx.HTTPStatusError, match="409"), faults.named("many cameras").inject(stand):
        time.sleep(0.05)
    assert stand.did == []


def test_redis_pauses_again_and_again_until_it_is_over(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "GAP_S", -faults.PAUSE_S + 0.005)
    with faults.named("slow dependency").inject(stand):
        until = time.monotonic() + 5
        while len(stand.did) < 3 and time.monotonic() < until:
            time.sleep(0.005)
    told = len(stand.did)
    assert told >= 3 and set(stand.did) == {("CLIENT", "PAUSE", "200", "ALL")}
    time.sleep(0.03)
    assert len(stand.did) == told


def test_what_the_system_refuses_once_is_tried_again() -> None:
    tries: list[float] = []

    def act() -> None:
        tries.append(time.monotonic())
        raise ConnectionError

    with faults._repeated(0.001, act):
        until = time.monotonic() + 5
        while len(tries) < 2 and time.monotonic() < until:
            time.sleep(0.001)
    assert len(tries) >= 2


def test_another_model_has_the_traffic_once_it_is_scraped_and_is_replaced_again(stand: Any) -> None:
    asked_s = time.time()
    with faults.named("wrong version").inject(stand) as seen:
        assert isinstance(seen, list) and len(seen) == 1 and seen[0] == approx(asked_s + 0.1, abs=2)
        assert stand.did == ["replace fraud", f'fraud_model_info{{version="{deploys.WRONG}"}}']
    assert stand.did[2:] == ["replace fraud"]


@pytest.mark.parametrize(("name", "changed"), [
    ("wrong version", {"version": deploys.WRONG}), ("constant scores", {"a": 0.0}), ("deploy", {}),
])  # fmt: skip
def test_a_prepared_model_differs_by_what_is_wrong_and_no_more(stand: Any, monkeypatch: pytest.MonkeyPatch, name: str,
                                                               changed: dict[str, Any]) -> None:  # fmt: skip
    from lib.pipelines.fraud import model

    (root := stand.folder / "model").mkdir()
    (root / "ok.json").write_text(json.dumps({"version": "1", "a": 2.0}))
    (root / "trees.txt").write_text("trees")
    monkeypatch.setattr(model, "load", lambda: SimpleNamespace(root=root))
    faults.named(name).ready(stand)
    faults.named(name).ready(stand)  # in the next round it is there already
    (service, (option, copy)), again = stand.did
    assert (service, option) == ("fraud", "--model") and again == stand.did[0]
    assert json.loads((Path(copy) / "ok.json").read_text()) == {"version": "1", "a": 2.0, **changed}
    assert (Path(copy) / "trees.txt").read_text() == "trees" and json.loads((root / "ok.json").read_text())["version"] == "1"


def test_another_detector_and_one_that_leaks_are_prepared_and_replaced_again(busy: Any) -> None:
    faults.named("wrong retail model").ready(busy)
    with faults.named("wrong retail model").inject(busy):
        pass
    told = f'retail_model_info{{precision="{deploys.WRONG_PRECISION}"}}'
    assert busy.did == [("retail", ("--precision", deploys.WRONG_PRECISION)), "replace retail", told, "replace retail"]


def test_a_leak_begins_once_its_instance_has_the_traffic(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    faults.named("memory leak").ready(stand)
    (service, changed), = stand.did
    whole = services.Program("retail", lambda port: (sys.executable, "-m", "a.service", "--port", str(port)))
    words = changed(whole).argv(7)
    assert (service, words[1:]) == ("retail", ("-m", "lib.monitoring.leak", f"{deploys.LEAK_BYTES_PER_S:g}", "a.service", "--port", "7"))
    waits = "import signal, time; signal.signal(signal.SIGUSR1, lambda *_: print(2, flush=True)); print(1, flush=True); time.sleep(60)"
    monkeypatch.setattr(deploys, "GROWING_S", 0.2)
    with subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE) as stand.process:
        assert stand.process.stdout.readline() == b"1\n"
        with faults.named("memory leak").inject(stand) as seen:
            assert stand.process.stdout.readline() == b"2\n" and isinstance(seen, list) and seen[0] == approx(time.time(), abs=5)
        stand.process.kill()
    assert stand.did[1:] == ["replace retail", "replace retail"]


def test_a_module_runs_as_it_is_and_leaks_when_it_is_told(tmp_path: Path) -> None:
    """Its own words and name, and memory that the kernel counts as its, not before the signal."""
    (tmp_path / "served.py").write_text("import sys, time\nprint(__name__, *sys.argv[1:], flush=True)\ntime.sleep(60)\n")
    words = [sys.executable, "-m", "lib.monitoring.leak", "1e9", "served", "--port", "7"]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None and process.stdout.readline() == "__main__ --port 7\n"
        held = psutil.Process(process.pid).memory_info
        began = held().rss
        time.sleep(0.1)
        assert held().rss - began < 2**24
        process.send_signal(leak.BEGIN)
        until = time.monotonic() + 10
        while held().rss - began < 2**27 and time.monotonic() < until:
            time.sleep(0.01)
        grown = held().rss - began
        process.kill()
    assert grown >= 2**27


def test_a_leak_stops_before_it_hurts_the_machine() -> None:
    assert len(leak.leak(1e12, most_bytes=2 * leak.PIECE)) == 2
    assert leak.leak(1e12, left=1.0) == []


# --- what this machine cannot do ---


def test_without_its_program_processors_are_not_starved(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults.shutil, "which", lambda name: None)
    with pytest.raises(Skipped, match="stress-ng is not installed"), faults.named("processors starved").inject(stand):
        pass


def with_memory(monkeypatch: pytest.MonkeyPatch, total: int, available: int) -> None:
    monkeypatch.setattr(faults.psutil, "virtual_memory", lambda: SimpleNamespace(total=total, available=available))


def test_a_small_machine_s_memory_is_not_filled(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, 2**33, 2**32)
    monkeypatch.setattr(faults, "_filled", lambda _: pytest.fail("memory was filled"))
    with pytest.raises(Skipped, match=r"7% of 8\.0 GiB is too little"):
        faults.named("memory pressure").ready(stand)


def test_memory_that_is_not_to_be_had_in_time_is_not_filled(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, 2**36, 45 * 2**30)
    monkeypatch.setattr(faults, "GRANTED_S", 0.2)
    monkeypatch.setattr(faults, "_filled", lambda _: nullcontext([]))
    with pytest.raises(Skipped, match=r"0\.2 s do not fill 45 GiB"):
        faults.named("memory pressure").ready(stand)


def test_memory_is_filled_down_to_what_is_left_and_given_back(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the real machine some 0.2 GB: so much less than now is to be left. The first time in peace; what was had stays cached."""
    memory = psutil.virtual_memory()
    monkeypatch.setattr(faults, "LOW_MEMORY", (memory.available - 2**27) / memory.total)
    monkeypatch.setattr(faults, "FILLED_TO", (memory.available - 2**28) / memory.total)
    filled, holes, mine = faults.named("memory pressure"), stand.folder / faults.HOLES, psutil.Process()
    filled.ready(stand)
    assert holes.stat().st_size == memory.total and holes.stat().st_blocks * 512 < 2**22, "it takes no room on the disk"
    assert not mine.children(recursive=True)
    with filled.inject(stand) as low:
        until = time.monotonic() + 20
        while not low:
            assert time.monotonic() < until, (stand.folder / "filler.log").read_text()
            time.sleep(0.01)
        assert max(one.memory_info().rss for one in mine.children(recursive=True)) > 2**26
    assert not mine.children(recursive=True)


# --- witnesses ---


def seen(*rows: tuple[Any, ...]) -> Any:
    whole = [(*row, *(None,) * (len(SENT) - len(row))) for row in rows]
    return Stand(Path(), pd.DataFrame(whole, columns=SENT).astype(dict.fromkeys(SENT[1:], float)))


REQUESTS = (
    ("llm", 1.0, 1.0, 1.5, 1.75, 200, 8, 32, 24), ("llm", 2.0, 2.0, 2.95, 2.95, 200, 0, 32, 8), ("llm", 3.0, 3.0, None, 3.5, 500, None),
    ("llm", 4.0, 4.0, None, None, None, None), ("fraud", 1.0, 1.0, None, 1.25, 200, None), ("fraud", 9.0, 9.0, None, 9.01, 200, None),
    ("retail", 1.0, 1.0, None, 1.1, 200, None), ("retail", 2.0, 2.0, None, 2.1, 422, None), ("retail", 3.0, 3.0, None, 3.1, 503, None),
)  # fmt: skip


@pytest.mark.parametrize(("told", "expected"), [
    (witness.failed("llm"), 1 / 3),  # the one under way is not judged
    (witness.failed("fraud"), 0.0), (witness.failed("shop"), None), (witness.failed("retail"), 2 / 3), (witness.invalid("retail"), 1 / 3),
    (witness.cached, 0.5),
    (witness.empty("llm"), 1 / 3), (witness.slow("fraud", 0.1), 1.0), (witness.slow("llm", 0.9), 1 / 3),
    (witness.unanswered("llm"), 0.25), (witness.unanswered("shop"), None),
    (witness.ttft_p50, 0.725), (witness.tokens, 4.0), (witness.waiting, 1.0), (witness.rate, 1.6),
], ids=lambda one: one.what if isinstance(one, Witness) else None)  # fmt: skip
def test_a_witness_counts_what_was_due_in_its_time(told: Witness, expected: float | None) -> None:
    assert told.read(seen(*REQUESTS), 0.0, 5.0) == (None if expected is None else approx(expected))


def test_an_answer_after_the_end_is_none_yet() -> None:
    stand = seen(("llm", 1.0, 1.0, None, 6.0, 200, 8), ("llm", 2.0, 2.0, None, 2.5, 200, 8), ("llm", 4.8, 4.8, None, None, None, None))
    assert witness.unanswered("llm").read(stand, 0.0, 5.0) == 0.5  # who asked just before the end has still time


def test_the_most_under_way_at_a_time() -> None:
    flood = seen(*(("llm", 1.0, 1.0, None, 3.0 + k, 200, 8) for k in range(12)), ("llm", 2.0, 2.0, None, None, None, None))
    assert witness.waiting.read(flood, 0.0, 5.0) == 13 and witness.waiting.read(flood, 3.0, 5.0) == 0
    assert witness.waiting.impact(2.0, 13.0) and not witness.waiting.impact(4.0, 13.0)


@pytest.mark.parametrize(("told", "before", "during"), [
    (witness.failed("llm"), 0.0, 0.1), (witness.empty("llm"), 0.0, 0.5), (witness.tokens, 8.0, 16.0), (witness.rate, 10.0, 8.0),
    (witness.rate, 10.0, 12.0), (witness.memory, 0.5, 0.1), (witness.memory, 0.09, 0.05), (witness.one_score, 0.05, 0.05),
    (witness.camera, 0.0, 0.5), (witness.ttft_p50, 0.1, 0.6), (witness.invalid("fraud"), 0.0, 0.2), (witness.cached, 0.8, 0.4),
    (witness.resident("retail"), 3e8, 5e8), (witness.computes_in("f32"), 0.0, 0.5), (witness.unseen, 0.1, 0.3),
], ids=lambda one: one.what if isinstance(one, Witness) else None)  # fmt: skip
def test_a_little_is_no_impact_and_the_unknown_is_none(told: Witness, before: float, during: float) -> None:
    assert not told.impact(before, during) and not told.impact(None, during) and not told.impact(before, None)


@pytest.mark.parametrize(("told", "before", "during"), [
    (witness.failed("llm"), 0.0, 0.5), (witness.tokens, 8.0, 32.0), (witness.rate, 10.0, 0.0), (witness.rate, 10.0, 13.0),
    (witness.memory, 0.5, 0.07), (witness.one_score, 0.9, 0.025), (witness.camera, 0.0, 1.0), (witness.pressure, 0.2, 0.9),
    (witness.invalid("fraud"), 0.0, 0.5), (witness.cached, 0.75, 0.0), (witness.resident("retail"), 3e8, 9e8),
    (witness.computes_in("f32"), 0.0, 1.0), (witness.unseen, 0.0, 0.7),
], ids=lambda one: one.what if isinstance(one, Witness) else None)  # fmt: skip
def test_a_fault_that_is_felt_is_an_impact(told: Witness, before: float, during: float) -> None:
    assert told.impact(before, during)


def test_scores_are_told_from_the_last_decisions(stand: Any) -> None:
    log = stand.folder / "decisions-8000.sqlite"
    with sqlite3.connect(log) as writer:
        writer.execute("create table decisions (probability real)")
        writer.executemany("insert into decisions values (?)", [(k / 100,) for k in range(witness.LOOKS - 1)])
    assert witness.one_score.read(stand, 0, 0) is None  # too few to say
    with sqlite3.connect(log) as writer:
        writer.execute("insert into decisions values (0.5)")
    assert witness.one_score.read(stand, 0, 0) == 1.0
    with sqlite3.connect(log) as writer:
        writer.executemany("insert into decisions values (?)", [(0.5,)] * witness.LOOKS)
    assert witness.one_score.read(stand, 0, 0) == 1 / witness.LOOKS


def test_things_are_asked_themselves(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = {"cameras": [{"state": "running", "fps": 4.0, "target_fps": 5.0}, {"state": "failed", "fps": 1.0, "target_fps": 5.0},
                           {"state": "ended", "fps": 0.0, "target_fps": 10.0}]}  # fmt: skip
    answers = {"http://gateway/fraud/v1/model": {"model": deploys.WRONG}, "http://gateway/retail/v1/cameras": cameras}

    def get(url: str, **_: Any) -> httpx.Response:
        if url not in answers:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json=answers[url])

    monkeypatch.setattr(witness.httpx, "get", get)
    version = witness.another_version(deploys.WRONG)
    assert (version.read(stand, 0, 0), witness.camera.read(stand, 0, 0), witness.silent("node").read(stand, 0, 0)) == (1.0, 2.0, 1.0)
    assert witness.another_version("other").read(stand, 0, 0) == 0.0 and witness.unseen.read(stand, 0, 0) == 0.75
    answers.clear()
    assert version.read(stand, 0, 0) is None and witness.camera.read(stand, 0, 0) is None
    assert witness.unseen.read(stand, 0, 0) is None
    answers["http://node/metrics"] = {}
    assert witness.silent("node").read(stand, 0, 0) == 0.0


def test_the_retail_service_says_in_what_it_computes(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told = 'retail_model_info{licence="x",precision="int8",version="a"} 1.0\nother{precision="f32"} 1.0\n'
    monkeypatch.setattr(witness.httpx, "get", lambda url, **_: httpx.Response(200, text=told))
    assert witness.computes_in("int8").read(stand, 0, 0) == 1.0 and witness.computes_in("f32").read(stand, 0, 0) == 0.0

    def refused(url: str, **_: Any) -> httpx.Response:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(witness.httpx, "get", refused)
    assert witness.computes_in("f32").read(stand, 0, 0) is None


def test_resident_memory_is_the_kernel_s(busy: Any) -> None:
    known = witness.resident("retail").read(busy, 0, 0)
    assert known == approx(psutil.Process(busy.process.pid).memory_info().rss, rel=0.5)


def test_pressure_is_a_share(stand: Any) -> None:
    found = witness.pressure.read(stand, 0, 0)
    assert found is not None and found >= 0
    if Path("/proc/pressure/cpu").exists():
        assert found <= 1
    known = witness.memory.read(stand, 0, 0)
    assert known is not None and 0 < known < 1


# --- the recorded drill ---


def test_every_recorded_fault_was_seen_by_its_witness() -> None:
    s = drilled.recorded()
    for one in measured.points(s.run, "drill"):
        scenario, facts = faults.named(one["scenario"]), one["facts"]
        assert facts["control"] == scenario.control and facts["right"] == list(scenario.right) and facts["witness"] == scenario.sees.what
        assert scenario.control or scenario.sees.impact(facts["before"], facts["during"]), one["scenario"]


def test_the_recorded_requests_bear_out_those_witnesses_that_read_them() -> None:
    """Asked again of the requests that were kept, by when they were due: what was under way then has ended since, so a few differ."""
    s, tried = drilled.recorded(), 0
    for one in measured.points(s.run, "drill"):
        facts, scenario = one["facts"], faults.named(one["scenario"])
        if scenario.name in ("error burst", "engine killed", "dependency lost"):
            sent = measured.series(s.run, one, "requests").query("service == @scenario.service and status == status")
            during = sent[(sent["due_s"] >= 0) & (sent["due_s"] < facts["cleared_s"])]
            calm = sent[(sent["due_s"] >= facts["calm_s"]) & (sent["due_s"] < facts["asked_s"])]
            assert (during["status"] // 100 != 2).mean() == approx(facts["during"], abs=0.2)
            assert (calm["status"] // 100 != 2).mean() == approx(facts["before"], abs=0.1)
            tried += 1
    assert tried or not list(measured.points(s.run, "drill"))
