"""The scoring service: POST /v1/score, and what its operators need: health, readiness, metrics, a decision by its id.

Requests that arrive while a batch is at work make the next batch; an idle service never waits (unless `--batch-wait-ms` asks for it).
At the door it counts how long a request would wait: beyond the target it is refused with 503 and Retry-After, so that what is accepted
keeps its time. Logs tell of the service's life, never of a card.

    python -m lib.pipelines.fraud.service [--port 8000] [--journal FILE] [--redis-url URL]     (see --help)
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter_ns
from typing import Annotated
from urllib.parse import unquote_to_bytes

import typer

from lib import home
from lib.pipelines import serve
from lib.pipelines.admission import Admission
from lib.pipelines.fraud import forest, model
from lib.pipelines.fraud.instruments import Instruments
from lib.pipelines.fraud.journal import Journal, NotAJournal
from lib.pipelines.fraud.pipeline import Pipeline, told
from lib.pipelines.fraud.redis_windows import RedisWindows
from lib.pipelines.fraud.transaction import Refused, encode
from lib.pipelines.fraud.windows import Embedded, Event, Unavailable, Windows
from lib.pipelines.http import Connection, Request, whole

SCORE, DECISIONS = b"/v1/score", b"/v1/decisions/"
RETRY = b"Retry-After: 1\r\n"
OVERLOADED = Refused(503, "overloaded", "More waits already than is answered in time; try again later").body()
BUSY = whole(503, OVERLOADED, headers=RETRY)
HTTP_S = 10e-6  # what receiving a request and sending its answer take beside the batch: it waits for that as well
EXPIRED = Refused(504, "expired", "It waited longer than its deadline and was not scored").body()
FAILED = Refused(500, "failed", "The service failed at this batch; none of it is known to be decided. Send it again").body()
PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"
ROUTES = {
    "POST /v1/score": "score a transaction",
    "GET /v1/decisions/{id}": "a decision that was made",
    "GET /v1/model": "what scores",
    "GET /healthz": "alive",
    "GET /readyz": "takes transactions",
    "GET /metrics": "for Prometheus",
}


class Service:
    """An App (see http.py) around a Pipeline."""

    shed_prefix = b"POST /v1/score "

    def __init__(self, pipeline: Pipeline, admission: Admission, *, deadline_s: float = 0.010, wait_s: float = 0.0) -> None:
        """`deadline_s`: what waited longer is not scored any more; `wait_s`: how long a batch waits for more."""
        self.pipeline, self.admission, self.instruments = pipeline, admission, Instruments(pipeline.model.version)
        self.busy: bytes | None = None
        self.sheds = 0
        self.ready = True
        self._deadline_ns, self._wait_s = int(deadline_s * 1e9), wait_s
        self._waiting: list[tuple[Connection, Request]] = []
        self._due = False

    def request(self, connection: Connection, request: Request) -> None:
        """Let it wait for its batch, refuse it, or answer at once what is no transaction."""
        if request.path == b"/metrics" and request.method == b"GET":
            connection.answer(200, self.instruments.text(self.sheds, len(self._waiting)), content_type=PROMETHEUS)
        elif request.path != SCORE or request.method != b"POST":
            status, body = self._aside(request)
            allowed = b"Allow: POST\r\n" if request.path == SCORE else b"Allow: GET, HEAD\r\n"
            connection.answer(status, body, headers=allowed if status == 405 else b"")
        elif not self.admission.admits(len(self._waiting)):
            self.busy = BUSY  # until the next batch is through, others are refused before they are read
            self.sheds += 1
            connection.answer(503, OVERLOADED, headers=RETRY)
        else:
            self._waiting.append((connection, request))
            if not self._due:
                self._due = True
                loop = asyncio.get_running_loop()
                loop.call_later(self._wait_s, self._flush) if self._wait_s else loop.call_soon(self._flush)

    def close(self) -> None:
        """Answer what waits, then let go of the log."""
        while self._waiting:
            self._flush()
        self.pipeline.close()

    def _flush(self) -> None:
        """Decide what waits, a batch at a time; what came meanwhile is the next batch."""
        began_ns = perf_counter_ns()
        taken, self._waiting = self._waiting[: self.pipeline.capacity], self._waiting[self.pipeline.capacity :]
        batch = [one for one in taken if began_ns - one[1].arrived_ns <= self._deadline_ns]
        try:
            if len(batch) < len(taken):
                self._expire([one for one in taken if began_ns - one[1].arrived_ns > self._deadline_ns])
            if batch:
                self._decide(batch, began_ns)
        finally:  # whatever goes wrong with a batch is that batch's alone
            self.busy = None
            self._due = bool(self._waiting)
            if self._due:
                asyncio.get_running_loop().call_soon(self._flush)

    def _decide(self, batch: list[tuple[Connection, Request]], began_ns: int) -> None:
        try:
            replies = self.pipeline.decide([request.body for _, request in batch])
        except Exception:
            for connection, _ in batch:
                connection.answer(500, FAILED)
            self.instruments.answered(500, len(batch))
            raise
        for (connection, _), reply in zip(batch, replies, strict=True):
            connection.answer(reply.status, reply.body, headers=RETRY if reply.status == 503 else b"")
        ended_ns = perf_counter_ns()
        self.admission.served(len(batch), (ended_ns - began_ns) / 1e9 + len(batch) * HTTP_S)
        self.instruments.decided(replies, [ended_ns - request.arrived_ns for _, request in batch], self.pipeline.spent_ns())

    def _expire(self, late: list[tuple[Connection, Request]]) -> None:
        for connection, _ in late:
            connection.answer(504, EXPIRED)
        self.instruments.answered(504, len(late))

    def _aside(self, request: Request) -> tuple[int, bytes]:
        """What is asked beside the transactions: a status and a body."""
        path = request.path
        if path == SCORE or (request.method not in (b"GET", b"HEAD")):
            return self._refused(405, "method", "POST scores at /v1/score, GET reads the rest")
        if path == b"/healthz":
            return 200, b'{"status":"alive"}'
        if path == b"/readyz":
            fault = self.pipeline.journal.fault
            body = {"ready": self.ready and fault is None, "fault": fault}
            return (200 if body["ready"] else 503), encode(body)
        if path == b"/v1/model":
            costs = self.pipeline.costs
            return 200, encode(
                {
                    "model": self.pipeline.model.version,
                    "engine": self.pipeline.scorer.name,
                    "windows": self.pipeline.windows.name,
                    "costs": asdict(costs),
                }
            )
        if path.startswith(DECISIONS):
            id_ = unquote_to_bytes(path.removeprefix(DECISIONS)).decode(errors="replace")
            found = self.pipeline.decided(id_)
            return (200, told(found)) if found else self._refused(404, "unknown_id", f"No decision of {id_!r} is remembered")
        if path == b"/":
            return 200, encode(ROUTES)
        return self._refused(404, "no_such_path", "There is " + ", ".join(ROUTES))

    def _refused(self, status: int, code: str, message: str) -> tuple[int, bytes]:
        return status, Refused(status, code, message).body()


def main(
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Beyond loopback only if you ask for it: there is no authentication.")] = "127.0.0.1",
    journal: Annotated[Path | None, typer.Option(help="The decision log.", show_default="fraud/decisions.sqlite in the cache")] = None,
    durable: Annotated[bool, typer.Option(help="Survive a power cut too: an fsync a batch.")] = False,
    redis_url: Annotated[str, typer.Option(envvar="REDIS_URL", help="Keep the windows there, for several replicas.")] = "",
    root: Annotated[
        Path | None, typer.Option("--model", envvar="FRAUD_MODEL", help="A directory that holds one.", show_default="this machine's own")
    ] = None,
    engine: Annotated[str, typer.Option(help="compiled | onnx | native")] = "compiled",
    threads: Annotated[int, typer.Option(help="Of the onnx and native engines.")] = 1,
    spin: Annotated[bool, typer.Option(help="Let the onnx engine's threads wait for work without sleeping.")] = False,
    provider: Annotated[
        str, typer.Option(help="ONNX Runtime's, for the onnx engine; CUDAExecutionProvider on a GPU.")
    ] = "CPUExecutionProvider",
    deadline_ms: Annotated[float, typer.Option(help="What waited longer is answered 504 and not scored.")] = 10.0,
    queue_ms: Annotated[float, typer.Option(help="What would wait longer than this is refused at the door with 503.")] = 3.0,
    batch_wait_ms: Annotated[
        float, typer.Option(help="Let a batch wait for more. 0 never waits, and batches under load all the same.")
    ] = 0.0,
) -> None:
    """Score card transactions over HTTP on one core until told to stop (Ctrl-C, SIGTERM)."""
    try:
        known = model.load(root)
        scorer = _scorer(engine, known, provider, threads, spin)
        log = Journal(journal or _place(), durable=durable)

        def windows(events: Iterable[Event]) -> Windows:
            return RedisWindows(redis_url) if redis_url else Embedded.resumed(events)

        line = Pipeline(model=known, scorer=scorer, windows=windows, journal=log)
    except (model.NotReady, forest.WrongDevice, NotAJournal, Unavailable, ValueError, OSError) as reason:
        sys.exit(f"fraud service: {reason}")
    gc.collect()
    # The ids that are remembered are hundreds of thousands of objects; looking through them for cycles, of which a request makes none,
    # stops the service for milliseconds. Reference counting frees the rest.
    gc.disable()
    serve.run(
        Service(line, Admission(target_s=queue_ms / 1e3), deadline_s=deadline_ms / 1e3, wait_s=batch_wait_ms / 1e3), host=host, port=port
    )


def _scorer(engine: str, known: model.Model, provider: str, threads: int, spin: bool) -> forest.Scorer:
    if not 1 <= threads <= 256:
        raise ValueError(f"--threads {threads}: from 1 to 256")
    if engine == "compiled":
        return forest.Compiled(known)
    if engine == "native":
        return forest.Native(known, threads=threads)
    if engine == "onnx":
        return forest.Onnx(known, threads=threads, spin=spin, provider=provider)
    raise ValueError(f"there is no engine {engine!r}; take compiled, onnx or native")


def _place() -> Path:
    place = home.cache() / "fraud"
    place.mkdir(parents=True, exist_ok=True)
    return place / "decisions.sqlite"


if __name__ == "__main__":
    typer.run(main)
