"""The way to a machine without a network and back: what arrives is what was sent, or it is refused by name before anything is written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lib import commit, home, install
from lib.pack import bundle, carry, manifest, sources, stand, unpack
from lib.pack.__main__ import asked, size
from lib.pack.manifest import Refused
from tests.test_structure import SOURCES, imported

HERE = "{}.{}".format(*sys.version_info)
TOOLS = all(shutil.which(tool) for tool in ("cmake", "ninja", "gcc"))
SMALL = bundle.LEAST_PART


def quiet(_: str) -> None:
    pass


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wheel(to: Path, name: str, files: dict[str, bytes]) -> Path:
    path = to / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, data in files.items():
            archive.writestr(inner, data)
    return path


def clone(root: Path, keep: Path, *, python: str = HERE) -> Path:
    """A small clone of what is brought: our own unpacking side, two wheels, a source that builds a server which tells its version."""
    keep.mkdir(parents=True)
    engine = wheel(keep, "vllm", {"vllm/__init__.py": b"__version__ = 'fake'\n", "vllm/kernels.so": os.urandom(150_000), "vllm/rs": b"x",
                                  "vllm-1.0.data/scripts/vllm": b"#!", "vllm-1.0.data/purelib/beside.py": b"A = 1\n"})
    needs = wheel(keep, "needed", {"needed.py": b"B = 2\n"})
    tree, sdist = root / "tree", keep / "src-1.tar.gz"
    tree.mkdir(parents=True)
    (tree / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.16)\nproject(s C)\nset(CMAKE_RUNTIME_OUTPUT_DIRECTORY "
                                         "${CMAKE_BINARY_DIR}/bin)\nadd_executable(llama-server s.c)\n")
    (tree / "s.c").write_text('#include <stdio.h>\nint main(void) { puts("version: fake"); return 0; }\n')
    (tree / "docs.md").write_text("not needed")
    with tarfile.open(sdist, "w:gz") as tar:
        tar.add(tree, "src-1/vendor/cpp")
        tar.add(tree, "src-1/.git/modules/vendor/cpp")  # what a careless look for "vendor/cpp" would take as well
    shutil.rmtree(tree)
    for name in bundle.ALONE:
        (root / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(home.ROOT / "lib" / name, root / "lib" / name)
    (root / "engines.toml").write_text('[llamacpp]\nversion = "1"\ntree = "vendor/cpp"\n'
                                       f'sdist = {{ package = "src", file = "src-1.tar.gz", sha256 = "{sha(sdist)}" }}\n')
    (root / "data/inputs").mkdir(parents=True)
    (root / sources.PINS).write_text(f'''python = "{python}"
platforms = ["any"]
[project]
title = "the project"
version = "HEAD"
licence = "MIT"
only = ["lib/*", "engines.toml"]
smoke = "import lib.child, needed; print('measures', needed.B)"
says = "measures 2"
wheels = [{{ file = "{needs.name}", sha256 = "{sha(needs)}", licence = "MIT" }}]
[vllm]
title = "vLLM"
version = "1.0"
licence = "Apache-2.0"
without = ["vllm/rs"]
smoke = "import vllm, beside; print('vllm', vllm.__version__)"
says = "vllm fake"
wheels = [{{ file = "{engine.name}", sha256 = "{sha(engine)}", licence = "Apache-2.0" }}]
[llamacpp]
title = "llama.cpp"
licence = "MIT"
needs = ["cmake", "ninja"]
targets = ["llama-server"]
without = ["docs*"]
says = "version:"
cmake = {{ CMAKE_BUILD_TYPE = "Release" }}
cpu = {{ CPU = "ON" }}
cuda = {{ GPU = "ON" }}
''')
    for command in (("init", "-q"), ("add", "-A"), ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all")):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    base = tmp_path_factory.mktemp("pack")
    told = bundle.make(base / "out", part_bytes=SMALL, only=("project", "llamacpp", "vllm"), keep=base / "keep",
                       root=clone(base / "clone", base / "keep"), say=quiet)
    assert [len(group.parts) > 1 for group in told.groups] == [False, False, True], "parts are of bounded size"
    yield base


def test_the_whole_way_with_the_standard_library_alone(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into = tmp_path / "into"
    command = [sys.executable, "-I", "-S", str(made / "out" / bundle.PROGRAM), "unpack", str(made / "out"), str(into)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    rows = {row["group"]: row for row in map(json.loads, (into / stand.REPORT).read_text().splitlines())}
    assert rows["project"]["status"] == rows["vllm"]["status"] == "ok", ran.stdout + ran.stderr
    assert (into / "cache/brought/vllm/site/vllm/kernels.so").stat().st_size == 150_000
    assert not (into / "cache/brought/vllm/site/vllm/rs").exists(), "what is left out stays behind"
    monkeypatch.setenv("INFERENCE_CACHE", str(into / "cache"))
    found = install.find("vllm")
    assert isinstance(found, install.Install) and found.version == "1.0" and os.access(found.tool("vllm"), os.X_OK)
    if TOOLS:
        assert ran.returncode == 0 and rows["llamacpp"]["status"] == "ok"
        assert rows["llamacpp"]["reason"] == "built for the processor: no GPU on this machine" or stand.seen()
        assert isinstance(found := install.find("llamacpp"), install.Install)
        assert subprocess.run([found.tool("llama-server")], capture_output=True, text=True, check=True).stdout == "version: fake\n"
        assert not list((into / "cache/brought/llamacpp").rglob("docs.md"))
    script = f'. "{into / stand.ENTER}" && pwd && "{sys.executable}" -c "import needed, lib; print(lib.__file__)"'
    entered = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert entered == [str(into / "project"), str(into / "project/lib/__init__.py")]
    told = commit.state(into / "project")
    assert told == {"sha": manifest.read(into / manifest.NAME).commit, "dirty": False}, "an untouched export is as clean as its commit"
    (into / "project/lib/home.py").write_text("changed")
    assert commit.state(into / "project")["dirty"]


def test_same_inputs_same_bytes(made: Path, tmp_path: Path) -> None:
    bundle.make(tmp_path, part_bytes=SMALL, only=("project", "llamacpp", "vllm"), keep=made / "keep", root=made / "clone", say=quiet)
    assert {path.name: sha(path) for path in tmp_path.iterdir()} == {path.name: sha(path) for path in (made / "out").iterdir()}


def copied(made: Path, to: Path) -> Path:
    return Path(shutil.copytree(made / "out", to))


def refusal(parts: Path, into: Path, **more: object) -> str:
    with pytest.raises(Refused) as refused:
        unpack.unpack([parts], into, say=quiet, **more)  # type: ignore[arg-type]
    assert not (into / "project").exists(), "refused before anything was written"
    return str(refused.value)


def test_missing_damaged_and_foreign_parts_are_named_all_at_once(made: Path, tmp_path: Path) -> None:
    parts = copied(made, tmp_path / "parts")
    first, second, *_ = sorted(parts.glob("*vllm*.part"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1] + b"?")
    shorter = sorted(parts.glob("*project*.part"))[0]
    shorter.write_bytes(shorter.read_bytes()[:-3])
    (parts / "0123456789ab-vllm-01-of-02.part").write_bytes(b"of another bundle")
    said = refusal(parts, tmp_path / "into")
    assert f"{first.name} is missing" in said and f"{second.name} is damaged: its SHA-256" in said
    assert f"{shorter.name} is damaged: " in said and "0123456789ab-vllm-01-of-02.part belongs to bundle 0123456789ab" in said


def test_only_what_is_wanted_must_be_there(made: Path, tmp_path: Path) -> None:
    parts = copied(made, tmp_path / "parts")
    for part in parts.glob("*vllm*.part"):
        part.unlink()
    rows = unpack.unpack([parts], tmp_path / "into", only=("project",), say=quiet)
    assert [(row.group, row.status) for row in rows] == [("project", "ok")]
    with pytest.raises(Refused, match="has no group 'trtllm'"):
        unpack.unpack([parts], tmp_path / "into", only=("trtllm",), say=quiet)


def test_a_manifest_of_another_format_a_changed_one_and_none(made: Path, tmp_path: Path) -> None:
    parts = copied(made, tmp_path / "parts")
    told = json.loads((parts / manifest.NAME).read_text())
    for change, said in (({"format": 99}, "another format"), ({"commit": "0" * 40}, "was changed"), ({"groups": 3}, "no manifest")):
        (parts / manifest.NAME).write_text(json.dumps({**told, **change}))
        assert said in refusal(parts, tmp_path / "into")
    (parts / manifest.NAME).write_text("[]")
    assert "no manifest" in refusal(parts, tmp_path / "into")
    (parts / manifest.NAME).unlink()
    assert "0 files are called bundle.json" in refusal(parts, tmp_path / "into")


def test_no_room_is_said_beforehand(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    assert "needs 3.0 GB, 0.0 GB are free" in refusal(made / "out", tmp_path / "into")


def test_another_bundle_in_the_folder_is_not_mixed_with_this_one(made: Path, tmp_path: Path) -> None:
    there = manifest.read(made / "out" / manifest.NAME)
    (tmp_path / "into").mkdir()
    manifest.write(replace(there, commit="f" * 40).named(), tmp_path / "into")
    assert "holds bundle" in refusal(made / "out", tmp_path / "into")


def test_wheels_of_another_python_are_a_row_and_keep_off_the_path(tmp_path: Path) -> None:
    bundle.make(tmp_path / "out", only=("project", "vllm"), keep=tmp_path / "keep",
                root=clone(tmp_path / "clone", tmp_path / "keep", python="9.9"), say=quiet)
    rows = unpack.unpack([tmp_path / "out"], tmp_path / "into", say=quiet)
    assert {row.status for row in rows} == {"skipped"} and f"for Python 9.9, this is {HERE}" in str(rows[0].reason)
    assert str(tmp_path / "into" / "site") not in (tmp_path / "into" / stand.ENTER).read_text()


def archive(to: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(to, "w:xz") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return to


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    told = tarfile.TarInfo(name)
    told.type, told.linkname = kind, link
    return told


@pytest.mark.parametrize(("name", "kind", "said"), [
    ("../out", tarfile.REGTYPE, "leads out"), ("/etc/x", tarfile.REGTYPE, "leads out"), ("a//b", tarfile.REGTYPE, "leads out"),
    ("fine", tarfile.SYMTYPE, "not what the manifest promised"), ("fine", tarfile.LNKTYPE, "not what the manifest promised"),
])  # fmt: skip
def test_no_path_and_no_link_leads_out_even_if_the_manifest_names_it(tmp_path: Path, name: str, kind: bytes, said: str) -> None:
    file = manifest.File(name, 0, hashlib.sha256(b"").hexdigest())
    group = manifest.Group("vllm", "vLLM", "1", {}, {}, (file,))
    with pytest.raises(Refused, match=said):
        unpack.lay_out(group, [archive(tmp_path / "a", (member(name, kind, "/etc/passwd"), b""))], tmp_path / "in")
    assert not (tmp_path / "out").exists()


def test_files_that_are_others_more_or_fewer_than_promised(tmp_path: Path) -> None:
    group = manifest.Group("g", "G", "1", {}, {}, (manifest.File("a", 1, hashlib.sha256(b"a").hexdigest()),))
    for name, content, said in (("a", b"b", "a is damaged"), ("b", b"a", "b is not what"), (None, b"", "lacks a")):
        members = [] if name is None else [(member(name), content)]
        with pytest.raises(Refused, match=said):
            unpack.lay_out(group, [archive(tmp_path / "x", *members)], tmp_path / "in")
    (tmp_path / "x").write_bytes(b"no archive")
    with pytest.raises(Refused, match="cannot be read"):
        unpack.lay_out(group, [tmp_path / "x"], tmp_path / "in")
    assert not list((tmp_path / "in").rglob("a*"))


def test_a_wheel_that_is_not_the_pinned_one_or_leads_out_is_refused(made: Path, tmp_path: Path) -> None:
    pin = {"title": "T", "wheels": [{"file": "needed-1.0-py3-none-any.whl", "sha256": "0" * 64}]}
    shutil.copy(made / "keep" / "needed-1.0-py3-none-any.whl", tmp_path)
    with pytest.raises(Refused):
        sources.wheels(pin, tmp_path, python=HERE, platforms=["any"], say=quiet)
    with pytest.raises(Refused, match="leads out of its folder"):
        list(sources.opened(wheel(tmp_path, "bad", {"../../x.py": b""})))


@pytest.mark.parametrize(("more", "said"), [({"only": ("tpu",)}, "no group 'tpu'"), ({"part_bytes": 10}, "too many"),
                                            ({"root": Path("/")}, "here is no clone")])  # fmt: skip
def test_a_bundle_of_nonsense_is_refused(tmp_path: Path, more: dict[str, object], said: str) -> None:
    with pytest.raises((Refused, OSError), match=said):
        bundle.make(tmp_path, say=quiet, keep=tmp_path, **more)  # type: ignore[arg-type]


def test_the_architecture_is_the_one_that_is_there(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = manifest.read(made / "out" / manifest.NAME)
    group = next(one for one in told.groups if one.name == "llamacpp")
    (tmp_path / "cache/brought/llamacpp").mkdir(parents=True)
    seen: dict[str, str] = {}

    def compiled(_: object, __: object, flags: dict[str, str], *more: object) -> tuple[str, ...]:
        seen.update(flags)
        return ("version: 1",)

    monkeypatch.setattr(stand, "_compiled", compiled)
    monkeypatch.setattr(stand, "seen", lambda: stand.Gpu("NVIDIA H200", "9.0"))
    monkeypatch.setattr(stand, "nvcc", lambda: Path("/usr/local/cuda/bin/nvcc"))
    assert (stand.built(group, tmp_path, quiet).status, seen["CMAKE_CUDA_ARCHITECTURES"], seen["GPU"]) == ("ok", "90-real", "ON")
    monkeypatch.setattr(stand, "nvcc", lambda: None)
    seen.clear()
    assert stand.built(group, tmp_path, quiet).reason == "built for the processor: no nvcc on this machine" and seen["CPU"] == "ON"
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    failed = stand.built(group, tmp_path, quiet)
    assert failed.status == "failed" and failed.reason == "llama.cpp is not built: no cmake, ninja on this machine"
    monkeypatch.setenv("INFERENCE_CACHE", str(tmp_path / "cache"))
    assert isinstance(missing := install.find("llamacpp"), install.Missing) and missing.reason == failed.reason


RUN = "40_gpu/h200-16c-abc123/20261129T070000-0123ab"


def recorded(runs: Path, *, reading: float = 1.0) -> Path:
    run = runs / RUN
    (run / "logs").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({
        "schema": 1, "method": 1, "run_id": run.name, "notebook": "40_gpu", "utc": "", "git": {"sha": "a", "dirty": False},
        "parameters": {}, "environment": {"machine_id": run.parent.name}}))  # fmt: skip
    (run / "points.jsonl").write_text(json.dumps({"setting": {"what": "x"}, "status": "ok", "samples": {"s": [reading]}}) + "\n")
    (run / "events-1.parquet").write_bytes(b"P")
    (run / "logs/vllm-1.log").write_text("log")
    (run / ".half").write_text("left by a kill")
    return run


def test_what_is_collected_is_received(tmp_path: Path) -> None:
    recorded(tmp_path / "there")
    assert "1 runs, 4 files" in carry.collect(tmp_path / "a.tar.gz", runs=tmp_path / "there")
    for _ in range(2):  # once more is no harm
        (run,) = carry.receive(tmp_path / "a.tar.gz", runs=tmp_path / "here")
    assert run == tmp_path / "here" / RUN
    assert {path.name for path in run.iterdir()} == {"run.json", "points.jsonl", "events-1.parquet", "logs"}
    again = carry.collect(tmp_path / "b.tar.gz", runs=tmp_path / "here")
    assert again and sha(tmp_path / "a.tar.gz") == sha(tmp_path / "b.tar.gz")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["40_gpu"]


def test_a_run_that_says_something_else_is_not_overwritten(tmp_path: Path) -> None:
    recorded(tmp_path / "there")
    recorded(tmp_path / "here", reading=2.0)
    carry.collect(tmp_path / "a.tar.gz", runs=tmp_path / "there")
    with pytest.raises(Refused, match="is here already"):
        carry.receive(tmp_path / "a.tar.gz", runs=tmp_path / "here")
    assert "2.0" in (tmp_path / "here" / RUN / "points.jsonl").read_text()


@pytest.mark.parametrize("cut", [0, 50, 200])
def test_a_damaged_file_is_refused(tmp_path: Path, cut: int) -> None:
    recorded(tmp_path / "there")
    carry.collect(tmp_path / "a.tar.gz", runs=tmp_path / "there")
    (tmp_path / "a.tar.gz").write_bytes((tmp_path / "a.tar.gz").read_bytes()[:cut])
    with pytest.raises(Refused):
        carry.receive(tmp_path / "a.tar.gz", runs=tmp_path / "here")
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(("name", "kind"), [
    ("../x/y/20261129T070000-0123ab/run.json", tarfile.REGTYPE), ("/etc/cron.d/x", tarfile.REGTYPE), (f"{RUN}/x.py", tarfile.REGTYPE),
    (f"{RUN}/run.json", tarfile.SYMTYPE), (f"{RUN}/logs/../../x.log", tarfile.REGTYPE), (f"{RUN}/.x.json", tarfile.REGTYPE),
])  # fmt: skip
def test_nothing_but_files_of_runs_is_received(tmp_path: Path, name: str, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.addfile(member(name, kind, "/etc/passwd"))
    with pytest.raises(Refused, match="no file of a run"):
        carry.receive(tmp_path / "a.tar.gz", runs=tmp_path / "here")


def test_nothing_recorded_is_nothing_to_collect(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="nothing was recorded"):
        carry.collect(tmp_path / "a.tar.gz", runs=tmp_path)


def test_sizes_are_read_as_they_are_written() -> None:
    assert (size("60MiB"), size("1000"), size("1 GiB")) == (60 * 2**20, 1000, 2**30)
    assert asked(["bundle", "out", "--only", "vllm,project"]).only == ["vllm", "project"]
    with pytest.raises(SystemExit):
        asked(["bundle", "out", "--part-bytes", "much"])


def test_what_is_pinned_is_whole() -> None:
    told = sources.pins()
    for name in bundle.GROUPS:
        assert told[name]["title"] and told[name]["licence"] and told[name]["version"]
        for one in told[name].get("wheels", []):
            assert len(one["sha256"]) == 64 and one["licence"] and one["file"].endswith(".whl")
            assert any(part in one["file"] for part in ("cp312", "abi3", "none-any")), "each can be imported by Python 3.12"


def test_what_measuring_imports_is_brought_or_expected_over_there() -> None:
    pins, todo, seen, found = sources.pins()["project"], {"lib.pack.timebox", "lib.pack.pictures", "lib.pack.carry"}, set[str](), set[str]()
    while todo:
        seen.add(module := todo.pop())
        names = imported(SOURCES[module], top_only=not module.startswith("lib.pack"))
        todo |= names & set(SOURCES) - seen
        found |= {name.partition(".")[0] for name in names - set(SOURCES)} - sys.stdlib_module_names
    assert {"pandas", "scipy", "torch"} <= found, "the search sees what is imported"
    assert found <= {wheel["file"].partition("-")[0] for wheel in pins["wheels"]} | set(pins["own"])


def test_a_toolkit_without_cublas_gets_torch_s_and_its_headers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, toolkits = tmp_path / "site", tmp_path / "local"
    monkeypatch.setattr(sys, "path", [str(site)])
    assert stand.cublas(tmp_path / "headers", toolkits=toolkits) == {}, "nobody has one: the build says so"
    for name in ("lib/libcublas.so.13", "include/cublas_v2.h", "include/cuda_runtime.h"):
        (site / "nvidia/cu13" / name).parent.mkdir(parents=True, exist_ok=True)
        (site / "nvidia/cu13" / name).touch()
    flags = stand.cublas(tmp_path / "headers", toolkits=toolkits)
    assert flags["CUDA_cublas_LIBRARY"] == str(site / "nvidia/cu13/lib/libcublas.so.13")
    assert flags["CMAKE_CUDA_FLAGS"] == f"-I{tmp_path / 'headers'}"
    assert [path.name for path in (tmp_path / "headers").iterdir()] == ["cublas_v2.h"], "another version's runtime must not be seen"
    (toolkits / "cuda-13/lib64").mkdir(parents=True)
    (toolkits / "cuda-13/lib64/libcublas.so").touch()
    assert stand.cublas(tmp_path / "headers", toolkits=toolkits) == {}, "the toolkit's own fits it best"


def test_a_gpu_is_asked_with_the_rest_and_its_answer_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"smoke": "print('one')", "says": "one", "gpu_smoke": "print('norm', True)", "gpu_says": "norm True"}
    group = manifest.Group("vllm", "vLLM", "1", {}, recipe, (manifest.File("site/a.py", 0, "0"),))
    told = manifest.Manifest("0" * 40, HERE, (group,))
    (tmp_path / "cache/brought/vllm/site").mkdir(parents=True)
    monkeypatch.setattr(stand, "seen", lambda: stand.Gpu("NVIDIA H200", "9.0"))
    assert (stand._site(told, group, tmp_path, quiet).status, (tmp_path / "vllm.log").read_text().count("$ ")) == ("ok", 1)
    recipe["gpu_says"] = "norm False"
    assert "its answer lacks 'norm False'" in str(stand._site(told, group, tmp_path, quiet).reason)
    monkeypatch.setattr(stand, "seen", lambda: None)
    assert stand._site(told, group, tmp_path, quiet).reason == "imported; no GPU here to try it on"


def test_what_lies_there_already_keeps_its_time_so_that_a_build_goes_on(tmp_path: Path) -> None:
    group = manifest.Group("g", "G", "1", {}, {}, (manifest.File("a", 1, hashlib.sha256(b"a").hexdigest()),))
    for content in (b"a", b"b"):  # the second time as it was left, then after somebody changed it
        unpack.lay_out(group, [archive(tmp_path / "x", (member("a"), b"a"))], tmp_path / "in")
        assert (tmp_path / "in/a").read_bytes() == b"a"
        os.utime(tmp_path / "in/a", (1, 1))
        unpack.lay_out(group, [archive(tmp_path / "x", (member("a"), b"a"))], tmp_path / "in")
        assert (tmp_path / "in/a").stat().st_mtime == 1
        (tmp_path / "in/a").write_bytes(content)
