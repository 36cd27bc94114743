"""Settings of the allocation grid: a service with so many threads, workers and frames at once, in a container of so many processors.

Pure: which cells there are, how each is written as the service's own options, and the search for the rate that a cell carries within its
SLA. Refuses nothing; a cell that cannot be measured here becomes a row with its reason where it is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Service = Literal["fraud", "retail"]
HOST = 2  # threads that a library starts unasked: one for each processor of the machines that we have recorded runs of


@dataclass(frozen=True, slots=True)
class Cell:
    """`cpus`: the container's CPU limit in processors. `workers`: fraud: processes; retail: inferences side by side.

    `batch`: the most frames together, retail. `wait_ms`: how long a batch waits for more, fraud. `spin`: ONNX Runtime's threads wait
    without sleeping, as they do unasked.
    """

    service: Service
    cpus: float
    engine: str
    threads: int
    precision: str = ""
    spin: bool = False
    workers: int = 1
    batch: int = 1
    wait_ms: float = 0.0

    @property
    def setting(self) -> dict[str, Any]:
        return {"what": "cell", **asdict(self)}

    @property
    def computes(self) -> tuple[str, str]:
        """Engine and precision: what allocation does not change."""
        return self.engine, self.precision

    @property
    def options(self) -> tuple[str, ...]:
        """Of the service's command line."""
        common = ("--engine", self.engine, "--threads", str(self.threads), "--spin" if self.spin else "--no-spin")
        if self.service == "fraud":
            return (*common, "--batch-wait-ms", f"{self.wait_ms:g}")
        return (*common, "--precision", self.precision, "--lanes", str(self.workers), "--batch", str(self.batch))

    @property
    def name(self) -> str:
        """In words: "ONNX Runtime INT8, 2 threads that spin, batches of 4"."""
        engine = {"native": "LightGBM", "onnx": "ONNX Runtime", "compiled": "compiled", "onnxruntime": "ONNX Runtime",
                  "openvino": "OpenVINO", "torch": "PyTorch"}[self.engine]  # fmt: skip
        parts = [" ".join(filter(None, (engine, {"int8": "INT8", "f32": "fp32"}.get(self.precision, self.precision))))]
        if self.engine != "compiled":
            parts.append(f"{self.threads} thread{'s' * (self.threads > 1)}{' that spin' * self.spin}")
        if self.workers > 1:
            parts.append(f"{self.workers} {'processes' if self.service == 'fraud' else 'side by side'}")
        if self.batch > 1:
            parts.append(f"batches of {self.batch}")
        if self.wait_ms:
            parts.append(f"waits {self.wait_ms:g} ms")
        return ", ".join(parts)


def _fraud(cpus: float) -> tuple[Cell, ...]:
    native, onnx, compiled = (Cell("fraud", cpus, engine, 1) for engine in ("native", "onnx", "compiled"))
    return (
        replace(native, threads=HOST), native, replace(onnx, threads=HOST, spin=True), replace(onnx, threads=HOST), onnx,
        compiled, replace(compiled, wait_ms=2.0), replace(compiled, workers=2),
    )  # fmt: skip


def _retail(cpus: float) -> tuple[Cell, ...]:
    onnx, vino = (Cell("retail", cpus, engine, 1, "int8") for engine in ("onnxruntime", "openvino"))
    few = (replace(onnx, threads=HOST, spin=True), onnx, vino)
    if cpus < 1:
        return few
    many = (*few, replace(onnx, threads=HOST), replace(vino, threads=HOST))
    if cpus == 1:
        return (*many, replace(onnx, batch=4), replace(vino, batch=4), Cell("retail", cpus, "torch", 1, "f32"))
    return (*many, replace(onnx, workers=2), replace(onnx, threads=HOST, batch=4), replace(vino, threads=HOST, workers=2),
            replace(vino, threads=HOST, workers=2, batch=4))  # fmt: skip


FRAUD = (*_fraud(0.5), *_fraud(1.0), Cell("fraud", 2.0, "compiled", 1, workers=2))
RETAIL = (*_retail(0.5), *_retail(1.0), *_retail(2.0))
# What the same service was before anybody looked: the framework that the model was made in, then ONNX, then INT8, nothing tuned. Cameras
# have the whole machine, for with the framework nothing is seen in time on one processor.
LADDERS: dict[Service, tuple[tuple[str, Cell], ...]] = {
    "fraud": (
        ("LightGBM, as it is", Cell("fraud", 1.0, "native", HOST)),
        ("ONNX Runtime, as it is", Cell("fraud", 1.0, "onnx", HOST, spin=True)),
    ),
    "retail": (
        ("PyTorch, as it is", Cell("retail", 2.0, "torch", HOST, "f32")),
        ("ONNX Runtime, as it is", Cell("retail", 2.0, "onnxruntime", HOST, "f32", spin=True)),
        ("INT8", Cell("retail", 2.0, "onnxruntime", HOST, "int8", spin=True)),
    ),
}
# What a container gets that nobody tuned: ONNX Runtime with a thread for each processor of the host, and threads that spin. It is what the
# images hold, so the best setting of the same engine is what is deployed; another engine is one more step.
DEFAULTS: dict[Service, Cell] = {
    "fraud": Cell("fraud", 1.0, "onnx", HOST, spin=True),
    "retail": Cell("retail", 1.0, "onnxruntime", HOST, "int8", spin=True),
}


def search(carries: Callable[[float], bool], guess: float, *, up: float = 1.15, down: float = 1.35, most: int = 6) -> float | None:
    """The largest rate tried that `carries`: from `guess` downwards in large steps until one does, then upwards in small ones.

    Assumes that what carries a rate carries less, too. None where none of `most` rates does; raises ValueError for a guess that is no rate.
    """
    if not 0 < guess < float("inf"):
        raise ValueError(f"a search cannot begin at {guess} a second")
    failed, best = float("inf"), None
    for n in range(most):
        if carries(rate := guess / down**n):
            best = rate
            break
        failed = rate
    for _ in range(most):
        if best is None or best * up >= failed * 0.99 or not carries(best * up):
            break
        best *= up
    return best
