"""On which device these notebooks' workers run: the one place that says so. Read from the driver, so that nobody has to load PyTorch.

Accounts, layers and engines are always the processor's, on a machine with a GPU too; what is measured on a GPU has points of its own, whose
setting says device "cuda". Where there is no GPU they are one row that says why.
"""

from __future__ import annotations

from lib import machine
from lib.measured import Skipped

CUDA = "cuda"


def lacks() -> str | None:
    """Why nothing runs on a GPU here, or None."""
    here = machine.here()
    return None if here.gpus else f"needs an NVIDIA GPU ({here.gpu_status})"


def needed() -> None:
    """Raises Skipped where there is no GPU."""
    if reason := lacks():
        raise Skipped(reason)
