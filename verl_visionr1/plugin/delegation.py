"""Rows of other kinds: `reward.reward_kwargs.visionr1.delegate` leaves their data sources to verl's own reward.

verl's `compute_score`, or `reward.custom_reward_function` where one is set, judges them as its naive reward manager
would; their ground truth is no `Target`. So maths and grounding train in one run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin.data_files import readable_files
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.rows import RowsError, read_rows

KEY = "reward.reward_kwargs.visionr1.delegate"
TELLS = ("value", "acc", "n_tokens", "clipped", "unscored")
"""Numbers that mean something for such a row."""
OWN_MANAGERS = ("visionr1", "VisionR1RewardManager")
"""`reward.reward_manager.name` of the plug-in's manager, as registered and as a class."""


def accuracy_of(result: Mapping[str, Any]) -> float:
    """What verl reports as `acc`, else the reward."""
    acc = result["reward_extra_info"].get("acc")
    return float(acc) if isinstance(acc, bool | int | float) else float(result["reward_score"])


def delegation_problems(config: DictConfig, delegate: Sequence[str]) -> list[str]:
    """Data sources that are left to verl, and that its own `compute_score` does not know; one line each."""
    if not delegate or OmegaConf.select(config, "reward.custom_reward_function.path"):
        return []
    sources = sorted({source for source in _sources(config) if is_delegated(delegate, source)})
    return [
        f"{KEY}: verl's compute_score does not know data source {source!r}; set reward.custom_reward_function.path"
        for source in sources
        if not _is_known(source)
    ]


def _is_known(source: str) -> bool:
    from verl.utils.reward_score import default_compute_score

    try:
        default_compute_score(source, "", "")
    except NotImplementedError:  # what verl raises for a source that it does not know
        return False
    except Exception:  # noqa: BLE001 - it knows the source, and wanted a real answer
        return True
    return True


def _sources(config: DictConfig) -> Iterator[str]:
    for file in readable_files(config):
        try:
            yield from {str(row.get("data_source", "")) for row in read_rows(file, columns=["data_source"])}
        except RowsError:
            continue  # the preflight says it


def reward_model_problem(config: DictConfig) -> str | None:
    """Why a reward model beside the manager cannot be meant; None where there is none, or another manager.

    verl's `RewardLoopWorker.compute_score` asks the reward model instead of the manager, unless a custom reward
    function is set; then it asks the manager. That hands the model's address to the function for rows that `delegate`
    leaves to it, and has no use for the model itself.
    """
    if not OmegaConf.select(config, "reward.reward_model.enable"):
        return None
    name = OmegaConf.select(config, "reward.reward_manager.name")
    if name is not None and name not in OWN_MANAGERS:
        return None
    custom = OmegaConf.select(config, "reward.custom_reward_function.path")
    if custom and OmegaConf.select(config, KEY):
        return None
    reason = "verl asks the reward model, and never visionr1"
    if custom:
        reason = "nothing asks the reward model, which takes memory and GPUs"
    return f"reward.reward_model.enable=True: {reason}; set reward.reward_model.enable=False"
