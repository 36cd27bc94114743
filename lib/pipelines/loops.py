"""The two loops of a load process: by schedule (open), and as fast as answers come (closed). They pace, `wire.py` sends and stamps.

While anything happens the loop watches the sockets without sleeping, for a sleeper wakes up tens of µs late. After a quiet `AWAKE_NS` it
sleeps until the next event, or until shortly before the next request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from lib.pipelines.throttle import Throttle
from lib.pipelines.wire import Wire

BURST = 8  # requests sent before the next look at the answers
AWAKE_NS = 5_000_000
EARLY_NS = 2_000_000
NAP_S = 0.05
LOOK_NS = 20_000  # a look in vain takes 2 µs; what took longer was another process that had the core, not watching


@dataclass(frozen=True, slots=True)
class Course:
    """How a loop went, one element a request: when it was due, whether it waited for a connection, whether the throttle kept it back."""

    due_ns: NDArray[np.int64]
    waited: NDArray[np.bool_]
    kept: NDArray[np.bool_]
    watched_ns: int  # spent looking at sockets where nothing happened


def open_loop(wire: Wire, requests: Sequence[bytes], due_ns: Sequence[int], *, timeout_ns: int, throttle: Throttle | None) -> Course:
    """Send requests[i] at due_ns[i] or as soon after as a connection is free; give up `timeout_ns` after that."""
    n, number, oldest, asked = len(due_ns), 0, 0, 0
    waited, kept = bytearray(n), bytearray(n)
    starved_ns = watched_ns = 0  # starved: when last a due request found no connection free
    now = active_ns = perf_counter_ns()
    while oldest < n:
        before, burst = number, number + BURST
        while number < n and number < burst and due_ns[number] <= now:
            if throttle is not None and number == asked:
                asked += 1
                kept[number] = throttle.rejects(now)
            if kept[number] or now - due_ns[number] > timeout_ns:
                wire.skip()
            elif wire.free:
                waited[number] = due_ns[number] <= starved_ns
                wire.send(requests[number])
            else:
                starved_ns = now
                break
            number += 1
        nap_s = 0.0
        if number == before and now - active_ns > AWAKE_NS:
            left_ns = due_ns[number] - now - EARLY_NS if number < n else AWAKE_NS
            nap_s = min(NAP_S, max(0, left_ns) / 1e9) if left_ns > 0 else NAP_S if starved_ns == now else 0.0
        answered = wire.poll(nap_s)
        now, then = perf_counter_ns(), now
        if answered or number > before:
            active_ns = now
        elif not nap_s:
            watched_ns += min(now - then, LOOK_NS)
        if throttle is not None:
            for one in answered:
                throttle.learn(now, accepted=wire.raw[one][9:10] != b"5" and wire.raw[one][9:12] != b"429")
        while oldest < number and (wire.settled[oldest] or now - due_ns[oldest] > timeout_ns):
            if not wire.settled[oldest]:
                wire.give_up(oldest)
            if throttle is not None and not kept[oldest] and not wire.done_ns[oldest]:
                throttle.learn(now, accepted=False)
            oldest += 1
        if wire.missing:
            wire.mend()
    return Course(np.array(due_ns), np.frombuffer(waited, np.bool_), np.frombuffer(kept, np.bool_), watched_ns)


def closed_loop(wire: Wire, requests: Sequence[bytes], *, seconds: float, timeout_ns: int) -> Course:
    """Send the next of `requests` (in turn) whenever a connection is free, for `seconds`; then await what is in flight."""
    turn, oldest, watched_ns = len(requests), 0, 0
    now = active_ns = perf_counter_ns()
    until_ns = now + int(seconds * 1e9)
    while now < until_ns or wire.outstanding:
        sent = bool(wire.free) and now < until_ns
        while wire.free and now < until_ns:
            wire.send(requests[len(wire.sent_ns) % turn])
        nap_s = NAP_S if now - active_ns > AWAKE_NS else 0.0
        answered = wire.poll(nap_s)
        now, then = perf_counter_ns(), now
        if answered or sent:
            active_ns = now
        elif not nap_s:
            watched_ns += min(now - then, LOOK_NS)
        while oldest < len(wire.settled) and (wire.settled[oldest] or now - wire.sent_ns[oldest] > timeout_ns):
            if not wire.settled[oldest]:
                wire.give_up(oldest)
            oldest += 1
        if wire.missing:
            wire.mend()
    n = len(wire.sent_ns)
    return Course(np.array(wire.sent_ns, np.int64), np.zeros(n, np.bool_), np.zeros(n, np.bool_), watched_ns)
