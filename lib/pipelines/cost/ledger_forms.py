"""The ledger's rows: four models, each in the framework's own form, as ONNX, as ONNX in INT8, and in what might be best.

A form names a file that was built and says how it is run; ledger_worker.py runs it. PyTorch's are programs of torch.export, which need
none of the packages that the networks come from; loading one rebuilds its graph symbol by symbol, which takes seconds, and other ways to
keep a network would not. So a start has its load told apart. Refuses nothing itself: a form that cannot be has its reason, and one that
cannot run here says so when it is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lib.pipelines.cost.session import Priced
from lib.vision import classifier, yolo

Kind = Literal["framework", "onnx", "int8", "candidate"]
Engine = Literal["LightGBM", "lleaves", "tl2cgen", "PyTorch", "PyTorch compiled", "ONNX Runtime", "OpenVINO"]
FOREST, YOLO = "fraud forest", "YOLOv8n"
NETWORKS = {"ResNet-50": "resnet50", "EfficientNet-Lite0": "efficientnet-lite0"}  # → the classifiers' own names
RANDOM = "ResNet-50"  # has random weights: its answers can be near the framework's, but neither right nor wrong
MODELS = (FOREST, YOLO, *NETWORKS)
NET_HW = {YOLO: (384, 512), **dict.fromkeys(NETWORKS, classifier.HW)}  # the retail service's own size
NO_PRODUCTS = ("a tree compares a feature with a threshold and adds a leaf: there are no products to do in 8 bits, and ONNX Runtime's "
               "quantiser leaves ensembles of trees as they are")  # fmt: skip
COMPILER = "needs a C++ compiler"


@dataclass(frozen=True, slots=True)
class Form:
    """A model in one form. `file`: its name beside the model's others; None, with the reason in `skip`, where there cannot be one."""

    model: str
    name: str
    kind: Kind
    engine: Engine
    precision: Literal["fp32", "INT8", "bf16", "fp64"]
    file: str | None
    skip: str | None = None

    @property
    def setting(self) -> dict[str, Any]:
        return {"what": "ledger", "model": self.model, "form": self.name}

    def path(self, priced: Priced) -> Path:
        """Where its file lies. Raises the model's NotReady with the reason why it does not, LookupError for a form without a file."""
        if self.file is None:
            raise LookupError(f"{self.model} has no {self.name}: {self.skip}")
        if self.model == FOREST:
            return priced.forest.file(self.file)
        if self.model == YOLO:
            return priced.shop.yolo.file(self.file)
        return priced.classifiers.file(NETWORKS[self.model], self.file)

    def built(self, priced: Priced) -> dict[str, Any] | None:
        """ "sha256" and "bytes" of the file when it was built; None for the forest's, of which its builder keeps only the trees' sum."""
        if self.model == FOREST:
            return None
        known = priced.shop.yolo.facts if self.model == YOLO else priced.classifiers.facts
        told: dict[str, Any] = known["files"][self.path(priced).name]
        return told


def _forest() -> tuple[Form, ...]:
    return (
        Form(FOREST, "LightGBM", "framework", "LightGBM", "fp64", "model.txt"),
        Form(FOREST, "ONNX Runtime fp32", "onnx", "ONNX Runtime", "fp32", "model.onnx"),
        Form(FOREST, "ONNX Runtime INT8", "int8", "ONNX Runtime", "INT8", None, NO_PRODUCTS),
        Form(FOREST, "tl2cgen", "candidate", "tl2cgen", "fp32", "tl2cgen.so"),
        Form(FOREST, "lleaves, compiled", "candidate", "lleaves", "fp64", "forest.so"),
    )


def _network(model: str, torch: str, onnx: str, int8: str, int8_s8: str, openvino_int8: str) -> tuple[Form, ...]:
    return (
        Form(model, "PyTorch", "framework", "PyTorch", "fp32", torch),
        Form(model, "ONNX Runtime fp32", "onnx", "ONNX Runtime", "fp32", onnx),
        Form(model, "ONNX Runtime INT8", "int8", "ONNX Runtime", "INT8", int8),
        Form(model, "ONNX Runtime INT8, signed", "candidate", "ONNX Runtime", "INT8", int8_s8),
        Form(model, "OpenVINO bf16", "candidate", "OpenVINO", "bf16", onnx),
        Form(model, "OpenVINO INT8", "candidate", "OpenVINO", "INT8", openvino_int8),
        Form(model, "PyTorch compiled", "candidate", "PyTorch compiled", "fp32", torch),
    )


FORMS = (
    *_forest(),
    *_network(YOLO, yolo.TORCH, yolo.ONNX, yolo.ONNX_INT8, yolo.ONNX_INT8_S8, yolo.OPENVINO_INT8),
    *(form for model in NETWORKS for form in _network(model, classifier.TORCH, classifier.ONNX, classifier.ONNX_INT8,
                                                      classifier.ONNX_INT8_S8, classifier.OPENVINO_INT8)),
)  # fmt: skip


def named(model: str, name: str) -> Form:
    """Raises LookupError."""
    for form in FORMS:
        if (form.model, form.name) == (model, name):
            return form
    raise LookupError(f"no form {name!r} of {model!r}; there are: {', '.join(f'{form.model}, {form.name}' for form in FORMS)}")
