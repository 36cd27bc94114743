"""A server with a family, as a script: `family.py PORT PIDS [FAULT]`.

Its child is an ordinary one; its grandchild put itself into a session of its own and lets nobody know whose it is. All
write their process ids to the file PIDS. It leaves with status 7
when asked for /leave. Faults: "dies" while loading, "never" healthy, "stubborn" against TERM.
"""

import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class Handler(BaseHTTPRequestHandler):
    healthy = True

    def do_GET(self) -> None:
        if self.path == "/leave":
            os._exit(7)
        self.send_response(200 if self.healthy else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def daemon() -> int:
    """Forked twice, in a session of its own, its parent gone."""
    told, tell = os.pipe()
    if first := os.fork():
        os.waitpid(first, 0)
        return int(os.read(told, 20))
    os.setsid()
    if second := os.fork():
        os.write(tell, str(second).encode())
        os._exit(0)
    return os.execv(sys.executable, [sys.executable, "-c", SLEEPER])


def main(port: int, pids: Path, fault: str) -> None:
    if fault == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", SLEEPER if fault == "stubborn" else "import time; time.sleep(600)"])
    pids.write_text(f"{os.getpid()} {child.pid} {daemon()}")
    if fault == "dies":
        print("loading", flush=True)
        print(f"OutOfMemory: cannot map {Path.home()}/models/weights.bin", file=sys.stderr, flush=True)
        time.sleep(0.2)
        os._exit(3)
    Handler.healthy = fault != "never"
    ThreadingHTTPServer.allow_reuse_address = False
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
