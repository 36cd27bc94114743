"""Triton by pytriton: NVIDIA's server, its dynamic batcher, and a batched function in Python beside it.

Clients speak KServe's protocol with JSON tensors: POST /v2/models/fraud/infer, input `transaction` of 28 components, amount and time.
"""

from __future__ import annotations

import os
import sysconfig

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from lib.pipelines.fraud.servers import task

if __name__ == "__main__":
    port, library = task.arguments()
    forest = task.Forest(library)

    @batch
    def score(transaction: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"probability": forest.probabilities(transaction)[:, None]}

    # Triton's helper loads libpython; it must be that of this interpreter, not one that the system happens to have.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    loopback = TritonConfig(http_address="127.0.0.1", http_port=port, allow_grpc=False, allow_metrics=False)
    with Triton(config=loopback) as triton:
        triton.bind(model_name="fraud", infer_func=score, inputs=[Tensor(name="transaction", dtype=np.float64, shape=(30,))],
                    outputs=[Tensor(name="probability", dtype=np.float64, shape=(1,))], config=ModelConfig(max_batch_size=128), strict=True)
        triton.serve()
