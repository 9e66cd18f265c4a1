"""How a run's model speaks, as options of the tools."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from verl_visionr1.plugin.config import Settings
from verl_visionr1.plugin.data_files import pixel_budget
from verl_visionr1.plugin.reward_manager import frame_of, model_config_of

logger = logging.getLogger(__name__)


def speech_flags(config: DictConfig, settings: Settings) -> list[str]:
    """Options of the tools that say how the model speaks; none where that cannot be told."""
    flags = [] if settings.reasoning == "auto" else ["--reasoning", settings.reasoning]
    try:
        flags += ["--frame", frame_of(settings, model_config_of(config, None)).name]
    except (ValueError, OSError) as error:
        logger.warning("visionr1: the tools are not told the coordinates: %s", error)
    budget = pixel_budget(config)
    return flags if budget is None else [*flags, "--min-pixels", str(budget[0]), "--max-pixels", str(budget[1])]
