"""Engines from pins to proof: engines.toml says what each one is made of, here it is built, tried and found again.

An engine lives in one directory below the cache, keyed by its pins, the platform and Python's version, and counts as
there only once `ok.json` lies in it, which is written last, after the engine answered a smoke call. Refuses to raise
for a build that fails: that engine is `Missing` with its reason, and the others go on.

    python -m lib.install [NAME …]
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import time
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lib import build, home, lock
from lib.build import Pin, Plan, Platform
from lib.child import Failed, Say

PINS = home.ROOT / "engines.toml"


@dataclass(frozen=True, slots=True)
class Install:
    """An engine that is built, smoke-tested and ready on this machine."""

    name: str
    platform: Platform
    version: str
    root: Path

    def tool(self, name: str) -> Path:
        """The engine's program `name`. Raises FileNotFoundError with what to do."""
        if not (path := self.root / "bin" / name).exists():
            raise FileNotFoundError(f"{self.name} has no {path}; delete {self.root} and run ./run_all.sh again")
        return path


@dataclass(frozen=True, slots=True)
class Missing:
    """An engine that cannot be used here: `reason` is one sentence for a row, `tail` a failed build's last lines."""

    name: str
    reason: str
    tail: tuple[str, ...] = ()


class UnknownEngine(Exception):
    """A name that engines.toml does not have; the message lists those it has."""


@cache
def platform() -> Platform:
    """ "cuda" where the driver (NVML) sees an NVIDIA GPU, else "cpu". A compiler for GPUs alone proves nothing."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return "cuda" if pynvml.nvmlDeviceGetCount() else "cpu"
    except pynvml.NVMLError:
        return "cpu"


def names(part: str | None = "llm") -> list[str]:
    """What engines.toml knows of one part of the work (None: of all), in its order."""
    return [name for name, pin in _table().items() if part in (None, pin.get("part", "llm"))]


def pinned(name: str) -> str:
    """The version that engines.toml pins for `name`."""
    return str(_table()[name]["version"])


def find(name: str) -> Install | Missing:
    """The engine if it is ready, else why not. Instant: nothing is built. Raises UnknownEngine."""
    if (brought := _brought(name)) is not None:
        return brought
    plan = _plan(name)
    if isinstance(plan, Missing):
        return plan
    if (plan.root / "ok.json").exists():
        return Install(name, plan.platform, plan.pin["version"], plan.root)
    if plan.failure.exists():
        last = json.loads(plan.failure.read_text())
        return Missing(name, last["reason"], tuple(last["tail"]))
    return Missing(name, f"{plan.pin['title']} is not built on this machine yet; ./run_all.sh builds it")


def provision(name: str, *, say: Say = print) -> Install | Missing:
    """The engine, built first where needed; a build that failed before is tried again. One process builds at a time."""
    if not isinstance(found := find(name), Missing) or isinstance(plan := _plan(name), Missing):
        return found
    with lock.held(plan.beside("lock"), say=say, what=plan.pin["title"]):
        if isinstance(found := find(name), Install):
            return found
        title, which = plan.pin["title"], f"{plan.pin['version']} for {plan.platform}"
        say(f"{title} {which}: building, once for this machine; log: {plan.log}")
        began_s = time.monotonic()
        plan.failure.unlink(missing_ok=True)
        plan.log.unlink(missing_ok=True)
        shutil.rmtree(plan.root, ignore_errors=True)  # what a killed build left
        try:
            build.build(plan, say)
        except (Failed, OSError) as error:
            failed = error if isinstance(error, Failed) else Failed(plan.pin["title"], error.strerror or str(error))
            shutil.rmtree(plan.root, ignore_errors=True)
            _write(plan.failure, {"reason": str(failed), "tail": failed.tail})
            say("\n  ".join([str(failed), *failed.tail]))
            return Missing(name, str(failed), failed.tail)
        _write(
            plan.root / "ok.json",
            {
                "name": name,
                "platform": plan.platform,
                "version": plan.pin["version"],
                "packages": _packages(plan.root),
                "build_s": round(time.monotonic() - began_s, 1),
            },
        )
    say(f"{plan.pin['title']}: ready after {time.monotonic() - began_s:.0f} s")
    return find(name)


def _brought(name: str) -> Install | Missing | None:
    """The engine as it was brought to a machine without a network (lib/pack), or why it does not work there; None where none was."""
    root = home.cache() / "brought" / name
    if (root / "ok.json").exists():
        told = json.loads((root / "ok.json").read_text())
        return Install(name, told["platform"], told["version"], root)
    if (root / "failed.json").exists():
        told = json.loads((root / "failed.json").read_text())
        return Missing(name, told["reason"], tuple(told["tail"]))
    return None


@cache
def _table() -> dict[str, Pin]:
    return tomllib.loads(PINS.read_text())


def _plan(name: str) -> Plan | Missing:
    """What `name` is made of here, or why it cannot be."""
    if name not in _table():
        raise UnknownEngine(f"no engine {name!r} in {PINS.name}; there are: {', '.join(names(None))}")
    pin, where = _table()[name], platform()
    if not {"cpu", "cuda"} & pin.keys():  # it runs on processors and is the same everywhere
        pin, where = {**pin, "cpu": {}}, "cpu"
    if where not in pin:
        return Missing(name, f"{pin['title']} needs an NVIDIA GPU")
    if (lacks := _lacks(pin[where])) and "otherwise" in pin[where]:
        where = pin[where]["otherwise"]
        lacks = _lacks(pin[where])
    pin = _merge({key: value for key, value in pin.items() if key not in ("cpu", "cuda")}, pin[where])
    root = home.cache() / "engines" / f"{name}-{where}-{_key(pin, where)}"
    if lacks and not (root / "ok.json").exists():
        return Missing(
            name, f"{pin['title']} is not built: no {lacks} on this machine; install it, run ./run_all.sh again"
        )
    return Plan(pin, where, root)


def _lacks(pin: Pin) -> str | None:
    return next((tool for tool in pin.get("requires", []) if shutil.which(tool) is None), None)


def _merge(below: Pin, above: Pin) -> Pin:
    return {**below, **{k: _merge(below.get(k, {}), v) if isinstance(v, dict) else v for k, v in above.items()}}


def _key(pin: Pin, where: Platform) -> str:
    """Twelve hex digits that change whenever the build would: pins, platform, Python, and the CPU for native code."""
    made_of = [pin, where, sys.version_info[:2], _cpu_flags() if "sdist" in pin else ""]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]


def _cpu_flags() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
    return " ".join(sorted(found[1].split())) if found else ""


def _packages(root: Path) -> list[str]:
    """What is in the engine's environment, as name==version; for the record of a run."""
    found = sorted(path.stem for path in root.glob("lib/python3*/site-packages/*.dist-info"))
    return [name.replace("-", "==", 1) for name in found]


def _write(path: Path, content: dict[str, Any]) -> None:
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(content, indent=1))
    beside.replace(path)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or names(None):
        if isinstance(result := provision(wanted, say=lambda line: print(line, flush=True)), Missing):
            print(f"{wanted}: {result.reason}", flush=True)
