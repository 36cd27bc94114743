"""What the profiling notebooks say follows from the record: made-up runs with known answers, the recorded ones from their raw samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest import approx

from lib import measured, record
from lib.measured import Found, points
from lib.profiling import batch_views, findings, forms, ledger, onednn, roofline, trace, views
from lib.profiling.affine import Affine
from lib.profiling.session import Session, session
from lib.session import NothingRecorded, Opened
from tests.profiling.events import event

NETWORK = "resnet50"
STEM, BLOCK = "resnet.embedder.embedder.convolution", "resnet.encoder.stages.0.layers.0.layer.0.convolution"


def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notebook: str) -> Session:
    monkeypatch.setattr(measured.audit, "undisturbed", lambda host, cores: None)
    run = record.begin(notebook, parameters={}, environment={"machine_id": "made", "stack_id": "made"}, root=tmp_path)
    return Session(Opened(run, (), None), None)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    return begun(tmp_path, monkeypatch, "30_profile_layers")


def point(s: Session, what: str, found: Found, **setting: Any) -> None:
    measured.keep(s.run, {"what": what, **setting}, lambda: found)


def frame() -> pd.DataFrame:
    """Two passes of 100 µs: a stem's convolution (30), a block's (50)."""
    scope, events = "user_annotation", []
    for n in range(2):
        at = 200.0 * n
        events += [event("pass", at, 100, cat=scope), event(f"module {STEM}", at + 1, 32, cat=scope), event("aten::conv2d", at + 2, 30),
                   event(f"module {BLOCK}", at + 40, 52, cat=scope), event("aten::conv2d", at + 41, 50)]  # fmt: skip
    return trace.tidy({"traceEvents": events})


def traced(s: Session) -> None:
    samples = {"bare_s": [93e-6] * 9, "scopes_s": [95e-6] * 9, "profiler_s": [98e-6] * 9, "whole_s": [114e-6] * 9}
    facts = {"events": 10, "tick_ns": {"bare": 1000, "seen": 1500}}
    point(s, "traced", Found(samples, facts, {}, {"trace": frame()}), network=NETWORK, threads=2)


def counted(s: Session) -> None:
    def conv(name: str, out: int, macs: int) -> dict[str, Any]:
        return {"name": name, "kind": "Conv2d", "in": [[1, 3, 8, 8]], "out": [1, out, 8, 8], "macs": macs, "weights": 100,
                "kernel": [1, 1], "stride": [1, 1], "groups": 1}  # fmt: skip

    point(s, "counted", Found({}, {"layers": [conv(STEM, 4, 3_000_000), conv(BLOCK, 8, 1_000_000)]}, {}), network=NETWORK, threads=2)


def test_an_account_closes_when_its_rest_is_small(made: Session) -> None:
    traced(made)
    told = views.ledgers(made, NETWORK)
    assert set(told) == {"torch.profiler"}
    row = views.closes(told).iloc[0]
    # 80 µs of operators, 20 between them less 2 of scopes and 5 of events: what a pass takes.
    assert row["adds up to, ms"] == approx(0.093) and row["unwatched, ms"] == approx(0.093)
    assert row["closes"] and row["not explained"] == "+0.0%"
    assert findings.accounts(views.closes(told)) == {"n": 1, "close": 1, "worst": approx(0), "whose": "torch.profiler"}


def test_looking_costs_what_it_costs(made: Session) -> None:
    traced(made)
    assert views.looking(made, NETWORK)["×"].tolist() == [approx(1), approx(95 / 93), approx(98 / 93), approx(114 / 93)]


def test_the_slowest_layer_is_named_with_what_holds_it(made: Session) -> None:
    traced(made)
    counted(made)
    for place, rate in (("L2", 100e9), ("DRAM", 10e9)):
        point(made, "bandwidth", Found({}, {"rate": rate, "bytes": 10**6 if place == "L2" else 10**8}, {}), place=place, threads=2)
    point(made, "product", Found({}, {"rate": 400e9}, {}), precision="float32", by="PyTorch")
    told = views.layers(made, NETWORK)
    assert told["profiler_us"].tolist() == [32, 52] and told["flop"].tolist() == [6_000_000, 2_000_000]
    roof = views.roof(made, told)
    assert roof is not None and roof.rate == 400e9 and roof.by == "matrix product, PyTorch"
    placed = views.placed(told, roof, "profiler_us")
    head = findings.bottleneck(told, placed)
    assert head["layer"] == "stage 0.0 conv 0" and head["share"] == approx(52 / 84) and head["flop"] == approx(0.25)
    assert head["roof"] == approx(2e6 / 52e-6 / 400e9) and head["limit"] == "compute"
    stages = views.stages(made, NETWORK).set_index("stage")
    assert stages.loc["stem", "ms"] == approx(0.032) and stages.loc["stage 1", "GFLOP/s"] == approx(2e6 / 52e-6 / 1e9)
    assert views.top(told)["of all layers"].tolist() == ["61.9%", "38.1%"]
    assert set(views.agreement(told).values()) == {None}, "one account agrees with nobody"


def test_predictions_meet_what_was_measured_after_them(made: Session) -> None:
    expected = {"folded": 24_000, "one thread": 64_800, "batch 8": 200_000}
    said = [{"name": name, "expects_us": us, "because": "x"} for name, us in expected.items()]
    point(made, "predicted", Found({}, {"predictions": said, "whole_us": 30_000}, {}), network=NETWORK)
    facts = {"answers": {"eager": {"off": 0.0}, "folded": {"off": 1e-6}}, "ready_s": {"eager": 1.0, "folded": 2.0}, "failed": {}}
    samples = {"eager": [[0.030], [0.032]], "folded": [[0.025], [0.025]]}
    point(made, "changed", Found(samples, facts, {}), network=NETWORK, threads=2, batch=1)
    point(made, "changed", Found({"eager": [[0.060]]}, facts, {}), network=NETWORK, threads=1, batch=1)
    point(made, "changed", Found({"eager": [[0.200]]}, facts, {}), network=NETWORK, threads=2, batch=8)
    told = views.predicted(made, NETWORK)
    assert told["off"].tolist() == [approx((24 / 30) / (25 / 31) - 1), approx(0.08), approx(0.0)]
    assert told["speed-up measured"].iloc[0] == approx(31 / 25)
    assert findings.foretold(told) == {"n": 3, "median": approx(0.008), "worst": approx(0.08), "whose": "one thread", "within": 3}
    assert views.foretold(told)["off"].tolist() == ["-1%", "+8%", "+0%"]
    changes = views.changes(made, NETWORK).set_index("change")
    assert changes.loc["folded", "×"] == approx((30 / 25 + 32 / 25) / 2) and changes.loc["folded", "ms"] == approx(25)


def test_speeds_are_against_eager_of_the_same_round(made: Session) -> None:
    samples = {forms.EAGER: [[0.03, 0.03], [0.06, 0.06]], "OpenVINO f32": [[0.015], [0.03]], "OpenVINO INT8": [[0.006], [0.012]]}
    facts = {"agrees": {forms.EAGER: 1.0, "OpenVINO f32": 1.0, "OpenVINO INT8": 0.975}, "failed": {"OpenVINO bf16": "no"}}
    point(made, "forms", Found(samples, facts, {}), network=NETWORK, threads=2)
    point(made, "forms", Found(samples, facts, {}), network="efficientnet-lite0", threads=2)
    told = findings.fastest(views.forms(made))
    assert told["fp32_times"] == approx(2) and told["INT8_times"] == approx(5) and told["bf16_times"] is None
    assert told["INT8_form"] == "OpenVINO INT8" and told["eager_ms"] == approx(45)
    assert findings.right(views.forms(made)) == {"fp32": 1.0, "bf16": None, "INT8": 0.975}


def test_what_a_layout_changes_is_told_from_onednn_s_words(made: Session) -> None:
    def words(reorders: int, reorder_us: float, conv_us: float) -> pd.DataFrame:
        rows = [[0, "convolution", "jit", "", "mb1", conv_us]] + [[0, "reorder", "jit", "", "1x3", reorder_us / reorders]] * reorders
        return pd.DataFrame(rows, columns=onednn.COLUMNS)

    point(made, "spoken", Found({"s": [1.0]}, {}, {}, {"primitives": words(4, 8_000, 30_000)}), network=NETWORK, threads=2)
    assert set(findings.layout(views.layouts(made, NETWORK)).values()) == {None}
    again = Found({"s": [1.0]}, {}, {}, {"primitives": words(2, 9_000, 20_000)})
    point(made, "spoken again", again, network=NETWORK, variant="channels_last", threads=2)
    assert findings.layout(views.layouts(made, NETWORK)) == {"before": 8, "before_n": 4, "after": 9, "after_n": 2, "times": 1.5}


def test_nothing_measured_is_nothing_claimed(made: Session) -> None:
    told = views.layers(made, NETWORK)
    assert not len(told) and views.roof(made, told) is None and not len(views.placed(told, None, "onednn_us"))
    for fields in (findings.accounts(views.closes({})), findings.outside({}), findings.bottleneck(told, views.placed(told, None, "x")),
                   findings.foretold(views.predicted(made, NETWORK)), views.weights(made, NETWORK),
                   findings.under_roof(told, None)):  # fmt: skip
        assert set(fields.values()) == {None}
    assert not len(views.shown(None)) and not len(views.top(told)) and not len(views.modules(made, NETWORK))
    assert not len(views.stages(made, NETWORK)) and not len(views.changes(made, NETWORK)) and not len(views.looking(made, NETWORK))


# --- batches ---


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    s = begun(tmp_path, monkeypatch, "31_profile_batch")
    for name, line in {"quick": Affine(0.002, 0.001), "slow": Affine(0.0, 0.010)}.items():
        samples = {str(b): [[line.seconds(b)] * 5] * 3 for b in (1, 2, 4, 8)}
        facts = {"peak_bytes": dict.fromkeys(samples, 2e8), "lacks": {"64": "too long"}}
        point(s, "sweep", Found(samples, facts, {}), network=NETWORK, form=name, size="224×224", threads=2)
    return s


def test_what_a_batch_buys(swept: Session) -> None:
    told = batch_views.gain(swept, NETWORK)
    assert told["form"] == told["most_form"] == "quick" and told["times"] == approx(800 / (1000 / 3)) and told["batch"] == 8
    assert told["least_form"] == "slow" and told["least"] == approx(1) and told["most"] == approx(800)
    assert batch_views.lacking(batch_views.sweep(swept, NETWORK))["lacks"].tolist() == ["too long"] * 2
    assert batch_views.wide(batch_views.sweep(swept, NETWORK))["8"].tolist() == [approx(800), approx(100)]


def test_lines_foretell_what_they_did_not_see(swept: Session) -> None:
    told = batch_views.lines(swept, NETWORK).set_index("form")
    assert told.loc["quick", "a, ms"] == approx(2) and told.loc["quick", "c, ms"] == approx(1) and told.loc["quick", "knee"] == approx(18)
    assert told.loc["quick", "held out"] == "4: +0.0%" and batch_views.held(told.reset_index())["within"] == 2
    best = batch_views.best(told.reset_index(), (5, 10)).set_index("form")
    assert best.loc["quick"].tolist() == ["3: 600/s", "8: 800/s"] and best.loc["slow"].tolist() == ["none", "1: 100/s"]


def test_batching_for_real_beside_its_simulation(swept: Session) -> None:
    for policy, real, made_s in (("one by one", 0.08, 0.10), ("up to 8", 0.02, 0.02), ("up to 8, waits 10 ms", 0.03, 0.03)):
        facts = {"rate_per_s": 90.0, "batches": [4, 6], "simulated_batches": [5]}
        point(swept, "served", Found({"latency_s": [real] * 20, "simulated_s": [made_s] * 20}, facts, {}), load=0.9, policy=policy)
    told = batch_views.served(swept)
    assert told["mean batch"].tolist() == [5, 5, 5]
    assert batch_views.simulation(told) == {"n": 3, "median": approx(0), "worst": approx(0.25), "where": "one by one at 90%"}
    assert batch_views.batching(told) == {"load": "90%", "one": approx(80), "greedy": approx(20), "waits": approx(30), "times": approx(4)}


# --- the recorded runs ---


@pytest.fixture(scope="module")
def layers() -> Session:
    try:
        return session("30_profile_layers", profile="quick", mode="recorded")
    except NothingRecorded as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def batches() -> Session:
    try:
        return session("31_profile_batch", profile="quick", mode="recorded")
    except NothingRecorded as reason:
        pytest.skip(str(reason))


def test_recorded_no_layer_is_above_its_roof(layers: Session) -> None:
    told = views.layers(layers, NETWORK)
    roof = views.roof(layers, told)
    assert roof is not None and len(told) == 54
    for account in ("onednn_us", "profiler_us"):
        assert roofline.above(views.placed(told, roof, account), roof) is None


def test_recorded_parts_add_up_to_the_pass(layers: Session) -> None:
    for network in (p["network"] for p in points(layers.run, "traced")):
        for name, told in views.ledgers(layers, network).items():
            assert told["share"].sum() == approx(1), (network, name)
        seen = views.frame(layers, network)
        assert seen is not None
        took = seen[seen["kind"] == "pass"].set_index("pass")["dur_us"]
        assert seen.groupby("pass")["self_us"].sum().to_numpy() == approx(took.to_numpy(), rel=1e-6)


def test_recorded_predictions_were_made_before_they_were_measured(layers: Session) -> None:
    made = {p.setting["network"]: p.utc for p in layers.run.points() if p.setting["what"] == "predicted"}
    after = [(p.setting["network"], p.utc) for p in layers.run.points() if p.setting["what"] == "changed"]
    assert made and after and all(made[network] <= utc for network, utc in after)
    assert findings.foretold(views.predicted(layers, NETWORK))["n"] >= 5


def test_recorded_traces_are_whole_and_small(layers: Session, tmp_path: Path) -> None:
    from lib.profiling import traces

    made = traces.write(layers, tmp_path)
    assert {path.parent.name for path in made} >= {NETWORK, "yolov8n"}
    for path in made:
        assert path.stat().st_size < 200_000
        frame = trace.read(path)
        assert frame["pass"].nunique() == 1 and (ledger.parts(frame)["us"] >= 0).all()


def test_recorded_lines_are_what_the_samples_say(batches: Session) -> None:
    told = batch_views.sweep(batches, NETWORK).dropna(subset=["ms"])
    for one in points(batches.run, "sweep"):
        mine = told[(told["form"] == one["form"]) & (told["threads"] == one["threads"]) & (told["size"] == one["size"])]
        for row in mine.to_dict("records") if one["network"] == NETWORK else ():
            whole = np.sort(np.concatenate(one["samples"][str(row["batch"])]))
            assert whole.min() * 1e3 <= row["ms"] <= whole.max() * 1e3
            assert (whole <= row["ms"] / 1e3 + 1e-12).mean() >= 0.5, "half of the passes are no longer than the median"
