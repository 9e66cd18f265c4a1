"""Facts from a run's config: frame, family, steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.frames import MODEL_TYPE_FRAMES, Frame, frame_named
from verl_visionr1.integrations.core import step_of_weights
from verl_visionr1.plugin.config import PREFIX, ConfigError, Settings
from verl_visionr1.rollouts.places import latest_step


def step_of(row: Mapping[str, Any], *, is_validation: bool) -> int:
    """The trainer step of a row, from 1; 0 for validation before training.

    verl's V1 trainer passes `global_steps`. The others (V0, one-step-off, fully async) pass the version of the weights:
    see `step_of_weights`.

    Args:
        row: columns of verl's batch.

    Raises:
        ConfigError: the batch has neither.

    >>> step_of({"tool_extra_fields": {"max_global_steps": 4}}, is_validation=False)
    5
    """
    if row.get("global_steps") is not None:
        return int(row["global_steps"])
    fields = row.get("tool_extra_fields")
    step = step_of_weights(fields if isinstance(fields, Mapping) else {}, is_validation=is_validation)
    if step is not None:
        return step
    raise ConfigError(
        "reward manager visionr1: this trainer's batches have neither global_steps nor "
        "tool_extra_fields.max_global_steps, so the progress of training is unknown; add "
        f"+visionr1@_global_=progressive (V1 trainer), or set {PREFIX}.schedule.kind=off"
    )


def gate_problem(config: DictConfig, settings: Settings) -> str | None:
    """Why a gate cannot move: no progress callback, or a filter of groups; None if it can, or without a gate.

    The filter removes groups with equal rewards, including all perfect ones, before the gate sees the batch.
    """
    key = f"{PREFIX}.schedule.kind=gated"
    if settings.gate is None:
        return None
    if OmegaConf.select(config, "trainer.use_v1") is False:
        return (
            f"{key}: trainer.use_v1=false has no metrics of training; set it to true, or use another kind of schedule"
        )
    if not has_callback(config):
        return f"{key}: needs the progress callback, +visionr1@_global_=progressive"
    if OmegaConf.select(config, "algorithm.filter_groups.enable"):
        return (
            f"{key}: algorithm.filter_groups.enable=true removes groups of perfect answers before the gate sees them; "
            "leave the filter out, or use another kind of schedule"
        )
    return None


def model_config_of(config: DictConfig, tokenizer: Any) -> dict[str, Any]:
    """The model's `config.json`; empty if there is none (a tokenizer alone)."""
    paths = (OmegaConf.select(config, "actor_rollout_ref.model.path"), getattr(tokenizer, "name_or_path", None))
    for path in filter(None, paths):
        file = Path(path).expanduser() / "config.json"
        if file.is_file():
            return json.loads(file.read_text())
    if not any(paths):
        return {}
    from transformers import AutoConfig
    from verl.utils.fs import copy_to_local

    trust = bool(OmegaConf.select(config, "actor_rollout_ref.model.trust_remote_code"))
    path = copy_to_local(next(filter(None, paths)))  # for hdfs: verl's local copy
    return AutoConfig.from_pretrained(path, trust_remote_code=trust).to_dict()


def frame_of(settings: Settings, model: Mapping[str, Any]) -> Frame:
    """The frame in the settings, or that of the model's type.

    Raises:
        ConfigError: "auto" for a model type with unknown frame.
    """
    if settings.frame != "auto":
        return frame_named(settings.frame)
    model_type = str(model.get("model_type"))
    if model_type not in MODEL_TYPE_FRAMES:
        raise ConfigError(
            f"{PREFIX}.frame=auto: the frame of model type {model_type!r} is unknown (known: "
            f"{', '.join(MODEL_TYPE_FRAMES)}); set {PREFIX}.frame to the coordinates of the model's answers"
        )
    return frame_named(MODEL_TYPE_FRAMES[model_type])


def family_of(config: DictConfig, settings: Settings) -> str:
    """Name of the frame of the run's model, which decides its default schedule; "" if unknown."""
    if settings.frame != "auto":
        return settings.frame
    return MODEL_TYPE_FRAMES.get(str(model_config_of(config, None).get("model_type")), "")


def total_steps_of(config: DictConfig, settings: Settings) -> int | None:
    """Trainer steps that count as the whole of training; None without a schedule.

    Raises:
        ConfigError: neither set nor resolved by verl's trainer.
    """
    if settings.is_off:
        return None
    total = settings.total_steps or run_steps_of(config)
    if total is None:
        raise ConfigError(
            f"{PREFIX}.total_steps=null: this trainer does not set its number of steps; set "
            f"{PREFIX}.total_steps, or {PREFIX}.schedule.kind=off"
        )
    return total


def parts_a_step(config: DictConfig) -> int:
    """Number of samplings and updates of verl's V1 trainer in one step."""
    mode = OmegaConf.select(config, "trainer.v1.trainer_mode")
    return int(OmegaConf.select(config, f"trainer.v1.{mode}.parameter_sync_step") or 1)


def run_steps_of(config: DictConfig) -> int | None:
    """Number of steps of a run, written into the config by its trainer; None if missing."""
    n_updates = OmegaConf.select(config, "actor_rollout_ref.actor.optim.total_training_steps") or 0
    steps = n_updates // parts_a_step(config)
    return steps if steps > 0 else None


def resumed_from(config: DictConfig) -> Path | None:
    """The checkpoint that verl's trainer resumes from, by verl's rule; None for a fresh start."""
    mode, folder, path = (
        OmegaConf.select(config, f"trainer.{key}") for key in ("resume_mode", "default_local_dir", "resume_from_path")
    )
    if mode == "auto" and folder:
        return latest_step(Path(str(folder)).absolute())
    return Path(str(path)).absolute() if mode == "resume_path" and path else None


def has_callback(config: DictConfig) -> bool:
    """Whether the progress callback is configured."""
    manager = OmegaConf.select(config, "actor_rollout_ref.rollout.agent.agent_loop_manager_class")
    return str(manager).startswith("verl_visionr1.")
