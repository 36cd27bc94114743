"""The two services as images: what goes in, how it starts, and which Dockerfile says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lib import home
from lib.images import store
from lib.pipelines.fraud import model as forests
from lib.vision import yolo

VARIANTS = ("fat", "slim", "distroless")
DEPLOY = home.ROOT / "deploy"
UID = 65532  # "nonroot" of distroless images


@dataclass(frozen=True, slots=True)
class Recipe:
    """A service's image. `model`: where its files are on this machine and their names. `options`: how it is measured."""

    name: str
    model: Callable[[], tuple[Path, tuple[str, ...]]]
    options: tuple[str, ...]

    @property
    def dockerfile(self) -> Path:
        return DEPLOY / f"{self.name}.Dockerfile"

    def requirements(self, variant: str) -> Path:
        return DEPLOY / "requirements" / (f"{self.name}-fat.txt" if variant == "fat" else f"{self.name}.txt")

    def context(self) -> Path:
        """The model as a build context of its own. Raises Absent where it is not on this machine."""
        try:
            root, names = self.model()
        except (forests.NotReady, yolo.NotReady) as reason:
            raise store.Absent(str(reason)) from reason
        shutil.rmtree(place := store.room() / "models" / self.name, ignore_errors=True)
        place.mkdir(parents=True)
        for name in names:
            shutil.copy2(root / name, place / name)
            (place / name).chmod(0o644)
        return place


def _forest() -> tuple[Path, tuple[str, ...]]:
    return forests.load().root, ("ok.json", "model.onnx")


def _detector() -> tuple[Path, tuple[str, ...]]:
    return yolo.load().root, ("ok.json", yolo.ONNX_INT8, yolo.ONNX)


# Answers are compared, so none may be refused for lateness; one thread of the detector, for threads could add in another order.
RECIPES: Mapping[str, Recipe] = {
    "fraud": Recipe("fraud", _forest, ("--deadline-ms", "20000", "--queue-ms", "20000")),
    "retail": Recipe("retail", _detector, ("--threads", "1")),
}


def pins(path: Path) -> dict[str, str]:
    """name → version of a requirements file."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==", 1) for line in lines if line)
