"""The plug-in that verl loads: `import verl` imports this module in each of its processes (`verl.plugins`).

It registers the reward manager `visionr1` and the config groups `+visionr1@_global_=...`, when verl imports what needs
them. What surrounds a run (CPU platform, checks, watchdog) is in `verl_visionr1.runtime`, which nothing here imports.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType


def register() -> None:
    """Register everything for verl. Idempotent."""
    from verl_visionr1.plugin.import_hooks import when_imported

    when_imported("verl.experimental.reward_loop.reward_manager", _register_reward_manager)
    when_imported("hydra.core.config_store", _register_config_groups)


def _register_reward_manager(_: ModuleType) -> None:
    importlib.import_module("verl_visionr1.plugin.reward_manager")


def _register_config_groups(config_store: ModuleType) -> None:
    from omegaconf import OmegaConf

    for path in sorted((Path(__file__).parents[1] / "config" / "visionr1").glob("*.yaml")):
        config_store.ConfigStore.instance().store(group="visionr1", name=path.stem, node=OmegaConf.load(path))


try:
    register()
except Exception:  # verl hides it
    print("verl-visionr1: the plug-in could not be loaded; see `visionr1 check`.", file=sys.stderr)  # noqa: T201
    traceback.print_exc()
    raise
