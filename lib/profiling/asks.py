"""The worker, asked: a job in a process of its own, with the Python that has the network's package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib import child, fetch, home, install
from lib.measured import Broke, Found, Skipped
from lib.vision import yolo

RESNETS = ("resnet18", "resnet50")
NETWORKS = (*RESNETS, "yolov8n")
HW = {"resnet18": (224, 224), "resnet50": (224, 224), "yolov8n": (640, 640)}


def ask(job: str, network: str, *, threads: int, what: str, timeout_s: float = 600, env: dict[str, str] | None = None,
        **asked: Any) -> tuple[dict[str, Any], str]:  # fmt: skip
    """The worker's answer, and what was said on its standard output. Raises Skipped where the network's package is not on this machine.

    Raises Broke with its last line where it ends badly or takes longer than `timeout_s`.
    """
    told: dict[str, Any] = {"job": job, "network": network, "batch": 1, "hw": HW[network], "threads": threads, **asked}
    python: str | Path = sys.executable
    if network == "yolov8n":
        if isinstance(engine := install.find(yolo.ENGINE), install.Missing):
            raise Skipped(engine.reason)
        source = fetch.sources()[yolo.CHECKPOINT]
        if not source.path.exists():
            raise Skipped("the checkpoint of YOLOv8n is not on this machine yet; python -m lib.vision.yolo fetches it")
        python = engine.tool("python")
        told |= {"checkpoint": str(source.path), "sha256": source.member_sha256}
    with tempfile.TemporaryDirectory(prefix="profile-") as scratch:
        question, answer = Path(scratch) / "asked.json", Path(scratch) / "answer.json"
        question.write_text(json.dumps(told))
        said = Path(scratch) / "said.txt"  # a pipe's reader would wake for every line of oneDNN's, on a processor that infers
        given = {**os.environ, **yolo.environment(), "PYTHONPATH": str(home.ROOT), **(env or {})}
        try:
            with said.open("w") as out:
                ran = subprocess.run([str(python), "-m", "lib.profiling.worker", str(question), str(answer)], stdout=out,
                                     stderr=subprocess.PIPE, text=True, timeout=timeout_s, env=given, check=False)  # fmt: skip
        except subprocess.TimeoutExpired as late:
            raise Broke(f"{what}: not done after {timeout_s:g} s") from late
        if ran.returncode:
            last = ran.stderr.strip().splitlines()[-1:] or ["without a word"]
            raise Broke(f"{what}: ended with status {ran.returncode} ({child.PATHS.sub('', last[0])})")
        return json.loads(answer.read_text()), said.read_text(errors="replace")


def sweep(device: str, network: str, variant: str, sizes: Sequence[int], *, threads: int, budget_s: float, rounds: int, limit_s: float,
          timeout_s: float = 600, env: dict[str, str] | None = None) -> Found:  # fmt: skip
    """PyTorch on batches of growing size, `budget_s` each: seconds by batch and round, the most memory, and what was not measured why."""
    told, _ = ask("swept", network, threads=threads, what=f"{network}, {variant}", timeout_s=timeout_s, env=env, engine="PyTorch",
                  device=device, variant=variant, batches=list(sizes), budget_s=budget_s, rounds=rounds, limit_s=limit_s)  # fmt: skip
    there = [row for row in told["rows"] if "ns" in row]
    facts = {"peak_bytes": {str(row["batch"]): row["peak_bytes"] for row in there}, "device": told["facts"],
             "lacks": {str(row["batch"]): row["lacks"] for row in told["rows"] if "lacks" in row}}  # fmt: skip
    return Found({str(row["batch"]): seconds(row["ns"]) for row in there}, facts, {"6 books": None if there else "no batch was measured"})


def seconds(rounds: Sequence[Sequence[int]]) -> list[list[float]]:
    """ns of passes by round, in seconds."""
    return [[ns / 1e9 for ns in taken] for taken in rounds]
