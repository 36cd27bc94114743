"""Scorers: the same trees in every engine that could score them, behind one method, on the thread that calls unless told otherwise.

Rows are float32 (n, 35) and C-contiguous, margins float64 (n,): raw log-odds. Refuses a device other than the one asked for.
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lib.pipelines.fraud import trees
from lib.pipelines.fraud.features import NAMES
from lib.pipelines.fraud.model import Model

Rows = NDArray[np.float32]
Margins = NDArray[np.float64]
WIDTH = len(NAMES)


class WrongDevice(RuntimeError):
    """What runs is not what was asked for."""


class Scorer(Protocol):
    """Something that scores rows."""

    name: str

    def margins(self, rows: Rows) -> Margins:
        """(n, 35) → (n,). The result may be overwritten by the next call."""


class Native:
    """LightGBM's own predict: the reference."""

    name = "LightGBM"

    def __init__(self, model: Model, *, threads: int = 1) -> None:
        import lightgbm

        self._threads, self.booster = threads, lightgbm.Booster(model_file=str(model.file("model.txt")))

    def margins(self, rows: Rows) -> Margins:
        found: Margins = self.booster.predict(rows, raw_score=True, num_threads=self._threads)
        return found


class NativeFast:
    """LightGBM's C function for single rows, prepared once: no checks a call. Several rows are a loop."""

    name = "LightGBM, fast C call"

    def __init__(self, model: Model) -> None:
        import lightgbm

        self._native = Native(model)  # keeps the booster alive that the handle points into
        library = lightgbm.basic._LIB
        self._handle = ctypes.c_void_p()
        single_row, raw_score, float32 = ctypes.c_int(0), 1, 0
        failed = library.LGBM_BoosterPredictForMatSingleRowFastInit(
            self._native.booster._handle, raw_score, single_row, -1, float32, WIDTH, b"num_threads=1", ctypes.byref(self._handle)
        )
        if failed:
            raise RuntimeError(library.LGBM_GetLastError().decode())
        self._predict = library.LGBM_BoosterPredictForMatSingleRowFast
        self._predict.argtypes = [ctypes.c_void_p] * 4
        self._length = ctypes.c_int64()
        self._length_at = ctypes.addressof(self._length)
        self._out = np.empty(1)

    def margins(self, rows: Rows) -> Margins:
        if len(rows) == 1:
            self._predict(self._handle, rows.ctypes.data, self._length_at, self._out.ctypes.data)
            return self._out
        found = np.empty(len(rows))
        for place in range(len(rows)):
            self._predict(self._handle, rows[place].ctypes.data, self._length_at, found[place:].ctypes.data)
        return found


class Onnx:
    """ONNX Runtime on `provider`. It sums leaves in float32: good to 1e-5 of a margin."""

    name = "ONNX Runtime"

    def __init__(self, model: Model, *, threads: int = 1, spin: bool = False, provider: str = "CPUExecutionProvider") -> None:
        """`spin`: threads wait for work without sleeping, as ONNX Runtime has it unless told otherwise; one thread never waits."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # what goes wrong is raised
        if provider != "CPUExecutionProvider":  # a graph that silently falls back to the CPU is what we would then measure
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if provider not in (there := onnxruntime.get_available_providers()):
            raise WrongDevice(f"ONNX Runtime has no {provider} here; it has {', '.join(there)}")
        try:
            self._session = onnxruntime.InferenceSession(str(model.file("model.onnx")), options, providers=[provider])
        except onnxruntime.capi.onnxruntime_pybind11_state.Fail as error:
            raise WrongDevice(f"{provider} cannot run the forest on this machine: {error}") from error
        if (runs := self._session.get_providers()[0]) != provider:
            raise WrongDevice(f"ONNX Runtime was asked for {provider} and took {runs}: no such device, or its libraries are missing")
        self._output = ["margin"]

    def margins(self, rows: Rows) -> Margins:
        found: Margins = self._session.run(self._output, {"x": rows})[0][:, 0].astype(np.float64)
        return found


class Tl2cgen:
    """The trees as C, compiled ahead by tl2cgen."""

    name = "tl2cgen"

    def __init__(self, model: Model, *, threads: int = 1) -> None:
        import tl2cgen

        self._matrix, self._predictor = tl2cgen.DMatrix, tl2cgen.Predictor(model.file("tl2cgen.so"), nthread=threads)

    def margins(self, rows: Rows) -> Margins:
        found: Margins = self._predictor.predict(self._matrix(rows, dtype="float32"), pred_margin=True).reshape(-1).astype(np.float64)
        return found


class OneDal:
    """Intel's oneDAL by daal4py, leaves summed in float32: good to 2e-5 of a margin.

    daal4py's converter takes thresholds for `<` where LightGBM means `≤`, which sends a value that equals its threshold to the other side;
    so they are raised by one float32 first. Called a regression, it returns margins instead of probabilities.
    """

    name = "oneDAL"

    def __init__(self, model: Model, *, threads: int = 1) -> None:
        import daal4py
        import lightgbm

        text = model.file("model.txt").read_text().replace("objective=binary sigmoid:1", "objective=regression")
        raised = trees.rewritten(text, lambda t: np.nextafter(trees.floor32(t), np.float32(np.inf)))
        daal4py.daalinit(nthreads=threads)
        self._trees = daal4py.mb.convert_model(lightgbm.Booster(model_str=raised))

    def margins(self, rows: Rows) -> Margins:
        return np.asarray(self._trees.predict(rows), dtype=np.float64).reshape(-1)


class Compiled:
    """lleaves' code for the trees, linked ahead: a function of this process, called through a pointer with buffers that stay in place."""

    name = "lleaves, compiled"

    def __init__(self, model: Model, *, capacity: int = 1024) -> None:
        root = ctypes.CDLL(str(model.file("forest.so"))).forest_root
        root.argtypes, root.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int], None
        self._root: Any = root
        self._capacity, self._rows, self._out = capacity, np.empty((capacity, WIDTH)), np.empty(capacity)
        self._rows_at, self._out_at = self._rows.ctypes.data, self._out.ctypes.data

    def margins(self, rows: Rows) -> Margins:
        n = len(rows)
        if n <= self._capacity:
            self._rows[:n] = rows
            self._root(self._rows_at, self._out_at, 0, n)
            return self._out[:n]
        parts = [self.margins(rows[start : start + self._capacity]).copy() for start in range(0, n, self._capacity)]
        return np.concatenate(parts)
