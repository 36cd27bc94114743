"""Who looks at the picture: one detector's raw answer to a batch of canvases, from PyTorch, ONNX Runtime or OpenVINO.

Refuses to run on another device or in another precision than was asked for: both fall back without a word (ONNX Runtime to the CPU,
OpenVINO to bfloat16), and a row of a table would then tell something else than its name. Neither may report what runs here, which both do
unless told otherwise.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lib import home

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


class WrongDevice(Exception):
    """The provider or precision that was asked for does not run here; the message says what does."""


class Detector(Protocol):
    """`takes`: "canvas" is uint8 (batch, h, w, 3) BGR, "tensor" is float32 (batch, 3, h, w) RGB 0…1; C-contiguous both."""

    name: str
    net_hw: tuple[int, int]
    batch: int
    takes: Literal["canvas", "tensor"]

    def infer(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """(batch, 84, anchors): centre x, y, width, height in pixels of the canvas, then the 80 scores; of a classifier (batch, labels). A
        view, valid until this thread's next call. May be called from several threads. Raises ValueError for what it does not take."""
        ...


class OnnxRuntime:
    """A session of ONNX Runtime. Takes a tensor. See onnxruntime_detector."""

    takes: Literal["canvas", "tensor"] = "tensor"

    def __init__(self, session: Any, *, name: str, net_hw: tuple[int, int], batch: int) -> None:
        self.name, self.net_hw, self.batch = name, net_hw, batch
        self._session, self._shape = session, (batch, 3, *net_hw)

    def infer(self, x: NDArray[Any]) -> NDArray[np.float32]:
        _check(x, self._shape, np.float32)
        found: NDArray[np.float32] = self._session.run(None, {"images": x})[0]
        return found


class _Own(threading.local):
    request: Any = None  # of the thread that asks


class OpenVino:
    """A model that OpenVINO compiled; each thread has an infer request of its own. See openvino_detector."""

    def __init__(self, compiled: Any, *, name: str, net_hw: tuple[int, int], batch: int, canvas: bool) -> None:
        self.name, self.net_hw, self.batch = name, net_hw, batch
        self.takes: Literal["canvas", "tensor"] = "canvas" if canvas else "tensor"
        self._compiled, self._own = compiled, _Own()
        self._shape = (batch, *net_hw, 3) if canvas else (batch, 3, *net_hw)
        self._kind: type[np.generic] = np.uint8 if canvas else np.float32

    def infer(self, x: NDArray[Any]) -> NDArray[np.float32]:
        _check(x, self._shape, self._kind)
        if self._own.request is None:
            self._own.request = self._compiled.create_infer_request()
        found: NDArray[np.float32] = self._own.request.infer(x, share_inputs=True, share_outputs=True)[0]
        return found


class Torch:
    """A program of torch.export, run by PyTorch operator by operator. Takes a tensor. See torch_detector."""

    takes: Literal["canvas", "tensor"] = "tensor"

    def __init__(self, run: Any, *, name: str, net_hw: tuple[int, int], batch: int) -> None:
        import torch

        self.name, self.net_hw, self.batch = name, net_hw, batch
        self._run, self._shape, self._from_numpy, self._inference_mode = run, (batch, 3, *net_hw), torch.from_numpy, torch.inference_mode

    def infer(self, x: NDArray[Any]) -> NDArray[np.float32]:
        _check(x, self._shape, np.float32)
        with self._inference_mode():
            found: NDArray[np.float32] = self._run(self._from_numpy(x)).numpy()
        return found

    def of(self, batch: int) -> Torch:
        """The same program for batches of another size: loading it again would take seconds."""
        return Torch(self._run, name=self.name, net_hw=self.net_hw, batch=batch)


def torch_detector(path: Path, *, net_hw: tuple[int, int], batch: int = 1, threads: int, compiled: bool = False) -> Torch:
    """A program that torch.export wrote (.pt2) in PyTorch on the CPU, float32. Threads are PyTorch's, so of two calls the last counts.

    `compiled`: by torch.compile, which takes half a minute at the first answer. Raises WrongDevice where a compiler is lacking, or what
    lies in the file computes in another precision.
    """
    if compiled and not (shutil.which("g++") or shutil.which("clang++")):
        raise WrongDevice(f"{path.name} was to run compiled; torch.compile needs a C++ compiler, and there is none on this machine")
    import torch

    torch.set_num_threads(threads)
    program = torch.export.load(path)
    kinds = {str(weights.dtype) for weights in program.state_dict.values() if weights.is_floating_point()}
    if kinds != {"torch.float32"}:
        raise WrongDevice(f"{path.name} was to run in float32; it holds {', '.join(sorted(kinds)) or 'no weights'}")
    run = program.module()
    return Torch(torch.compile(run) if compiled else run, name=f"PyTorch{' compiled' if compiled else ''}, {path.name}", net_hw=net_hw,
                 batch=batch)  # fmt: skip


def onnxruntime_detector(path: Path, *, net_hw: tuple[int, int], batch: int = 1, threads: int, spin: bool = True,
                         provider: str = "CPUExecutionProvider") -> OnnxRuntime:
    """An ONNX file in ONNX Runtime on `threads` threads by `provider`. TensorRT runs in FP16 and keeps its engines in our cache.

    `spin`: threads wait for work without sleeping, which is ONNX Runtime's own way. Raises WrongDevice where the provider is not to be had
    or puts the model elsewhere.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when it is imported
    import onnxruntime

    if provider not in (there := onnxruntime.get_available_providers()):
        raise WrongDevice(f"{path.name} was to run by {provider}; this onnxruntime has {', '.join(there)}")
    if provider in (CUDA, TENSORRT):
        onnxruntime.preload_dlls()  # from NVIDIA's wheels, where they are installed
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors: what it tidies up in a graph is nobody's concern
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.add_free_dimension_override_by_name("batch", batch)
    options.add_free_dimension_override_by_name("height", net_hw[0])
    options.add_free_dimension_override_by_name("width", net_hw[1])
    session = onnxruntime.InferenceSession(path, options, providers=[(provider, _of_provider(provider))])
    if (got := session.get_providers())[0] != provider:
        raise WrongDevice(f"{path.name} was to run by {provider}, but ONNX Runtime took {got[0]}; its log says what it lacks")
    short = provider.removesuffix("ExecutionProvider")
    return OnnxRuntime(session, name=f"ONNX Runtime {short}, {path.name}", net_hw=net_hw, batch=batch)


def _of_provider(provider: str) -> dict[str, str]:
    if provider == CUDA:
        return {"use_tf32": "0"}  # a float32 row is float32
    if provider == TENSORRT:
        kept = home.cache() / "retail" / "tensorrt"
        kept.mkdir(parents=True, exist_ok=True)
        return {"trt_fp16_enable": "1", "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(kept)}
    return {}


def quiet_openvino() -> Any:
    """The package, imported so that nobody is told."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # OpenVINO then takes its stub
    import openvino

    return openvino


def in_precision(compiled: Any, precision: str, name: str) -> None:
    """Raises WrongDevice where OpenVINO computes the model called `name` otherwise than it was asked to: by itself it says nothing."""
    if (got := compiled.get_property("INFERENCE_PRECISION_HINT").to_string()) != precision:
        raise WrongDevice(f"{name} was to run in {precision}; OpenVINO computes in {got} on this processor")


def openvino_detector(path: Path, *, net_hw: tuple[int, int], batch: int = 1, threads: int, precision: Literal["f32", "bf16"] = "f32",
                      canvas: bool = True, streams: int = 1) -> OpenVino:
    """An ONNX file or OpenVINO IR in OpenVINO on the CPU: `streams` inferences at a time, `threads` threads in all.

    `canvas`: colours, layout and scale are part of the graph. INT8 is what the file brings; `precision` is that of the rest. Raises
    WrongDevice where the processor does not compute in it.
    """
    openvino = quiet_openvino()
    from openvino.preprocess import ColorFormat, PrePostProcessor

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([batch, 3, *net_hw])
    if canvas:
        steps = PrePostProcessor(model)
        steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC")).set_color_format(ColorFormat.BGR)
        steps.input().model().set_layout(openvino.Layout("NCHW"))
        steps.input().preprocess().convert_element_type(openvino.Type.f32).convert_color(ColorFormat.RGB).scale(255.0)
        model = steps.build()
    # Left to itself it computes in bfloat16 on a processor that can, whatever the file says.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": streams,
                                                 "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False})
    in_precision(compiled, precision, path.name)
    return OpenVino(compiled, name=f"OpenVINO {precision}, {path.name}", net_hw=net_hw, batch=batch, canvas=canvas)


def _check(x: NDArray[Any], shape: tuple[int, ...], kind: type[np.generic]) -> None:
    if x.shape != shape or x.dtype != kind or not x.flags.c_contiguous:
        raise ValueError(f"the detector takes {np.dtype(kind)} {shape}, contiguous; this is {x.dtype} {x.shape}")
