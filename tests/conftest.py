"""How hypothesis works here: no clock decides whether a test passes, for a fresh clone has no cache of its and a machine may be busy."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")
