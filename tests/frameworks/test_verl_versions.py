"""The reward in the real classes of every verl that is supported, each unpacked and run in a process of its own.

For a snapshot of verl's main branch: `VERL_USE_EXTERNAL_MODULES=verl_visionr1.plugin python tests/verl_contract.py
CHECKOUT` prints what these tests look at.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from framework_packages import ROOT, run_with, unpacked

pytestmark = pytest.mark.verl
SCRIPT = Path(__file__).parents[1] / "verl_contract.py"
FLOAT32 = 1e-6  # managers of verl up to 0.7.0 put rewards into a float32 tensor
EACH_CHANGE = {"0.5.0", "0.9.1"}  # the oldest and the newest; the others are tried at night
VERSIONS = {  # version -> whether rows tell a step and visionr1 is registered
    "0.5.0": False,
    "0.6.1": False,
    "0.7.0": False,
    "0.7.1": True,
    "0.8.0": True,
    "0.9.0": True,
    "0.9.1": True,
}


def marked(versions: Iterable[str] = VERSIONS) -> list[Any]:
    """The versions, those that wait for the night with their markers."""
    night = [pytest.mark.slow, pytest.mark.nightly]
    return [pytest.param(version, marks=[] if version in EACH_CHANGE else night) for version in versions]


TELL_STEP = [version for version, tells_step in VERSIONS.items() if tells_step]


@lru_cache
def all_findings(is_each_change: bool) -> tuple[dict[str, dict[str, Any]], str]:
    """What the script found, by version, and what it wrote beside."""
    versions = [version for version in VERSIONS if (version in EACH_CHANGE) is is_each_change]
    folders = [str(unpacked(f"verl=={version}")) for version in versions]
    run = run_with(ROOT, SCRIPT, *folders, VERL_USE_EXTERNAL_MODULES="verl_visionr1.plugin")
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"version"')]
    return {found["version"]: found for found in lines}, run.stderr


def findings(version: str) -> dict[str, Any]:
    found, errors = all_findings(version in EACH_CHANGE)
    assert version in found, errors[-3000:]
    return found[version]


@pytest.mark.parametrize("version", marked())
def test_a_function_scores_like_score(version: str) -> None:
    found = findings(version)
    by_package = set() if version in ("0.5.0", "0.6.1") else {"pkg://"}
    assert found["function"].keys() == {"this file", "a copied example", "processed pixels"} | by_package
    assert max(found["function"].values()) <= FLOAT32
    assert found["perfect"] == [1.0] * 5


@pytest.mark.parametrize("version", marked())
def test_a_missing_step_is_an_error(version: str) -> None:
    missing = {way: steps["missing"] for way, steps in findings(version)["steps"].items()}
    assert missing == {"function": "MissingStepError", **({"manager": "ConfigError"} if VERSIONS[version] else {})}


@pytest.mark.parametrize("version", marked(TELL_STEP))
def test_thresholds_follow_the_version_of_the_weights(version: str) -> None:
    steps = findings(version)["steps"]
    assert {way: steps[way]["largest"] <= FLOAT32 for way in steps} == {"function": True, "manager": True}


@pytest.mark.parametrize("version", marked())
def test_the_manager_is_registered_where_verl_has_a_place_for_it(version: str) -> None:
    found = findings(version)
    assert found["manager"] == ("VisionR1RewardManager" if VERSIONS[version] else None)
    assert found.get("check", []) == []


@pytest.mark.parametrize("version", marked())
def test_the_keys_of_the_example_compose(version: str) -> None:
    """In the config that each verl ships, which is read without importing it."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    script = (ROOT / "examples" / "verl" / "train.sh").read_text()
    words = [word for word in shlex.split(script[script.index("exec ") :]) if "custom_reward_function" in word]
    is_old = tuple(map(int, version.split("."))) < (0, 7, 1)
    overrides = [word.replace("reward.custom", "custom") for word in words] if is_old else words
    folder = unpacked(f"verl=={version}") / "verl" / "trainer" / "config"
    with initialize_config_dir(str(folder), version_base=None):
        config = compose("ppo_trainer", overrides)
    function = OmegaConf.select(config, "custom_reward_function" if is_old else "reward.custom_reward_function")
    assert function.path.endswith("/reward.py")
    assert (function.name, function.reward_kwargs) == ("compute_score", {"frame": "qwen3-vl", "total_steps": 200})
