"""Why a network of fewer bits names another first class: which block's rounding it is, and what keeping some in float32 brings back.

EfficientNet-Lite0, whose weights were trained, in ONNX Runtime. One block of it at a time is rounded, to bfloat16 by a cast on each
convolution's input and weights, to INT8 by the quantiser itself; how far its answers then are from float32's is told on the pictures that
ranges were taken from, and what is left out is chosen by them. Only then the judged photographs are asked, which nothing was chosen by.
Refuses nothing: a recipe whose answers are poor is a row.
"""

from __future__ import annotations

import copy
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from lib.measured import Found, keep
from lib.profiling.breakdown import Plan
from lib.profiling.session import Bench, Session
from lib.vision import classifier, photographs

NETWORK = "efficientnet-lite0"
QUANTISED = ("Conv", "Gemm", "Add", "Clip", "GlobalAveragePool")  # operators that the quantiser knows in this network
LEFT_OUT, FEW = (1, 3, 6, 8), (3, 8)  # blocks that a recipe leaves in float32, the most sensitive first; where it has to be quick
EVERY = 2  # of the calibration's pictures, for one block at a time; half as many where it has to be quick
BATCH = 8
Array = NDArray[np.float32]


def measured(s: Session, plan: Plan) -> None:
    """The experiment, unless the run holds it, on as many pictures as the plan judges."""
    if s.model is not None:
        keep(s.run, {"what": "rounded", "network": NETWORK}, partial(_rounded, s.model, plan.judged, plan.thorough), timed=False)


def _rounded(bench: Bench, judged: int | None, thorough: bool) -> Found:
    crops = bench.classifiers.judged()
    pictures = photographs.tensor(crops.images[:judged])
    calibration: Array = np.load(bench.classifiers.root / "calibration.npy")
    if judged is not None:
        calibration = calibration[:judged]
    return explained(bench.classifiers.file(NETWORK, classifier.ONNX), calibration, pictures, crops.of[: len(pictures)],
                     thorough=thorough)  # fmt: skip


def explained(path: Path, calibration: Array, judged: Array, of: Sequence[str], *, thorough: bool = True) -> Found:
    """facts: "margins" (first less second probability in float32) and "of" (photographs) of judged pictures; "blocks": by precision, block
    → mean KL of its rounding alone; "whole": of all; "recipes": name, left_out, kl, and "same": whether each picture's first class stayed.
    """
    named = blocks(path)
    every = EVERY if thorough else 2 * EVERY
    few = calibration[::every]
    truth, answers = infer(path.read_bytes(), few), infer(path.read_bytes(), judged)
    ranges = calibrated(path, calibration, "minmax")
    makes: dict[str, Callable[[Sequence[str]], bytes]] = {"bf16": partial(in_bf16, path), "INT8": partial(in_int8, path, ranges)}
    sensitive = {name: {block: kl(truth, infer(make(nodes), few)) for block, nodes in named.items()} for name, make in makes.items()}
    nodes = [node for each in named.values() for node in each]
    whole = {name: kl(truth, infer(make(nodes), few)) for name, make in makes.items()}
    recipes = [_recipe("bf16, every convolution's operands", makes["bf16"](nodes), (), answers, judged),
               _recipe("INT8, a scale a channel", makes["INT8"](nodes), (), answers, judged),
               _recipe("INT8, a scale a tensor", in_int8(path, ranges, nodes, per_channel=False), (), answers, judged)]  # fmt: skip
    cut = calibrated(path, calibration[:: 2 * every], "percentile")
    recipes.append(_recipe("INT8, ranges cut at 99.99 %", in_int8(path, cut, nodes), (), answers, judged))
    first = max(sensitive["bf16"], key=lambda block: sensitive["bf16"][block])
    others = [node for block, nodes in named.items() if block != first for node in nodes]
    recipes.append(_recipe(f"bf16, {first} in float32", makes["bf16"](others), (first,), answers, judged))
    worst = sorted(sensitive["INT8"], key=lambda block: -sensitive["INT8"][block])
    for n in (n for n in (LEFT_OUT if thorough else FEW) if n < len(worst)):
        kept = [node for block in worst[n:] for node in named[block]]
        recipes.append(_recipe(f"INT8, {n} blocks in float32", makes["INT8"](kept), tuple(worst[:n]), answers, judged))
    ordered = np.sort(softmax(answers.astype(np.float64), axis=1), axis=1)
    return Found({}, {"margins": (ordered[:, -1] - ordered[:, -2]).round(5).tolist(), "of": list(of), "blocks": sensitive, "whole": whole,
                      "recipes": recipes}, {"6 books": None})  # fmt: skip


def _recipe(name: str, model: bytes, left_out: tuple[str, ...], answers: Array, judged: Array) -> dict[str, Any]:
    told = infer(model, judged)
    return {"name": name, "left_out": list(left_out), "kl": kl(answers, told), "same": (told.argmax(1) == answers.argmax(1)).tolist()}


def blocks(path: Path) -> dict[str, list[str]]:
    """Block → names of its nodes that can be quantised: "stem", "block 0"…, "head", in the order of computing."""
    import onnx

    found: dict[str, list[str]] = {}
    for node in onnx.load(path).graph.node:
        if node.op_type in QUANTISED:
            number = re.search(r"blocks\.(\d+)", node.name)  # an activation has no stem or head in its name: its place tells
            found.setdefault(f"block {number[1]}" if number else "head" if len(found) > 1 else "stem", []).append(node.name)
    return found


def infer(model: bytes, images: Array) -> Array:
    """(n, classes): logits of `images`, a few at a time."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    run = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.concatenate([run.run(None, {"images": images[at : at + BATCH]})[0] for at in range(0, len(images), BATCH)])


def kl(truth: Array, told: Array) -> float:
    """The mean of KL(truth ‖ told) over pictures, of logits, nats."""
    p, q = (log_softmax(logits.astype(np.float64), axis=1) for logits in (truth, told))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def bfloat16(x: Array) -> Array:
    """Rounded to eight bits of mantissa, to the nearest and of two to the even one."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)).view(np.float32)


def in_bf16(path: Path, nodes: Sequence[str]) -> bytes:
    """The network with operands of the convolutions and products among `nodes` rounded to bfloat16; sums stay float32, as in hardware."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model, wanted = onnx.load(path), set(nodes)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    made: list[Any] = []
    for node in model.graph.node:
        if node.name in wanted and node.op_type in ("Conv", "Gemm"):
            given, kernel = node.input[:2]
            made += [helper.make_node("Cast", [given], [f"{node.name}:few"], to=TensorProto.BFLOAT16),
                     helper.make_node("Cast", [f"{node.name}:few"], [f"{node.name}:rounded"], to=TensorProto.FLOAT)]  # fmt: skip
            weights[kernel].CopyFrom(numpy_helper.from_array(bfloat16(numpy_helper.to_array(weights[kernel])), kernel))
            node.input[0] = f"{node.name}:rounded"
        made.append(node)
    made = [onnx.NodeProto.FromString(node.SerializeToString()) for node in made]  # before the field that holds them is emptied
    del model.graph.node[:]
    model.graph.node.extend(made)
    told: bytes = model.SerializeToString()
    return told


def calibrated(path: Path, images: Array, how: str) -> Any:
    """Ranges of every tensor over `images`: "minmax", or "percentile" 99.99."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            picture = next(self.rest, None)
            return None if picture is None else {"images": picture[None]}

    method, options = {"minmax": (CalibrationMethod.MinMax, {}),
                       "percentile": (CalibrationMethod.Percentile, {"num_bins": 2048, "percentile": 99.99})}[how]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="ranges-") as scratch:
        found = create_calibrator(path, list(QUANTISED), augmented_model_path=f"{scratch}/all.onnx", calibrate_method=method,
                                  extra_options=options)  # fmt: skip
        found.collect_data(Pictures())
        return found.compute_data()


def in_int8(path: Path, ranges: Any, nodes: Sequence[str], *, per_channel: bool = True) -> bytes:
    """The network with `nodes` in INT8: weights s8, activations u8, as classifier_worker.py makes it of all."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    own = copy.deepcopy(ranges)  # it narrows what an activation cuts off, and the next one must not find that
    made = QDQQuantizer(onnx.load(path), per_channel, not classifier.vnni(), QuantType.QInt8, QuantType.QUInt8, own, list(nodes), [],
                        list(QUANTISED), {})  # fmt: skip
    made.quantize_model()
    told: bytes = made.model.model.SerializeToString()
    return told
