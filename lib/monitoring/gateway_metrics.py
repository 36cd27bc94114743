"""What the gateway says to Prometheus: the client's view of every service, and of an LLM its tokens and their times.

Names of the latter are OpenTelemetry's gen_ai.server.*, in Prometheus' spelling. Every series is there from the start, with 0: a rate sees
the first error. Labels are the services, outcomes and the one model that were named beforehand, never what a client sends.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from lib.monitoring import edges
from lib.monitoring.request_log import Entry
from lib.pipelines import meters

# `empty`: a success without a prediction, the silent failure. `client`: the caller's fault, so no valid request.
OUTCOMES = ("ok", "empty", "client", "refused", "timeout", "unreachable", "server")
TOKENS = ("input_uncached", "input_cached", "output")


class GatewayMetrics:
    """`ended` is told of each request; `text` is what Prometheus reads."""

    def __init__(self, services: Sequence[str], model: str) -> None:
        each, both = [(s,) for s in services], [(s, outcome) for s in services for outcome in OUTCOMES]
        self._requests = meters.Counter("gateway_requests_total", "Requests by how they ended", ("service", "outcome"), both)
        self._seconds = meters.Histogram("gateway_request_seconds",
                                         "Of requests that ended ok, from their arrival to the last byte of the answer",
                                         edges.REQUEST_S, ("service",), each)
        self._in_flight = meters.Gauge("gateway_in_flight", "Requests that are being answered", ("service",), each)
        self._lost = meters.Counter("gateway_log_dropped_total", "Requests that the request log has no line of")
        self._ttft = meters.Histogram("gen_ai_server_time_to_first_token_seconds", "From a request's arrival to its first output token",
                                      edges.FIRST_TOKEN_S, ("model",), [(model,)])
        self._tpot = meters.Histogram("gen_ai_server_time_per_output_token_seconds",
                                      "Of a request, mean time of the tokens after its first", edges.TOKEN_S, ("model",), [(model,)])
        self._tokens = meters.Counter("gen_ai_tokens_total", "Tokens by what they cost, as the engine counted them", ("model", "type"),
                                      [(model, kind) for kind in TOKENS])
        self._untold = meters.Counter("gen_ai_requests_without_usage_total",
                                      "Requests with an answer whose input tokens the engine did not tell: the bill lacks them",
                                      ("model",), [(model,)])
        self._model = model
        ProcessCollector(registry=(process := CollectorRegistry()))
        self._process = process

    def begun(self, service: str, by: int) -> None:
        """A request came (1) or ended (-1)."""
        self._in_flight.child(service).add(by)

    def ended(self, entry: Entry) -> None:
        """Of an LLM's request what is known is told whatever its outcome: tokens that were made were paid for."""
        self._requests.child(entry.service, entry.outcome).add()
        if entry.outcome == "ok":
            self._seconds.child(entry.service).observe(entry.duration_s)
        if entry.ttft_s is not None:
            self._ttft.child(self._model).observe(entry.ttft_s)
        if entry.tpot_s is not None:
            self._tpot.child(self._model).observe(entry.tpot_s)
        if entry.output and entry.input_uncached is None:
            self._untold.child(self._model).add()
        for kind, n in zip(TOKENS, (entry.input_uncached, entry.input_cached, entry.output), strict=True):
            self._tokens.child(self._model, kind).add(n or 0)

    def text(self, log_lost: int) -> bytes:
        """The exposition."""
        self._lost.child().set(log_lost)
        shown = (self._requests, self._seconds, self._in_flight, self._lost, self._ttft, self._tpot, self._tokens, self._untold)
        return meters.text(shown) + generate_latest(self._process)
