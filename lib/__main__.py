"""The command line behind run_all.sh: prepare what is missing, run the notebooks in order, set the report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from lib import compare, home, install, machine, readme, record, report
from lib.llm import contender, weights
from lib.monitoring import tools
from lib.pipelines.fraud import model as fraud
from lib.session import MODES, PROFILES
from lib.vision import classifier, yolo

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help="AI inference, measured: engines, pipelines and their cost, as notebooks.")
console = Console(stderr=True)
EMBEDDED = "smollm2-135m"
# Which notebooks want which model.
MODELS = ((("01", "03", "20"), fraud), (("02", "03", "20", "30", "31"), yolo), (("03", "30", "31"), classifier))

Only = Annotated[list[str], typer.Option("--only", help="Notebook by name or number; may be given again.", show_default="all")]
Profile = Annotated[str, typer.Option(help=" | ".join(PROFILES))]
Mode = Annotated[str, typer.Option(help="auto: measure what can run here, show recorded runs of other machines beside it | "
                                        "live: fail where nothing can be measured | recorded: measure nothing")]
Engines = Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(contender.ENGINES)}.", show_default="all that can run")]
ModelName = Annotated[str, typer.Option("--model", help="Embedded model, path of a local one, or OWNER/NAME where a hub can be reached.")]


@app.command()
def run(only: Only = [], profile: Profile = "quick", mode: Mode = "auto", engines: Engines = "", model: ModelName = EMBEDDED,  # noqa: B006
        fresh: Annotated[bool, typer.Option("--fresh", help="Measure anew what this machine has measured already.")] = False) -> None:
    """Measure on this machine and write report/: a site, one self-contained page, the executed notebooks, the figures."""
    wanted = [name for name in engines.split(",") if name]
    paths = _checked(only, profile, mode, wanted)
    if mode != "recorded":
        if any(path.stem.startswith(("00", "1")) and path.stem[:2] != "15" for path in paths):  # 15 reads what others measured
            _prepare_llm(wanted, model, must=mode == "live" or model != EMBEDDED)
        if any(path.stem.startswith("01") for path in paths):
            _provision(install.names("fraud"))  # the servers of the bake-off, the baseline's environment
        if any(path.stem.startswith("03") for path in paths):
            _provision(install.names("cost"))
        if any(path.stem.startswith("20") for path in paths):
            _prepare_llm(["llamacpp"], EMBEDDED, must=mode == "live")
            if (lacks := tools.provide(say=_say)) is not None:
                _say(f"Nothing is drilled here: {lacks.reason}")
        for numbers, model_of in MODELS:
            if any(path.stem.startswith(numbers) for path in paths):
                _build(model_of, must=mode == "live")
    asked = {**({"engines": wanted} if wanted else {}), **({"model": model} if model != EMBEDDED else {})}  # not every notebook knows them
    parameters = {"profile": profile, "mode": mode, "fresh": fresh, **asked}
    status = _report(paths, parameters, out=home.REPORT / "notebooks", figures=home.REPORT / "figures")
    sys.exit(status)


@app.command()
def publish(only: Only = []) -> None:  # noqa: B006
    """Renew what is committed, from the recorded runs alone: notebooks with their outputs, figures, the README's results."""
    paths = _checked(only, "quick", "recorded", [])
    status = _report(paths, {"profile": "quick", "mode": "recorded"}, out=home.NOTEBOOKS, figures=home.FIGURES)
    target = home.ROOT / "README.md"
    target.write_text(readme.renewed(target.read_text()))
    console.print("Look at the changes, then commit them alone: git commit -m 'render: …' notebooks figures README.md")
    sys.exit(status)


@app.command("compare")
def compared(run: Annotated[Path, typer.Argument(metavar="RUN", help="Its folder: data/reference/<notebook>/<machine>/<run>.")],
             other: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="The later one; else the newest other of its history.",
                                                          show_default=False)] = None) -> None:
    """Say what changed beyond the noise between two runs of one machine. Ends with 1 if anything got slower or larger, 2 if refused."""
    try:
        before, after = record.load(run), record.load(other) if other else None
        if after is None:
            if (found := compare.newest_other(before)) is None:
                typer.echo(f"{before.run_id} is the only run of {before.notebook} on {before.machine_id}: nothing to compare it with")
                return
            before, after = sorted((before, found), key=lambda one: one.utc)
        table = compare.compare(before, after)
    except (ValueError, OSError) as refusal:
        _refuse(str(refusal))
    typer.echo(compare.told(before, after, table))
    sys.exit(int(table["verdict"].isin(compare.WORSE).any()))


def _checked(only: list[str], profile: str, mode: str, engines: list[str]) -> list[Path]:
    """The notebooks, or an end with every valid name when one of the words is unknown."""
    for what, values, valid in (("profile", [profile], PROFILES), ("mode", [mode], MODES), ("engine", engines, tuple(contender.ENGINES))):
        for value in values:
            if value not in valid:
                _refuse(f"unknown {what} {value!r}; there are: {', '.join(valid)}")
    try:
        return report.notebooks(only)
    except ValueError as unknown:
        _refuse(str(unknown))


def _prepare_llm(engines: list[str], model: str, *, must: bool) -> None:
    """Engines and weights: built once a machine. What cannot be built becomes a row of the report, and the rest goes on.

    `must`: without weights nothing goes on, for a model that was asked for is not silently another's record.
    """
    needed = {*engines, *(("llmcompressor",) if "vllm" in engines else ())}  # it makes vLLM's quantised forms
    _provision([name for name in install.names("llm") if not engines or name in needed])
    try:
        weights.named(model, say=_say)
    except weights.NotReady as reason:
        if must:
            _refuse(str(reason))
        _say(f"The weights are not ready: {reason}")


def _build(model_of: Any, *, must: bool) -> None:
    """A model in all its forms, and what it is judged on; without it the notebook shows a recorded run, unless it `must` measure."""
    try:
        model_of.build(say=_say)
    except model_of.NotReady as reason:
        if must:
            _refuse(str(reason))
        _say(f"Not ready: {reason}")


def _provision(names: list[str]) -> None:
    for name in names:
        if isinstance(got := install.provision(name, say=_say), install.Missing):
            _say(f"{name} is left out: {got.reason}")


def _report(paths: list[Path], parameters: dict[str, Any], *, out: Path, figures: Path) -> int:
    """Run, set the pages, say where they are; the exit status."""
    try:
        outcomes = report.run(paths, parameters=parameters, out=out, console=console, figures=figures)
    except ValueError as stranger:  # an option that none of these notebooks knows
        _refuse(str(stranger))
    done = [outcome.path for outcome in outcomes if outcome.path]
    if done:
        here = machine.here()
        made_on = f"Made on {here.cpu}, {here.cores} cores, {here.memory_bytes / 2**30:.0f} GiB; {here.gpu_status}."
        report.site(done, home.REPORT, machine=made_on)
        report.single(done, home.REPORT, machine=made_on)
        console.print(f"Read {(home.REPORT / 'index.html').relative_to(home.ROOT)} or, in one file, report/report.html")
    return report.verdict(outcomes, console)


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False)


def _refuse(why: str) -> NoReturn:
    console.print(f"run_all.sh: {why}", highlight=False, markup=False)
    sys.exit(2)


if __name__ == "__main__":
    app()
