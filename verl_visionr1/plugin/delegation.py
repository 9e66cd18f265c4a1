"""Delegate rows to verl's own reward, by data source: `reward.reward_kwargs.visionr1.delegate`.

verl's `compute_score`, or `reward.custom_reward_function` if set, scores them as its naive reward manager would; their
ground truth is not a `Target`. So mathematics and grounding can be trained in one run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin.config import PREFIX, Settings
from verl_visionr1.plugin.data_files import complete_files, readable_files, reward_rows
from verl_visionr1.plugin.run_facts import has_callback
from verl_visionr1.rewards.routing import is_delegated

KEY = f"{PREFIX}.delegate"
TELLS = ("value", "acc", "n_tokens", "clipped", "unscored")
"""Meaningful numbers of a delegated row."""
OWN_MANAGERS = ("visionr1", "VisionR1RewardManager")
"""Values of `reward.reward_manager.name` for the plug-in's manager: registered name and class."""


def accuracy_of(result: Mapping[str, Any]) -> float:
    """verl's `acc`, else the reward."""
    acc = result["reward_extra_info"].get("acc")
    return float(acc) if isinstance(acc, bool | int | float) else float(result["reward_score"])


def delegation_problems(config: DictConfig, settings: Settings) -> list[str]:
    """Delegated data sources unknown to verl's `compute_score`; one line each."""
    if not settings.delegate or OmegaConf.select(config, "reward.custom_reward_function.path"):
        return []
    sources = {source for file in readable_files(config) for source in reward_rows(file, settings).sources}
    return [
        f"{KEY}: verl's compute_score does not know data source {source!r}; set reward.custom_reward_function.path"
        for source in sorted(sources)
        if is_delegated(settings.delegate, source) and not _is_known(source)
    ]


def delegation_notes(config: DictConfig, settings: Settings) -> list[str]:
    """Patterns that fit no row of the data; none if a file is not readable here."""
    files = complete_files(config) if settings.delegate else []
    sources = {source for file in files for source in reward_rows(file, settings).sources}
    return [
        f"{KEY}: {pattern!r} fits no row; the data sources are {', '.join(sorted(sources))}"
        for pattern in settings.delegate
        if sources and not any(is_delegated([pattern], source) for source in sources)
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


def is_own_manager(config: DictConfig) -> bool:
    """Whether a run's reward manager is the plug-in's, or a class made from it."""
    manager = OmegaConf.select(config, "reward.reward_manager")
    if not isinstance(manager, DictConfig):
        return False
    if manager.get("name") in OWN_MANAGERS or manager.get("source") != "importlib":
        return manager.get("name") in OWN_MANAGERS
    from verl.trainer.ppo.reward import resolve_reward_manager_cls

    try:
        bases = resolve_reward_manager_cls(config).__mro__
    except Exception:  # noqa: BLE001 - a user's module may raise anything; verl reports it
        return False
    return any(base.__name__ in OWN_MANAGERS for base in bases)


def manager_problem(config: DictConfig) -> str | None:
    """Problem of settings for the plug-in's manager beside another one; None without them."""
    manager = OmegaConf.select(config, "reward.reward_manager")
    if not isinstance(manager, DictConfig):
        return f"reward.reward_manager={manager}: needs keys below it; set reward.reward_manager.name=visionr1"
    if OmegaConf.select(config, PREFIX) is None or is_own_manager(config):
        return None
    remedy = "leave it out" if has_callback(config) else "add +visionr1@_global_=progressive"
    return f"reward.reward_manager.name={manager.get('name')}: not visionr1; {remedy}"


def reward_model_problem(config: DictConfig) -> str | None:
    """Problem of a reward model beside the manager; None without one, or with another manager.

    verl's `RewardLoopWorker.compute_score` calls the reward model instead of the manager, unless a custom reward
    function is set. The function may use the model for delegated rows.
    """
    name = OmegaConf.select(config, "reward.reward_manager.name")
    if not OmegaConf.select(config, "reward.reward_model.enable") or name not in (None, *OWN_MANAGERS):
        return None
    custom = OmegaConf.select(config, "reward.custom_reward_function.path")
    if custom and OmegaConf.select(config, KEY):
        return None
    reason = "verl calls the reward model, and never visionr1"
    if custom:
        reason = "the reward model is not used, but takes memory and GPUs"
    return f"reward.reward_model.enable=True: {reason}; set reward.reward_model.enable=False"
