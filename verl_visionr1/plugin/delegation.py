"""Delegate rows to verl's own reward, by data source: `reward.reward_kwargs.visionr1.delegate`.

verl's `compute_score`, or `reward.custom_reward_function` if set, scores them as its naive reward manager would; their
ground truth is not a `Target`. So mathematics and grounding can be trained in one run.
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
"""Meaningful numbers of a delegated row."""
OWN_MANAGERS = ("visionr1", "VisionR1RewardManager")
"""Values of `reward.reward_manager.name` for the plug-in's manager: registered name and class."""


def accuracy_of(result: Mapping[str, Any]) -> float:
    """verl's `acc`, else the reward."""
    acc = result["reward_extra_info"].get("acc")
    return float(acc) if isinstance(acc, bool | int | float) else float(result["reward_score"])


def delegation_problems(config: DictConfig, delegate: Sequence[str]) -> list[str]:
    """Delegated data sources unknown to verl's `compute_score`; one line each."""
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
    except NotImplementedError:  # verl's error for an unknown source
        return False
    except Exception:  # noqa: BLE001 - the source is known, but needs a real answer
        return True
    return True


def _sources(config: DictConfig) -> Iterator[str]:
    for file in readable_files(config):
        try:
            yield from {str(row.get("data_source", "")) for row in read_rows(file, columns=["data_source"])}
        except RowsError:
            continue  # the preflight reports it


def reward_model_problem(config: DictConfig) -> str | None:
    """Problem of a reward model in addition to the manager; None without one, or with another manager.

    verl's `RewardLoopWorker.compute_score` calls the reward model instead of the manager, unless a custom reward
    function is set; then it calls the manager. The manager passes the model's address to the function for delegated
    rows, and does not use the model itself.
    """
    if not OmegaConf.select(config, "reward.reward_model.enable"):
        return None
    name = OmegaConf.select(config, "reward.reward_manager.name")
    if name is not None and name not in OWN_MANAGERS:
        return None
    custom = OmegaConf.select(config, "reward.custom_reward_function.path")
    if custom and OmegaConf.select(config, KEY):
        return None
    reason = "verl calls the reward model, and never visionr1"
    if custom:
        reason = "the reward model is not used, but takes memory and GPUs"
    return f"reward.reward_model.enable=True: {reason}; set reward.reward_model.enable=False"
