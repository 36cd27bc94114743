"""YOLOv8n as this machine runs it: exported and quantised once into the cache from the fetched checkpoint, then found again.

The checkpoint is AGPL-3.0 and stays in the cache, as all that is made of it. yolo_worker.py does the work in an environment of its own
(engines.toml, [ultralytics]). INT8 is calibrated on OpenCV's and ultralytics' pictures, never on footage that it is judged by. Files
appear whole or not at all, so that a build that was killed goes on where it was; `ok.json` is written last.

    python -m lib.vision.yolo
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib import child, fetch, home, install, lock
from lib.child import Say
from lib.vision import labels

CHECKPOINT, SAMPLES, PEOPLE = "yolov8n", "opencv-samples", "ultralytics-pictures"  # of the manifest
ENGINE = "ultralytics"
WORKER = Path(__file__).with_name("yolo_worker.py")
CALIBRATED_HW = (480, 640)

ONNX = "yolov8n.onnx"  # float32, batch, height and width free; so are those below
TORCH = "yolov8n.pt2"  # torch.export's: the framework's own form, which runs without ultralytics
OPENVINO_INT8 = "yolov8n-nncf.xml"  # NNCF's, its weights (.bin) beside it
ONNX_INT8 = "yolov8n-int8.onnx"  # ONNX Runtime's, u8 activations, s8 weights per channel
ONNX_INT8_S8 = "yolov8n-int8-s8.onnx"  # the same with s8 activations
# Everything quantised, as ONNX Runtime does unless told otherwise: it detects nothing. The head's last tensor holds boxes, up to 640, and
# scores, up to 1, on one scale of 255 steps: a step is 2.5, and every score is rounded to 0. The others keep that arithmetic in float32.
ONNX_INT8_WHOLE = "yolov8n-int8-whole.onnx"

STEPS: dict[str, dict[str, Any]] = {
    ONNX: {"job": "export"},
    TORCH: {"job": "program"},
    OPENVINO_INT8: {"job": "nncf"},
    ONNX_INT8: {"job": "qdq", "whole": False, "activations": "u8", "per_channel": True},
    ONNX_INT8_S8: {"job": "qdq", "whole": False, "activations": "s8", "per_channel": True},
    ONNX_INT8_WHOLE: {"job": "qdq", "whole": True, "activations": "u8", "per_channel": False},
}


class NotReady(Exception):
    """The models, or what they are made with, are not on this machine; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Yolo:
    """`version` names the checkpoint. `facts`: "files" by name with "sha256" and "bytes", the "pictures" of the calibration, "packages"."""

    version: str
    root: Path
    facts: dict[str, Any]

    def file(self, name: str) -> Path:
        """One of the files that STEPS names. Raises NotReady for another one."""
        if name not in STEPS:
            raise NotReady(f"there is no {name!r} of YOLOv8n; there are: {', '.join(STEPS)}")
        return self.root / name

    def version_of(self, name: str) -> str:
        """What a service says it runs: the file's name and the beginning of its sum."""
        return f"{name}@{self.facts['files'][name]['sha256'][:12]}"


def load(root: Path | None = None) -> Yolo:
    """The models in `root`, by default those that were built on this machine. Instant. Raises NotReady."""
    if root is not None and not (root / "ok.json").exists():
        raise NotReady(f"{root} holds no YOLOv8n; python -m lib.vision.yolo says where it builds it")
    root = root or _root()
    if not (root / "ok.json").exists():
        raise NotReady("YOLOv8n is not built on this machine yet; python -m lib.vision.yolo does it in two minutes")
    return Yolo(**json.loads((root / "ok.json").read_text()), root=root)


def build(*, say: Say = print) -> Yolo:
    """The models, built first where needed; one process builds at a time. Raises NotReady where they cannot be built."""
    root = _root()
    with lock.held(root.with_suffix(".lock"), say=say, what="YOLOv8n"):
        if (root / "ok.json").exists():
            return load()
        began_s = time.monotonic()
        try:
            fetch.fetch(CHECKPOINT, say=say)
            found = (path for name in (SAMPLES, PEOPLE) for path in fetch.fetch(name, say=say).glob("*.jpg"))
            pictures = sorted(str(path) for path in found if path.name not in _judged())
            if isinstance(engine := install.provision(ENGINE, say=say), install.Missing):
                raise NotReady(f"YOLOv8n cannot be built: {engine.reason}")
            root.mkdir(parents=True, exist_ok=True)
            for left in root.glob(".making-*"):  # by a build that was killed
                shutil.rmtree(left)
            told = {name: _make(root / name, how, pictures, say) for name, how in STEPS.items() if not (root / name).exists()}
        except (fetch.Refused, child.Failed, OSError) as error:
            raise NotReady(f"YOLOv8n cannot be built: {error}") from error
        files = {name: summed(root / name) for name in STEPS}
        facts = {"files": files, "pictures": [Path(path).name for path in pictures], "steps": told, "calibrated_hw": CALIBRATED_HW,
                 "packages": json.loads((engine.root / "ok.json").read_text())["packages"], "build_s": round(time.monotonic() - began_s, 1)}
        _write(root / "ok.json", {"version": f"yolov8n-{fetch.sources()[CHECKPOINT].member_sha256[:12]}", "facts": facts})
    say(f"YOLOv8n: ready after {time.monotonic() - began_s:.0f} s")
    return load()


def ask(job: dict[str, Any], *, what: str, say: Say = print, timeout_s: float = 900) -> dict[str, Any]:
    """What yolo_worker.py answers to `job` (its key "job" names one of its JOBS), in a process of its own; the checkpoint is added.

    Raises NotReady without the environment or the checkpoint, child.Failed when the job fails or takes longer than `timeout_s`.
    """
    if isinstance(engine := install.find(ENGINE), install.Missing):
        raise NotReady(engine.reason)
    source = fetch.sources()[CHECKPOINT]
    if not source.path.exists():
        raise NotReady("the checkpoint of YOLOv8n is not on this machine yet; python -m lib.vision.yolo fetches it")
    with tempfile.TemporaryDirectory(prefix="yolo-") as scratch:
        asked, answer, log = (Path(scratch) / name for name in ("asked.json", "answer.json", "log"))
        asked.write_text(json.dumps({"checkpoint": str(source.path), "sha256": source.member_sha256, **job}))
        command: list[str | Path] = [engine.tool("python"), "-I", WORKER, asked, answer]
        child.run(command, what=what, log=log, say=say, timeout_s=timeout_s, env=environment())
        told: dict[str, Any] = json.loads(answer.read_text())
    return told


def environment() -> dict[str, str]:
    """Nobody is told what is done here, and what these packages want to remember lies in our cache."""
    place = home.cache() / "retail" / "home"
    place.mkdir(parents=True, exist_ok=True)
    homes = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "YOLO_CONFIG_DIR", "MPLCONFIGDIR"), str(place))
    return {**homes, "TORCHINDUCTOR_CACHE_DIR": str(place / "inductor"), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false",
            "ORT_DISABLE_TELEMETRY": "1", "NNCF_CI": "1"}


def _make(to: Path, how: dict[str, Any], pictures: list[str], say: Say) -> dict[str, Any]:
    """The file `to`, under its name only once it is whole. What the worker says of it, and the seconds it took."""
    began_s = time.monotonic()
    say(f"YOLOv8n: making {to.name}")
    with tempfile.TemporaryDirectory(prefix=".making-", dir=to.parent) as scratch:
        made = Path(scratch) / to.name
        told = ask({**how, "to": str(made), "onnx": str(to.with_name(ONNX)), "pictures": pictures, "net_hw": CALIBRATED_HW},
                   what=f"YOLOv8n, {to.name}", say=say)
        for file in sorted(made.parent.iterdir()):  # OpenVINO's weights (.bin) come before what reads them (.xml)
            file.replace(to.with_name(file.name))
    return {**told, "made_s": round(time.monotonic() - began_s, 1)}


def summed(path: Path) -> dict[str, Any]:
    """SHA-256 and size in bytes of a model; OpenVINO's is two files."""
    whole = b"".join(part.read_bytes() for part in ((path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)))
    return {"sha256": hashlib.sha256(whole).hexdigest(), "bytes": len(whole)}


def _root() -> Path:
    """Where the models lie: another place as soon as the checkpoint, a picture, a package or the way they are made is another."""
    sums = [fetch.sources()[name].member_sha256 for name in (CHECKPOINT, SAMPLES, PEOPLE)]
    made_of = [sums, sorted(_judged()), tomllib.loads(install.PINS.read_text())[ENGINE]["pip"], STEPS, CALIBRATED_HW, fetch.sha256(WORKER)]
    return home.cache() / "retail" / hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]


def _judged() -> set[str]:
    """Pictures that the models are judged by: nothing is calibrated on them."""
    return {picture.name for picture in labels.load().pictures}


def _write(path: Path, content: dict[str, Any]) -> None:
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(content, indent=1))
    beside.replace(path)


if __name__ == "__main__":
    built = build(say=lambda line: print(line, flush=True))
    print(f"{built.version}, in {built.root}")
    for name in STEPS:
        print(f"  {built.facts['files'][name]['bytes'] / 1e6:5.1f} MB  {built.version_of(name)}")
