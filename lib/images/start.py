"""A service of an image, started as it would run, timed from the instant that its program begins to its first answers.

Who waits asks every 2 ms on a connection of its own; what prepares the root (enter.py) is not in the time. Cold is after the kernel dropped
its page cache: what a node does that has pulled the image and never run it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib import home, process
from lib.images import store
from lib.images.recipe import RECIPES, UID
from lib.process import Process

ENTER = Path(__file__).with_name("enter.py")
DROP = Path("/proc/sys/vm/drop_caches")
EVERY_S, HEALTH = 0.002, "/readyz"


@dataclass(frozen=True, slots=True)
class Started:
    """A service that runs. `began_ns`: the monotonic instant its program began; `ready_s`: from then to the first healthy answer."""

    process: Process
    began_ns: int
    ready_s: float | None


@dataclass(slots=True)
class _Watch:
    """Asks for health until it is there."""

    port: int
    at_ns: int | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", HEALTH)
                if connection.getresponse().status == 200:
                    self.at_ns = time.monotonic_ns()
                    return
            connection.close()
            time.sleep(EVERY_S)


@contextlib.contextmanager
def started(image: store.Image, *, samples: Path | None = None, hidden: Sequence[str] = (), more: Mapping[str, str] | None = None,
            timeout_s: float = 60) -> Iterator[Started]:
    """The image's service on a free loopback port with an empty /data. `samples` is mounted at /samples, `hidden` paths are not there.

    Raises process.Died, store.Absent.
    """
    service, root = image.name.rpartition("/")[2].split(":")[0], store.tree(image.name)
    with tempfile.TemporaryDirectory(dir=store.room()) as scratch:
        (data := Path(scratch) / "data").mkdir()
        os.chown(data, UID, UID)
        stamp = Path(scratch) / "stamp"
        told = {"root": str(root), "uid": UID, "env": {**image.environment, **(more or {})}, "workdir": image.config.get("WorkingDir"),
                "writable": {"/data": str(data)}, "readable": {"/samples": str(samples)} if samples else {}, "hidden": list(hidden),
                "stamp": str(stamp)}  # fmt: skip
        watches: list[_Watch] = []

        def argv(port: int) -> list[str]:
            for each in watches:
                each.stop.set()
            watches.append(_Watch(port))
            threading.Thread(target=watches[-1].run, daemon=True).start()
            options = [*RECIPES[service].options, *(("--samples", "/samples") if samples else ())]
            return [*_enter(told), *image.config["Entrypoint"], "--host", "127.0.0.1", "--port", str(port), *options]

        name = image.name.rpartition("/")[2].replace(":", "-")
        try:
            with process.running(argv, name=name, logs=home.logs(), health=HEALTH, timeout_s=timeout_s) as running:
                began_ns, at_ns = int(stamp.read_text()), watches[-1].at_ns
                yield Started(running, began_ns, None if at_ns is None else (at_ns - began_ns) / 1e9)
        finally:
            for each in watches:
                each.stop.set()


def run(image: store.Image, *command: str, hidden: Sequence[str] = (), timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """A command inside the image, as the service's user on its read-only root, without writable mounts but /tmp."""
    told = {"root": str(store.tree(image.name)), "uid": UID, "env": image.environment, "workdir": image.config.get("WorkingDir"),
            "hidden": list(hidden)}  # fmt: skip
    return subprocess.run([*_enter(told), *command], capture_output=True, text=True, timeout=timeout_s, check=False)


def drop_caches() -> str | None:
    """Let the kernel forget every file; why it would not, or None. What starts a service is read again at once: only the image is cold."""
    os.sync()
    try:
        DROP.write_text("3")
    except OSError as error:
        return f"the page cache could not be dropped ({error.strerror}): that needs root"
    needed = "import contextlib, ctypes, json, pathlib, select, shutil, signal, subprocess"
    subprocess.run([sys.executable, "-I", "-S", "-c", needed], check=True)
    return None


def _enter(told: Mapping[str, object]) -> list[str]:
    return [sys.executable, "-I", "-S", str(ENTER), json.dumps(told), "--"]
