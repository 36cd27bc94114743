"""A form runs in a process of its own and its start adds up; what cannot run is a row; wrong answers and wrong files are seen."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lib import home, measured, record
from lib.measured import Broke, Skipped
from lib.pipelines.cost import ledger, ledger_forms, ledger_truth, ledger_worker
from lib.pipelines.cost.ledger_forms import FOREST, FORMS, MODELS, YOLO, Form
from lib.pipelines.cost.session import Session
from lib.pipelines.fraud.forest import Native
from lib.pipelines.fraud.model import Model
from lib.session import Opened
from lib.vision import classifier, yolo

TREE = next(form for form in FORMS if form.model == FOREST and form.engine == "ONNX Runtime")
PLAN = replace(ledger.PLANS["smoke"], warm_s=0.01, latency_s=0.02, batch_s=0.01, forms=(TREE,))


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """images (batch, 3, 8, 8) → (batch, 3): the mean of each colour."""
    from onnx import TensorProto, helper, save

    node = helper.make_node("ReduceMean", ["images"], ["logits"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph([node], "toy", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8])],
                              [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])])  # fmt: skip
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path := tmp_path / "toy.onnx")
    return path


def asked(toy: Path, **more: Any) -> dict[str, Any]:
    x = np.random.default_rng(0).random((6, 3, 8, 8), np.float32)
    np.save(toy.with_name("x.npy"), x)
    return {"engine": "ONNX Runtime", "file": str(toy), "net_hw": [8, 8], "precision": "fp32", "inputs": str(toy.with_name("x.npy")),
            "warm_s": 0.01, "latency_s": 0.05, "batches": [1, 3], "batch_s": 0.02, "most": 50, "judged": str(toy.with_name("x.npy")),
            "answers": str(toy.with_name("y.npy")), **more}  # fmt: skip


def test_a_start_is_taken_apart_and_adds_up(toy: Path, tmp_path: Path) -> None:
    told = ledger.in_process(asked(toy), what="toy", scratch=tmp_path)
    assert ledger.adds_up(told["cold_s"], told["seen_s"]) is None
    assert list(told["cold_s"]) == ["interpreter", "import", "load", "first"]
    assert told["cold_s"]["import"] > told["cold_s"]["first"] > 0
    assert told["processors"] == 1
    assert 0 < told["loaded_bytes"] <= told["peak_bytes"] < 1 << 30
    assert 2 <= len(told["latency_s"]) <= 50 and told["answered"] >= len(told["latency_s"])
    assert set(told["batch_s"]) == {"1", "3"}
    x, y = np.load(tmp_path / "x.npy"), np.load(tmp_path / "y.npy")
    np.testing.assert_allclose(y, x.mean(axis=(2, 3)), rtol=1e-5)


def test_what_cannot_be_loaded_says_so_and_what_dies_is_broken(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(Broke, match=r"no\.onnx"):
        ledger.in_process(asked(toy, file=str(tmp_path / "no.onnx")), what="toy", scratch=tmp_path)
    with pytest.raises(Skipped, match=r"ModuleNotFoundError|ImportError|WrongDevice"):
        missing = {"engine": "PyTorch compiled", "file": str(toy)}
        code = "import sys; sys.modules['torch'] = None"
        (tmp_path / "sitecustomize.py").write_text(code)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(home, "ROOT", _with_path(tmp_path))
            ledger.in_process(asked(toy, **missing), what="toy", scratch=tmp_path)
    with pytest.raises(Broke, match="ended with status 1"):
        ledger.in_process(asked(toy, inputs=str(tmp_path / "none.npy")), what="toy", scratch=tmp_path)


def _with_path(place: Path) -> Path:
    """A root that holds our lib and, before all else, what is planted in `place`."""
    (place / "lib").symlink_to(home.ROOT / "lib")
    return place


@pytest.mark.parametrize(
    ("cold_s", "seen_s", "fine"),
    [({"interpreter": 0.1, "import": 1.0, "load": 0.2, "first": 0.01}, 1.32, True),
     ({"interpreter": 0.1, "import": 1.0, "load": 0.2, "first": 0.01}, 2.0, False),
     ({"interpreter": 0.1, "import": 1.0, "load": 0.2, "first": 0.01}, 1.0, False),
     ({"interpreter": -0.1, "import": 1.0, "load": 0.2, "first": 0.01}, 1.12, False)],
)  # fmt: skip
def test_parts_that_do_not_add_up_are_seen(cold_s: dict[str, float], seen_s: float, fine: bool) -> None:
    assert (ledger.adds_up(cold_s, seen_s) is None) == fine


def test_the_parts_are_between_the_stamps() -> None:
    stamps = {"started": 1_100, "imported": 1_600, "loaded": 1_700, "began": 1_750, "answered": 1_760}
    told = ledger.parts(10**9, {name: ms * 10**6 for name, ms in stamps.items()})
    assert told == pytest.approx({"interpreter": 0.1, "import": 0.5, "load": 0.1, "first": 0.01})


def test_of_many_samples_every_so_manieth_is_kept() -> None:
    taken, answered = ledger_worker.run(lambda x: None, np.zeros((4, 2)), 2, 0.02, 10)
    assert 5 <= len(taken) <= 10 < answered
    assert ledger_worker.run(lambda x: None, np.zeros((4, 2)), 1, 0.0, 10)[1] == 2


# --- the rows ---


def session(tmp_path: Path, priced: Any) -> Session:
    run = record.begin("03_pipeline_cost", parameters={}, environment={"machine_id": "made", "stack_id": "made"}, root=tmp_path / "runs")
    return Session(Opened(run, (), None), priced)


def test_every_model_has_its_four_kinds_and_a_forest_no_int8() -> None:
    assert {form.model for form in FORMS} == set(MODELS)
    for model in MODELS:
        assert {"framework", "onnx", "int8", "candidate"} == {form.kind for form in FORMS if form.model == model}
    assert [(form.model, form.name) for form in FORMS if form.skip] == [(FOREST, "ONNX Runtime INT8")]
    with pytest.raises(LookupError, match="there are: fraud forest, LightGBM"):
        ledger_forms.named(YOLO, "INT4")


def test_what_cannot_be_is_a_row_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path))

    def lacking(*_: str) -> Path:
        raise classifier.NotReady("NNCF is not on this machine")

    s = session(tmp_path, SimpleNamespace(classifiers=SimpleNamespace(file=lacking)))
    forms = (ledger_forms.named(FOREST, "ONNX Runtime INT8"), ledger_forms.named("ResNet-50", "OpenVINO INT8"))
    ledger.ledger(s, replace(PLAN, forms=forms, rounds=2))
    rows = {(point.setting["form"], point.setting["round"]): (point.status, point.reason) for point in s.run.points()}
    assert rows["OpenVINO INT8", 0] == rows["OpenVINO INT8", 1] == ("skipped", "NNCF is not on this machine")
    status, reason = rows["ONNX Runtime INT8", 0]
    assert status == "skipped" and reason and "no products to do in 8 bits" in reason
    assert ("ONNX Runtime INT8", 1) not in rows


def test_nothing_is_measured_without_models(tmp_path: Path) -> None:
    s = session(tmp_path, None)
    ledger.ledger(s, PLAN)
    assert s.run.points() == []


def test_int8_shows_in_the_file_and_a_changed_file_is_seen(tmp_path: Path) -> None:
    full, coarse = tmp_path / "resnet50.onnx", tmp_path / "resnet50-int8.onnx"
    full.write_bytes(b"0" * 100)
    coarse.write_bytes(b"0" * 30)
    facts = {"files": {coarse.name: {"sha256": hashlib.sha256(b"0" * 30).hexdigest(), "bytes": 30}}}
    priced: Any = SimpleNamespace(classifiers=SimpleNamespace(file=lambda network, form: tmp_path / f"{network}{form}", facts=facts))
    form = ledger_forms.named("ResNet-50", "ONNX Runtime INT8")
    assert ledger._bits(priced, form, coarse) is None and ledger._as_built(priced, form, coarse) is None
    coarse.write_bytes(b"0" * 60)
    assert ledger._bits(priced, form, coarse) == "resnet50-int8.onnx is 60% of resnet50.onnx: that is not INT8"
    assert "which is not what was built" in str(ledger._as_built(priced, form, coarse))
    (tmp_path / "a.xml").write_bytes(b"1")
    (tmp_path / "a.bin").write_bytes(b"22")
    assert ledger.weighed(tmp_path / "a.xml") == 3


# --- answers ---


def logits(*classes: int) -> NDArray[np.float32]:
    return np.eye(4, dtype=np.float32)[list(classes)] + np.float32(0.01)


def test_equal_classes_differ_by_nothing_and_a_planted_one_is_seen() -> None:
    reference = logits(0, 1, 2, 3)
    same = ledger_truth.classes(reference, reference.copy(), "abcd").facts["judged"]
    assert same["agrees"] == [1, 1, 1, 1] and same["logit_off"] == [0, 0, 0, 0] and same["classes"] == 4
    planted = reference.copy()
    planted[2] = reference[0]
    told = ledger_truth.classes(reference, planted, "abcd").facts["judged"]
    assert told["sure"] == pytest.approx([float(np.exp(1) / (np.exp(1) + 3))] * 4, abs=1e-4)
    assert told["agrees"] == [1, 1, 0, 1]
    assert told["logit_off"][2] == pytest.approx(1 / float(reference.std(axis=0).mean()), rel=1e-5)
    assert ledger_truth.classes(reference, planted[:3], "abcd").wrong == "answers of (3, 4), (4, 4) were wanted"


def test_answers_that_are_no_numbers_are_wrong() -> None:
    answers = logits(0, 1)
    answers[0, 0] = np.nan
    priced: Any = None
    told = ledger_truth.judged(priced, ledger_forms.named("ResNet-50", "PyTorch"), answers, "ab", Path())
    assert told.wrong == "1 of 8 numbers in the answers are none"


@pytest.fixture(scope="module")
def forest() -> Model:
    from lib.install import Missing
    from lib.pipelines.fraud import model

    found = model.ready()
    if isinstance(found, Missing):
        pytest.skip(found.reason)
    return found


@pytest.mark.engine
def test_the_real_forest_is_measured_and_verdicts_that_flip_are_seen(
    forest: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured.audit, "undisturbed", lambda host, cores: None)
    priced: Any = SimpleNamespace(forest=forest)
    s = session(tmp_path, priced)
    ledger.ledger(s, PLAN)
    (point,) = s.run.points()
    assert (point.status, point.reason) == ("ok", None)
    assert point.facts["judged"]["flips"] == 0 and point.facts["judged"]["rows"] == PLAN.rows
    assert set(point.samples) == {"latency_s", "batch_1_s", "batch_64_s"}
    rows, _ = ledger_truth.shown(priced, FOREST, rows=500, crops_every=1, frames_every=1)
    own = np.array(Native(forest).margins(rows))
    assert ledger_truth.transactions(priced, rows, own).facts["judged"]["max_probability_difference"] == 0
    planted = own.copy()
    planted[np.argmin(own)] = 50.0
    assert ledger_truth.transactions(priced, rows, planted).facts["judged"]["flips"] == 1


@pytest.mark.engine
def test_real_networks_in_all_their_forms_answer_as_they_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib.pipelines.retail import session as shops

    monkeypatch.setattr(measured.audit, "undisturbed", lambda host, cores: None)
    try:
        priced: Any = SimpleNamespace(shop=shops.shop(), classifiers=classifier.load())
    except (yolo.NotReady, classifier.NotReady) as reason:
        pytest.skip(str(reason))
    s = session(tmp_path, priced)
    chosen: tuple[Form, ...] = (ledger_forms.named(YOLO, "ONNX Runtime fp32"), ledger_forms.named(MODELS[-1], "OpenVINO INT8"))
    ledger.ledger(s, replace(PLAN, forms=chosen, frames_every=200))
    assert [(point.status, point.reason) for point in s.run.points()] == [("ok", None)] * 2, json.dumps([p.reason for p in s.run.points()])
