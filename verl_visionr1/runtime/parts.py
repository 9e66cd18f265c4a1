"""Check the parts that a config names: classes, functions, loggers, and the model's own limits."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin.config import Settings
from verl_visionr1.runtime.composing import error_message

BY_MANAGER = ("acc", "value")
"""Numbers of the reward manager besides its criteria that a filter of groups may use."""
_LOGGER_PACKAGES = ("wandb", "swanlab", "mlflow", "tensorboard")
_HOOKS = {
    "trainer.checkpoint_callback_class": "the progress of a resumed run counts only its own steps",
    "trainer.v1.sampler.custom_sampler.path": "criteria are not logged in training, and gates do not move",
}
"""Key of a part of the plug-in -> what does not work without it."""


def loading_problems(config: DictConfig) -> list[str]:
    """Classes and functions, loaded by verl in the trainer, that cannot be loaded."""
    from verl.utils.import_utils import load_class_from_fqn, load_extern_object

    makes: dict[str, Callable[[], Any]] = {}
    for key in ("actor_rollout_ref.rollout.agent.agent_loop_manager_class", "trainer.checkpoint_callback_class"):
        name = OmegaConf.select(config, key)
        if name:
            makes[f"{key}={name}"] = lambda name=name: load_class_from_fqn(name)
    for key in ("trainer.v1.sampler.custom_sampler", "data.custom_cls", "reward.custom_reward_function"):
        path, name = OmegaConf.select(config, f"{key}.path"), OmegaConf.select(config, f"{key}.name")
        if path and name:
            makes[f"{key}.path={path}"] = lambda path=path, name=name: load_extern_object(path, name)
        elif path:
            makes[f"{key}.name={name}"] = lambda path=path: _refuse_nameless(path)
    if OmegaConf.select(config, "data.custom_cls.name"):
        makes[f"data.custom_cls.name={config.data.custom_cls.name}"] = lambda: _check_data_set(config)
    makes[f"trainer.v1.trainer_mode={config.trainer.v1.trainer_mode}"] = lambda: _trainer(config)
    makes[f"algorithm.adv_estimator={config.algorithm.adv_estimator}"] = lambda: _estimator(config)
    found = {what: error_message(make) for what, make in makes.items()}
    return [f"{what}: {message}" for what, message in found.items() if message] + [*_loggers(config)]


def _refuse_nameless(path: str) -> None:
    raise ValueError(f"needs the name of what {path} defines")


def _check_data_set(config: DictConfig) -> None:
    """`get_dataset_class`; a file or class that is not there is named beside its path."""
    from torch.utils.data import Dataset
    from verl.utils.import_utils import load_extern_object

    path, name = config.data.custom_cls.path, config.data.custom_cls.name
    if not path or error_message(lambda: load_extern_object(path, name)):
        return
    loaded = load_extern_object(path, name)
    if not (isinstance(loaded, type) and issubclass(loaded, Dataset)):
        raise TypeError("not a torch.utils.data.Dataset, which verl needs; derive the class from verl's RLHFDataset")


def _trainer(config: DictConfig) -> object:
    from verl.trainer.ppo.v1 import get_trainer_cls

    return get_trainer_cls(config.trainer.v1.trainer_mode) if config.trainer.use_v1 else None


def _estimator(config: DictConfig) -> None:
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn

    if config.algorithm.adv_estimator != "gae":  # verl computes it separately
        get_adv_estimator_fn(config.algorithm.adv_estimator)
    get_policy_loss_fn(config.actor_rollout_ref.actor.policy_loss.loss_mode)


def loggers_of(config: DictConfig) -> list[str]:
    """The loggers that a run names."""
    named = config.trainer.logger
    return [named] if isinstance(named, str) else list(named or [])


def _loggers(config: DictConfig) -> Iterator[str]:
    from verl.utils.tracking import Tracking

    for name in loggers_of(config):
        if name not in Tracking.supported_backend:
            yield f"trainer.logger: unknown logger {name!r}; needs one of {', '.join(Tracking.supported_backend)}"


def missing_packages(config: DictConfig) -> list[str]:
    """Loggers and engines whose package is not installed here."""
    chosen = {key: str(OmegaConf.select(config, key)) for key in _ENGINE_PACKAGES}
    needed = [("trainer.logger", name, name) for name in loggers_of(config) if name in _LOGGER_PACKAGES]
    needed += [
        (key, name, _ENGINE_PACKAGES[key][name]) for key, name in chosen.items() if name in _ENGINE_PACKAGES[key]
    ]
    return [
        f"{key}: {name} needs the package {package}, which is not installed here"
        for key, name, package in needed
        if importlib.util.find_spec(package) is None
    ]


_ENGINE_PACKAGES = {
    "actor_rollout_ref.rollout.name": {"sglang": "sglang", "trtllm": "tensorrt_llm"},
    "actor_rollout_ref.actor.strategy": {"megatron": "megatron", "veomni": "veomni", "torchtitan": "torchtitan"},
}
"""Key -> its value -> the package that verl imports for it; vLLM's is looked at elsewhere."""


def hook_problems(config: DictConfig, settings: Settings) -> list[str]:
    """Parts of the plug-in that a run with a schedule lacks, and an unreported metric of the group filter."""
    problems: list[str] = []
    manager = str(OmegaConf.select(config, "actor_rollout_ref.rollout.agent.agent_loop_manager_class"))
    if manager.startswith("verl_visionr1.") and not settings.is_off:
        problems += [
            f"{key}=null: {lost}; +visionr1@_global_=progressive sets it"
            for key, lost in _HOOKS.items()
            if not OmegaConf.select(config, key)
        ]
    metric = OmegaConf.select(config, "algorithm.filter_groups.metric")
    if OmegaConf.select(config, "algorithm.filter_groups.enable") and metric:
        reported = ("reward", *settings.routing.metrics, *BY_MANAGER)
        if metric not in reported:
            problems.append(
                f"algorithm.filter_groups.metric={metric}: no row reports it; needs one of {', '.join(reported)}"
            )
    return problems


def model_problems(config: DictConfig, folder: Path) -> list[str]:
    """Conflicts with a local model's config.json: sequence length, tensor-parallel size."""
    try:
        model = json.loads((folder / "config.json").read_text())
    except ValueError:  # verl's own check reports it
        return []
    text = {**model, **(model.get("text_config") or {})}
    rollout, problems = config.actor_rollout_ref.rollout, []
    longest = text.get("max_position_embeddings")
    if rollout.max_model_len is not None and longest is not None and rollout.max_model_len > longest:
        problems.append(
            f"actor_rollout_ref.rollout.max_model_len={rollout.max_model_len}: above the model's "
            f"max_position_embeddings={longest} ({folder}/config.json)"
        )
    heads, parts = text.get("num_attention_heads"), rollout.tensor_model_parallel_size
    if heads is not None and heads % parts:
        problems.append(
            f"actor_rollout_ref.rollout.tensor_model_parallel_size={parts}: needs a divisor of the model's {heads} "
            f"attention heads: {', '.join(str(n) for n in (1, 2, 4, 8) if heads % n == 0)}"
        )
    return problems
