"""Every committed notebook is complete, readable and says nothing of the machine that ran it."""

from __future__ import annotations

import ast
import copy
import getpass
import json
import re
import socket
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from lib import home

PLOTLY = "application/vnd.plotly.v1+json"
MOST_BYTES, MOST_LINES, MEDIAN_LINES, FEWEST_LIMITS = 500_000, 12, 4, 3
COMMITTED = sorted(home.NOTEBOOKS.glob("*.ipynb"))
PLACES = re.compile(r"(?<![\w.:/])/(?:home|root|work|tmp|Users|var|opt|mnt|private)/[\w.~-]+")
COMMON_NAMES = {"localhost", "debian", "ubuntu"}
RAISED = nbformat.v4.new_output("error", ename="KeyError", evalue="", traceback=[])


def faults(nb: NotebookNode) -> Iterator[str]:
    """What is wrong with `nb`, a sentence each."""
    cells = nb.cells
    code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    if not re.match(r"# .*[?？]\s*(\n|$)", cells[0].source):
        yield "the title is not a question"
    for number, cell in enumerate(code, 1):
        if cell.execution_count != number:
            yield f"cell {number} was not executed in order"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"cell {number} ended in {output.ename}"
            elif PLOTLY in output.get("data", {}) and "image/png" not in output.data:
                yield f"cell {number} shows a figure without a PNG"
    if not any(cell.outputs for cell in code):
        yield "no cell shows anything"
    lengths = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code]
    if max(lengths, default=0) > MOST_LINES:
        yield f"a code cell of {max(lengths)} lines"
    if statistics.median(lengths or [0]) > MEDIAN_LINES:
        yield f"code cells of {statistics.median(lengths):g} lines in the median"
    yield from _parameter_faults(cells)
    headings = [line.lstrip("# ").strip().lower() for line in text.splitlines() if line.startswith("## ")]
    end = [heading for heading in headings[-3:] if re.match("method|what could prove this wrong|how to rerun", heading)]
    if [heading.split()[0] for heading in end] != ["method", "what", "how"]:
        yield f"it does not end with Method, What could prove this wrong, How to rerun, but with {headings[-3:]}"
    limits = re.search(r"(?ims)^## what could prove this wrong\s*$(.*?)(^## |\Z)", text)
    if limits is None or len(re.findall(r"(?m)^[-*] ", limits[1])) < FEWEST_LIMITS:
        yield f"fewer than {FEWEST_LIMITS} things that could prove it wrong"
    raw = json.dumps(nb, ensure_ascii=False)
    if len(raw.encode()) > MOST_BYTES:
        yield f"{len(raw.encode()):,} bytes"
    pictureless = re.sub(r'"image/png": "[^"]*"', "", raw)
    yield from (f"a path of a machine: {place}" for place in sorted(set(PLACES.findall(pictureless))))
    named = (name for name in _names() if re.search(rf"\b{re.escape(name)}\b", pictureless))
    yield from (f"a name of a machine or user: {name}" for name in named)


def _parameter_faults(cells: list[NotebookNode]) -> Iterator[str]:
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    if len(tagged) != 1:
        yield f"{len(tagged)} cells tagged parameters"
    for statement in (s for cell in tagged for s in ast.parse(cell.source).body):
        try:
            ast.literal_eval(statement.value if isinstance(statement, ast.Assign) else "not an assignment")
        except (ValueError, SyntaxError):
            yield f"a parameter that is no literal: {ast.unparse(statement)}"


def _names() -> set[str]:
    """This host and user, unless their names are words that a text may use."""
    return {name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 4} - COMMON_NAMES


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_notebook(path: Path) -> None:
    assert list(faults(nbformat.read(path, 4))) == []


def test_committed_notebooks_are_normalised() -> None:
    from lib import report

    for path in COMMITTED:
        nb = nbformat.read(path, 4)
        assert report.normalise(nb) == nb, f"{path.name}: ./run_all.sh publish writes it without times and places"


@pytest.fixture(scope="module")
def good() -> NotebookNode:
    """The sample as it would look once executed."""
    nb = nbformat.read(Path(__file__).parent / "samples" / "10_sample_latency.ipynb", 4)
    for number, cell in enumerate((c for c in nb.cells if c.cell_type == "code"), 1):
        cell.execution_count = number
    bundle = {PLOTLY: {"data": [], "layout": {}}, "image/png": "aGVsbG8=", "text/plain": "x"}
    nb.cells[6].outputs = [nbformat.v4.new_output("display_data", bundle)]
    return nb


def test_the_sample_has_no_faults(good: NotebookNode) -> None:
    assert list(faults(good)) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda nb: nb.cells[0].update(source="# 10 · Latency"), "not a question"),
        (lambda nb: nb.cells[2].update(execution_count=None), "not executed"),
        (lambda nb: nb.cells[6].update(outputs=[]), "no cell shows anything"),
        (lambda nb: nb.cells[6].outputs[0].data.pop("image/png"), "without a PNG"),
        (lambda nb: nb.cells[2].outputs.append(RAISED), "KeyError"),
        (lambda nb: nb.cells[2].update(source="x = 1\n" * 13), "13 lines"),
        (lambda nb: [c.update(source="x = 1\n" * 5) for c in nb.cells if "outputs" in c], "5 lines in the median"),
        (lambda nb: nb.cells[1].update(source="profile = str(1)"), "no literal: profile = str(1)"),
        (lambda nb: nb.cells[1].update(source="import os"), "no literal: import os"),
        (lambda nb: nb.cells[1].metadata.pop("tags"), "0 cells tagged parameters"),
        (lambda nb: nb.cells.pop(), "does not end with"),
        (lambda nb: nb.cells[-2].update(source=nb.cells[-2].source.replace("- Two", "Two")), "fewer than 3"),
        (lambda nb: nb.cells[6].outputs[0].data.update({"text/plain": "y" * 500_001}), "bytes"),
        (lambda nb: nb.cells[-1].update(source="## How to rerun\nread /home/me/data.csv"), "a machine: /home/me"),
        (lambda nb: nb.cells[6].outputs[0].data.update({"text/plain": "File /tmp/x1/y.py"}), "a machine: /tmp/x1"),
    ],
)
def test_each_fault_is_seen(good: NotebookNode, change: Callable[[NotebookNode], object], fault: str) -> None:
    broken = copy.deepcopy(good)
    change(broken)
    assert any(fault in said for said in faults(broken)), list(faults(broken))
