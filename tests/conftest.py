from __future__ import annotations

from hypothesis import HealthCheck, settings

# No deadlines: a busy machine is no reason to fail. Speed has its own tests and benchmarks.
settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")
