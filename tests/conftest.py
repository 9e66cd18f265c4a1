"""Where test modules find what they share: scene sets are used by several tests."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

import pytest
import typer.testing
from hypothesis import HealthCheck, settings

# No deadlines: a busy machine is no reason to fail. Speed has its own tests and benchmarks.
# Fifty examples: most tests ask for a property of each preset or format, and so see hundreds.
settings.register_profile("calm", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")

# Tests start hundreds of processes: without bytecode each would compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# As recipes on CPU: a second thread costs tiny products more than it gives, on busy cores ten times as much.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Each `CliRunner().invoke(app, ...)` would build all commands anew, which takes four times as long as to run one.
typer.testing._get_command = cache(typer.testing._get_command)

TESTS = Path(__file__).resolve().parent
AREAS = sorted({str(file.parent) for file in TESTS.glob("*/test_*.py")})
sys.path[:0] = [folder for folder in (str(TESTS), *AREAS) if folder not in sys.path]

collect_ignore = ["easyr1_contract.py", "swift_contract.py", "verl_contract.py"]
"""Programs that tests start beside another framework, or another verl, than this environment's."""

NEEDS_TORCH = {"test_cluster.py", "test_frozen_vision.py", "test_tiny_models.py"}
"""All their tests have the marker `verl`; torch takes seconds to import."""


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without their figure, which takes a second."""
    monkeypatch.setattr("verl_visionr1.tools.runs.report.draw", lambda *_, **__: None)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What `-m 'not verl'` leaves out anyway is not imported."""
    return True if collection_path.name in NEEDS_TORCH and "not verl" in config.option.markexpr else None
