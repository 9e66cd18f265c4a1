"""Find settings without effect: keys that verl accepts but does not read, or that two engines read differently."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin.data_files import BUDGET_KEY, is_pixels
from verl_visionr1.plugin.delegation import is_own_manager
from verl_visionr1.runtime.composing import leaves

FROZEN_VISION = "verl_visionr1.runtime.frozen_vision"
_PIXELS = ("min_pixels", "max_pixels")
_EXAMPLES = {"min_pixels": 3136, "max_pixels": 1003520}
_LEGACY = ("custom_reward_function", "reward_model", "sandbox_fusion")
"""Sections of `legacy_reward_impl.yaml`: they compose, and `main_ppo` does not read them."""
_RENAMED = {
    "reward_model.reward_manager": "reward.reward_manager.name",
    "reward_model.num_workers": "reward.num_workers",
    "reward_model.reward_loop_source": "reward.reward_manager.source",
    "reward_model.reward_loop_module_path": "reward.reward_manager.module.path",
    "reward_model.reward_loop_class_name": "reward.reward_manager.name",
    "reward_model.model.path": "reward.reward_model.model_path",
}
_READS = re.compile(
    r"""(?:config|data|data_config|trainer)\.get\(\s*["'](\w+)"""
    r"""|(?:\bdata|\btrainer|data_config|self\.config)\.(\w+)"""
    r"""|\bdata\[\s*["'](\w+)"""
)
"""How verl's code reads a key of its sections `data` and `trainer`."""


def idle_problems(config: DictConfig) -> list[str]:
    """Settings that do not have their apparent effect; one line each."""
    return [*legacy_problems(config), *_pixel_problems(config), *_frozen_vision_problems(config)]


def idle_notes(config: DictConfig) -> list[str]:
    """Keys of `data` that are set but not read by verl."""
    return [
        f"data.{key}={value}: verl does not read this key; it does nothing"
        for key, value in unread_data_keys(config).items()
        if key not in _PIXELS
    ] + [*_unread_trainer_keys(config), *_unread_reward_kwargs(config)]


def _unread_trainer_keys(config: DictConfig) -> list[str]:
    own = OmegaConf.load(_verl_folder() / "trainer" / "config" / "ppo_trainer.yaml").trainer
    added = [str(key) for key in config.trainer if str(key) not in own and str(key) not in keys_read_by_verl()]
    return [
        f"trainer.{key}={config.trainer.get(key)}: verl does not read this key; it does nothing"
        + "".join(f"; did you mean trainer.{meant}?" for meant in get_close_matches(key, map(str, own), 1))
        for key in added
    ]


def _unread_reward_kwargs(config: DictConfig) -> list[str]:
    """Settings of verl's own reward managers beside the plug-in's."""
    given = OmegaConf.select(config, "reward.reward_kwargs")
    if not isinstance(given, DictConfig) or not is_own_manager(config):
        return []
    advice = {"overlong_buffer_cfg": "; its criterion overlong lowers the reward of long answers"}
    return [
        f"reward.reward_kwargs.{name}: the reward manager visionr1 does not read it{advice.get(str(name), '')}"
        for name in given
        if name != "visionr1"
    ]


def legacy_problems(config: DictConfig) -> list[str]:
    """Keys that verl >= 0.9 composes and then ignores; only its fully asynchronous trainer uses them."""
    if OmegaConf.select(config, "async_training") is not None:
        return []
    return [
        f"{key}={value}: verl 0.9 ignores it; {_advice(config, _RENAMED.get(key, _moved(key)))}"
        for section in _LEGACY
        for key, value in _below(config, section)
        if value is not None
        and (isinstance(value, str) or OmegaConf.select(config, _RENAMED.get(key, _moved(key))) != value)
    ]


def _advice(config: DictConfig, key: str) -> str:
    """What to set in place of a legacy key: its new name, if verl still has it."""
    folder, _, name = key.rpartition(".")
    section = OmegaConf.select(config, folder)
    is_known = ".reward_kwargs." in key or (isinstance(section, DictConfig) and name in list(section))
    return f"set {key}" if is_known else "leave it out"


def _below(config: DictConfig, section: str) -> list[tuple[str, Any]]:
    """Dotted key and value of what is set in a section."""
    node = OmegaConf.select(config, section)
    return [*leaves(node, f"{section}.")] if isinstance(node, DictConfig) else [(section, node)]


def _moved(key: str) -> str:
    """New place of a legacy key in verl 0.9.

    >>> _moved("custom_reward_function.path"), _moved("reward_model.reward_kwargs.x")
    ('reward.custom_reward_function.path', 'reward.reward_kwargs.x')
    """
    return "reward." + key.replace("reward_model.reward_kwargs", "reward_kwargs")


def _pixel_problems(config: DictConfig) -> Iterator[str]:
    """Problems of image budgets: wrong place, only one bound, wrong order."""
    for key in _PIXELS:
        value = OmegaConf.select(config, f"data.{key}")
        if value is not None and key in unread_data_keys(config):
            budget = f"++{BUDGET_KEY}={{min_pixels:MIN,max_pixels:MAX}}"
            yield f"data.{key}={value}: verl does not read it; set {budget}, both"
    budget = OmegaConf.select(config, BUDGET_KEY)
    if not isinstance(budget, DictConfig):
        return
    fewest, most = (budget.get(key) for key in _PIXELS)
    for key, value, other in zip(_PIXELS, (fewest, most), (most, fewest), strict=True):
        if value is not None and other is None:
            missing = next(name for name in _PIXELS if name != key)
            yield (
                f"{BUDGET_KEY}.{key}={value}: needs {missing} beside it; alone, transformers ignores it and vLLM does "
                "not, so that training and rollouts see images of different sizes"
            )
    wrong = [key for key in _PIXELS if budget.get(key) is not None and not is_pixels(budget.get(key))]
    for key in wrong:
        yield f"{BUDGET_KEY}.{key}={budget.get(key)!r}: needs a whole number of pixels, for example {_EXAMPLES[key]}"
    if not wrong and fewest is not None and most is not None and fewest > most:
        yield f"{BUDGET_KEY}.min_pixels={fewest}: above max_pixels={most}; needs at most that"


def unread_data_keys(config: DictConfig) -> dict[str, Any]:
    """Keys of `data` that are not verl's own and not read by verl; none with a user's data set class."""
    if OmegaConf.select(config, "data.custom_cls.path"):
        return {}
    added = [str(key) for key in config.data if str(key) not in _own_data_keys()]
    return {key: config.data.get(key) for key in added if key not in keys_read_by_verl()}


@lru_cache(maxsize=1)
def _own_data_keys() -> frozenset[str]:
    """The keys that verl's own configuration has under `data`."""
    files = (_verl_folder() / "trainer" / "config" / "data").glob("*.yaml")
    return frozenset(str(key) for file in files for key in OmegaConf.load(file))


@lru_cache(maxsize=1)
def keys_read_by_verl() -> frozenset[str]:
    """Names that verl's data set and trainers read from their section `data`, found in verl's source."""
    root = _verl_folder()
    files = [root / "utils/dataset/rl_dataset.py", *root.glob("trainer/**/*.py"), *root.glob("experimental/**/*.py")]
    texts = [file.read_text(encoding="utf-8", errors="ignore") for file in files]
    return frozenset(name for text in texts for found in _READS.findall(text) for name in found if name)


def _verl_folder() -> Path:
    spec = find_spec("verl")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _frozen_vision_problems(config: DictConfig) -> Iterator[str]:
    """A vision tower that would not be frozen: verl 0.9 declares the key, but no engine reads it."""
    actor = "actor_rollout_ref.actor"
    strategy = str(OmegaConf.select(config, f"{actor}.strategy"))
    given = OmegaConf.select(config, "actor_rollout_ref.model.external_lib")
    libs = [given] if isinstance(given, str) else list(given or [])
    if FROZEN_VISION in libs and not strategy.startswith("fsdp"):
        yield (
            f"actor_rollout_ref.model.external_lib={FROZEN_VISION}: freezes only FSDP models, but {actor}.strategy is "
            f"{strategy}, so the vision tower would be trained; leave it (--freeze-vision) out, or set "
            f"{actor}.strategy=fsdp2"
        )
    elif OmegaConf.select(config, f"{actor}.freeze_vision_tower") and FROZEN_VISION not in libs:
        advice = (
            f"set actor_rollout_ref.model.external_lib={FROZEN_VISION} too"
            if strategy.startswith("fsdp")
            else "leave it out"
        )
        yield f"{actor}.freeze_vision_tower=true: verl's engines do not read it, the tower would be trained; {advice}"
