"""A load client for short requests: open loop by schedule, closed loop for saturation; from a process and on a core of its own.

Time counts from the moment a request was due, not from when the client got round to it (coordinated omission). A request that is due
while every connection is busy waits here and its latency says so. Kept apart from this is the client's own lateness, `lag_s`.

The load process watches its sockets without sleeping while anything happens, so it wants a core of its own; `cpu_s` is without this
watching. What it measures is loopback; `calibration.py` says how true it is.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter_ns, process_time_ns

import numpy as np
from numpy.typing import NDArray

from lib.pipelines import wire
from lib.pipelines.loops import closed_loop, open_loop
from lib.pipelines.throttle import Throttle
from lib.pipelines.wire import Wire

NOT_SENT = -1  # the status of a request that the throttle kept back
LONGEST_BYTES = 16_384  # what a socket takes at once
AHEAD_NS = 20_000_000  # from the last preparation to the start of a schedule


@dataclass(frozen=True, slots=True)
class Calls:
    """What happened, one element a request in order of sending; ns on the monotonic clock, which all processes of a machine share.

    `sent_ns`/`done_ns` are 0 where a request was not sent or not answered; `status` is then 0, or NOT_SENT. `waited`: due while no
    connection was free. `cpu_s` of the load process under load, watching not counted. `opened`: connections, with those opened again.
    """

    due_ns: NDArray[np.int64]
    sent_ns: NDArray[np.int64]
    done_ns: NDArray[np.int64]
    status: NDArray[np.int16]
    waited: NDArray[np.bool_]
    bodies: list[bytes] | None
    cpu_s: float
    wall_s: float
    opened: int

    @property
    def latency_s(self) -> NDArray[np.float64]:
        """From due to done; infinite where no answer came."""
        return np.where(self.done_ns > 0, (self.done_ns - self.due_ns) / 1e9, np.inf)

    @property
    def service_s(self) -> NDArray[np.float64]:
        """From sent to done; infinite where no answer came."""
        return np.where(self.done_ns > 0, (self.done_ns - self.sent_ns) / 1e9, np.inf)

    @property
    def lag_s(self) -> NDArray[np.float64]:
        """How late the client was with what it could have sent at once: requests that were sent and had not waited."""
        prompt = (self.sent_ns > 0) & ~self.waited
        lag: NDArray[np.float64] = (self.sent_ns - self.due_ns)[prompt] / 1e9
        return lag


@dataclass(frozen=True, slots=True)
class _Job:
    port: int | Sequence[int]
    requests: Sequence[bytes]
    connections: int
    timeout_s: float
    arrivals_ns: NDArray[np.int64] | None = None  # None: closed loop
    seconds: float = 0.0
    throttle: bool = False
    keep_bodies: bool = False
    seed: int = 0


class Caller:
    """A load process that lives as long as a measurement session. Use as a context manager; it ends with its parent.

    `cores`: the processors it may use, all of them by default. Leaving the block, or Ctrl-C in a run, ends it at once.
    """

    def __init__(self, *, cores: Sequence[int] | None = None) -> None:
        if cores is not None and not (cores and set(cores) <= os.sched_getaffinity(0)):
            raise ValueError(f"cores {tuple(cores)} are not among {sorted(os.sched_getaffinity(0))}, which this process may use")
        ours, theirs = multiprocessing.Pipe()
        self._pipe = ours
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, cores), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Caller:
        self._answer()  # it has started
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()  # the load process sees that, in a run as well
        self._process.join(5)
        self._process.kill()
        self._process.join()

    def run(self, port: int | Sequence[int], requests: Sequence[bytes], arrivals_ns: NDArray[np.int64], *, connections: int = 256,
            timeout_s: float = 5, throttle: bool = False, keep_bodies: bool = False, seed: int = 0) -> Calls:
        """Open loop: send requests[i] (a whole HTTP message) to 127.0.0.1:`port` at arrivals_ns[i] from the start.

        Several ports are replicas that share the connections. Who has no answer `timeout_s` after its due time has failed (status 0).
        `throttle`: keep requests back while the server refuses many (see throttle.py); `seed` is for that.

        Raises ValueError for a bad request or schedule, OSError when nobody listens, wire.Unreadable for answers without Content-Length.
        """
        if len(requests) != len(arrivals_ns) or (np.diff(arrivals_ns) < 0).any():
            raise ValueError(f"{len(requests)} requests, {len(arrivals_ns)} arrivals: one each, and in order")
        return self._order(_Job(port, requests, connections, timeout_s, arrivals_ns, throttle=throttle, keep_bodies=keep_bodies, seed=seed))

    def closed(self, port: int | Sequence[int], requests: Sequence[bytes], streams: int, seconds: float, *, timeout_s: float = 5,
               keep_bodies: bool = False) -> Calls:
        """Closed loop: `streams` connections, each sending the next request (in turn, from the start again) once answered.

        For `seconds`, then what is in flight is awaited. Due is sent. Raises as `run`.
        """
        if not seconds > 0:
            raise ValueError(f"nothing can be sent in {seconds} s")
        return self._order(_Job(port, requests, streams, timeout_s, seconds=seconds, keep_bodies=keep_bodies))

    def _order(self, job: _Job) -> Calls:
        if not job.requests:
            raise ValueError("there are no requests to send")
        if (longest := max(map(len, job.requests))) > LONGEST_BYTES:
            raise ValueError(f"a request of {longest} bytes; this client sends at most {LONGEST_BYTES}")
        if job.connections < 1 or not job.timeout_s > 0:
            raise ValueError(f"{job.connections} connections, timeout {job.timeout_s} s: both must be positive")
        try:
            self._pipe.send(job)
            calls = self._answer()
        except KeyboardInterrupt:
            self.__exit__()
            raise
        assert isinstance(calls, Calls)
        return calls

    def _answer(self) -> object:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise RuntimeError("the load process has ended; start another Caller") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(pipe: Connection, cores: Sequence[int] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    if cores is not None:
        os.sched_setaffinity(0, cores)
    with contextlib.suppress(PermissionError):  # a busy server must not delay the stamps; only root may ask for that
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    with contextlib.suppress(EOFError, OSError):  # the parent left
        pipe.send(None)
        while True:
            job = pipe.recv()
            try:
                answer: object = _run(job, pipe.fileno())
            except wire.HungUp:
                return
            except OSError as error:
                answer = error
            pipe.send(answer)


def _run(job: _Job, parent: int) -> Calls:
    line = Wire(job.port, job.connections, parent=parent)
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection in the middle of a run would be a lag of our own making
    try:
        began_ns, timeout_ns, cpu_ns = perf_counter_ns() + AHEAD_NS, int(job.timeout_s * 1e9), process_time_ns()
        if job.arrivals_ns is None:
            course = closed_loop(line, job.requests, seconds=job.seconds, timeout_ns=timeout_ns)
        else:
            due_ns, throttle = (job.arrivals_ns + began_ns).tolist(), Throttle(seed=job.seed) if job.throttle else None
            course = open_loop(line, job.requests, due_ns, timeout_ns=timeout_ns, throttle=throttle)
        cpu_ns, wall_ns = process_time_ns() - cpu_ns - course.watched_ns, perf_counter_ns() - int(course.due_ns[0])
    finally:
        line.close()
        gc.enable()
        gc.unfreeze()
    status = np.array([wire.status(raw) for raw in line.raw], np.int16)
    status[course.kept] = NOT_SENT
    bodies = [wire.body(raw) for raw in line.raw] if job.keep_bodies else None
    return Calls(course.due_ns, np.array(line.sent_ns, np.int64), np.array(line.done_ns, np.int64), status, course.waited, bodies,
                 max(0, cpu_ns) / 1e9, wall_ns / 1e9, line.opened)
