from __future__ import annotations

from hypothesis import HealthCheck, settings

# No deadlines: a busy machine is no reason to fail. Speed has its own tests and benchmarks. The health checks named
# here judge by lot how fast examples are made, not what is tested.
HOW_FAST = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
settings.register_profile("calm", deadline=None, suppress_health_check=HOW_FAST)
settings.load_profile("calm")
