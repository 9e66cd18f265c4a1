"""Check the parts that a config names: classes, functions, loggers, and those of the plug-in."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin.config import Settings
from verl_visionr1.runtime.composing import error_message

BY_MANAGER = ("acc", "value")
"""Numbers of the reward manager besides its criteria that a filter of groups may use."""
_CLASSES = ("actor_rollout_ref.rollout.agent.agent_loop_manager_class", "trainer.checkpoint_callback_class")
_EXTERNS = ("trainer.v1.sampler.custom_sampler", "data.custom_cls", "reward.custom_reward_function")
"""Keys with the path and the name of a class or function."""
_HOOKS = {
    "trainer.checkpoint_callback_class": "the progress of a resumed run counts only its own steps",
    "trainer.v1.sampler.custom_sampler.path": "criteria are not logged in training, and gates do not move",
}
"""Key of a part of the plug-in -> what does not work without it."""
_PACKAGES = {
    "actor_rollout_ref.rollout.name": {"sglang": "sglang", "trtllm": "tensorrt_llm"},
    "actor_rollout_ref.actor.strategy": {"megatron": "megatron", "veomni": "veomni", "torchtitan": "torchtitan"},
    "trainer.logger": {name: name for name in ("wandb", "swanlab", "mlflow", "tensorboard")},
}
"""Key -> its value -> the package that verl imports for it; vLLM's is looked at elsewhere."""


def loading_problems(config: DictConfig) -> list[str]:
    """Classes and functions, loaded by verl in the trainer, that cannot be loaded; unknown names."""
    from verl.trainer.ppo.v1 import get_trainer_cls
    from verl.utils.import_utils import load_class_from_fqn

    makes: dict[str, Callable[[], Any]] = {}
    for key in _CLASSES:
        name = OmegaConf.select(config, key)
        if name:
            makes[f"{key}={name}"] = lambda name=name: load_class_from_fqn(name)
    for key in _EXTERNS:
        path, name = OmegaConf.select(config, f"{key}.path"), OmegaConf.select(config, f"{key}.name")
        if path:
            makes[f"{key}.path={path}"] = lambda key=key, path=path, name=name: _load_extern(key, path, name)
    if config.trainer.use_v1:
        mode = config.trainer.v1.trainer_mode
        makes[f"trainer.v1.trainer_mode={mode}"] = lambda: get_trainer_cls(mode)
    found = {what: error_message(make) for what, make in makes.items()}
    return [f"{what}: {message}" for what, message in found.items() if message] + [*_unknown_names(config)]


def _load_extern(key: str, path: str, name: str | None) -> None:
    from torch.utils.data import Dataset
    from verl.utils.import_utils import load_extern_object

    if not name:
        raise ValueError(f"needs {key}.name, the name of what the file defines")
    loaded = load_extern_object(path, name)
    if key == "data.custom_cls" and not (isinstance(loaded, type) and issubclass(loaded, Dataset)):
        raise TypeError(f"{name} is no torch.utils.data.Dataset; derive the class from verl's RLHFDataset")


def _unknown_names(config: DictConfig) -> Iterator[str]:
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
    from verl.utils.tracking import Tracking

    estimators = {*ADV_ESTIMATOR_REGISTRY, "gae"}  # verl computes "gae" separately
    loss = "actor_rollout_ref.actor.policy_loss.loss_mode"
    named = [("algorithm.adv_estimator", str(config.algorithm.adv_estimator), sorted(estimators))]
    named += [(loss, str(OmegaConf.select(config, loss)), sorted(POLICY_LOSS_REGISTRY))]
    named += [("trainer.logger", name, Tracking.supported_backend) for name in loggers_of(config)]
    for key, name, known in named:
        if name not in known:
            yield f"{key}={name}: needs one of {', '.join(known)}"


def loggers_of(config: DictConfig) -> list[str]:
    """The loggers that a run names."""
    named = config.trainer.logger
    return [named] if isinstance(named, str) else list(named or [])


def missing_packages(config: DictConfig) -> list[str]:
    """Loggers and engines whose package is not installed here."""
    chosen = {key: [str(OmegaConf.select(config, key))] for key in _PACKAGES} | {"trainer.logger": loggers_of(config)}
    needed = ((key, name, _PACKAGES[key].get(name)) for key, names in chosen.items() for name in names)
    return [
        f"{key}: {name} needs the package {package}, which is not installed here"
        for key, name, package in needed
        if package is not None and importlib.util.find_spec(package) is None
    ]


def hook_problems(config: DictConfig, settings: Settings) -> list[str]:
    """Parts of the plug-in that a run with a schedule lacks, and an unreported metric of the group filter."""
    problems: list[str] = []
    manager = str(OmegaConf.select(config, _CLASSES[0]))
    if manager.startswith("verl_visionr1.") and not settings.is_off:
        problems += [
            f"{key}=null: {lost}; +visionr1@_global_=progressive sets it"
            for key, lost in _HOOKS.items()
            if not OmegaConf.select(config, key)
        ]
    metric, reported = filter_metric(config), ("reward", *settings.routing.metrics, *BY_MANAGER)
    if metric and metric not in reported:
        problems.append(
            f"algorithm.filter_groups.metric={metric}: no row reports it; needs one of {', '.join(reported)}"
        )
    return problems


def filter_metric(config: DictConfig) -> str:
    """The metric of the filter of groups; "" without one."""
    key = "algorithm.filter_groups"
    return str(OmegaConf.select(config, f"{key}.metric") or "") if OmegaConf.select(config, f"{key}.enable") else ""
