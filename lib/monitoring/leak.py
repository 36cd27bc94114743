"""A service with a leak: another module of ours is run as it is, and from a signal on its process keeps what it takes, ever more.

What a deploy may bring that no test saw, in the very process whose memory its exporter tells. It begins at SIGUSR1, so that an instance
can be started in peace. Refuses to take what the rest of the machine needs: it stops at MOST_BYTES, and while little is left.

    python -m lib.monitoring.leak 400e6 lib.pipelines.retail.service --port 8010 …      so many bytes a second
"""

from __future__ import annotations

import ctypes
import mmap
import runpy
import signal
import sys
import time
from threading import Thread

import psutil

BEGIN = signal.SIGUSR1
PIECE = 2**24
MOST_BYTES = 4 * 2**30
LEFT = 0.3  # of the machine's memory, at least


def leak(bytes_per_s: float, *, most_bytes: int = MOST_BYTES, left: float = LEFT) -> list[mmap.mmap]:
    """Take memory at that pace, or as fast as it is granted; what was taken, for whoever keeps it."""
    kept: list[mmap.mmap] = []
    began_s = time.monotonic()
    while len(kept) * PIECE < most_bytes and psutil.virtual_memory().available > left * psutil.virtual_memory().total:
        kept.append(piece := mmap.mmap(-1, PIECE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        piece.madvise(mmap.MADV_HUGEPAGE)
        ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(piece)), 1, PIECE)  # without the interpreter's lock
        time.sleep(max(0.0, began_s + len(kept) * PIECE / bytes_per_s - time.monotonic()))
    return kept


def main(words: list[str]) -> None:
    """Run a module under its own name, beside a leak that waits for BEGIN."""
    pace, module, *rest = words
    signal.pthread_sigmask(signal.SIG_BLOCK, {BEGIN})  # of all threads to come: only the one that waits for it takes it

    def wait() -> None:
        signal.sigwait({BEGIN})
        kept = leak(float(pace))
        while kept:
            time.sleep(60)

    Thread(target=wait, name="leak", daemon=True).start()
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
