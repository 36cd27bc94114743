"""Bases bootstrapped from Debian's archive, for machines that reach no registry of images: fat, slim, and one without a shell.

They stand in for python:3.11-bookworm, python:3.11-slim-bookworm and gcr.io/distroless/python3-debian12, which the same Dockerfiles take
under Docker. Ours for fat is the smaller one: the real brings the headers of many libraries as well. mmdebstrap verifies what it
fetches with Debian's keys. A base is kept until what it is made of changes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from lib import child, home
from lib.child import Say
from lib.images import prune, store

SUITE = "bookworm"
WAY = 1  # raise it when how a base is made changes
RULES = home.ROOT / "deploy" / "prune.toml"
UNPACK, PYTHON = Path(__file__).with_name("unpack.py"), "usr/bin/python3.11"
SLIM = ("ca-certificates", "libgomp1", "libstdc++6", "netbase", "python3", "python3-pip", "tzdata")
FAT = (*SLIM, "binutils", "build-essential", "curl", "git", "pkg-config", "procps", "python3-dev", "python3-venv", "wget")
# What Python and the packages' libraries ask the loader for, and no more: lib/images/elf.py proves that nothing is missing.
DISTROLESS = (
    "base-files", "libbz2-1.0", "libc6", "libexpat1", "libffi8", "libgcc-s1", "libgomp1", "liblzma5", "libpython3.11-minimal",
    "libpython3.11-stdlib", "libsqlite3-0", "libssl3", "libstdc++6", "libuuid1", "netbase", "python3.11-minimal", "tzdata", "zlib1g",
)  # fmt: skip
# Debian's slim images leave these out as well; licences stay.
UNREAD = ("path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright", "path-exclude=/usr/share/man/*",
          "path-exclude=/usr/share/info/*", "path-exclude=/usr/share/locale/*")  # fmt: skip
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSWD = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/data:/sbin/nologin\n"
GROUP = "root:x:0:\nnonroot:x:65532:\n"


@dataclass(frozen=True, slots=True)
class Base:
    """A base as it was made: its image's name, and what rules took out of it."""

    name: str
    cuts: tuple[prune.Cut, ...]


def build(variant: str, *, say: Say) -> Base:
    """The base of a variant, made first where needed. Raises child.Failed, Absent."""
    name, kept = f"{store.PREFIX}/base:{variant}-{_key(variant)}", store.room() / f"base-{variant}-{_key(variant)}.json"
    if kept.exists():
        try:
            store.image(name)
            return Base(name, tuple(prune.Cut(**cut) for cut in json.loads(kept.read_text())))
        except store.Absent:
            pass
    say(f"base {variant}: bootstrapping {SUITE} from Debian's archive")
    with tempfile.TemporaryDirectory(dir=store.room(), prefix=f".{variant}-") as scratch:
        root = Path(scratch) / "root"
        cuts = _distroless(root, say) if variant == "distroless" else _whole(root, FAT if variant == "fat" else SLIM, variant, say)
        store.commit_tree(root, name, say=say, environment={"PATH": PATH, "LANG": "C.UTF-8"})
    kept.write_text(json.dumps([asdict(cut) for cut in cuts]))
    return Base(name, tuple(cuts))


def forget() -> None:
    """Let the next build bootstrap its bases anew, out of Debian's archive as it is then."""
    for kept in store.room().glob("base-*.json"):
        kept.unlink()


def _whole(root: Path, packages: tuple[str, ...], variant: str, say: Say) -> list[prune.Cut]:
    options = [f"--dpkgopt={line}" for line in UNREAD]
    _mmdebstrap("--variant=minbase", f"--include={','.join(packages)}", *options, SUITE, root, what=f"base {variant}", say=say)
    shutil.rmtree(root / "var" / "cache" / "apt", ignore_errors=True)
    shutil.rmtree(root / "var" / "log", ignore_errors=True)
    return []


def _distroless(root: Path, say: Say) -> list[prune.Cut]:
    wanted = ["ca-certificates", *DISTROLESS]
    with tempfile.TemporaryDirectory(dir=root.parent) as bare:
        hook = f'{sys.executable} -I -S {UNPACK} "$1" {root} {" ".join(wanted)}'
        _mmdebstrap("--variant=extract", f"--include={','.join(wanted)}", "--skip=cleanup", f"--extract-hook={hook}", "--format=directory",
                    SUITE, Path(bare) / "all", what="base distroless", say=say)  # fmt: skip
    _certificates(root)
    (root / "etc" / "passwd").write_text(PASSWD)
    (root / "etc" / "group").write_text(GROUP)
    (root / "usr" / "bin" / "python3").symlink_to("python3.11")
    for place in ("dev", "proc", "sys", "tmp", "run"):
        (root / place).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    cuts = prune.prune(root, prune.rules(RULES), "base")
    # Debian compiles the library when Python is installed, which nothing here was; a read-only root could never make up for it.
    child.run(["chroot", root, f"/{PYTHON}", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/usr/lib/python3.11"],
              what="base distroless, bytecode", log=store.room() / "base.log", say=say)  # fmt: skip
    return cuts


def _certificates(root: Path) -> None:
    """The bundle that ca-certificates' own script would write, whose tools (openssl, perl) are not wanted here."""
    single = sorted((root / "usr" / "share" / "ca-certificates").rglob("*.crt"))
    (bundle := root / "etc" / "ssl" / "certs" / "ca-certificates.crt").parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text("".join(path.read_text(encoding="utf-8").rstrip() + "\n" for path in single))
    shutil.rmtree(root / "usr" / "share" / "ca-certificates")
    for script in (root / "usr" / "sbin", root / "etc" / "ca-certificates"):
        shutil.rmtree(script, ignore_errors=True)


def _mmdebstrap(*arguments: str | Path, what: str, say: Say) -> None:
    child.run(["mmdebstrap", "--quiet", *arguments], what=what, log=store.room() / "base.log", say=say, env={"TMPDIR": str(store.room())})


def _key(variant: str) -> str:
    """Another as soon as what it is made of, or how, is another. Debian's own updates come with `./run_all.sh images --fresh`."""
    made_of = [SUITE, {"fat": FAT, "slim": SLIM, "distroless": DISTROLESS}[variant], UNREAD, WAY, UNPACK.read_text()]
    if variant == "distroless":
        made_of.append([asdict(rule) for rule in prune.rules(RULES) if "base" in rule.within])
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]


def versions() -> dict[str, str]:
    """The programs that images are made with."""
    found = {}
    for program in store.PROGRAMS:
        if shutil.which(program):
            said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.split()
            found[program] = next((word for word in said if word[:1].isdigit()), "unknown")
    return found
