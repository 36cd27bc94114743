"""Measuring on a machine that has no network: what it needs goes there in parts, what it measured comes back in one file.

    here    python -m lib.pack bundle OUT                        project, engines' wheels and sources, in parts of a bounded size
    there   python unpack.pyz unpack FOLDER INTO                 proves, lays out, builds, tries; then:  . INTO/enter.sh
    there   python -m lib.pack record --minutes 25 --model-shape 8b
    there   python -m lib.pack collect OUT.tar.gz
    here    python -m lib.pack receive FILE                      into data/runs, for  python -m lib.record promote

Nothing but the standard library is loaded until a command needs more.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from lib import home

UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def size(text: str) -> int:
    """Bytes, as in "60MiB". Raises ValueError, which argparse tells of."""
    told = re.fullmatch(r"(\d+)\s*(B|KiB|MiB|GiB)?", text)
    if not told:
        raise ValueError(text)
    return int(told[1]) * UNITS[told[2] or ""]


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def say(line: str) -> None:
    print(line, flush=True)


def asked(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lib.pack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    bundle = commands.add_parser("bundle", help="what a machine without a network is brought")
    bundle.add_argument("out", type=Path)
    bundle.add_argument("--part-bytes", type=size, default=60 * 2**20, help="the largest part, as in 60MiB (the default)")
    bundle.add_argument("--only", type=names, default=[], help="of project,llamacpp,vllm")
    unpack = commands.add_parser("unpack", help="prove the parts, lay them out, set the engines up")
    unpack.add_argument("parts", type=Path, nargs="+", help="parts and manifest, or folders that hold them; the last is where to")
    unpack.add_argument("--only", type=names, default=[], help="groups, where not all were brought")
    unpack.add_argument("--no-wait", action="store_true", help="leave llama.cpp building at low priority")
    build = commands.add_parser("build", help="what unpack --no-wait leaves to be done")
    build.add_argument("into", type=Path)
    record = commands.add_parser("record", help="a profile of this machine in a box of time, the most valuable first")
    record.add_argument("--minutes", type=float, default=25)
    record.add_argument("--model-shape", choices=("8b", "tiny"), default="8b")
    record.add_argument("--dry", action="store_true", help="the processor's plan: tiny shapes, to see that the way is whole")
    record.add_argument("--only", type=names, default=[], help="steps of the plan")
    collect = commands.add_parser("collect", help="what was recorded, in one file")
    collect.add_argument("out", type=Path)
    receive = commands.add_parser("receive", help="what was collected elsewhere, into data/runs")
    receive.add_argument("file", type=Path)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Do what is asked; what is refused is one line and status 1."""
    a = asked(argv)
    from lib.pack.manifest import Refused

    try:
        match a.command:
            case "bundle":
                from lib.pack import bundle

                for line in bundle.told(bundle.make(a.out, part_bytes=a.part_bytes, only=a.only, say=say)):
                    say(line)
            case "unpack":
                from lib.pack import unpack

                if len(a.parts) < 2:
                    raise Refused("give the parts and a folder to unpack them into")
                rows = unpack.unpack(a.parts[:-1], a.parts[-1], only=a.only, wait=not a.no_wait, say=say)
                say(f"then:  . {a.parts[-1] / 'enter.sh'}")
                sys.exit(any(row.status == "failed" for row in rows))
            case "build":
                from lib.pack import stand

                sys.exit(stand.finish(a.into, say=say).status != "ok")
            case "record":
                from lib.pack import timebox

                timebox.record(minutes=a.minutes, shape="tiny" if a.dry else a.model_shape, dry=a.dry, only=a.only, say=say)
            case "collect":
                from lib.pack import carry

                say(carry.collect(a.out))
            case "receive":
                from lib.pack import carry

                for path in carry.receive(a.file):
                    say(f"python -m lib.record promote {path.relative_to(home.ROOT)}")
    except (Refused, OSError) as reason:
        sys.exit(f"refused: {reason}")


if __name__ == "__main__":
    main()
