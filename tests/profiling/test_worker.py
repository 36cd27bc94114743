"""The worker for real, on the smallest network: what it says adds up, what it changes it names, and what is not there is told."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from pytest import approx

from lib import install
from lib.measured import Broke, Skipped
from lib.profiling import asks, layers, ledger, onednn, trace
from lib.profiling.breakdown import VERBOSE


def test_flops_are_two_a_multiply_add_and_nothing_is_left_out() -> None:
    told, _ = asks.ask("counted", "resnet18", threads=1, what="counting")
    table = layers.table(told["layers"])
    assert table["flop"].sum() == told["flops"] == approx(2 * 1.814e9, rel=0.01)  # torchvision's table: 1.81 GMAC, which it calls GFLOPS
    assert told["parameters"] == 11_689_512
    assert set(table["stage"]) == {"stem", "stage 1", "stage 2", "stage 3", "stage 4", "head"}


def test_a_trace_and_onednn_s_words_speak_of_the_same_layers(tmp_path: Path) -> None:
    told, _ = asks.ask("traced", "resnet18", threads=1, what="tracing", trace=str(tmp_path / "trace.json"), stacks=str(tmp_path / "stacks"),
                       rounds=1, passes=3, warm=1)  # fmt: skip
    frame = trace.read(tmp_path / "trace.json")
    assert frame["pass"].nunique() == 3 and {len(taken) for taken in told["ns"].values()} == {3}
    took = frame[frame["kind"] == "pass"]["dur_us"].tolist()
    for seen, ns in zip(took, told["ns"]["whole"], strict=True):
        assert seen == approx(ns / 1e3, rel=0.05, abs=100)
    assert frame.groupby("pass")["self_us"].sum().tolist() == approx(took)
    assert (ledger.parts(frame).set_index("part")["n"].dropna() >= 1).all()
    counted, _ = asks.ask("counted", "resnet18", threads=1, what="counting")
    _, said = asks.ask("spoken", "resnet18", threads=1, what="speaking", env=VERBOSE, variant="eager", warm=1, passes=2)
    timed = layers.timed(layers.table(counted["layers"]), trace.modules(frame), onednn.read(said.splitlines()))
    assert timed["profiler_us"].notna().all() and timed["onednn_us"].notna().sum() == 20
    inside = timed.dropna(subset=["onednn_us"])
    assert inside["onednn_us"].sum() < 1.5 * inside["profiler_us"].sum()


def test_changes_change_what_they_say_and_leave_the_answer() -> None:
    told, _ = asks.ask("timed", "resnet18", threads=1, what="changing", rounds=1, passes=1, warm=0, batch=2,
                       variants=["eager", "folded", "folded, channels_last", "bf16", "without resnet.encoder.stages.0.layers.1",
                                 "upside down", "without resnet.nothing"])  # fmt: skip
    assert set(told["ns"]) == {"eager", "folded", "folded, channels_last", "bf16", "without resnet.encoder.stages.0.layers.1"}
    assert told["failed"]["upside down"] == "KeyError: 'upside down'" and "nothing" in told["failed"]["without resnet.nothing"]
    off = {name: one["off"] for name, one in told["answers"].items()}
    assert off["folded"] < 1e-4 and off["folded, channels_last"] < 1e-4 and 1e-4 < off["bf16"] < 0.5
    assert off["without resnet.encoder.stages.0.layers.1"] > off["folded"]
    assert statistics.median(told["ns"]["eager"][0]) > 0


def test_what_ends_badly_says_why() -> None:
    with pytest.raises(Broke, match=r"a job: ended with status 1 \(KeyError: 'no such job'\)"):
        asks.ask("no such job", "resnet18", threads=1, what="a job")


def test_yolo_is_told_where_its_package_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asks.install, "find", lambda name: install.Missing(name, "ultralytics is not on this machine"))
    with pytest.raises(Skipped, match="ultralytics is not on this machine"):
        asks.ask("counted", "yolov8n", threads=1, what="counting")
