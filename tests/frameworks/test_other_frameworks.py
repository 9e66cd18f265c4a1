"""The reward in the real classes of ms-swift and EasyR1, in a process each; TRL's run is `test_trl_run.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from framework_packages import run_with, unpacked

pytestmark = [pytest.mark.verl, pytest.mark.slow, pytest.mark.nightly]
HERE = Path(__file__).parents[1]
SWIFT = (*("ms-swift==4.6.0", "modelscope==1.40.2", "modelscope_hub==0.5.1"), *("dacite==1.9.2", "json_repair==0.64.6"))
"""ms-swift, and of what it needs all that verl's environment has not."""
FLOAT32 = 1e-6


def test_ms_swift_computes_the_rewards_that_score_says() -> None:
    """Its own `compute_rewards_per_func`, with `examples/ms_swift/plugin.py`."""
    found = json.loads(run_with(unpacked(*SWIFT), HERE / "swift_contract.py").stdout.splitlines()[-1])
    assert found.pop("registered") == ["VisionR1", True]
    assert found.pop("perfect") == [1.0] * 5
    assert found.pop("missing") == "MissingStepError"
    assert found.keys() == {"processed", *(f"{name} {step}" for name in ("step", "recall") for step in (1, 5, 6, 10))}
    assert max(found.values()) <= FLOAT32


@pytest.mark.skipif("VISIONR1_EASYR1" not in os.environ, reason="needs VISIONR1_EASYR1, a checkout of EasyR1")
def test_easyr1_computes_the_rewards_that_score_says() -> None:
    """Its own `AutoRewardManager` and `process_image`, with the settings of `examples/easyr1/train.sh`."""
    checkout = Path(os.environ["VISIONR1_EASYR1"])
    found = json.loads(run_with(checkout, HERE / "easyr1_contract.py").stdout.splitlines()[-1])
    assert found["perfect"] == [1.0] * 5
    assert max(found["largest"], found["recall"]) <= FLOAT32
    assert found["n_tokens"]
