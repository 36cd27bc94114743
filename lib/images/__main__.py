"""./run_all.sh images: build the services' images on this machine, then measure them into data/runs/pipeline_images.

What is built and measured already is not done again; --fresh does all of it anew.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer
from rich.console import Console

from lib import child, install
from lib.images import base, make, measure, stock, store
from lib.images.recipe import RECIPES, VARIANTS

console = Console(stderr=True)


def main(
    only: Annotated[list[str], typer.Option("--only", help=f"{' | '.join(RECIPES)}; may be given again.", show_default="all")] = [],  # noqa: B006
    variant: Annotated[list[str], typer.Option("--variant", help=f"{' | '.join(VARIANTS)}; may be given again.", show_default="all")] = [],  # noqa: B006
    profile: Annotated[str, typer.Option(help=f"Rounds of starts: {', '.join(f'{p} {n}' for p, n in measure.ROUNDS.items())}.")] = "quick",
    fresh: Annotated[bool, typer.Option("--fresh", help="Build and measure anew, with Debian's updates of today.")] = False,
    build_only: Annotated[bool, typer.Option("--build-only", help="Build, measure nothing.")] = False,
) -> None:
    """Build the services' images fat, slim and distroless without a container engine, and measure them."""
    for what, asked, known in (("service", only, RECIPES), ("variant", variant, VARIANTS), ("profile", [profile], measure.ROUNDS)):
        if strange := [each for each in asked if each not in known]:
            sys.exit(f"run_all.sh images: unknown {what} {strange[0]!r}; there are: {', '.join(known)}")
    began_s = time.monotonic()

    def say(line: str) -> None:
        console.print(f"{time.monotonic() - began_s:6.0f} s  {line}", highlight=False, markup=False, soft_wrap=True)

    try:
        install.provision(stock.TOOLS, say=say)  # without it there is no list of materials, and a row says so
        if fresh:
            base.forget()
        made = [make.make(service, each, say=say, fresh=fresh) for service in RECIPES if service in (only or RECIPES)
                for each in VARIANTS if each in (variant or VARIANTS)]  # fmt: skip
        store.tidy()
        for each in made:
            say(f"{each.service} {each.variant}: {each.image.name}")
        if not build_only:
            session = measure.session(made, profile=profile, say=say, fresh=fresh)
            measure.measure(session, profile=profile)
            wrong = [point for point in session.run.points() if point.status != "ok"]
            for point in wrong:
                say(f"{point.status}: {point.key}: {point.reason}")
            say(f"measured: {len(session.run.points())} points, {len(wrong)} of them not to be quoted; run {session.run.run_id}")
    except (child.Failed, store.Absent) as reason:
        sys.exit("\n  ".join([f"run_all.sh images: {reason}", *(reason.tail if isinstance(reason, child.Failed) else ())]))


if __name__ == "__main__":
    typer.run(main)
