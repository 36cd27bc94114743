"""Packages laid out bare: no shell, no package manager, nothing run, and of each what it is and what it brought, for those who take stock.

Runs alone, with the standard library, as a hook of mmdebstrap, which has fetched and verified them:  unpack.py CHROOT TO NAME …
Refuses to go on without one of the packages that were asked for.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def unpack(archives: Path, to: Path, names: Sequence[str]) -> None:
    """Lay out each package; its control data go to var/lib/dpkg/status.d, where scanners look in an image without dpkg."""
    status = to / "var" / "lib" / "dpkg" / "status.d"
    status.mkdir(parents=True)
    for name in names:
        found = sorted(archives.glob(f"{name}_*.deb"))
        if len(found) != 1:
            sys.exit(f"unpack.py: {len(found)} archives of {name} in {archives}")
        subprocess.run(["dpkg-deb", "-x", found[0], to], check=True)
        (status / name).write_bytes(subprocess.run(["dpkg-deb", "-f", found[0]], check=True, stdout=subprocess.PIPE).stdout)
        listed = subprocess.run(["dpkg-deb", "--fsys-tarfile", found[0]], check=True, stdout=subprocess.PIPE).stdout
        members = subprocess.run(["tar", "-t"], input=listed, check=True, stdout=subprocess.PIPE, text=False).stdout.decode()
        files = [line.removeprefix(".") for line in members.splitlines() if not line.endswith("/")]
        (status / f"{name}.list").write_text("\n".join(files) + "\n")


if __name__ == "__main__":
    unpack(Path(sys.argv[1]) / "var" / "cache" / "apt" / "archives", Path(sys.argv[2]), sys.argv[3:])
