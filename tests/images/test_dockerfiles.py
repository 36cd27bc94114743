"""What the Dockerfiles promise can be read in them: pins of the lock, a user who is not root, nothing fetched from an address."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lib import home, install
from lib.images import stock
from lib.images.recipe import DEPLOY, RECIPES, VARIANTS, pins

SIBLINGS = {"onnxruntime": "onnxruntime-gpu", "opencv-python-headless": "opencv-python"}  # for processors and no screens; same version
DOCKERFILES = [recipe.dockerfile for recipe in RECIPES.values()]
LISTS = sorted((DEPLOY / "requirements").glob("*.txt"))


def instructions(path: Path) -> list[str]:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    return [re.sub(r"\s+", " ", line).strip() for line in text.splitlines() if line.strip()]


def stages(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in instructions(path):
        if told := re.fullmatch(r"FROM \S+ AS (\w+)", line):
            found[told[1]] = []
        elif found:
            found[list(found)[-1]].append(line)
    return found


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_pins_are_the_locks(path: Path) -> None:
    lock: dict[str, set[str]] = {}
    for line in (home.ROOT / "requirements.lock.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            lock.setdefault(canonicalize_name(pin.name), set()).add(str(pin.specifier).removeprefix("=="))
    for name, version in pins(path).items():
        assert version in lock[SIBLINGS.get(name, name)], f"{name} {version} is not what requirements.lock.txt has"


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_nothing_that_is_asked_for_is_left_out(path: Path) -> None:
    """pip installs them without looking at what they ask for."""
    named = set(pins(path))
    for name in named:
        try:
            asks = distribution(SIBLINGS.get(name, name)).requires or []
        except PackageNotFoundError:
            continue  # not for this Python
        for wanted in map(Requirement, asks):
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                known = canonicalize_name(wanted.name)
                ours = next((mine for mine, theirs in SIBLINGS.items() if theirs == known), known)
                assert ours in named or known.startswith(("nvidia-", "cuda-", "triton")), f"{name} asks for {known}"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_each_variant_runs_as_nobody_checks_its_health_and_names_its_licence(path: Path) -> None:
    found = stages(path)
    assert set(VARIANTS) <= set(found)
    for variant in VARIANTS:
        lines = found[variant]
        assert lines[-1] == "USER 65532:65532"
        assert any(line.startswith("HEALTHCHECK ") and 'CMD ["python3"' in line for line in lines)
        assert any(line.startswith("ENTRYPOINT [") for line in lines)
        (label,) = [line for line in lines if line.startswith("LABEL ")]
        assert "AGPL-3.0-only" in label if path.stem.startswith("retail") else 'licenses="MIT"' in label


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_variants_start_the_same_service(path: Path) -> None:
    found = stages(path)
    starts = {tuple(line for line in found[variant] if line.startswith(("ENTRYPOINT", "CMD", "EXPOSE"))) for variant in VARIANTS}
    assert len(starts) == 1


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_nothing_is_fetched_and_no_index_is_named(path: Path) -> None:
    lines = instructions(path)
    assert not [line for line in lines if line.startswith("ADD ")]
    assert not [line for line in lines if re.search(r"https?://(?!127\.0\.0\.1)|index-url|apt-get|curl |wget ", line)]
    assert all("--no-index" in line for line in lines if "pip install" in line)
    assert {"FAT", "SLIM", "DISTROLESS"} == set(re.findall(r"^ARG (\w+)=", path.read_text(), re.M))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path: Path) -> None:
    if isinstance(tools := install.find(stock.TOOLS), install.Missing):
        pytest.skip(tools.reason)
    assert stock.lint(path) == []
