"""The house keeps its shape: imports point one way, heavy things load late, files are small and tell of no machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
           for path in sorted((ROOT / "lib").rglob("*.py"))}

# From the ground up; a module imports its own layer and those below it, never back. clock, which knows nothing but
# numpy, lies under machine, whose ceilings it times.
LAYERS = (
    {"lib", "lib.home", "lib.cluster_worker"},
    {"lib.lock", "lib.commit", "lib.box", "lib.child", "lib.guard", "lib.progress", "lib.stats", "lib.moderated", "lib.clock"},
    {"lib.record", "lib.fetch", "lib.build", "lib.install", "lib.process", "lib.cluster"},
    {"lib.machine", "lib.sampler", "lib.audit"},
    {"lib.measured", "lib.session", "lib.compare", "lib.otava", "lib.otava_worker", "lib.thresholds", "lib.alarms", "lib.alarm_views",
     "lib.history", "lib.abreast", "lib.monitoring.slo"},
    {"lib.vision"},
    {"lib.llm", "lib.pipelines", "lib.profiling"},
    {"lib.images", "lib.monitoring", "lib.pack", "lib.grid"},
    {"lib.press", "lib.figures", "lib.charts", "lib.panels", "lib.timelines", "lib.floorplan", "lib.icicles", "lib.forests",
     "lib.multiples", "lib.report"},
    {"lib.verdict"},
    {"lib.readme", "lib.readme_zh", "lib.__main__"},
)  # fmt: skip
LATE = {"torch", "vllm", "onnxruntime", "transformers", "lightgbm", "sklearn", "daal4py", "lleaves", "treelite", "tl2cgen",
        "mlperf_loadgen", "openvino", "supervision", "trackers", "ultralytics", "nncf", "llama_cpp", "llmcompressor",
        "compressed_tensors", "datasets"}  # fmt: skip
CHARTS = {"lib.press", "lib.figures", "lib.charts", "lib.panels", "lib.timelines", "lib.icicles", "lib.forests", "lib.multiples",
          "lib.report"}  # fmt: skip
MOST_LINES, MOST_BYTES = 320, 2_000_000


def imported(path: Path, *, top_only: bool = False) -> set[str]:
    """Dotted names a file imports, anywhere or only when it is loaded; `from lib import x` is lib.x."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        yield node
        for child in ast.iter_child_nodes(node):
            if not (top_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
                yield from walk(child)

    found: set[str] = set()
    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports say the whole name"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in SOURCES else str(node.module) for name in whole}
    return found


def layer(module: str) -> int:
    """The layer of a module or of the innermost package around it that has one."""
    for n in range(module.count(".") + 1, 0, -1):
        name = ".".join(module.split(".")[:n])
        if (n > 1 or name == module) and (found := [height for height, there in enumerate(LAYERS) if name in there]):
            assert len(found) == 1, f"{name} stands on {len(found)} layers"
            return found[0]
    raise AssertionError(f"{module} has no place in LAYERS: say on which layer it stands")


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_one_way(module: str) -> None:
    for other in imported(SOURCES[module]) & set(SOURCES):
        assert layer(other) <= layer(module), f"{module} looks up at {other}"


def test_nothing_goes_round_in_circles() -> None:
    below = {module: imported(path) & set(SOURCES) - {module} for module, path in SOURCES.items()}
    while free := [module for module, needs in below.items() if not needs & set(below)]:
        for module in free:
            del below[module]
    assert not below, f"these import each other: {sorted(below)}"


def test_client_engines_and_metrics_do_not_know_each_other() -> None:
    def knows(module: str) -> set[str]:
        return {name for name in imported(SOURCES[module]) if name.startswith("lib.llm.")}

    assert knows("lib.llm.client") == {"lib.llm.load", "lib.llm.stream"}
    assert knows("lib.llm.stream") == knows("lib.llm.load") == set()
    assert knows("lib.llm.metrics") == {"lib.llm.events"}
    for engine in (name for name in SOURCES if name.startswith("lib.llm.engines.")):
        assert not knows(engine) & {f"lib.llm.{name}" for name in ("client", "events", "metrics", "bench")}, engine


@pytest.mark.parametrize("module", SOURCES)
def test_heavy_things_load_late(module: str) -> None:
    roots = {name.split(".")[0] for name in imported(SOURCES[module], top_only=True)}
    assert not roots & LATE, f"{module}: import it inside the function that needs it"
    charts = {name.split(".")[0] for name in imported(SOURCES[module])} & {"plotly", "kaleido"}
    assert not charts or any(f"{module}.".startswith(f"{room}.") for room in CHARTS), f"{module} draws"


def test_the_conductor_starts_without_torch_and_plotly() -> None:
    command = [sys.executable, "-c", "import sys, lib.llm.bench; print(*sys.modules)"]
    said = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    loaded = set(said.stdout.split())
    assert "lib.record" in loaded
    assert not loaded & {*LATE, "plotly", "kaleido"}


@pytest.mark.parametrize("module", SOURCES)
def test_a_file_is_one_noun_small_and_says_why_it_exists(module: str) -> None:
    text = SOURCES[module].read_text(encoding="utf-8")
    assert not {"utils", "util", "helpers", "helper", "common", "manager", "misc"} & set(module.split("."))
    assert text.count("\n") <= MOST_LINES
    if text:
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring and len(docstring) > 40


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git clone")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_tracked_file_tells_of_a_home_or_a_registry_or_weighs_too_much() -> None:
    homes = r"/(?:home|Users)/(?!me\b|user\b)\w|/[r]oot/[\w.]|" + re.escape(str(ROOT)) + r"\b"
    registries = r"(?<!\w)(?:files\.)?(?:pypi\.org|pythonhosted\.org|registry\.npmjs|deb\.debian)|//[^/\s]+/simple\b"
    faults = []
    for path in tracked():
        name, raw = path.relative_to(ROOT), path.read_bytes()
        if len(raw) > MOST_BYTES:
            faults.append(f"{name}: {len(raw) / 1e6:.1f} MB")
        if b"\0" not in raw:
            text = raw.decode("utf-8")
            faults += [f"{name}: {text[max(0, hit.start() - 20):hit.end() + 20]!r}"
                       for hit in re.finditer(f"{homes}|{registries}", text)]  # fmt: skip
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("told", [
    "/home/" + "ann/x", "/ro" + "ot/.cache", "https://pypi" + ".org/project/x",
    "https://files.python" + "hosted.org/a.whl", "http://10.0.0.1/" + "simple",
])  # fmt: skip
def test_such_a_file_would_be_found(told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (planted := tmp_path / "notes.md").write_text(f"see {told}")
    here = sys.modules[__name__]
    monkeypatch.setattr(here, "ROOT", tmp_path)
    monkeypatch.setattr(here, "tracked", lambda: [planted])
    with pytest.raises(AssertionError, match=r"notes\.md"):
        test_no_tracked_file_tells_of_a_home_or_a_registry_or_weighs_too_much()
