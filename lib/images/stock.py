"""Taking stock of a built image: its layers and packages, its bill of materials by syft, what hadolint says of its Dockerfile."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lib import install
from lib.child import Say
from lib.images import books, store
from lib.images.make import Made
from lib.images.recipe import RECIPES

TOOLS = "imagetools"


@dataclass(frozen=True, slots=True)
class Stock:
    """`facts` go into the record; `differs`: how layers and files disagree, or None."""

    facts: dict[str, Any]
    differs: str | None


def take(made: Made, *, say: Say) -> Stock:
    """Raises child.Failed, store.Absent."""
    root = store.tree(made.image.name)
    with tempfile.TemporaryDirectory(dir=store.room(), prefix=".layout-") as scratch:
        layout = Path(scratch) / "oci"
        store.buildah("push", "--quiet", "--format", "oci", "--compression-format", "gzip", made.image.name, f"oci:{layout}",
                      what=f"{made.service} {made.variant}, its layers", say=say)  # fmt: skip
        laid, tree = books.layers(layout, made.image.history)
        materials = _materials(layout)
    found = books.files(root)
    packages = books.packages(root, found)
    dockerfile = RECIPES[made.service].dockerfile
    facts = {
        "bytes": sum(found.values()), "files": len(found), "compressed_bytes": sum(layer.compressed_bytes for layer in laid),
        "layers": [asdict(layer) for layer in laid], "packages": [asdict(package) for package in packages], "build_s": made.build_s,
        "user": made.image.user, "licences": made.image.labels.get("org.opencontainers.image.licenses"),
        "dockerfile": dockerfile.name, "base": made.base.name.rpartition("/")[2], "id": made.image.id, "lint": lint(dockerfile),
        "health": "Healthcheck" in made.image.config,
        "sbom": materials, "sbom_components": None if materials is None else sum(materials.values()),
    }  # fmt: skip
    return Stock(facts, _differs(tree, found, sum(layer.bytes for layer in laid), sum(package.bytes for package in packages)))


def _differs(tree: dict[str, int], found: dict[str, int], laid: int, owned: int) -> str | None:
    """Layers, laid over each other, are the tree; packages add up to it."""
    total = sum(found.values())
    if owned != total:
        return f"packages add up to {owned} bytes, files to {total}"
    if laid < total:
        return f"layers hold {laid} bytes, files {total}"
    # A hard link is stored once, under whichever name came first.
    only = tree.keys() ^ found.keys()
    strange = sum(tree.get(path, 0) for path in only) - sum(found.get(path, 0) for path in only)
    if strange or any(tree[path] != found[path] for path in tree.keys() & found.keys()):
        return f"{len(only)} paths are in the layers or in the tree alone, {strange} bytes apart: {', '.join(sorted(only)[:3])}"
    return None


def lint(dockerfile: Path) -> list[str] | None:
    """What hadolint finds, or None where it is not on this machine."""
    if isinstance(tools := install.find(TOOLS), install.Missing):
        return None
    said = subprocess.run([tools.tool("hadolint"), "--format", "json", dockerfile], capture_output=True, text=True, check=False).stdout
    return [f"{one['code']} line {one['line']}: {one['message']}" for one in json.loads(said)]


def _materials(layout: Path) -> dict[str, int] | None:
    """Components by kind, as syft finds them; None where it is not on this machine."""
    if isinstance(tools := install.find(TOOLS), install.Missing):
        return None
    quiet = {**os.environ, "SYFT_CHECK_FOR_APP_UPDATE": "false", "HOME": str(layout.parent), "TMPDIR": str(layout.parent)}
    command: list[str | Path] = [tools.tool("syft"), "scan", f"oci-dir:{layout}", "--output", "syft-json", "--quiet"]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        raise store.Absent(f"syft: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}")
    return dict(Counter(one["type"] for one in json.loads(done.stdout)["artifacts"]))


def pruned(made: Made) -> list[dict[str, Any]]:
    """What each rule took out of a distroless image and of its base. Raises store.Absent."""
    told = store.tree(made.image.name) / books.SITE / "pruned.json"
    if not told.exists():
        raise store.Absent(f"{made.image.name} was not pruned")
    return [*json.loads(told.read_text()), *(asdict(cut) for cut in made.base.cuts)]
