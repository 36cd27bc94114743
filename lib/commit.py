"""Which commit measures here: git's word, or an export's own, which counts as clean only while every file is as it was exported.

An export has no .git; its `.commit.json`, written by whoever made it, names the commit and the SHA-256 of every file. Refuses to call
clean what nobody can look up: a folder with neither is dirty.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

EXPORT = ".commit.json"


def state(root: Path) -> dict[str, Any]:
    """{"sha": commit or None, "dirty": whether anything differs from it}."""
    if (export := root / EXPORT).exists():  # before git, which would tell of a clone around the export
        told = json.loads(export.read_text())
        return {"sha": told["sha"], "dirty": _changed(root, told["files"])}

    def git(*args: str) -> str | None:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None
    status = git("status", "--porcelain")
    return {"sha": git("rev-parse", "HEAD"), "dirty": status is None or bool(status)}


def written(sha: str, files: dict[str, str]) -> str:
    """What an export's file says: its commit, and path → SHA-256."""
    return json.dumps({"sha": sha, "files": files}, indent=1, sort_keys=True) + "\n"


def _changed(root: Path, files: dict[str, str]) -> bool:
    """Whether a file is gone or differs, or there is code that the commit does not have."""
    code = {str(path.relative_to(root)) for path in (root / "lib").rglob("*.py")}
    return bool(code - set(files)) or any(
        not (root / name).is_file() or hashlib.sha256((root / name).read_bytes()).hexdigest() != sha256 for name, sha256 in files.items())
