"""promtool's word on rules and configuration: what it finds wrong, what its unit tests say, and blocks that it makes of text.

Refuses to guess: an ending that is neither "all well" nor "this is wrong" raises.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from lib.install import Missing
from lib.monitoring import tools


class Failed(RuntimeError):
    """promtool is not there, or could not do its work; the message says why."""


def check_rules(files: Iterable[Path]) -> str | None:
    """What is wrong with rule files, its linter's findings included; None where nothing is."""
    return _complaint("check", "rules", "--lint=all", "--lint-fatal", *files)


def check_config(file: Path) -> str | None:
    """What is wrong with a Prometheus configuration and the files that it names; None where nothing is."""
    return _complaint("check", "config", file)


def test_rules(files: Iterable[Path]) -> str | None:
    """What unit tests (promtool's YAML) say that failed; None where all passed."""
    return _complaint("test", "rules", *files)


def blocks(text: Path, folder: Path) -> None:
    """Make blocks of a time series database in `folder` of OpenMetrics text. Raises Failed."""
    # One block for up to 81 hours instead of one for two: the text is read anew for each.
    _made("tsdb", "create-blocks-from", "--quiet", "--max-block-duration=81h", "openmetrics", text, folder)


def record(rules: Iterable[Path], folder: Path, *, url: str, start_s: float, end_s: float, every_s: float) -> None:
    """Evaluate the recording rules of files over the past of the Prometheus at `url`, as blocks in `folder`. Raises Failed."""
    _made("tsdb", "create-blocks-from", "rules", f"--url={url}", f"--start={start_s:.3f}", f"--end={end_s:.3f}",
          f"--eval-interval={round(every_s * 1000)}ms", f"--output-dir={folder}", *rules)


def _complaint(*argv: str | Path) -> str | None:
    done = _run(argv)
    if done.returncode not in (0, 1, 3):  # 3: its linter
        raise Failed(f"promtool {argv[0]} {argv[1]} ended with {done.returncode}: {done.stderr[-400:]}")
    return None if done.returncode == 0 else "\n".join(line for line in (done.stdout + done.stderr).splitlines() if line.strip())


def _made(*argv: str | Path) -> None:
    done = _run(argv)
    if done.returncode:
        raise Failed(f"promtool {argv[0]} {argv[1]} {argv[2]}: {(done.stderr or done.stdout)[-400:].strip()}")


def _run(argv: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    if isinstance(program := tools.find("promtool"), Missing):
        raise Failed(program.reason)
    return subprocess.run([program, *argv], capture_output=True, text=True, check=False)
