"""The worker for real, on the smallest network: what it says adds up, what it changes it names, and what is not there is told."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from pytest import approx

from lib import install
from lib.measured import Broke, Skipped
from lib.profiling import accounts, asks, layers, networks, onednn, ranking, trace
from lib.profiling.breakdown import VERBOSE


def test_flops_are_two_a_multiply_add_and_nothing_is_left_out() -> None:
    told, _ = asks.ask("counted", "resnet18", threads=1, what="counting")
    table = layers.table(told["layers"])
    assert table["flop"].sum() == told["flops"] == approx(2 * 1.814e9, rel=0.01)  # torchvision's table: 1.81 GMAC, which it calls GFLOPS
    assert told["parameters"] == 11_689_512
    assert set(table["stage"]) == {"stem", "stage 1", "stage 2", "stage 3", "stage 4", "head"}


def test_all_ways_of_looking_speak_of_the_same_layers(tmp_path: Path) -> None:
    told, said = asks.ask("watched", "resnet18", threads=1, what="watching", env=VERBOSE, traces=str(tmp_path / "{}.json"),
                          stacks=str(tmp_path / "stacks"), rounds=2, passes=2, traced=1, warm=1)  # fmt: skip
    frame, plain = (trace.joined([trace.read(tmp_path / f"{way}-{turn}.json") for turn in range(2)]) for way in ("whole", "profiler"))
    assert plain["kind"].tolist().count("scope") == 0 and plain["pass"].nunique() == 4
    took = frame[frame["kind"] == "pass"]["dur_us"].tolist()
    for seen, (ns,) in zip(took, told["ns"]["whole"], strict=True):
        assert seen == approx(ns / 1e3, rel=0.05, abs=100)
    assert frame.groupby("pass")["self_us"].sum().tolist() == approx(took)
    assert {way: [len(turn) for turn in turns] for way, turns in told["ns"].items()} == {
        "bare": [2] * 9, "profiler": [2, 2], "whole": [1, 1], "hooks": [2, 2], "onednn": [2, 2]}  # fmt: skip
    little = told["little"]
    assert {way: len(turns) for way, turns in little["ns"].items()} == {way: len(turns) for way, turns in told["faults"].items()}
    assert statistics.median(little["ns"]["bare"][0]) < 0.7 * statistics.median(told["ns"]["bare"][0]), "a quarter of the pixels"
    assert min(pages for each in (told, little) for turns in each["faults"].values() for pages in turns) >= 0
    assert told["cost_ns"]["page"]["first"] > 2 * told["cost_ns"]["page"]["again"] > 0
    calls = accounts.calls(told["calls"], told["modules"])
    assert [len(each) for each in little["calls"]] == [len(told["calls"][0])] * 4, "the same modules are called"
    outermost = calls[calls["module"] == ""]["whole_us"].tolist()
    for whole_us, ns in zip(outermost, [ns for turn in told["ns"]["hooks"] for ns in turn], strict=True):
        assert whole_us == approx(ns / 1e3, rel=0.05, abs=200) and whole_us <= ns / 1e3
    assert calls.groupby("pass")["own_us"].sum().tolist() == approx(outermost), "what is each module's own is the whole"
    primitives = onednn.read(said.splitlines())
    assert primitives["pass"].nunique() == 8, "of the network's own pictures, and then of little ones"
    primitives = primitives[primitives["pass"] < 4]
    assert (primitives.groupby("pass")["begin_us"].diff().dropna() >= 0).all()
    counted, _ = asks.ask("counted", "resnet18", threads=1, what="counting")
    table = layers.table(counted["layers"])
    timed = layers.timed(table, trace.modules(frame), primitives)
    assert timed["profiler_us"].notna().all() and timed["onednn_us"].notna().sum() == 20
    ranked = ranking.table(table, trace.modules(frame), calls, primitives, {})
    assert len(ranked) == 20 and ranked[[*ranking.EAGER]].notna().all(axis=None) and (ranked[[*ranking.EAGER]] > 0).all(axis=None)


def test_changes_change_what_they_say_and_leave_the_answer() -> None:
    told, said = asks.ask("timed", "resnet18", threads=1, what="changing", env=VERBOSE, rounds=1, passes=2, warm=0, speaks="channels_last",
                          variants=["eager", "folded", "channels_last", "folded, channels_last", "bf16", "upside down",
                                    "without resnet.nothing", "without resnet.encoder.stages.0.layers.1",
                                    "one thread", "batch 2", "seed 1"])  # fmt: skip
    assert set(told["failed"]) == {"upside down", "without resnet.nothing"}
    assert told["failed"]["upside down"] == "KeyError: 'upside down'" and "nothing" in told["failed"]["without resnet.nothing"]
    assert {name: len(taken) for name, (taken,) in told["ns"].items()} == {name: 1 if name == "batch 2" else 2 for name in told["ready_s"]}
    off = {name: one["off"] for name, one in told["answers"].items()}
    assert off["folded"] < 1e-4 and off["folded, channels_last"] < 1e-4 and off["one thread"] < 1e-4 and 1e-4 < off["bf16"] < 0.5
    assert off["without resnet.encoder.stages.0.layers.1"] > off["folded"] and off["seed 1"] > 0.1
    assert "batch 2" not in off and statistics.median(told["ns"]["eager"][0]) > 0
    frame = onednn.read(said.splitlines())
    assert frame["pass"].nunique() == 2, "channels_last, and no other, is told of"
    assert set(frame[frame["primitive"] == "reorder"]["memory"].map(onednn.of_weights)) <= {True}, "no picture is laid out anew"


def test_one_thread_and_then_as_many_as_before() -> None:
    import torch

    before = torch.get_num_threads()
    assert networks.alone(torch.get_num_threads, before)() == 1 and torch.get_num_threads() == before


def test_what_ends_badly_says_why() -> None:
    with pytest.raises(Broke, match=r"a job: ended with status 1 \(KeyError: 'no such job'\)"):
        asks.ask("no such job", "resnet18", threads=1, what="a job")


def test_yolo_is_told_where_its_package_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asks.install, "find", lambda name: install.Missing(name, "ultralytics is not on this machine"))
    with pytest.raises(Skipped, match="ultralytics is not on this machine"):
        asks.ask("counted", "yolov8n", threads=1, what="counting")
