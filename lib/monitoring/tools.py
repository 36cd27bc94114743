"""Prometheus and its companions: on the PATH, or Debian's packages unpacked into the cache.

Installed, Debian's packages start daemons that listen beyond this machine. Unpacked, they are programs that we start on loopback and end.
apt checks what it downloads against the archive's signed index. Grafana is in no registry that we may ask: it is used where it is there.

    python -m lib.monitoring.tools
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from lib import child, home, lock
from lib.child import Failed, Say
from lib.install import Missing

# What a program is called, Debian's name first; the package that has it. What is not in Debian has none.
PROGRAMS = {
    "prometheus": (("prometheus",), "prometheus"),
    "promtool": (("promtool",), "prometheus"),
    "alertmanager": (("prometheus-alertmanager", "alertmanager"), "prometheus-alertmanager"),
    "amtool": (("amtool",), "prometheus-alertmanager"),
    "node_exporter": (("prometheus-node-exporter", "node_exporter"), "prometheus-node-exporter"),
    "grafana": (("grafana-server", "grafana"), None),
}
PACKAGES = tuple(dict.fromkeys(package for _, package in PROGRAMS.values() if package))


def find(program: str) -> Path | Missing:
    """The program if it is there, else why not. Instant. Raises KeyError for a name that PROGRAMS does not have."""
    names, package = PROGRAMS[program]
    for name in names:
        if found := shutil.which(name):
            return Path(found)
        if (ours := _root() / "usr" / "bin" / name).exists() and (_root() / "ok").exists():
            return ours
    how = f"python -m lib.monitoring.tools fetches it from Debian's package {package}" if package else "Debian has no package of it"
    return Missing(program, f"{program} is not on this machine; {how}")


def lacking() -> Missing | None:
    """The first of Prometheus and its companions that is missing, if any."""
    return next((found for program, (_, package) in PROGRAMS.items() if package and isinstance(found := find(program), Missing)), None)


def provide(*, say: Say = print) -> Missing | None:
    """Fetch what is missing; what cannot be had, if anything. One process at a time."""
    if lacking() is None:
        return None
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return Missing("prometheus", "Prometheus, Alertmanager or node_exporter is not on the PATH, and this is no Debian to fetch it from")
    with lock.held(_root().with_suffix(".lock"), say=say, what="Prometheus"):
        if lacking() is None:
            return None
        with tempfile.TemporaryDirectory(dir=_root().parent, prefix=".prometheus-") as scratch:
            try:
                _unpack(Path(scratch), say)
            except (Failed, OSError) as error:
                return Missing("prometheus", f"Prometheus cannot be fetched: {error}")
    return lacking()


def _unpack(scratch: Path, say: Say) -> None:
    log, got = home.cache() / "prometheus.log", scratch / "got"
    got.mkdir()
    fetch = partial(child.run, ["apt-get", "download", *PACKAGES], what="fetching Prometheus", log=log, say=say, cwd=scratch)
    try:
        fetch()
    except Failed:
        if os.geteuid() != 0:
            raise
        child.run(["apt-get", "update"], what="reading Debian's lists of packages", log=log, say=say)  # they may be old, or not there yet
        fetch()
    for package in sorted(scratch.glob("*.deb")):
        child.run(["dpkg-deb", "--extract", package, got], what=f"unpacking {package.name.partition('_')[0]}", log=log, say=say)
    _moved(got / "usr" / "bin" / "prometheus-alertmanager", got / "usr" / "share" / "prometheus" / "alertmanager")
    for unused in (got / "usr" / "share", got / "etc", got / "lib", got / "var"):  # services, defaults, the old web pages
        shutil.rmtree(unused, ignore_errors=True)
    (got / "ok").touch()
    shutil.rmtree(_root(), ignore_errors=True)
    got.rename(_root())


def _moved(alertmanager: Path, templates: Path) -> None:
    """Debian's Alertmanager reads its templates from /usr/share alone. As conda moves programs, it gets another path of the same length:
    the directory it is started in, which has to be its own (`env -C`), where the templates then lie."""
    for template in templates.glob("*.tmpl"):
        template.rename(alertmanager.with_name(template.name))
    theirs, ours = b"/usr/share/prometheus/alertmanager", b"/proc/self/cwd"
    alertmanager.write_bytes(alertmanager.read_bytes().replace(theirs, ours.ljust(len(theirs), b"/")))


def version(program: str) -> str:
    """What the program calls itself ("prometheus 2.42.0+ds"). Raises FileNotFoundError."""
    if isinstance(found := find(program), Missing):
        raise FileNotFoundError(found.reason)
    told = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    words = (told.stdout or told.stderr).replace(",", "").split()
    return f"{program} {words[words.index('version') + 1]}"


def _root() -> Path:
    return home.cache() / "prometheus"


if __name__ == "__main__":
    home.cache().mkdir(parents=True, exist_ok=True)
    if (lacks := provide(say=lambda line: print(line, flush=True))) is not None:
        sys.exit(lacks.reason)
