"""What to ask a scheduler for: requests and limits of one replica, and the settings that go with them, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advice:
    """For one replica of `service`. `options`: the service's own, as on its command line. `per_s`: predictions a second within the SLA.

    `why`: a sentence for each of "cpu", "memory", "threads", "replicas".
    """

    service: str
    cpu_request: float
    cpu_limit: float | None
    memory_request_bytes: int
    memory_limit_bytes: int
    options: Mapping[str, str]
    per_s: float
    sla: str
    why: Mapping[str, str]
