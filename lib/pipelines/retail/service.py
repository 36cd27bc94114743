"""The retail service: cameras that play clips, watched by one detector, over HTTP. What it answers is in api.py.

It listens on this machine alone unless told otherwise: there is no authentication. SIGTERM or Ctrl-C: not ready any more, streams end,
what is in flight is answered, cameras stop, out, after `drain_s` at the latest; a second signal ends it at once. One JSON line on stderr
for each event of its life.

    python -m lib.pipelines.retail.service [--cameras 3] [--size 384x512] [--precision int8]     (see --help)
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from socket import socket
from types import FrameType
from typing import Annotated, Literal

import typer
import uvicorn

from lib import box, fetch
from lib.pipelines.retail import feeds, floor
from lib.pipelines.retail.api import Api
from lib.pipelines.retail.fleet import NAME, Fleet
from lib.pipelines.retail.footage import CLIP, FLOOR
from lib.pipelines.retail.footage import footage as footage_of_samples
from lib.pipelines.retail.hub import Full
from lib.pipelines.retail.instruments import Instruments, Model
from lib.pipelines.retail.pipeline import Eye
from lib.pipelines.retail.wishes import Footage, Wish
from lib.pipelines.serve import say
from lib.vision import yolo
from lib.vision.clip import BadClip, open_clip
from lib.vision.detector import Detector, WrongDevice, onnxruntime_detector, openvino_detector, torch_detector

TELL_S = 1.0  # how often listeners are told how the cameras do


class Server(uvicorn.Server):  # type: ignore[misc]  # its types are not read
    """uvicorn, but streams are ended when it is told to leave (it would wait for them), and the signal is not raised once more after."""

    def __init__(self, config: uvicorn.Config, api: Api) -> None:
        super().__init__(config)
        self._api = api

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop, self._telling = asyncio.get_running_loop(), asyncio.create_task(self._tell())

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self._telling.cancel()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # whoever asks twice does not want to wait
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._api.leave)  # not here: a handler may interrupt whoever holds the hub's lock

    async def _tell(self) -> None:
        while True:
            self._api.tell()
            await asyncio.sleep(TELL_S)


def run(api: Api, *, host: str = "127.0.0.1", port: int = 0, drain_s: float = 5.0) -> None:
    """Serve until told to stop, then end the fleet. Ends the process with status 2 when it cannot listen."""
    try:
        ours = feeds.listening(host, port)
    except (OSError, OverflowError) as error:
        api.fleet.close()
        say("failed", reason=f"cannot listen on {host}:{port}: {error}; another port may be free (--port)")
        sys.exit(2)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = [_Said(logging.WARNING)]
        logging.getLogger(name).propagate = False
    if not ours.getsockname()[0].startswith("127.") and ours.getsockname()[0] != "::1":
        say("warning", reason=f"listening on {host}, beyond this machine, without authentication")
    config = uvicorn.Config(
        api.app(), loop="uvloop", http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
        timeout_graceful_shutdown=max(1, round(drain_s)), server_header=False, limit_concurrency=256,
    )  # fmt: skip
    say("started", host=host, port=ours.getsockname()[1])
    Server(config, api).run(sockets=[ours])
    say("draining")
    api.fleet.close()
    say("stopped")


class _Said(logging.Handler):
    """uvicorn's complaints as lines of our log, without tracebacks: they may quote what a client sent."""

    def emit(self, record: logging.LogRecord) -> None:
        say("server", level=record.levelname, reason=record.getMessage().partition("\n")[0])


class Precision(StrEnum):
    INT8 = "int8"
    BF16 = "bf16"
    F32 = "f32"


class Engine(StrEnum):
    OPENVINO = "openvino"
    ONNXRUNTIME = "onnxruntime"
    TORCH = "torch"


FILES = {
    (Engine.OPENVINO, Precision.INT8): yolo.OPENVINO_INT8,
    (Engine.OPENVINO, Precision.BF16): yolo.ONNX,
    (Engine.OPENVINO, Precision.F32): yolo.ONNX,
    (Engine.ONNXRUNTIME, Precision.INT8): yolo.ONNX_INT8,
    (Engine.ONNXRUNTIME, Precision.F32): yolo.ONNX,
    (Engine.TORCH, Precision.F32): yolo.TORCH,
}


def main(
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8010,
    host: Annotated[str, typer.Option(help="Beyond loopback only if you ask for it: there is no authentication.")] = "127.0.0.1",
    root: Annotated[
        Path | None, typer.Option("--models", envvar="RETAIL_MODELS", help="The directory they lie in.", show_default="this machine's own")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(envvar="RETAIL_SAMPLES", help=f"Where {CLIP} lies.", show_default="this machine's own, if any")
    ] = None,
    cameras: Annotated[int, typer.Option(help="Begin with so many, cam-1, cam-2 …, that play your clips in turn, else ours.")] = 0,
    clips: Annotated[list[str], typer.Option("--clip", help="A clip of your own, NAME=PATH; may be given again.", show_default=False)] = [],  # noqa: B006
    fps: Annotated[float, typer.Option(help="Of a camera that is not told otherwise.")] = 10.0,
    size: Annotated[str, typer.Option(help="Of the network's input, height x width in multiples of 32.")] = "384x512",
    engine: Annotated[Engine, typer.Option(help="What computes.")] = Engine.OPENVINO,
    precision: Annotated[Precision, typer.Option(help="int8 is quantised, bf16 and f32 compute in it.")] = Precision.INT8,
    drawn: Annotated[Path, typer.Option("--floor", help="The floor of the clip, in TOML.", show_default="the clip's own")] = FLOOR,
    gated: Annotated[bool, typer.Option(help="Do not look at frames in which nothing moves.")] = False,
    batch: Annotated[int, typer.Option(help="The most frames, of different cameras, that are inferred together: 1, 2, 4, 8 or 16.")] = 1,
    lanes: Annotated[int, typer.Option(help="Inferences at a time, on threads that share the processors.")] = 1,
    threads: Annotated[int, typer.Option(help="Of the detector in all.", show_default="one a processor that it is granted")] = 0,
    spin: Annotated[bool, typer.Option(help="Let ONNX Runtime's threads wait for work without sleeping.")] = False,
    most_cameras: Annotated[int, typer.Option(help="More are refused.")] = 32,
    drain_s: Annotated[float, typer.Option(help="How long an orderly end may take.")] = 5.0,
) -> None:
    """Watch clips as cameras, and tell who is where, until told to stop (Ctrl-C, SIGTERM)."""
    try:
        known, shop = yolo.load(root), floor.load(drawn)
        own = _ours(samples, shop, fps) | {name: _footage(path, shop, fps) for name, path in map(_named, clips)}
        if cameras and not own:
            raise ValueError(f"--cameras {cameras}: there is no clip to play; give one with --clip NAME=PATH or --samples")
        if (file := FILES.get((engine, precision))) is None:
            raise ValueError(f"--precision {precision}: {engine} has {', '.join(p for e, p in FILES if e is engine)}")
        net_hw, threads = _size(size), threads or box.granted()
        sizes = [n for n in (1, 2, 4, 8, 16) if n <= batch]
        made = partial(_detector, known.file(file), engine, precision, net_hw=net_hw, threads=threads, lanes=lanes, spin=spin)
        detectors = [made(batch=n) for n in sizes]
    except (yolo.NotReady, fetch.Refused, BadClip, floor.BadFloor, WrongDevice, ValueError) as reason:
        sys.exit(f"retail service: {reason}")
    licence = fetch.sources()[yolo.CHECKPOINT].licence
    instruments = Instruments(Model(known.version_of(file), precision.value, licence))
    fleet = Fleet(detectors, threads=lanes, most_cameras=most_cameras, on_seen=instruments.seen)
    played = [name for name in own if name != Path(CLIP).stem] or list(own)
    api = Api(fleet, own, lambda over, rate: Eye(over, net_hw=net_hw, fps=rate, gated=gated), instruments, net_hw=net_hw)
    try:
        for number in range(1, cameras + 1):
            name = played[(number - 1) % len(played)]
            api.start(f"cam-{number}", Wish(name, own[name], fps, own[name].floor, loop=True))
    except (Full, ValueError) as reason:
        fleet.close()
        sys.exit(f"retail service: {reason}")
    run(api, host=host, port=port, drain_s=drain_s)


def _detector(file: Path, engine: Engine, precision: Precision, *, net_hw: tuple[int, int], batch: int, threads: int, lanes: int,
              spin: bool) -> Detector:
    if engine is Engine.ONNXRUNTIME:
        return onnxruntime_detector(file, net_hw=net_hw, batch=batch, threads=threads, spin=spin)
    if engine is Engine.TORCH:
        return torch_detector(file, net_hw=net_hw, batch=batch, threads=threads)
    hint: Literal["f32", "bf16"] = "bf16" if precision is Precision.BF16 else "f32"
    return openvino_detector(file, net_hw=net_hw, batch=batch, threads=threads, precision=hint, streams=lanes)


def _ours(samples: Path | None, shop: floor.Floor, fps: float) -> dict[str, Footage]:
    """The clip that the floor is drawn on; none where it is not on this machine, unless it was said where. Raises BadClip, BadFloor."""
    try:
        clip = (samples or footage_of_samples()) / CLIP
    except yolo.NotReady:
        return {}
    with open_clip(clip) as first:
        if (first.height, first.width) != shop.frame_hw:
            raise floor.BadFloor(f"the floor is drawn on {shop.frame_hw}, frames of {clip.name} are {(first.height, first.width)}")
    return {clip.stem: Footage(partial(open_clip, clip), shop.frame_hw, fps, shop)}


def _named(told: str) -> tuple[str, Path]:
    """Raises ValueError unless it is NAME=PATH."""
    name, _, path = told.partition("=")
    if not NAME.fullmatch(name) or not path:
        raise ValueError(f"--clip {told}: say NAME=PATH, the name of 1 to 32 a-z, 0-9 and -")
    return name, Path(path)


def _footage(path: Path, shop: floor.Floor, fps: float) -> Footage:
    """A clip of the user's: on the floor that was given where its frames have that size, else on one without zones. Raises BadClip."""
    with open_clip(path) as first:
        frame_hw = first.height, first.width
    return Footage(partial(open_clip, path), frame_hw, fps, shop if frame_hw == shop.frame_hw else floor.Floor(frame_hw, (), None))


def _size(told: str) -> tuple[int, int]:
    """Raises ValueError unless it is heightxwidth, each a multiple of 32 up to 1280."""
    if not re.fullmatch(r"\d{1,4}x\d{1,4}", told):
        raise ValueError(f"--size {told}: say height x width, for instance 384x512")
    height, width = map(int, told.split("x"))
    if height % 32 or width % 32 or not (32 <= height <= 1280 and 32 <= width <= 1280):
        raise ValueError(f"--size {told}: both must be multiples of 32 from 32 to 1280")
    return height, width


if __name__ == "__main__":
    typer.run(main)
