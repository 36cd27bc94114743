"""One large matrix product in the engine that runs the network: what its kernels reach when nothing else is asked of them.

PyTorch's product alone is no ceiling here: on some processors its library is slower than the convolutions of another engine.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from lib.clock import Timing, measure
from lib.vision import detector

SIDE = 1024  # three such matrices in float32 stay in a cache of 16 MiB


def product(precision: Literal["f32", "bf16"], *, threads: int, budget_s: float = 1.0) -> tuple[float, Timing]:
    """FLOP/s of the quickest product of two SIDE × SIDE matrices in OpenVINO, and the timing that it comes from. Raises WrongDevice."""
    openvino = detector.quiet_openvino()
    from openvino import opset13 as ops

    left = ops.parameter([SIDE, SIDE], openvino.Type.f32)
    right = ops.constant(np.random.default_rng(0).random((SIDE, SIDE), np.float32))
    model: Any = openvino.Model([ops.matmul(left, right, False, False)], [left])
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads,
                                                            "NUM_STREAMS": 1})  # fmt: skip
    detector.in_precision(compiled, precision, "a matrix product")
    request, x = compiled.create_infer_request(), np.random.default_rng(1).random((SIDE, SIDE), np.float32)
    timing = measure(lambda: request.infer(x, share_inputs=True, share_outputs=True), budget_s=budget_s)
    return 2 * SIDE**3 / min(timing.samples_s), timing
