"""A server for what the null server does not do: answer one at a time, hang up on the idle, dribble its heads."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep


@contextmanager
def serving(*, service_s: float = 0.0, idle_s: float | None = None, dribbles: bytes | None = None) -> Iterator[int]:
    """The port of a server that takes `service_s` for each answer of one token, one after another.

    It closes a connection that is idle for `idle_s`; with `dribbles` it sends those bytes instead, three at a time.
    """
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        timeout = idle_s

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if dribbles is not None:
                for at in range(0, len(dribbles), 3):
                    self.wfile.write(dribbles[at : at + 3])
                    sleep(0.001)
                return
            with turn:
                sleep(service_s)
            event = b"data: " + json.dumps({"choices": [{"text": " a"}]}).encode() + b"\n\n"
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(event), event)
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that hangs up is no news

    with Server(("127.0.0.1", 0), Handler) as server:
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
