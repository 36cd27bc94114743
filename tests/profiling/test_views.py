"""What the profiling notebooks say follows from the record: made-up runs with known answers, the recorded ones from their raw samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest import approx

from lib import measured, record
from lib.abreast import abreast
from lib.measured import Found, points
from lib.profiling import accounts, batch_views, everywhere, findings, forms, ledger, onednn, ranking, roofline, trace, views
from lib.profiling.affine import Affine
from lib.profiling.session import WAY, Session, earlier, session
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


@pytest.mark.parametrize(("notebook", "way", "says", "silent"), [
    ("30_profile_layers", 2, "running means", None), ("30_profile_layers", WAY, None, None),
    ("31_profile_batch", None, "each size was timed by itself", None), ("31_profile_batch", 2, "kept its memory", "by itself"),
])  # fmt: skip
def test_an_older_run_says_what_it_did_otherwise(notebook: str, way: int | None, says: str | None, silent: str | None,
                                                 tmp_path: Path) -> None:  # fmt: skip
    run = record.begin(notebook, parameters={"way": way} if way else {}, environment={"machine_id": "made", "stack_id": "made"},
                       root=tmp_path)  # fmt: skip
    told = earlier(Session(Opened(run, (), None), None))["differs"]
    assert (told is None) if says is None else says in str(told)
    assert silent is None or silent not in str(told)


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


def primitives(passes: int = 2) -> pd.DataFrame:
    """What oneDNN says of the stem's convolution (20 of its operator's 30) and the block's (40, with 6 for its weights)."""
    def convolution(out: int) -> str:
        return f"mb1_ic3oc{out}_ih8oh8kh1sh1dh0ph0_iw8ow8kw1sw1dw0pw0"

    plain = "src:f32::blocked:abcd::f0 dst:f32::blocked:abcd::f0"
    rows = [[[n, "convolution", "jit", plain, convolution(4), 20.0, 5.0],
             [n, "reorder", "jit", "src:f32::blocked:abcd::f0 dst:f32::blocked:ABcd16b16a::f0", "8x4x1x1", 6.0, 42.0],
             [n, "convolution", "jit", plain, convolution(8), 40.0, 50.0]] for n in range(passes)]  # fmt: skip
    return pd.DataFrame([row for each in rows for row in each], columns=onednn.COLUMNS)


def traced(s: Session, *, little: bool = False) -> None:
    """Two turns; a pass of 93 µs is 103 to the profiler, 95 to hooks, 96 to oneDNN's three lines. What watching costs was measured on
    what does little, or on `little` pictures.
    """
    walls = {"profiler": 103e-6, "whole": 114e-6, "hooks": 95e-6, "onednn": 96e-6}
    samples = {f"{way}_s": [[wall], [wall]] for way, wall in walls.items()} | {"bare_s": [[93e-6]] * (2 * len(walls) + 1)}
    facts = {"cost_ns": {"event": {"bare": 1000, "seen": 2250}, "module": {"bare": 500, "seen": 1500},
                         "line": {"bare": 1000, "seen": 2000}}}  # fmt: skip
    if little:
        seen = {"bare": 20e-6, "profiler": 26e-6, "hooks": 26e-6, "onednn": 21e-6, "whole": 30e-6}
        samples |= {f"{accounts.OF_LITTLE}{way}_s": [[one]] * (9 if way == "bare" else 2) for way, one in seen.items()}
        none = {way: [0.0, 0.0] for way in seen}
        facts = {"cost_ns": {"page": {"first": 1100.0, "again": 100.0}}, "little_faults": {**none, "profiler": [2.0, 2.0]},
                 "faults": {**none, "bare": [10.0] * 9, "profiler": [17.0, 17.0]},
                 "little_rows": {"profiler": 4.0, "hooks": 3, "onednn": 2.0}}  # fmt: skip
    stamped = [[1, 32_000, 32_000, 0], [2, 52_000, 52_000, 0], [0, 93_000, 9_000, 2]]
    modules = [("", "ResNet", False), *((ranking.whole(name), "Conv2d", True) for name in (STEM, BLOCK))]
    calls = accounts.calls([stamped] * 2, modules)
    operators = [event("pass", 200.0 * n, 100, cat="user_annotation") for n in range(2)]
    operators += [event("aten::conv2d", 200.0 * n + at, us) for n in range(2) for at, us in ((2, 30), (41, 50))]
    kept = {"trace": frame(), "operators": trace.tidy({"traceEvents": operators})[list(ledger.TOLD)], "calls": calls,
            "primitives": primitives()}  # fmt: skip
    point(s, "traced", Found(samples, facts, {}, kept), network=NETWORK, threads=2)


def counted(s: Session) -> None:
    def conv(name: str, out: int, macs: int) -> dict[str, Any]:
        return {"name": name, "kind": "Conv2d", "in": [[1, 3, 8, 8]], "out": [1, out, 8, 8], "macs": macs, "weights": 100,
                "kernel": [1, 1], "stride": [1, 1], "groups": 1}  # fmt: skip

    point(s, "counted", Found({}, {"layers": [conv(STEM, 4, 3_000_000), conv(BLOCK, 8, 1_000_000)]}, {}), network=NETWORK, threads=2)


def test_an_account_closes_when_its_rest_is_small(made: Session) -> None:
    traced(made)
    told = views.closes(made, NETWORK).set_index("account")
    assert told.index.tolist() == ["torch.profiler", "module hooks", "oneDNN"] and told["unwatched, ms"].tolist() == [approx(0.093)] * 3
    # 80 µs of operators, 20 between them less 1.25 for each of two events: 4.5 more than a pass takes.
    assert told.loc["torch.profiler", "adds up to, ms"] == approx(0.0975) and told.loc["torch.profiler", "not explained"] == "-4.8%"
    assert told.loc["torch.profiler", "watching adds"] == "+10.8%" and not told.loc["torch.profiler", "closes"]
    assert told.loc["torch.profiler", "95 %"] == "+10.8% to +10.8%" and told.loc["torch.profiler", "taken off"] == "2.7%"
    # The others: 95 less a microsecond for each of three modules, but not below 0; 96 less one for each of three lines.
    assert told.loc["oneDNN", "adds up to, ms"] == approx(0.093) and told.loc["oneDNN", "closes"]
    assert told.loc["module hooks", "adds up to, ms"] == approx(0.092) and told.loc["module hooks", "closes"]
    assert findings.accounts(told.reset_index()) == {"n": 3, "close": 2, "worst": approx(0.048), "whose": "torch.profiler"}
    reversed_ = findings.outside(views.ledgers(made, NETWORK))
    assert reversed_["reorder_n"] == 1 and reversed_["reorders"] == approx(6 / 93) and reversed_["arithmetic"] == approx(60 / 93)


def test_what_watching_costs_is_learned_on_little_pictures_and_counted_in_pages(made: Session) -> None:
    """The profiler makes a little pass 6 µs longer, of which 2 are two pages touched first: 1 µs each of 4 events. The pass itself has two
    events, and touches 7 pages more: 9 µs. Hooks: 6 µs of three modules; lines: 1 of two.
    """
    traced(made, little=True)
    told = views.closes(made, NETWORK).set_index("account")
    assert told["taken off"].tolist() == [f"{off / 93:.1%}" for off in (9, 6, 1.5)]
    # 80 µs of operators and 20 between them, less 9; 95 less 6; 96 less three half microseconds.
    assert told["adds up to, ms"].tolist() == [approx(0.091), approx(0.089), approx(0.0945)]
    pages = views.pages(made, NETWORK)
    assert pages["pages"].tolist() == [10, 17, 0, 0, 0] and pages["looked at by"].iloc[1] == "torch.profiler, operators"
    assert findings.pages(pages) == {"pages": 10, "each": 1.0, "ms": 0.01, "share": approx(10 / 93), "watched": 17, "watched_ms": 0.017,
                                     "watched_share": approx(17 / 93)}  # fmt: skip


def test_three_accounts_of_one_engine_rank_the_same_layers(made: Session) -> None:
    traced(made)
    counted(made)
    nodes = pd.DataFrame([[0, 0, "/network/resnet/embedder/embedder/convolution/Conv", "Conv", 60.0]],
                         columns=["pass", "order", "node", "kind", "us"])  # fmt: skip
    point(made, "engine", Found({}, {}, {}, {"nodes": nodes}), network=NETWORK, engine="ONNX Runtime")
    told = views.ranked(made, NETWORK)
    assert told["torch.profiler"].isna().all(), "the trace has no scope around a convolution with its batch norm"
    assert told["module hooks"].tolist() == [32, 52] and told["oneDNN"].tolist() == [20, 48]
    assert told[ranking.WEIGHTS].tolist() == [0, approx(0.006)] and told["ONNX Runtime"].tolist()[0] == 60
    told = told.assign(**{"torch.profiler": [33.0, 50.0]})
    assert ranking.agreement(told, 1) == {"n": 1, "fewest": 1, "whose": "torch.profiler and module hooks", "accounts": 3,
                                          "engine": "ONNX Runtime", "shared": 0, "tied": 0}  # fmt: skip
    assert findings.without_onednn(told) == {"n": 2, "of": 2, "rest": ""}
    some = findings.without_onednn(told.assign(oneDNN=[20.0, None]))
    assert some["n"] == 1 and some["rest"].startswith("; the others, all of 1×1, PyTorch computes itself")
    assert views.top(told, 1)["rank by oneDNN"].tolist() == [1] and views.top(told, 1)[ranking.WEIGHTS].tolist() == [approx(0.006)]
    near = told.assign(**{"oneDNN": [47.0, 48.0]})
    assert ranking.tied(near, "oneDNN", 1) == 1 and ranking.tied(told, "oneDNN", 1) == 0


def test_looking_costs_what_it_costs(made: Session) -> None:
    traced(made)
    assert views.looking(made, NETWORK)["×"].tolist() == [approx(us / 93) for us in (93, 103, 114, 95, 96)]


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
    assert head["layer"] == "stage 1.0 conv 0" and head["share"] == approx(52 / 84) and head["flop"] == approx(0.25)
    assert head["roof"] == approx(2e6 / 52e-6 / 400e9) and head["limit"] == "compute"
    outside = findings.bottleneck(told, placed[placed["layer"] != BLOCK])
    assert outside["ms"] == head["ms"] and outside["limit"] is None and outside["roof"] is None, "oneDNN did not compute it"
    stages = views.stages(made, NETWORK).set_index("stage")
    assert stages.loc["stem", "ms"] == approx(0.032) and stages.loc["stage 1", "GFLOP/s"] == approx(2e6 / 52e-6 / 1e9)


def test_predictions_meet_what_was_measured_after_them(made: Session) -> None:
    expected = {"folded": 24_000, "one thread": 64_800, "batch 8": 200_000}
    said = [{"name": name, "expects_us": us, "because": "x"} for name, us in expected.items()]
    point(made, "predicted", Found({}, {"predictions": said, "whole_us": 30_000}, {}), network=NETWORK)
    facts = {"answers": {"eager": {"off": 0.0}, "folded": {"off": 1e-6}}, "ready_s": dict.fromkeys(("eager", "folded", "one thread"), 1.0)}
    samples = {"eager": [[0.030], [0.032]], "folded": [[0.025], [0.025]], "one thread": [[0.062], [0.062]], "batch 8": [[0.2], [0.2]],
               "seed 1": [[0.033], [0.0352]], "denormal": [[0.09], [0.096]]}  # fmt: skip
    point(made, "changed", Found(samples, facts, {}), network=NETWORK, threads=2)
    told = views.predicted(made, NETWORK)
    assert told["off"].tolist() == [approx((24 / 30) / (25 / 31) - 1), approx(0.08), approx((200 / 30) / (200 / 31) - 1)]
    assert told["speed-up measured"].iloc[0] == approx(31 / 25)
    assert findings.foretold(told) == {"n": 3, "median": approx(1 / 30), "worst": approx(0.08), "whose": "one thread", "within": 3,
                                       "networks": ""}  # fmt: skip
    assert findings.foretold(views.everything_predicted(made))["networks"] == "ResNet-50"
    assert views.foretold(told)["off"].tolist() == ["-1%", "+8%", "+3%"]
    weights = views.weights(made, NETWORK)
    assert weights["seed"] == approx(0.1) and weights["denormal"] == approx(3)
    assert views.changes(made, NETWORK)["change"].tolist() == ["eager", "folded", "one thread"], "others ask for other work"
    changes = views.changes(made, NETWORK).set_index("change")
    assert changes.loc["folded", "×"] == approx((30 / 25 + 32 / 25) / 2) and changes.loc["folded", "ms"] == approx(25)


def test_what_a_prediction_could_not_know_explains_its_miss_or_does_not() -> None:
    told = pd.DataFrame([{"change": "folded, channels_last, compile", "expected, ms": 30.0, "measured, ms": 40.0, "off": -0.25,
                          "speed-up expected": 2.0, "speed-up measured": 1.5}])  # fmt: skip
    found = findings.compiled(told, {"after": 9.0})
    assert (found["then"], found["then_off"]) == (39.0, approx(0.75 * 1.3 - 1))
    assert findings.compiled(told, {"after": 30.0})["then_off"] is None, "twice too much explains nothing"
    assert findings.compiled(told, {"after": None})["off"] is None and findings.compiled(pd.DataFrame(), {"after": 9.0})["off"] is None


@pytest.mark.parametrize(("isa", "why"), [(["avx2", "avx512_bf16"], ""), (["avx2"], "no instructions")])
def test_what_bf16_brings_is_told_with_its_reason(isa: list[str], why: str) -> None:
    told = pd.DataFrame([{"change": "folded, channels_last, bf16", "off": 0.1, "speed-up expected": 0.33, "speed-up measured": 0.37}])
    found = findings.halved({"bfloat16": 60.0, "float32": 300.0}, told, isa)
    assert (found["ratio"], found["foretold"], found["came"]) == (0.2, 0.33, 0.37)
    assert why in found["why"] and bool(why) == bool(found["why"])
    assert findings.halved({"float32": 300.0}, told, isa)["ratio"] is None


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
        each = [0, "reorder", "jit", "", "1x3", reorder_us / reorders, 0.0]
        rows = [[0, "convolution", "jit", "", "mb1", conv_us, 0.0], *[each] * reorders]
        return pd.DataFrame(rows, columns=onednn.COLUMNS)

    kept = {"primitives": words(4, 8_000, 30_000)}
    point(made, "traced", Found({"bare_s": [[1.0]]}, {}, {}, kept), network=NETWORK, threads=2)
    assert set(findings.layout(views.layouts(made, NETWORK)).values()) == {None}
    samples = {"eager": [[1.0]], "channels_last": [[1.0]]}
    point(made, "changed", Found(samples, {}, {}, {"primitives": words(2, 9_000, 20_000)}), network=NETWORK, threads=2)
    assert findings.layout(views.layouts(made, NETWORK)) == {"before": 8, "before_n": 4, "after": 9, "after_n": 2, "times": 1.5}


def test_nothing_measured_is_nothing_claimed(made: Session) -> None:
    told = views.layers(made, NETWORK)
    assert not len(told) and views.roof(made, told) is None and not len(views.placed(told, None, "onednn_us"))
    for fields in (findings.accounts(views.closes(made, NETWORK)), findings.outside({}),
                   findings.bottleneck(told, views.placed(told, None, "x")),
                   findings.foretold(views.predicted(made, NETWORK)), views.weights(made, NETWORK),
                   findings.under_roof(told, None), findings.without_onednn(views.ranked(made, NETWORK))):  # fmt: skip
        assert set(fields.values()) == {None}
    assert not len(views.shown(None)) and not len(views.top(views.ranked(made, NETWORK))) and not len(views.modules(made, NETWORK))
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
        facts = {"rate_per_s": 90.0, "batches": [4, 6], "simulated_batches": [5], "pace": 1.1, "wall_s": 2.0}
        samples = {"latency_s": [real] * 20, "simulated_s": [made_s] * 20, "paced_s": [real * 1.1] * 20, "passes_s": [0.75, 0.75]}
        point(swept, "served", Found(samples, facts, {}), load=0.9, policy=policy)
    told = batch_views.served(swept)
    assert told["mean batch"].tolist() == [5, 5, 5]
    assert told["busy"].tolist() == [0.75] * 3
    assert batch_views.simulation(told) == {"n": 3, "median": approx(0), "worst": approx(0.25), "where": "one by one at 90%",
                                            "paced": approx(0.1), "paced_worst": approx(0.1), "pace": approx(1.1)}  # fmt: skip
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


def test_stages_count_from_one_wherever_a_module_is_named() -> None:
    assert views.staged(BLOCK) == "resnet.encoder.stage 1.layers.0.layer.0.convolution" and views.short(BLOCK) == "stage 1.0 conv 0"
    assert views.short(STEM) == "stem" and views.short("without resnet.encoder.stages.3.layers.1") == "without stage 4.1"


@pytest.mark.parametrize(("notebook", "table"), [("30_profile_layers", everywhere.layers), ("31_profile_batch", everywhere.batches)])
def test_every_recorded_machine_is_judged_for_itself(notebook: Any, table: Any, tmp_path: Path) -> None:
    s = session(notebook, profile="quick", mode="recorded")
    told = table(s)
    assert told["run"].tolist() == [run.run_id for run in (s.run, *s.opened.beside)], "the run that speaks is the first"
    for run, row in zip(s.opened.beside, told.to_dict("records")[1:], strict=True):
        (alone,) = table(Session(Opened(run, (), None), None)).to_dict("records")
        assert pd.Series(row).dropna().to_dict() == pd.Series(alone).dropna().to_dict()
    printed = abreast(told)
    assert printed.columns.tolist() == ["what", *told["machine"]] and printed["what"].tolist() == told.columns.tolist()[1:]
    assert printed.set_index("what").loc["by today's method"].isin(["yes", "no"]).all()
    empty = record.begin(notebook, parameters={"way": WAY}, environment={"machine_id": "made", "stack_id": "made"}, root=tmp_path)
    (nothing,) = table(Session(Opened(empty, (), None), None)).to_dict("records")
    assert nothing["by today's method"] and all(pd.isna(value) for key, value in list(nothing.items())[3:]), "no numbers without points"


def test_the_row_of_a_machine_says_what_its_own_page_says() -> None:
    s = session("30_profile_layers", profile="quick", mode="recorded")
    row, speeds = everywhere.layers(s).iloc[0], findings.fastest(views.forms(s))
    closing = views.closes(s, NETWORK)
    assert row["accounts that close"] == f"{closing['closes'].sum()} of {len(closing)}" and row["fp32, ×"] == speeds["fp32_times"]
