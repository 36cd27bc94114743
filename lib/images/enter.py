"""A service inside its image as it would run: read-only root, uid 65532, no new privileges, its own mounts, and nothing else in between.

Runs alone, with the standard library:  enter.py OPTIONS -- COMMAND …   OPTIONS is JSON: root, uid, env, workdir, writable (path inside →
directory here), readable (the same, read-only), hidden (paths), stamp (a file that gets the monotonic nanosecond of the start).
It becomes the command instead of starting it, so that what watches the process watches the service. No runtime (crun, runc): its namespaces
and cgroups need more than many machines grant, and a cold start would time the runtime as well. The network is the machine's: whoever
starts it says --host 127.0.0.1.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CLONE_NEWNS = 0x20000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
DEVICES = ("null", "zero", "random", "urandom")
libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str | Path | None, target: str | Path, kind: str | None, flags: int, options: str | None = None) -> None:
    """Raises OSError with what could not be mounted."""
    told = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    if libc.mount(*told, ctypes.c_ulong(flags), None if options is None else options.encode()):
        raise OSError(ctypes.get_errno(), f"{os.strerror(ctypes.get_errno())}: mounting {source or kind}", str(target))


def bind(source: Path, target: Path, *, writable: bool) -> None:
    mount(source, target, None, MS_BIND | MS_REC)
    if not writable:
        mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def furnish(root: Path, told: dict[str, Any]) -> None:
    """In a mount namespace of our own: what a runtime would mount, then the root itself read-only."""
    if libc.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "no mount namespace of our own: that needs root")
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount(root, root, None, MS_BIND)
    rooms = {**told.get("readable", {}), **told.get("writable", {})}
    for place in ("/proc", "/sys", "/dev", "/tmp", *rooms):
        inside(root, place).mkdir(parents=True, exist_ok=True)
    mount("/proc", root / "proc", None, MS_BIND | MS_REC)
    bind(Path("/sys"), root / "sys", writable=False)
    mount("tmpfs", root / "dev", "tmpfs", MS_NOSUID, "mode=755,size=64k")
    for name in DEVICES:
        (root / "dev" / name).touch()
        mount(f"/dev/{name}", root / "dev" / name, None, MS_BIND)
    mount("tmpfs", root / "tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=256m")
    for place, ours in rooms.items():
        bind(Path(ours), inside(root, place), writable=place in told.get("writable", {}))
    for path in told.get("hidden", []):
        mount("/dev/null", (root / path.lstrip("/")).resolve(strict=True), None, MS_BIND)
    mount(None, root, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def inside(root: Path, place: str) -> Path:
    return root / place.lstrip("/")


def enter(told: dict[str, Any], command: Sequence[str]) -> None:
    """Never returns. Raises OSError."""
    root, uid = Path(told["root"]), int(told["uid"])
    stamp = os.open(told["stamp"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) if told.get("stamp") else None
    furnish(root, told)
    os.chroot(root)
    os.chdir(told.get("workdir") or "/")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of user forgets it
    env = told["env"]
    program = shutil.which(command[0], path=env.get("PATH", "/usr/bin:/bin"))
    if program is None:
        raise OSError(f"the image has no {command[0]} on its PATH")
    if stamp is not None:
        os.write(stamp, str(time.monotonic_ns()).encode())
        os.close(stamp)
    os.execve(program, list(command), env)


if __name__ == "__main__":
    try:
        enter(json.loads(sys.argv[1]), sys.argv[3:])
    except OSError as reason:
        sys.exit(f"enter.py: {reason}")
