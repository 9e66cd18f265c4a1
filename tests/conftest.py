"""Where test modules find what they share: converters are scripts, and scene sets are used by several tests."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# No deadlines: a busy machine is no reason to fail. Speed has its own tests and benchmarks.
settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT / "data_preprocess", ROOT / "tests"):  # as Python itself does for a script
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
