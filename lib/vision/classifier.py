"""ResNet-50 and EfficientNet-Lite0 as this machine runs them: made and quantised once into the cache, then found again.

EfficientNet-Lite0 has the weights that were trained on ImageNet. ResNet-50 has none, for no package registry holds any: its weights are
random, from a seed. How fast it runs and how close INT8 stays to it do not depend on that; how right it is could not be asked.
classifier_worker.py does the work. INT8 is calibrated on photographs that nothing is judged by (photographs.py). Files appear whole or
not at all, so that a build that was killed goes on where it was; `ok.json` is written last.

    python -m lib.vision.classifier
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib import child, fetch, home, install, lock
from lib.child import Say
from lib.vision import photographs, yolo
from lib.vision.photographs import BadPhotograph, Crops
from lib.vision.yolo import summed

WEIGHTS, PACKAGE = "efficientnet-lite0", "efficientnet-lite-network"  # of the manifest
ENGINE = "ultralytics"  # where NNCF is
WORKER = Path(__file__).with_name("classifier_worker.py")
NETWORKS = ("resnet50", "efficientnet-lite0")
HW = (photographs.SIDE, photographs.SIDE)
CALIBRATED_EACH, JUDGED_EACH = 4, 8  # crops of a photograph
OURS = ("torch", "transformers", "onnx", "onnxruntime-gpu", "numpy", "opencv-python")  # packages that take part in the making

# What is made of each network, by the end of its file's name; the first is made with two that lie beside it, ".onnx" and ".npy".
TORCH, ONNX, ONNX_INT8, ONNX_INT8_S8, OPENVINO_INT8 = ".pt2", ".onnx", "-int8.onnx", "-int8-s8.onnx", "-nncf.xml"
STEPS: dict[str, dict[str, Any]] = {
    TORCH: {"job": "network"},
    ONNX_INT8: {"job": "qdq", "activations": "u8"},
    ONNX_INT8_S8: {"job": "qdq", "activations": "s8"},
    OPENVINO_INT8: {"job": "nncf"},
}
FORMS = (TORCH, ONNX, ONNX_INT8, ONNX_INT8_S8, OPENVINO_INT8)


class NotReady(Exception):
    """The classifiers, or what they are made with, are not on this machine; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Classifiers:
    """`facts`: "files" by name with "sha256" and "bytes", "steps" by name, "packages", photographs by name in "calibrated" and "judged".

    `missing`: files that could not be made here, and why.
    """

    version: str
    root: Path
    facts: dict[str, Any]
    missing: dict[str, str]

    def file(self, network: str, form: str) -> Path:
        """A form of a network, for instance ("resnet50", ONNX). Raises NotReady with the reason why it is not there."""
        name = f"{network}{form}"
        if network not in NETWORKS or form not in FORMS:
            raise NotReady(f"there is no {name!r}; there are {', '.join(NETWORKS)}, each with {', '.join(FORMS)}")
        if name in self.missing:
            raise NotReady(self.missing[name])
        return self.root / name

    def judged(self) -> Crops:
        """The pictures that all forms are judged by."""
        return Crops(np.load(self.root / "judged.npy"), tuple(self.facts["judged"]))

    def reference(self, network: str) -> NDArray[np.float32]:
        """(n, 1000): PyTorch's float32 logits of the judged pictures, as they came out where the network was made."""
        kept: NDArray[np.float32] = np.load(self.root / f"{network}.npy")
        return kept


def load(root: Path | None = None) -> Classifiers:
    """The classifiers in `root`, by default those that were built on this machine. Instant. Raises NotReady."""
    if root is not None and not (root / "ok.json").exists():
        raise NotReady(f"{root} holds no classifiers; python -m lib.vision.classifier says where it builds them")
    root = root or _root()
    if not (root / "ok.json").exists():
        raise NotReady("The classifiers are not built on this machine yet; python -m lib.vision.classifier does it in two minutes")
    return Classifiers(**json.loads((root / "ok.json").read_text()), root=root)


def build(*, say: Say = print) -> Classifiers:
    """The classifiers, built first where needed; what could not be made before is tried again. Raises NotReady where they cannot be."""
    root = _root()
    with lock.held(root.with_suffix(".lock"), say=say, what="the classifiers"):
        if (root / "ok.json").exists() and not load().missing:
            return load()
        began_s, before = time.monotonic(), load().facts["steps"] if (root / "ok.json").exists() else {}
        try:
            inputs = {"weights": fetch.fetch(WEIGHTS, say=say), "package": fetch.fetch(PACKAGE, say=say)}
            calibrated = photographs.crops(photographs.fetched(photographs.CALIBRATE, say=say), each=CALIBRATED_EACH)
            judged = photographs.crops(photographs.fetched(photographs.JUDGE, say=say), each=JUDGED_EACH)
            root.mkdir(parents=True, exist_ok=True)
            for left in root.glob(".making-*"):  # by a build that was killed
                shutil.rmtree(left)
            np.save(root / "calibration.npy", photographs.tensor(calibrated.images))
            np.save(root / "judged.npy", judged.images)
            engine = install.provision(ENGINE, say=say)
            told, missing = _forms(root, inputs, judged, engine, say)
        except (fetch.Refused, BadPhotograph, child.Failed, OSError) as error:
            raise NotReady(f"The classifiers cannot be built: {error}") from error
        made = [f"{network}{form}" for network in NETWORKS for form in FORMS if f"{network}{form}" not in missing]
        packages = {name: version(name) for name in OURS} | {ENGINE: install.pinned(ENGINE)}
        facts = {"files": {name: summed(root / name) for name in made}, "steps": {**before, **told}, "packages": packages,
                 "calibrated": calibrated.of, "judged": judged.of, "build_s": round(time.monotonic() - began_s, 1)}  # fmt: skip
        _write(root / "ok.json", {"version": f"classifiers-{root.name}", "facts": facts, "missing": missing})
    say(f"the classifiers: ready after {time.monotonic() - began_s:.0f} s")
    return load()


def _forms(root: Path, inputs: dict[str, Path], judged: Crops, engine: install.Install | install.Missing,
           say: Say) -> tuple[dict[str, Any], dict[str, str]]:  # fmt: skip
    """What the worker says of each form that it made, and why others are missing: only what wants NNCF may be."""
    known = fetch.sources()
    given = {**{what: str(path) for what, path in inputs.items()}, "calibration": str(root / "calibration.npy"),
             "weights_sha256": known[WEIGHTS].member_sha256, "package_sha256": known[PACKAGE].member_sha256}  # fmt: skip
    told, missing = dict[str, Any](), dict[str, str]()
    with tempfile.TemporaryDirectory(prefix=".making-", dir=root) as scratch:
        np.save(Path(scratch) / "judged.npy", photographs.tensor(judged.images))
        given["judged"] = str(Path(scratch) / "judged.npy")
        for network in NETWORKS:
            for form, how in STEPS.items():
                to, python = root / f"{network}{form}", Path(sys.executable)
                if how["job"] == "nncf":
                    if isinstance(engine, install.Missing):
                        missing[to.name] = engine.reason
                        continue
                    python = engine.tool("python")
                if not to.exists():
                    asked = {**given, **how, "name": network, "onnx": str(root / f"{network}{ONNX}"),
                             "seven_bits": how.get("activations") == "u8" and not vnni()}  # fmt: skip
                    told[to.name] = make(to, asked, python=python, say=say)
    return told, missing


def vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor adds products of u8 and s8 in 32 bits. One that does not adds two of them in 16, which weights of 8 bits would
    overflow; with 7 they fit, but EfficientNet-Lite0's first class is then another in 29 % of the judged crops instead of 14 %."""
    return bool(re.search(r"^(?:flags|Features)\s*:.*\b(?:avx512_vnni|avx_vnni|amx_int8|asimddp)\b", cpuinfo.read_text(), re.M))


def make(to: Path, asked: dict[str, Any], *, python: Path, say: Say) -> dict[str, Any]:
    """The file `to` by classifier_worker.py in `python`, under its name only once it is whole. What the worker says, and the seconds.

    Raises child.Failed.
    """
    began_s = time.monotonic()
    say(f"the classifiers: making {to.name}")
    with tempfile.TemporaryDirectory(prefix=".making-", dir=to.parent) as place, tempfile.TemporaryDirectory() as scratch:
        question, answer = (Path(scratch) / name for name in ("asked.json", "answer.json"))
        question.write_text(json.dumps({**asked, "to": str(Path(place) / to.name)}))
        child.run([python, "-I", WORKER, question, answer], what=f"the classifiers, {to.name}", log=Path(scratch) / "log", say=say,
                  timeout_s=900, env=yolo.environment())  # fmt: skip
        for file in sorted(Path(place).iterdir(), key=lambda file: file.name == to.name):  # what it is asked for by name comes last
            file.replace(to.with_name(file.name))
        told: dict[str, Any] = json.loads(answer.read_text())
    return {**told, "made_s": round(time.monotonic() - began_s, 1)}


def _root() -> Path:
    """Where the classifiers lie: another place as soon as weights, pictures, packages, the way they are made or for whom are others."""
    known = fetch.sources()
    used = (WEIGHTS, PACKAGE, photographs.SAMPLES, photographs.PEOPLE, photographs.NATURE)
    made_of = [[known[name].member_sha256 for name in used], STEPS, vnni(), [CALIBRATED_EACH, JUDGED_EACH],
               {name: version(name) for name in OURS}, tomllib.loads(install.PINS.read_text())[ENGINE]["pip"], fetch.sha256(WORKER),
               fetch.sha256(Path(photographs.__file__))]  # fmt: skip
    return home.cache() / "classifiers" / hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]


def _write(path: Path, content: dict[str, Any]) -> None:
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(content, indent=1))
    beside.replace(path)


if __name__ == "__main__":
    built = build(say=lambda line: print(line, flush=True))
    print(f"{built.version}, in {built.root}; calibrated on {len(set(built.facts['calibrated']))} photographs, judged by "
          f"{len(built.facts['judged'])} crops of {len(set(built.facts['judged']))} others")  # fmt: skip
    for name, told in built.facts["files"].items():
        print(f"  {told['bytes'] / 1e6:6.1f} MB  {name}@{told['sha256'][:12]}")
    for name, reason in built.missing.items():
        print(f"  {name}: {reason}")
