"""Running notebooks, making their outputs repeatable, and setting them as pages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import nbformat.v4 as v4
import psutil
import pytest
from nbformat import NotebookNode
from rich.console import Console

from lib import home, report

SAMPLES = Path(__file__).parent / "samples"


def notebook(*sources: str, tags: dict[int, list[str]] | None = None) -> NotebookNode:
    nb = v4.new_notebook(cells=[v4.new_code_cell(source) for source in sources])
    for cell, names in (tags or {}).items():
        nb.cells[cell].metadata["tags"] = names
    nb.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nb


def written(folder: Path, **notebooks: NotebookNode) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, nb in notebooks.items():
        nbformat.write(nb, folder / f"{name}.ipynb")
    return sorted(folder.glob("*.ipynb"))


def run(paths: list[Path], tmp_path: Path, **parameters: Any) -> tuple[list[report.Outcome], str]:
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115
    outcomes = report.run(
        paths, parameters=parameters, out=tmp_path / "out", console=console,
        figures=tmp_path / "figures", times=tmp_path / "times.json",
    )  # fmt: skip
    return outcomes, console.export_text()


def test_notebooks_are_listed_in_order_and_unknown_ones_refused(tmp_path):
    paths = written(tmp_path, **{name: notebook("1") for name in ("10_b", "00_a", "20_c", "draft")})
    assert [p.stem for p in report.notebooks(folder=tmp_path)] == ["00_a", "10_b", "20_c"]
    assert report.notebooks(["20", "00_a"], folder=tmp_path) == [paths[0], paths[2]]
    with pytest.raises(ValueError, match="no notebook 11, x; there are: 00_a, 10_b, 20_c"):
        report.notebooks(["11", "10", "x"], folder=tmp_path)


def test_a_failed_notebook_is_told_with_its_cell_and_the_others_go_on(tmp_path):
    paths = written(
        tmp_path / "in",
        **{
            "00_good": notebook("print('one')"),
            "10_broken": notebook("x = 1", "def inner():\n    return x / 0", "inner()", "print('never')"),
            "20_killed": notebook("import os, signal", "os.kill(os.getpid(), signal.SIGKILL)"),
            "30_good": notebook("print('two')"),
        },
    )
    outcomes, said = run(paths, tmp_path)
    good, broken, killed, last = outcomes
    assert (good.error, last.error) == (None, None)
    assert broken.error.splitlines()[0] == "cell [3]: ZeroDivisionError: division by zero"
    assert "return x / 0" in broken.error and "\x1b" not in broken.error
    assert killed.error == "cell [2]: DeadKernelError: Kernel died"
    assert "✓ 30_good" in said and "✗ 10_broken" in said
    cells = nbformat.read(broken.path, 4).cells
    assert [c.execution_count for c in cells] == [1, 2, 3, None]  # papermill's markers are gone, what ran is kept
    quiet = Console(file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    assert report.verdict(outcomes, quiet) == 1
    assert "cell [3]: ZeroDivisionError" in quiet.export_text()
    assert report.verdict([good, last], quiet) == 0
    report.site([o.path for o in outcomes if o.path], tmp_path / "site")
    assert "Stopped by an error in cell [3]" in (tmp_path / "site" / "index.html").read_text()


def test_a_plan_that_a_notebook_prints_reaches_the_terminal_and_its_progress_does_not(tmp_path):
    paths = written(tmp_path / "in", **{"00_plan": notebook("print('00_plan: 3 cells to measure: about 5 min')\nprint('3/9 measuring')")})
    _, said = run(paths, tmp_path)
    assert "3 cells to measure: about 5 min" in said
    assert "measuring" not in said


def test_what_tqdm_misses_in_a_kernel_is_not_in_the_report(tmp_path):
    said = 'import warnings\nwarnings.warn("IProgress not found. Please update jupyter")\nwarnings.warn("another")'
    [outcome], _ = run(written(tmp_path / "in", **{"00_a": notebook(said)}), tmp_path)
    text = outcome.path.read_text()
    assert "UserWarning: another" in text and "UserWarning: IProgress" not in text


def test_parameters_are_written_where_they_are_declared_and_strangers_refused(tmp_path):
    source = 'profile = "quick"  # 快 or full\nsizes = [\n    1,\n]; other = 2'
    first = notebook(source, "print(profile, sizes, other)", tags={0: ["parameters"]})
    paths = written(tmp_path / "in", **{"00_a": first, "10_b": notebook("1")})
    [outcome, _], _ = run(paths, tmp_path, profile="full", sizes=[3, 4])
    nb = nbformat.read(outcome.path, 4)
    assert len(nb.cells) == 2
    assert nb.cells[0].source == 'profile = "full"  # 快 or full\nsizes = [3, 4]; other = 2'
    assert nb.cells[1].outputs[0].text == "full [3, 4] 2\n"
    with pytest.raises(ValueError, match="no notebook knows colour; they know other, profile, sizes"):
        run(paths, tmp_path, colour="red")


def test_rerunning_the_same_leaves_no_difference(tmp_path):
    sources = ("import sys, tempfile", "print('a'); print('b', file=sys.stderr); object()", "tempfile.gettempdir()")
    texts = []
    for attempt in ("first", "second"):
        [outcome], _ = run(written(tmp_path / attempt, **{"00_a": notebook(*sources)}), tmp_path / attempt)
        texts.append(outcome.path.read_text())
    assert texts[0] == texts[1]
    assert "papermill" not in texts[0] and "0x…" in texts[0]


def test_normalise_keeps_what_was_measured_and_hides_where():
    nb = notebook("x", "x", "y")
    nb.cells[0].execution_count = 7
    nb.cells[0].metadata.update(papermill={"duration": 1.5}, execution={"iopub": "now"})
    nb.cells[0].outputs = [
        v4.new_output("stream", name="stdout", text=f"{home.ROOT}/data/x.csv "),
        v4.new_output("stream", name="stdout", text=f"{Path.home()}/secret 12.5 ms"),
        v4.new_output("execute_result", {"image/png": "iVBOR", "text/plain": "1"}, execution_count=7),
    ]
    nb.cells[2].execution_count = 9
    clean = report.normalise(nb)
    assert clean.cells[0].outputs[0].text == "data/x.csv ~/secret 12.5 ms"
    assert clean.cells[0].outputs[1].data == {"image/png": "iVBOR", "text/plain": "1"}
    assert clean.cells[0].outputs[1].execution_count == 1
    assert [c.execution_count for c in clean.cells] == [1, None, 2]
    assert clean.cells[0].metadata == {}
    assert len({c.id for c in clean.cells}) == 3  # equal cells are still told apart
    assert report.normalise(clean) == clean
    nbformat.validate(clean)


def test_the_last_run_tells_the_next_how_long_it_takes(tmp_path):
    paths = written(tmp_path / "in", **{"00_a": notebook("profile = 'quick'", tags={0: ["parameters"]})})
    run(paths, tmp_path, profile="quick")
    assert json.loads((tmp_path / "times.json").read_text())["00_a quick"] > 0


RUNNER = """
import sys
from pathlib import Path
from rich.console import Console
from lib import report
folder = Path(sys.argv[1])
paths = sorted(folder.glob("*.ipynb"))
report.run(paths, parameters={}, out=folder / "out", console=Console(), times=folder / "t.json")
"""
SLEEPER = """
import os, time
from pathlib import Path
Path({folder!r}, "pid").write_text(str(os.getpid()))
try:
    time.sleep(60)
finally:
    Path({folder!r}, "tidied").touch()
"""


@pytest.mark.parametrize(("sig", "tidied"), [(signal.SIGINT, True), (signal.SIGKILL, False)])
def test_no_kernel_outlives_ctrl_c_or_a_killed_runner(tmp_path, sig, tidied):
    written(tmp_path, **{"00_a": notebook(SLEEPER.format(folder=str(tmp_path))), "10_b": notebook("1")})
    environment = {**os.environ, "PYTHONPATH": str(home.ROOT)}
    command = [sys.executable, "-c", RUNNER, str(tmp_path)]
    runner = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, preexec_fn=_heeding_ctrl_c)
    pid = tmp_path / "pid"
    wait(lambda: pid.exists() and pid.read_text(), 40)
    kernel = psutil.Process(int(pid.read_text()))
    runner.send_signal(sig)
    assert runner.wait(30) != 0
    wait(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE, 30)
    assert (tmp_path / "tidied").exists() or not tidied
    assert not (tmp_path / "out" / "10_b.ipynb").exists()  # stopped means stopped, not failed and on to the next


def _heeding_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background pass on that they ignore it


def wait(happened: Any, limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end, f"still not after {limit_s} s"
        time.sleep(0.1)
