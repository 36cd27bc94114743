"""Rounding is what it says, block by block; what is left out stays as it was; shares are of photographs that were clear enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from lib import measured, record
from lib.measured import Found
from lib.profiling import rounding, rounding_views
from lib.profiling.session import Session
from lib.session import Opened


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stem, two blocks and a head, each a convolution, as ONNX: ten classes of pictures of 16×16."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    names = ["/network/_conv_stem/Conv", "/network/_blocks.0/_conv/Conv", "/network/_blocks.1/_conv/Conv", "/network/_conv_head/Conv"]
    shapes = [(8, 3, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3), (10, 8, 1, 1)]
    weights = [numpy_helper.from_array((rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32), f"w{n}")
               for n, shape in enumerate(shapes)]  # fmt: skip
    made = [helper.make_node("Conv", [f"x{n}" if n else "images", f"w{n}"], [f"x{n + 1}" if n else "stem"], name=name,
                             pads=[shape[2] // 2] * 4) for n, (name, shape) in enumerate(zip(names, shapes, strict=True))]  # fmt: skip
    made.insert(1, helper.make_node("Clip", ["stem", "least", "most"], ["x1"], name="/network/_swish/Clip"))
    weights += [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("least", 0.0), ("most", 0.5))]
    made += [helper.make_node("GlobalAveragePool", ["x4"], ["pooled"], name="/network/_avg_pooling/GlobalAveragePool"),
             helper.make_node("Flatten", ["pooled"], ["logits"], name="/network/Flatten")]  # fmt: skip
    ends = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 16, 16]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])]  # fmt: skip
    path = tmp_path_factory.mktemp("onnx") / "four.onnx"
    onnx.save(helper.make_model(helper.make_graph(made, "g", ends[:1], ends[1:], weights), opset_imports=[helper.make_opsetid("", 17)],
                                ir_version=9), path)  # fmt: skip
    return path


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100))
def test_bfloat16_is_the_nearest_of_eight_bits(x: float) -> None:
    told = float(rounding.bfloat16(np.array([x], np.float32))[0])
    assert abs(told - x) <= abs(x) * 2.0**-8 + 1e-40
    assert np.array([told], np.float32).view(np.uint32)[0] & 0xFFFF == 0
    assert float(rounding.bfloat16(np.array([told], np.float32))[0]) == told, "what was rounded stays"


def test_a_tie_goes_to_the_even_one() -> None:
    assert rounding.bfloat16(np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8], np.float32)).tolist() == [1.0, 1 + 2.0**-6]


def test_an_activation_is_of_the_block_before_it_and_one_form_leaves_the_next_one_s_ranges_alone(network: Path) -> None:
    pictures = np.random.default_rng(1).random((12, 3, 16, 16), np.float32)
    named, ranges = rounding.blocks(network), rounding.calibrated(network, pictures, "minmax")
    assert named["stem"] == ["/network/_conv_stem/Conv", "/network/_swish/Clip"]
    alone = rounding.in_int8(network, ranges, named["stem"])
    rounding.in_int8(network, ranges, [node for nodes in named.values() for node in nodes])
    assert rounding.in_int8(network, ranges, named["stem"]) == alone


def test_each_block_adds_its_noise_and_nothing_rounded_is_nothing_changed(network: Path) -> None:
    pictures = np.random.default_rng(1).random((12, 3, 16, 16), np.float32)
    assert list(rounding.blocks(network)) == ["stem", "block 0", "block 1", "head"]
    assert (rounding.infer(rounding.in_bf16(network, []), pictures) == rounding.infer(network.read_bytes(), pictures)).all()
    found = rounding.explained(network, pictures, pictures[:6], ["a", "a", "b", "b", "c", "c"])
    assert set(found.facts["blocks"]) == {"bf16", "INT8"} and all(len(each) == 4 for each in found.facts["blocks"].values())
    for name, each in found.facts["blocks"].items():
        assert all(kl >= -1e-9 for kl in each.values()) and found.facts["whole"][name] > 0
        assert max(each.values()) <= 20 * found.facts["whole"][name]
    assert found.facts["whole"]["bf16"] < found.facts["whole"]["INT8"], "eight bits of mantissa hold more than 256 steps"
    names = {one["name"]: one for one in found.facts["recipes"]}
    one, three = names["INT8, 1 blocks in float32"], names["INT8, 3 blocks in float32"]
    assert len(one["left_out"]) == 1 and one["left_out"] == three["left_out"][:1] and len(three["left_out"]) == 3
    assert three["kl"] <= names["INT8, a scale a channel"]["kl"] + 1e-9
    assert len(found.facts["margins"]) == 6 and all(0 <= margin <= 1 for margin in found.facts["margins"])


def test_kl_of_the_same_is_nothing_and_of_others_is_more() -> None:
    one, other = np.array([[1.0, 2.0, 3.0]], np.float32), np.array([[3.0, 2.0, 1.0]], np.float32)
    assert rounding.kl(one, one + 5) == approx(0) and rounding.kl(one, other) > 0.1


@pytest.fixture
def s(tmp_path: Path) -> Session:
    run = record.begin("30_profile_layers", parameters={}, environment={"machine_id": "made", "stack_id": "made"}, root=tmp_path)
    return Session(Opened(run, (), None), None)


def test_what_was_clear_is_told_apart(s: Session) -> None:
    assert set(rounding_views.findings(s).values()) == {None}
    assert not len(rounding_views.by_margin(s)) and not len(rounding_views.recipes(s)) and not len(rounding_views.sensitivity(s))
    recipes: list[dict[str, Any]] = [
        {"name": "bf16, all", "left_out": [], "kl": 0.001, "same": [True, True, True, False]},
        {"name": "INT8, all", "left_out": [], "kl": 0.03, "same": [True, False, True, False]},
        {"name": "INT8, 1 blocks in float32", "left_out": ["stem"], "kl": 0.01, "same": [True, True, True, False]}]  # fmt: skip
    facts = {"margins": [0.5, 0.15, 0.06, 0.001], "of": ["a", "a", "b", "b"], "recipes": recipes,
             "blocks": {"bf16": {"stem": 1e-4, "head": 1e-5}, "INT8": {"stem": 0.02, "head": 0.004}},
             "whole": {"bf16": 1.1e-4, "INT8": 0.03}}  # fmt: skip
    measured.keep(s.run, {"what": "rounded", "network": rounding.NETWORK}, lambda: Found({}, facts, {}), timed=False)
    forms = {"same": {"PyTorch eager": [True] * 4, "OpenVINO bf16": [True, True, False, False], "OpenVINO INT8": [True] * 3}}
    measured.keep(s.run, {"what": "forms", "network": rounding.NETWORK}, lambda: Found({}, forms, {}), timed=False)
    told = rounding_views.by_margin(s).set_index(["form", "margin"])
    assert "OpenVINO INT8" not in told.index.get_level_values(0), "it judged other pictures"
    assert told.loc[("OpenVINO bf16", 0.0), "share"] == approx(0.5) and told.loc[("OpenVINO bf16", 0.1), "share"] == approx(1.0)
    assert told.loc[("INT8, all", 0.0), "n"] == 4 and told.loc[("INT8, all", 0.1), "n"] == 2
    assert told.loc[("INT8, all", 0.1), "share"] == approx(0.5)
    assert told.loc[("INT8, all", 0.2), ["share", "n"]].tolist() == [1.0, 1] and told.loc[("INT8, all", 0.2), ["lo", "hi"]].isna().all()
    fields = rounding_views.findings(s)
    assert fields["n"] == 4 and fields["clear"] == 2 and fields["bf16"] == approx(1.0) and fields["INT8_all"] == approx(0.5)
    assert fields["sum"] == approx(0.8) and fields["best"] == "INT8, 1 blocks in float32" and fields["best_share"] == approx(0.75)
    assert rounding_views.recipes(s)["in float32"].tolist() == ["–", "–", "stem"]
    assert rounding_views.sensitivity(s)["INT8"].tolist() == [approx(20), approx(4)]
    assert rounding_views.wide(rounding_views.by_margin(s)).columns[1] == "margin ≥ 0 (n = 4)"


def test_an_interval_draws_photographs_not_crops() -> None:
    share, lo, hi = rounding_views.kept([True] * 8 + [False] * 8, ["a"] * 8 + ["b"] * 8)
    assert (share, lo, hi) == (0.5, 0.0, 1.0), "two photographs: everything is possible"
    assert rounding_views.kept([], []) == (None, None, None)
