"""The command line behind run_all.sh: prepare what is missing, run the notebooks in order, set the report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from lib import cluster, compare, grid, history, home, install, machine, readme, readme_zh, record, report, thresholds
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
Engines = Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(contender.ENGINES)}; "
                                           "vllm:tp4 or vllm:tp2pp2 is over so many GPUs, tensor and pipeline parallel.",
                                      show_default="all that can run")]
ModelName = Annotated[str, typer.Option("--model", help="Embedded model, path of a local one, or OWNER/NAME where a hub can be reached.")]
Ray = Annotated[str, typer.Option("--ray", metavar="HOST:PORT", show_default=False, help=(
    f"Measure the sweeps of {', '.join(grid.SWEEPS)} across the Ray cluster of which this machine is a node (./run_all.sh node), a whole "
    "node a cell, before the notebooks run. A cluster runs the code of whoever holds its token: a private network only."))]


@app.command()
def run(only: Only = [], profile: Profile = "quick", mode: Mode = "auto", engines: Engines = "", model: ModelName = EMBEDDED,  # noqa: B006
        fresh: Annotated[bool, typer.Option("--fresh", help="Measure anew what this machine has measured already.")] = False,
        ray: Ray = "") -> None:
    """Measure on this machine and write report/: a site, one self-contained page, the executed notebooks, the figures."""
    wanted = [name for name in engines.split(",") if name]
    paths = _checked(only, profile, mode, wanted)
    if ray:
        _reach(ray, mode=mode, fresh=fresh)
    if mode != "recorded":
        if any(path.stem.startswith(("00", "1")) and path.stem[:2] != "15" for path in paths):  # 15 reads what others measured
            _prepare_llm(wanted, model, must=mode == "live" or model != EMBEDDED)
        if any(path.stem.startswith("01") for path in paths):
            _provision(install.names("fraud"))  # the servers of the bake-off, the baseline's environment
        if any(path.stem.startswith("03") for path in paths):
            _provision(install.names("cost"))
        if any(path.stem.startswith("90") for path in paths):
            _provision(install.names("history"))
        if any(path.stem.startswith("20") for path in paths):
            _prepare_llm(["llamacpp"], EMBEDDED, must=mode == "live")
            if (lacks := tools.provide(say=_say)) is not None:
                _say(f"Nothing is drilled here: {lacks.reason}")
        for numbers, model_of in MODELS:
            if any(path.stem.startswith(numbers) for path in paths):
                _build(model_of, must=mode == "live")
    if ray:
        _across(ray, [path.stem for path in paths if path.stem in grid.SWEEPS], profile=profile, model=model, engines=wanted)
    asked = {**({"engines": wanted} if wanted else {}), **({"model": model} if model != EMBEDDED else {})}  # not every notebook knows them
    parameters = {"profile": profile, "mode": mode, "fresh": fresh, **asked}
    status = _report(paths, parameters, out=home.REPORT / "notebooks", figures=home.REPORT / "figures")
    sys.exit(status)


@app.command()
def publish(only: Only = []) -> None:  # noqa: B006
    """Renew what is committed, from the recorded runs alone: notebooks with their outputs, figures, both READMEs' results."""
    paths = _checked(only, "quick", "recorded", [])
    status = _report(paths, {"profile": "quick", "mode": "recorded"}, out=home.NOTEBOOKS, figures=home.FIGURES)
    for name, written in (("README.md", readme), ("README.zh-TW.md", readme_zh)):
        target = home.ROOT / name
        target.write_text(written.renewed(target.read_text(encoding="utf-8")), encoding="utf-8")
    console.print("Look at the changes, then commit them alone: git commit -m 'render: …' notebooks figures README.md README.zh-TW.md")
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


@app.command("history")
def histories(notebook: Annotated[str, typer.Argument(metavar="[NOTEBOOK]", help="By name or number.", show_default="all")] = "") -> None:
    """Say where the quantities of each machine changed for good over its recorded runs, and what its last two runs differ in."""
    groups = history.machines()
    wanted = {group: runs for group, runs in groups.items() if group[0].startswith(notebook)}
    if not wanted:
        _refuse(f"nothing is recorded of {notebook!r}; there are: {', '.join(sorted({name for name, _, _ in groups}))}")
    _provision(install.names("history"))
    rates = thresholds.rates(thresholds.known())
    for machine_id, method in dict.fromkeys((machine_id, method) for _, machine_id, method in wanted):
        everything = [run for group, runs in groups.items() if group[1:] == (machine_id, method) for run in runs]
        if limits := history.limits(everything):
            typer.echo(history.told(f"Limits of {machine_id} itself, by all notebooks", history.changes(limits, rates)))
    for (name, machine_id, _), runs in wanted.items():
        if len(runs) < 2:
            typer.echo(f"{name} on {machine_id}, {runs[0].run_id}: {history.ALONE}")
            continue
        typer.echo(history.told(f"{name} on {machine_id}", history.changes(history.history(runs), rates)))
        before, after = runs[-2:]
        typer.echo(compare.told(before, after, compare.compare(before, after)))


def _checked(only: list[str], profile: str, mode: str, engines: list[str]) -> list[Path]:
    """The notebooks, or an end with every valid name when one of the words is unknown."""
    for what, value, valid in (("profile", profile, PROFILES), ("mode", mode, MODES)):
        if value not in valid:
            _refuse(f"unknown {what} {value!r}; there are: {', '.join(valid)}")
    try:
        for one in engines:
            contender.spread(one)
        return report.notebooks(only)
    except ValueError as unknown:
        _refuse(str(unknown))


def _prepare_llm(engines: list[str], model: str, *, must: bool) -> None:
    """Engines and weights: built once a machine. What cannot be built becomes a row of the report, and the rest goes on.

    `must`: without weights nothing goes on, for a model that was asked for is not silently another's record.
    """
    names = {contender.spread(one)[0] for one in engines}
    needed = {*names, *(("llmcompressor",) if "vllm" in names else ())}  # it makes vLLM's quantised forms
    _provision([name for name in install.names("llm") if not engines or name in needed])
    try:
        weights.named(model, say=_say)
    except weights.NotReady as reason:
        if must:
            _refuse(str(reason))
        _say(f"The weights are not ready: {reason}")


def _reach(ray: str, *, mode: str, fresh: bool) -> None:
    """Ends, before anything is prepared, where there is no cluster or nothing for it to do."""
    if mode == "recorded" or fresh:
        _refuse(f"--ray measures what is missing; it does not go with {'--fresh' if fresh else '--mode recorded'}")
    try:
        cluster.reachable(ray)
    except cluster.NoCluster as why:
        _refuse(str(why))


def _across(ray: str, notebooks: list[str], *, profile: str, model: str, engines: list[str]) -> None:
    try:
        grid.measure(ray, notebooks, profile=profile, model=model, engines=engines, say=_say)
    except (cluster.NoCluster, weights.NotReady) as why:
        _refuse(str(why))


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
