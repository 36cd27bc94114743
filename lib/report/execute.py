"""Run notebooks one after another in this process, each in a kernel of its own.

A notebook that fails is told (cell, reason, traceback) while the others go on. Ctrl-C interrupts the running cell, lets
its `finally` blocks stop what they started, and ends the kernel. Refuses unknown notebooks, and parameters that no
notebook knows.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from lib import home
from lib.progress import told
from lib.report.normal import clean, normalise

STOP_S = 20  # a kernel that was interrupted may take this long to stop its engines


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one notebook went: wall time in s, the executed notebook (None: nothing was written), the error if any."""

    name: str
    seconds: float
    path: Path | None
    error: str | None = None


def notebooks(only: Sequence[str] = (), *, folder: Path = home.NOTEBOOKS) -> list[Path]:
    """The numbered notebooks in reading order, or those whose name or number is in `only`; ValueError for others."""
    every = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    unknown = [asked for asked in only if not any(asked in (path.stem, path.stem[:2]) for path in every)]
    if unknown:
        valid = ", ".join(path.stem for path in every) or f"none in {folder.name}/"
        raise ValueError(f"no notebook {', '.join(unknown)}; there are: {valid} (the number alone will do)")
    return [path for path in every if not only or {path.stem, path.stem[:2]} & set(only)]


def run(
    paths: Sequence[Path],
    *,
    parameters: Mapping[str, Any],
    out: Path,
    console: Console,
    figures: Path = home.REPORT / "figures",
    times: Path = home.REPORT / "durations.json",
) -> list[Outcome]:
    """Execute `paths` with `parameters` into `out`, figures into `figures`; one Outcome each, whatever happened.

    A notebook gets those parameters that its parameters cell declares; ValueError when none knows one of them. `times`
    remembers how long each took (s), for the time left of the next run.
    """
    sources = {path: nbformat.read(path, 4) for path in paths}
    known = {name for nb in sources.values() for name in _declared(nb)}
    if strangers := set(parameters) - known:
        raise ValueError(f"no notebook knows {', '.join(sorted(strangers))}; they know {', '.join(sorted(known))}")
    out.mkdir(parents=True, exist_ok=True)
    past: dict[str, float] = json.loads(times.read_text()) if times.exists() else {}
    keys = {path: f"{path.stem} {parameters.get('profile', '')}".strip() for path in paths}
    outcomes = []
    with _environment(INFERENCE_FIGURES=str(figures), PYTHONPATH=_paths(), PYTHONWARNINGS=_warnings()), _bar(console) as bar:
        guesses = [past.get(keys[path], 0.0) for path in paths]
        task = bar.add_task("", total=sum(guesses) if all(guesses) else None, left="", news="")
        for number, path in enumerate(paths, 1):
            begun, done = time.monotonic(), sum(guesses[: number - 1])
            bar.update(task, description=f"{path.stem} ({number} of {len(paths)})", news="")
            nb = _with(sources[path], parameters)
            error = _execute(nb, out / path.name, partial(_tick, bar, task, done, guesses[number - 1]), Ear(console, bar, task))
            outcomes.append(Outcome(path.stem, time.monotonic() - begun, _kept(out / path.name), error))
            console.print(_line(outcomes[-1]), highlight=False, markup=False)
            if error is None:
                past[keys[path]] = round(outcomes[-1].seconds, 1)
                times.parent.mkdir(parents=True, exist_ok=True)
                times.write_text(json.dumps(past, indent=1, sort_keys=True) + "\n")
    return outcomes


def verdict(outcomes: Sequence[Outcome], console: Console) -> int:
    """Say once more what failed; the exit status of the whole run: 0 when nothing did, else 1."""
    failed = [outcome for outcome in outcomes if outcome.error]
    for outcome in failed:
        console.print(f"\n✗ {outcome.name}: {outcome.error}", style="red", highlight=False, markup=False)
    return 1 if failed else 0


def _line(outcome: Outcome) -> str:
    first = f": {outcome.error.splitlines()[0]}" if outcome.error else ""
    return f"{'✗' if outcome.error else '✓'} {outcome.name}  {outcome.seconds:.0f} s{first}"


def _bar(console: Console) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn(),
               TextColumn("{task.fields[left]}"), TextColumn("{task.fields[news]}", style="dim"))  # fmt: skip
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _tick(bar: Progress, task: TaskID, done_s: float, guess_s: float, elapsed_s: float) -> None:
    """Show how far we are, by what the last run took; without a last run, only that we are at work."""
    completed_s, total_s = done_s + min(elapsed_s, guess_s), bar.tasks[task].total
    left = f"about {told(max(total_s - completed_s, 1))} left" if total_s else ""
    bar.update(task, completed=completed_s, left=left)


class Ear:
    """Hears what a notebook prints: a plan ("…: about 5 min") stays on the terminal, progress is shown beside the bar while new."""

    def __init__(self, console: Console, bar: Progress, task: TaskID) -> None:
        self._console, self._bar, self._task = console, bar, task

    def write(self, text: str) -> None:
        for line in filter(None, map(str.strip, text.splitlines())):
            if re.search(r": about [\d.]+ (s|min|h)$", line):
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)
            self._bar.update(self._task, news=line[:100])

    def flush(self) -> None:
        pass


def _execute(nb: NotebookNode, target: Path, tick: Callable[[float], None], ear: Ear) -> str | None:
    """Run `nb` into `target`, calling `tick(seconds)` meanwhile; None, or what went wrong. Ctrl-C stops the kernel.

    Papermill works on a thread, so that Ctrl-C reaches us: on the main thread nbclient takes the signal for itself, and
    the notebook would look failed instead of stopped.
    """
    from jupyter_client.manager import AsyncKernelManager
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    kernels: list[Any] = []
    error: list[str] = []
    done = threading.Event()

    class Watched(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            kernels.append(self)

    def work() -> None:
        try:
            execute_notebook(
                nb,
                str(target),
                progress_bar=False,
                stdout_file=ear,
                cwd=str(home.ROOT),
                kernel_manager_class=Watched,
                extra_arguments=["--IPKernelApp.log_level=40"],  # errors only: it warns of TCP on loopback each time
            )
        except PapermillExecutionError as failure:
            error.append(_told(failure))
        except Exception as failure:  # the border of one notebook: whatever broke it must not cost the others
            error.append(f"cell [{_reached(target)}]: {type(failure).__name__}: {failure}")
        finally:
            done.set()

    target.unlink(missing_ok=True)
    begun = time.monotonic()
    threading.Thread(target=work, daemon=True, name=target.stem).start()
    try:
        while not done.wait(0.5):  # Thread.join would believe the thread ended when Ctrl-C interrupts it
            tick(time.monotonic() - begun)
    except KeyboardInterrupt:
        _stop(kernels, done)
        raise
    finally:
        if target.exists():
            nbformat.write(normalise(nbformat.read(target, 4)), target)
    return error[0] if error else None


def _stop(kernels: Sequence[Any], done: threading.Event) -> None:
    """Interrupt the cell and let the kernel end by itself; after STOP_S its whole process group is killed."""
    groups = [kernel.provisioner.pid for kernel in kernels if kernel.provisioner and kernel.provisioner.pid]
    for sig, wait_s in ((signal.SIGINT, STOP_S), (signal.SIGKILL, 5)):
        for group in groups:
            if not done.is_set():
                os.killpg(group, sig)
        done.wait(wait_s)


def _reached(target: Path) -> int:
    """The number of the last cell that was begun; 0 when the kernel did not even start."""
    cells = nbformat.read(target, 4).cells if target.exists() else []
    begun = [cell.metadata.get("papermill", {}).get("start_time") for cell in cells if cell.cell_type == "code"]
    return len(begun) - begun.count(None)


def _told(failure: Any) -> str:
    """Which cell, which error, and the last lines of its traceback without colours."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(failure.traceback)).strip().splitlines()
    head = f"cell [{failure.exec_count}]: {failure.ename}: {failure.evalue}"
    return "\n".join(map(clean, [head, *lines[-12:]]))


def _kept(path: Path) -> Path | None:
    return path if path.exists() else None


def _paths() -> str:
    inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.pathsep.join(dict.fromkeys([str(home.ROOT), *inherited]))


def _warnings() -> str:
    """The caller's filters, and one: tqdm in a kernel without widgets says so in the report, which has no use for it."""
    return ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), "ignore:IProgress not found")))


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables for the kernels that start inside, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _parameter_cells(nb: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", ())]


def _declared(nb: NotebookNode) -> set[str]:
    return {name for cell in _parameter_cells(nb) for name, _ in _assignments(cell.source)}


def _assignments(source: str) -> list[tuple[str, ast.expr]]:
    named = [(s.targets[0], s.value) for s in ast.parse(source).body if isinstance(s, ast.Assign)]
    return [(target.id, value) for target, value in named if isinstance(target, ast.Name)]


def _with(nb: NotebookNode, parameters: Mapping[str, Any]) -> NotebookNode:
    """`nb` with `parameters` written into its parameters cell: the page then shows exactly what was run."""
    for cell in _parameter_cells(nb):
        for name, value in reversed(_assignments(cell.source)):  # from the end: what stands before keeps its place
            if name in parameters and ast.literal_eval(value) != parameters[name]:
                begin, end = _span(cell.source, value)
                new = parameters[name]
                text = json.dumps(new, ensure_ascii=False) if isinstance(new, str) else repr(new)  # "so", as we write
                cell.source = cell.source[:begin] + text + cell.source[end:]
    return nb


def _span(source: str, node: ast.expr) -> tuple[int, int]:
    """Where `node` begins and ends in `source`, in characters (ast counts the bytes of a line)."""

    def place(line: int, offset: int) -> int:
        lines = source.splitlines(keepends=True)
        return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:offset].decode())

    return place(node.lineno, node.col_offset), place(node.end_lineno or 0, node.end_col_offset or 0)
