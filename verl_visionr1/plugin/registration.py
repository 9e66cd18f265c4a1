"""Register the plug-in on `import verl`; costly parts wait until verl imports their module."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from verl_visionr1.plugin.import_hooks import when_imported

CONFIG_GROUP = "visionr1"
CONFIG_DIR = Path(__file__).parent.parent / "config" / CONFIG_GROUP
MANAGER_PACKAGE = "verl.experimental.reward_loop.reward_manager"


def register() -> None:
    """Register everything for verl. Idempotent."""
    when_imported(MANAGER_PACKAGE, register_reward_manager)
    when_imported("hydra.core.config_store", register_config_groups)


def register_reward_manager(_: ModuleType) -> None:
    """Make `reward.reward_manager.name=visionr1` known (runs once verl imports its own managers)."""
    importlib.import_module("verl_visionr1.plugin.reward_manager")


def register_config_groups(config_store: ModuleType) -> None:
    """Store `config/visionr1/*.yaml`, so that `+visionr1@_global_=<name>` composes in an unmodified main_ppo."""
    from omegaconf import OmegaConf

    for path in sorted(CONFIG_DIR.glob("*.yaml")):
        config_store.ConfigStore.instance().store(group=CONFIG_GROUP, name=path.stem, node=OmegaConf.load(path))
