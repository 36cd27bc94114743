"""What the service says of itself to Prometheus: golden signals, stages, decisions, and the distribution of its scores.

Buckets are set for microseconds; score buckets are what drift is seen by. Labels are few and known beforehand, never an id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.pipelines import meters
from lib.pipelines.fraud.pipeline import STAGES, Reply
from lib.pipelines.fraud.verdict import Verdict

SECONDS = (25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PROBABILITIES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9, 1.0)
STATUSES = (200, 400, 404, 409, 422, 500, 503, 504)


class Instruments:
    """Counts what the service tells it; `text` is what Prometheus reads."""

    def __init__(self, version: str) -> None:
        self._meters = seconds, stages, rows, probability, decisions, responses, waiting, info = (
            meters.Histogram("fraud_request_seconds", "From a request's last byte to its answer", SECONDS),
            meters.Histogram(
                "fraud_stage_seconds", "Of a batch, by stage; each of its rows counts", SECONDS, ("stage",), [(s,) for s in STAGES]
            ),
            meters.Histogram("fraud_batch_rows", "Requests in a batch", ROWS),
            meters.Histogram("fraud_probability", "Calibrated probability of what was scored", PROBABILITIES),
            meters.Counter("fraud_decisions_total", "Decisions made", ("decision",), [(v.name.lower(),) for v in Verdict]),
            meters.Counter("fraud_responses_total", "Answers by HTTP status", ("status",), [(str(s),) for s in STATUSES]),
            meters.Gauge("fraud_queue_depth", "Requests that wait for their batch"),
            meters.Gauge("fraud_model_info", "1, labelled with the version of the model", ("version",), [(version,)]),
        )
        info.child(version).set(1)
        # Children are looked up once: a request pays for additions only.
        self._seconds, self._rows, self._probability, self._waiting = seconds.child(), rows.child(), probability.child(), waiting.child()
        self._stages = {stage: stages.child(stage) for stage in STAGES}
        self._decisions = {verdict: decisions.child(verdict.name.lower()) for verdict in Verdict}
        self._responses = {status: responses.child(str(status)) for status in STATUSES}
        self._shed = 0

    def decided(self, replies: Sequence[Reply], waited_ns: Sequence[int], spent_ns: Mapping[str, int]) -> None:
        """A batch is through: its replies, how long each of its requests was here, what the stages took."""
        for ns in waited_ns:
            self._seconds.observe(ns / 1e9)
        for stage, ns in spent_ns.items():
            self._stages[stage].observe(ns / 1e9, len(replies))
        self._rows.observe(len(replies))
        for reply in replies:
            self._responses[reply.status].add()
            if reply.verdict is not None and reply.probability is not None:
                self._decisions[reply.verdict].add()
                self._probability.observe(reply.probability)

    def answered(self, status: int, n: int) -> None:
        """Answers that no batch gave."""
        self._responses[status].add(n)

    def text(self, sheds: int, waiting: int) -> bytes:
        """The exposition. `sheds`: requests refused at the door since the start."""
        self._responses[503].add(sheds - self._shed)
        self._shed = sheds
        self._waiting.set(waiting)
        return meters.text(self._meters)
