"""A recorded run in the files of other tools: whoever has scripts for their results can put ours into them.

    python -m lib.llm.export RUN --to vllm|aiperf|llama-bench [FILE] [--where KEY=VALUE]

A schema, its version and what it cannot say are in one file each of lib/llm/foreign; two of them also read (`READERS`), so that results of
others go through our definitions. Only what may be quoted is written, and how much was left out is said. Refuses to write several loads
into one file of a schema that holds one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib import record
from lib.llm.foreign import aiperf, llama_bench, vllm_bench
from lib.llm.foreign.benchmark import Benchmark, benchmarks

VERSIONS = {"vllm": f"vLLM {vllm_bench.VERSION}", "aiperf": f"schema {aiperf.SCHEMA}", "llama-bench": llama_bench.VERSION}
READERS: dict[str, Callable[[str], Any]] = {"vllm": vllm_bench.read, "llama-bench": llama_bench.read}


def written(to: str, run: record.Run, cells: Sequence[Benchmark]) -> dict[str, str]:
    """Files' texts by name ("": there is one). Raises Inexpressible, KeyError for another tool."""
    match to:
        case "vllm":
            return {"": "\n".join(json.dumps(vllm_bench.written(b), allow_nan=False) for b in cells)}
        case "llama-bench":
            return {"": json.dumps(llama_bench.written(run, cells), indent=2, allow_nan=False)}
        case "aiperf":
            texts = {label(b): json.dumps(aiperf.written(b, label=label(b)), indent=2, allow_nan=False) for b in cells}
            return texts if len(texts) > 1 else {"": next(iter(texts.values()))}
    raise KeyError(f"{to}: there are {', '.join(VERSIONS)}")


def label(b: Benchmark) -> str:
    """A load's name, fit for a folder: its setting, but for what all have."""
    parts = (f"{key}_{value}" for key, value in b.setting.items() if key != "what")
    return "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in part) for part in parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parse = argparse.ArgumentParser(prog="python -m lib.llm.export", description=(__doc__ or "").splitlines()[0],
                                    epilog=", ".join(f"{to}: {version}" for to, version in VERSIONS.items()))
    parse.add_argument("run", type=Path, help="data/reference/<notebook>/<machine>/<run>")
    parse.add_argument("--to", required=True, choices=VERSIONS)
    parse.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only loads of this setting; may be given again")
    parse.add_argument("file", nargs="?", type=Path, help="default: standard output; of several loads for AIPerf, a folder")
    asked = parse.parse_intermixed_args(arguments)
    try:
        run = record.load(asked.run)
        wanted = [pair.partition("=") for pair in asked.where]
        every = benchmarks(run)
        cells = [b for b in every if all(str(b.setting.get(key)) == value for key, _, value in wanted)]
        if not cells:
            raise ValueError(f"{run.run_id} has {len(every)} loads of a language model that may be quoted, and none that is asked for")
        _put(written(asked.to, run, cells), asked.file)
    except (ValueError, OSError) as refusal:
        sys.exit(f"not exported: {refusal}")
    unfit = sum(point.status not in ("ok", "skipped") for point in run.points())
    print(f"{len(cells)} of {len(every)} loads of {run.run_id}; {unfit} points may not be quoted and are left out", file=sys.stderr)


def _put(texts: dict[str, str], file: Path | None) -> None:
    if len(texts) > 1 and (file is None or file.suffix):
        raise ValueError(f"AIPerf keeps one load a file and these are {len(texts)}: name a folder, or choose with --where")
    for name, text in texts.items():
        if file is None:
            print(text)
        elif not name:
            file.write_text(text + "\n")
        else:
            (file / name).mkdir(parents=True, exist_ok=True)
            (file / name / "profile_export_aiperf.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
