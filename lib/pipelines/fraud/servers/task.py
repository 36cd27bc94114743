"""The task that every server gets: a transaction in, the forest's probability out.

Needs numpy and msgspec only, so that it runs in every environment. The forest is a shared library with
`forest_root(double *rows, double *out, int start, int end)` over rows of 35 features; the stateful ones are 0 here.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from math import exp
from time import sleep

import msgspec
import numpy as np
from numpy.typing import NDArray

FEATURES, COMPONENTS, DAY_S = 35, 28, 86_400
CAPACITY = 1024
PATH = "/v1/score"
SLOW_PATH, SLOW_S = "/v1/slow", 0.030  # a device that takes as long as a camera's frame does, one request at a time


class Transaction(msgspec.Struct, gc=False):
    id: str
    time: float
    amount: float
    v: list[float]


class Answer(msgspec.Struct, gc=False):
    id: str
    decision: str
    probability: float


_decode = msgspec.json.Decoder(Transaction).decode
_encode = msgspec.json.Encoder().encode


class Forest:
    """A compiled forest; not for several threads at once."""

    def __init__(self, library: str) -> None:
        self._root = ctypes.CDLL(library).forest_root
        self._root.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
        self._root.restype = None
        self._packed = bytearray(4 * FEATURES)
        self._single = np.frombuffer(self._packed, np.float32)  # features are float32 wherever something is scored
        self._rows, self._out = np.zeros((CAPACITY, FEATURES)), np.empty(CAPACITY)
        self._row, self._at_rows, self._at_out = self._rows[0], self._rows.ctypes.data, self._out.ctypes.data
        self._pack = struct.Struct(f"<{FEATURES}f").pack_into

    def probability(self, v: list[float], amount: float, time: float) -> float:
        """Of fraud, not calibrated. Raises struct.error unless there are 28 components."""
        self._pack(self._packed, 0, *v, amount, time % DAY_S, 0, 0, 0, 0, 0)
        np.copyto(self._row, self._single)
        self._root(self._at_rows, self._at_out, 0, 1)
        return 1 / (1 + exp(-self._out[0]))

    def probabilities(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of (n, 30) rows: components, amount, time; n up to CAPACITY."""
        n = len(rows)
        self._rows[:n, : COMPONENTS + 1] = rows[:, : COMPONENTS + 1].astype(np.float32)
        self._rows[:n, COMPONENTS + 1] = (rows[:, COMPONENTS + 1] % DAY_S).astype(np.float32)
        self._root(self._at_rows, self._at_out, 0, n)
        whole: NDArray[np.float64] = 1 / (1 + np.exp(-self._out[:n]))
        return whole

    def answer(self, body: bytes) -> bytes:
        """Bytes to bytes. Raises msgspec.ValidationError or struct.error for what is no transaction."""
        asked = _decode(body)
        return _encode(self.decide(asked.id, self.probability(asked.v, asked.amount, asked.time)))

    def slowly(self, body: bytes) -> bytes:
        """`answer`, after SLOW_S in which the processor is free and this process is not."""
        sleep(SLOW_S)
        return self.answer(body)

    @staticmethod
    def decide(name: str, probability: float) -> Answer:
        return Answer(name, "decline" if probability > 0.5 else "approve", probability)


def arguments() -> tuple[int, str]:
    """Port and library, from the command line."""
    return int(sys.argv[1]), sys.argv[2]
