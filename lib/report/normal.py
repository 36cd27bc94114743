"""An executed notebook without what differs between two runs of the same thing: times, ids, the places of this machine.

What was measured stays untouched. So a rerun that found the same leaves no difference to commit.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from lib import home


def normalise(nb: NotebookNode) -> NotebookNode:
    """A copy of the executed `nb` without what differs between two runs of the same thing."""
    cells = [cell for cell in nb.cells if not any(tag.startswith("papermill-") for tag in _tags(cell))]
    kept, seen, count = [], set[str](), 0
    for cell in cells:
        tags = {"tags": _tags(cell)} if _tags(cell) else {}
        same = {"cell_type": cell.cell_type, "source": cell.source}
        bare = NotebookNode(id=_id(cell, seen), metadata=NotebookNode(tags), **same)
        if cell.get("attachments"):
            bare.attachments = cell.attachments
        if cell.cell_type == "code":
            ran = cell.execution_count is not None
            count += ran
            bare.execution_count = count if ran else None
            bare.outputs = [_output(output, bare.execution_count) for output in _joined(cell.outputs)]
        kept.append(bare)
    spec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": spec, "language_info": {"name": "python"}}
    return nbformat.from_dict({"cells": kept, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def _tags(cell: NotebookNode) -> list[str]:
    return sorted(cell.metadata.get("tags", ()))


def _id(cell: NotebookNode, seen: set[str]) -> str:
    """From what the cell says, so that it changes only with it; a cell that says the same once more gets another."""
    nth = 0
    while (name := hashlib.sha256(f"{cell.cell_type}{nth}{cell.source}".encode()).hexdigest()[:8]) in seen:
        nth += 1
    seen.add(name)
    return name


def _joined(outputs: Sequence[NotebookNode]) -> Iterator[NotebookNode]:
    """`outputs` with texts that merely arrived in several pieces made one."""
    last: NotebookNode | None = None
    for output in outputs:
        if last is not None and output.output_type == last.output_type == "stream" and output.name == last.name:
            last = NotebookNode({**last, "text": last.text + output.text})
            continue
        if last is not None:
            yield last
        last = output
    if last is not None:
        yield last


def _output(output: NotebookNode, count: int | None) -> NotebookNode:
    clean: NotebookNode = _cleaned(output)
    if "execution_count" in clean:
        clean.execution_count = count
    return clean


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return NotebookNode({key: item if key.startswith("image/") else _cleaned(item) for key, item in value.items()})
    return [_cleaned(item) for item in value] if isinstance(value, list) else value


def clean(text: str) -> str:
    """`text` without the places of this machine and the addresses of objects in its memory."""
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/ipykernel_\d+/\d+\.py", "<cell>", text)
    text = text.replace(f"{home.ROOT}/", "").replace(str(home.ROOT), ".")
    places = {home.cache(): "CACHE", Path(sys.prefix): "ENV", Path.home(): "~", Path(tempfile.gettempdir()): "TMP"}
    for place, name in places.items():
        text = re.sub(re.escape(str(place)) + r"(?=/|\b)", name, text)
    return re.sub(r"\b0x[0-9a-f]{8,16}\b", "0x…", text)
