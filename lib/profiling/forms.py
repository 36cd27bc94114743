"""The network in every engine and precision at hand, against eager PyTorch in the same minute; what each answers, held against float32.

All run in this process, in turns, so that a machine's pace is everybody's. Speed without answers is none: ResNet-50's weights are random,
and nobody asks what it sees; EfficientNet-Lite0's were trained, and it sees photographs that nothing was calibrated on.
Refuses to quote a form that runs in another precision than its name says (detector.py).
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lib.measured import Found, keep
from lib.profiling import networks
from lib.profiling.breakdown import Plan, threads
from lib.profiling.session import Bench, Session
from lib.vision import classifier, detector, photographs
from lib.vision.classifier import HW, NETWORKS
from lib.vision.detector import WrongDevice

EAGER = "PyTorch eager"
TRAINED = ("efficientnet-lite0",)  # the answers of random weights say nothing
WARM = 3
REST_S = 0.05  # between engines: threads that wait for work without sleeping fall asleep
# Name → engine, precision of the rest, which file of the classifiers.
FORMS: dict[str, tuple[str, Literal["f32", "bf16"], str]] = {
    "ONNX Runtime fp32": ("onnxruntime", "f32", classifier.ONNX),
    "OpenVINO f32": ("openvino", "f32", classifier.ONNX),
    "OpenVINO bf16": ("openvino", "bf16", classifier.ONNX),
    "ONNX Runtime INT8": ("onnxruntime", "f32", classifier.ONNX_INT8),
    "OpenVINO INT8": ("openvino", "f32", classifier.OPENVINO_INT8),
}
Infer = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def measured(s: Session, plan: Plan) -> None:
    """Both classifiers, unless the run holds them."""
    if s.model is None:
        return
    for network in NETWORKS:
        keep(s.run, {"what": "forms", "network": network, "threads": threads()}, partial(_forms, s.model, network, plan))


def _forms(bench: Bench, network: str, plan: Plan) -> Found:
    judged = photographs.tensor(bench.classifiers.judged().images[: plan.judged])
    truth = bench.classifiers.reference(network)[: plan.judged]
    made: dict[str, Infer] = {EAGER: _eager(bench, network)}
    failed: dict[str, str] = {}
    for name, (engine, precision, form) in FORMS.items():
        try:
            made[name] = _made(bench.classifiers.file(network, form), engine, precision)
        except (WrongDevice, classifier.NotReady) as reason:
            failed[name] = str(reason)
    same = {name: _same(infer, judged, truth) for name, infer in made.items()} if network in TRAINED else {}
    agrees = {name: float(np.mean(each)) for name, each in same.items()}
    x = np.ascontiguousarray(judged[:1])
    gc.collect()
    gc.disable()
    try:
        samples: dict[str, list[list[float]]] = {name: [] for name in made}
        for turn in range(plan.rounds):
            for name in list(made) if turn % 2 == 0 else list(reversed(made)):
                sleep(REST_S)
                samples[name].append(_taken(made[name], x, plan.passes))
    finally:
        gc.enable()
    return Found(samples, {"failed": failed, "agrees": agrees, "same": same, "judged": len(judged)}, {})


def _eager(bench: Bench, network: str) -> Infer:
    """As one would write it: a module of PyTorch, called. ResNet-50's is ours, the other's the program that was exported, eager as well."""
    import torch

    torch.set_num_threads(threads())
    if network != "resnet50":
        return detector.torch_detector(bench.classifiers.file(network, classifier.TORCH), net_hw=HW, threads=threads()).infer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers brings a progress bar that would like to be a widget
        model = networks.network({"network": network})

    def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            told: NDArray[np.float32] = model(torch.from_numpy(x)).logits.numpy()
        return told

    return infer


def _made(file: Path, engine: str, precision: Literal["f32", "bf16"]) -> Infer:
    if engine == "onnxruntime":
        return detector.onnxruntime_detector(file, net_hw=HW, threads=threads()).infer
    return detector.openvino_detector(file, net_hw=HW, threads=threads(), precision=precision, canvas=False).infer


def _same(infer: Infer, judged: NDArray[np.float32], truth: NDArray[np.float32]) -> list[bool]:
    """Of which pictures the first class is float32's."""
    firsts = [int(np.array(infer(np.ascontiguousarray(judged[place : place + 1]))).argmax()) for place in range(len(judged))]
    return [bool(same) for same in np.array(firsts) == truth.argmax(1)]


def _taken(infer: Infer, x: NDArray[np.float32], passes: int) -> list[float]:
    taken = []
    for turn in range(-WARM, passes):
        began_ns = perf_counter_ns()
        infer(x)
        if turn >= 0:
            taken.append((perf_counter_ns() - began_ns) / 1e9)
    return taken


def speeds(point: dict[str, Any]) -> dict[str, tuple[list[float], list[float]]]:
    """name → medians of its rounds and of eager's in the same rounds, s."""
    rounds = {name: [float(np.median(taken)) for taken in each] for name, each in point["samples"].items()}
    return {name: (rounds[name], rounds[EAGER]) for name in rounds}
