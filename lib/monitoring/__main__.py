"""The whole set on this machine until told to stop: services, an LLM server, load, and all that watches them (`./run_all.sh monitor`).

It prints where everything listens, what to try, and each notice that Alertmanager sends. Ctrl-C ends all of it. Refuses to start without
Prometheus; a service that is missing is left out with its reason.

    python -m lib.monitoring [--minutes 10] [--no-load] [--drill-speed]
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lib.measured import Skipped
from lib.monitoring.services import PORTS
from lib.monitoring.stand import SERVICES, Stand, stand
from lib.monitoring.timing import DRILL, PRODUCTION, Timing
from lib.monitoring.webhook import Notice
from lib.process import Died

WHAT = {
    "gateway": "POST /fraud/v1/score, /retail/v1/pictures, /llm/v1/completions", "prometheus": "/alerts, /targets, /graph",
    "alertmanager": "what fires, and who is told", "grafana": "the dashboards", "load": "PUT /plan changes what is asked",
    "shim": "PUT /-/toxic spoils the LLM's answers", "redis": "the fraud service's windows",
}  # fmt: skip
LOOK_S = 0.5
console = Console(highlight=False, soft_wrap=True)


def main(
    minutes: Annotated[float | None, typer.Option(help="End by itself after so long.", show_default="when told to")] = None,
    load: Annotated[bool, typer.Option(help="Ask the services as customers would.")] = True,
    drill_speed: Annotated[bool, typer.Option("--drill-speed", help="Hours are seconds, and alerts come at once.")] = False,
    only: Annotated[list[str], typer.Option("--service", help=", ".join(SERVICES), show_default="all that can run")] = [],  # noqa: B006
    llm: Annotated[str, typer.Option(help="llamacpp | vllm")] = "llamacpp",
    folder: Annotated[Path | None, typer.Option(help="Where it keeps its things.", show_default="a place that is thrown away")] = None,
) -> None:
    """Start services, load, Prometheus and Alertmanager on 127.0.0.1, and keep them until Ctrl-C."""
    if llm not in ("llamacpp", "vllm"):
        raise typer.BadParameter(f"there is no {llm}; take llamacpp or vllm")
    if strangers := set(only) - set(SERVICES):
        raise typer.BadParameter(f"there is no service {', '.join(sorted(strangers))}; there are {', '.join(SERVICES)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways of being told to stop are one
    timing = DRILL if drill_speed else PRODUCTION
    try:
        with ExitStack() as held:
            place = folder or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="monitor-")))
            place.mkdir(parents=True, exist_ok=True)
            with stand(timing, place, wanted=only or None, llm=llm, ports=PORTS, load=load, say=console.print) as here:
                _tell(here, timing, place)
                _watch(here, None if minutes is None else 60 * minutes)
                console.print("Ending …")
    except KeyboardInterrupt:
        console.print("All has ended.")
    except (Skipped, Died) as why:
        console.print(f"monitor: {why}", style="red")
        sys.exit(2)


def _tell(here: Stand, timing: Timing, place: Path) -> None:
    table = Table("what", "where", "look at", "process")
    for name in PORTS:
        if name in here.processes:
            table.add_row(name, here.urls[name], WHAT.get(name, "/metrics"), str(here.pid(name)))
        elif name in here.lacking:
            where = "deploy/compose.yaml has it" if name == "grafana" else ""
            table.add_row(name, "not on this machine", where or here.lacking[name], "")
    console.print(table)
    console.print(f"Scraped every {timing.scrape_s:g} s; logs, requests and targets lie in {place}. To try:")
    if "llm" in here.processes:
        console.print(f"  kill -9 {here.pid('llm')}")
        console.print(f"  curl -X PUT {here.urls['shim']}/-/toxic -d '{{\"error_every\": 2}}'      and {{}} ends it", markup=False)
    if "load" in here.processes:
        console.print(f"  curl -X PUT {here.urls['load']}/plan -d '{{\"fraud\": {{\"rate\": 400}}}}'", markup=False)
    console.print("Ctrl-C ends everything.")


def _watch(here: Stand, seconds: float | None) -> None:
    """Say what Alertmanager tells, until the time is over."""
    until, told = time.monotonic() + seconds if seconds is not None else float("inf"), 0
    while time.monotonic() < until:
        for notice in (news := here.notices.since())[told:]:
            if notice.alert != "Watchdog":
                console.print(_line(notice))
        told = len(news)
        time.sleep(min(LOOK_S, max(0.0, until - time.monotonic())))


def _line(notice: Notice) -> str:
    of = ", ".join(f"{name} {value}" for name, value in sorted(notice.labels.items()) if name not in ("alertname", "severity", "stack"))
    return f"{time.strftime('%H:%M:%S', time.localtime(notice.at_s))}  {notice.status:8}  {notice.alert}  ({of})"


if __name__ == "__main__":
    typer.run(main)
