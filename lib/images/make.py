"""An image from its Dockerfile: wheels fetched beforehand, bases bootstrapped, then the same build that Docker would do.

Wheels are fetched by this machine's own pip and handed in as a context, so no index's address, nor a password of it, comes into a layer.
What is there already is not made again; a build that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lib import child, home
from lib.child import Say
from lib.images import base, prune, store
from lib.images.recipe import RECIPES, VARIANTS, Recipe

BASES = {"fat": "FAT", "slim": "SLIM", "distroless": "DISTROLESS"}  # the Dockerfiles' arguments
# What a build may see of the clone.
COPIED = ("lib", "deploy/requirements", "deploy/prune.toml", "data/inputs/MANIFEST.json", "data/inputs/retail/floor.toml")
PRUNE = Path(prune.__file__)
UNSEEN = {"__pycache__", "llm", "monitoring", "report", "images", "cost"}  # but not these parts of it: see the Dockerfiles' .dockerignore


@dataclass(frozen=True, slots=True)
class Made:
    """A built image. `build_s`: all its stages, bases and wheels being there; None where nobody took the time."""

    service: str
    variant: str
    image: store.Image
    base: base.Base
    build_s: float | None


def wheels(recipe: Recipe, *, say: Say) -> Path:
    """Wheels of all its requirements in one directory, fetched where they are not there yet. Raises child.Failed."""
    place = store.room() / "wheels"
    place.mkdir(exist_ok=True)
    for path in sorted({recipe.requirements(variant) for variant in VARIANTS}):
        done = place / f".{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
        if not done.exists():
            say(f"{recipe.name}: fetching the wheels of {path.name}")
            options: list[str | Path] = ["--quiet", "--no-deps", "--only-binary", ":all:", "--find-links", place, "--dest", place]
            command = [sys.executable, "-m", "pip", "download", *options, "--requirement", path]
            child.run(command, what=f"wheels of {path.name}", log=store.room() / "wheels.log", say=say)
            done.touch()
    return place


def make(service: str, variant: str, *, say: Say, fresh: bool = False) -> Made:
    """The image, built where it is not there or what it is made of has changed. Raises child.Failed, store.Absent."""
    if why := store.lacks():
        raise store.Absent(why)
    recipe = RECIPES[service]
    bases = {each: base.build(each, say=say) for each in (VARIANTS if variant == "distroless" else VARIANTS[: VARIANTS.index(variant) + 1])}
    handed = {"wheels": wheels(recipe, say=say), "model": recipe.context()}
    name, kept = store.named(service, variant), store.room() / f"{service}-{variant}.json"
    made_of = _made_of(recipe, bases, handed["model"])
    if not fresh and kept.exists() and json.loads(kept.read_text())["made_of"] == made_of:
        try:
            return Made(service, variant, store.image(name), bases[variant], json.loads(kept.read_text())["build_s"])
        except store.Absent:
            pass
    say(f"{service} {variant}: building")
    began_s = time.monotonic()
    arguments = [f"--build-arg={BASES[each]}={made.name}" for each, made in bases.items()]
    contexts = [f"--build-context={what}={path}" for what, path in handed.items()]
    # docker's format, for OCI's has no health check. Nothing of an earlier build is taken: its time would tell of that one, and buildah
    # does not see when what is mounted into a step has changed.
    store.buildah("build", "--isolation", "chroot", "--pull-never", "--format", "docker", "--layers", "--no-cache",
                  "--ignorefile", recipe.dockerfile.with_name(f"{recipe.dockerfile.name}.dockerignore"), "--file", recipe.dockerfile,
                  "--target", variant, "--tag", name, *arguments, *contexts, home.ROOT,
                  what=f"{service} {variant}", say=say, log=store.room() / f"{service}-{variant}.log")  # fmt: skip
    build_s = round(time.monotonic() - began_s, 1)
    kept.write_text(json.dumps({"made_of": made_of, "build_s": build_s}))
    say(f"{service} {variant}: built in {build_s:.0f} s")
    return Made(service, variant, store.image(name), bases[variant], build_s)


def _made_of(recipe: Recipe, bases: dict[str, base.Base], model: Path) -> str:
    """Another as soon as a build would be."""
    seen = hashlib.sha256("".join(each.name for each in bases.values()).encode())
    folders = [home.ROOT / told for told in COPIED]
    files = [file for place in folders for file in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    ours = [recipe.dockerfile, recipe.dockerfile.with_name(f"{recipe.dockerfile.name}.dockerignore"), PRUNE]
    for file in [*ours, *sorted(model.iterdir())]:
        seen.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    for file in files:
        if file.is_file() and not UNSEEN.intersection(file.relative_to(home.ROOT).parts):
            seen.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return seen.hexdigest()
