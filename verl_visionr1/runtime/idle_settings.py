"""Find settings without effect: keys that verl accepts but does not read, or that two engines read differently."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin.data_files import BUDGET_KEY, is_pixels
from verl_visionr1.plugin.delegation import is_own_manager
from verl_visionr1.runtime.composing import leaves

FROZEN_VISION = "verl_visionr1.runtime.frozen_vision"
_PIXELS = ("min_pixels", "max_pixels")
_LEGACY = {
    "custom_reward_function": "reward.custom_reward_function",
    "reward_model": "reward.reward_model",
    "sandbox_fusion": "reward.sandbox_fusion",
}
"""Sections of `legacy_reward_impl.yaml`, which compose and which `main_ppo` does not read -> their new places."""
_RENAMED = {
    "reward_model.reward_manager": "reward.reward_manager.name",
    "reward_model.num_workers": "reward.num_workers",
    "reward_model.model.path": "reward.reward_model.model_path",
}


def idle_problems(config: DictConfig) -> list[str]:
    """Settings that do not have their apparent effect; one line each."""
    return [*_legacy_problems(config), *_pixel_problems(config), *_frozen_vision_problems(config)]


def idle_notes(config: DictConfig) -> list[str]:
    """Misspelt keys, and settings of verl's own reward managers beside the plug-in's."""
    notes, given = [*_misspelt_keys(config)], OmegaConf.select(config, "reward.reward_kwargs")
    if not isinstance(given, DictConfig) or not is_own_manager(config):
        return notes
    advice = {"overlong_buffer_cfg": "; its criterion overlong lowers the reward of long answers"}
    return notes + [
        f"reward.reward_kwargs.{name}: the reward manager visionr1 does not read it{advice.get(str(name), '')}"
        for name in given
        if name != "visionr1"
    ]


def _misspelt_keys(config: DictConfig) -> Iterator[str]:
    """Keys added with `++` to the two sections in which verl accepts any, if one of verl's own is nearly the same."""
    folder = Path(str(getattr(find_spec("verl"), "origin", ""))).parent / "trainer" / "config"
    sections = {"trainer": OmegaConf.load(folder / "ppo_trainer.yaml").trainer}
    if not OmegaConf.select(config, "data.custom_cls.path"):
        sections["data"] = OmegaConf.load(folder / "data" / "legacy_data.yaml")
    for section, own in sections.items():
        known = [str(key) for key in own]
        for key in sorted({str(key) for key in OmegaConf.select(config, section) or ()} - {*known, *_PIXELS}):
            for near in get_close_matches(key, known, 1, 0.8):
                yield f"{section}.{key}: verl does not read this key; did you mean {section}.{near}?"


def _legacy_problems(config: DictConfig) -> Iterator[str]:
    """Keys that verl >= 0.9 composes and then ignores; only its fully asynchronous trainer uses them."""
    if OmegaConf.select(config, "async_training") is not None:
        return
    for section, moved in _LEGACY.items():
        node = OmegaConf.select(config, section)
        for key, value in leaves(node, f"{section}.") if isinstance(node, DictConfig) else ():
            new = _RENAMED.get(key, key.replace(section, moved, 1)).replace(
                "reward_model.reward_kwargs", "reward_kwargs"
            )
            if value is not None and OmegaConf.select(config, new) != value:
                folder = OmegaConf.select(config, new.rpartition(".")[0])
                is_known = "reward_kwargs" in new or (
                    isinstance(folder, DictConfig) and new.rpartition(".")[2] in folder
                )
                yield f"{key}={value}: verl 0.9 ignores it; {f'set {new}' if is_known else 'leave it out'}"


def _pixel_problems(config: DictConfig) -> Iterator[str]:
    """Problems of image budgets: wrong place, only one bound, wrong order."""
    if not OmegaConf.select(config, "data.custom_cls.path"):
        for key in _PIXELS:
            value = OmegaConf.select(config, f"data.{key}")
            if value is not None:
                budget = f"++{BUDGET_KEY}={{min_pixels:MIN,max_pixels:MAX}}"
                yield f"data.{key}={value}: verl does not read it; set {budget}, both"
    given = OmegaConf.select(config, BUDGET_KEY) or {}
    budget = {key: given[key] for key in _PIXELS if given.get(key) is not None}
    if len(budget) == 1:
        ((key, value),) = budget.items()
        missing = next(name for name in _PIXELS if name != key)
        yield (
            f"{BUDGET_KEY}.{key}={value}: needs {missing} beside it; alone, transformers ignores it and vLLM does "
            "not, so that training and rollouts see images of different sizes"
        )
    wrong = {key: value for key, value in budget.items() if not is_pixels(value)}
    for key, value in wrong.items():
        yield f"{BUDGET_KEY}.{key}={value!r}: needs a whole number of pixels, for example 401408"
    if len(budget) == 2 and not wrong and budget["min_pixels"] > budget["max_pixels"]:
        yield f"{BUDGET_KEY}.min_pixels={budget['min_pixels']}: above max_pixels={budget['max_pixels']}"


def _frozen_vision_problems(config: DictConfig) -> Iterator[str]:
    """A vision tower that would not be frozen: verl 0.9 declares the key, but no engine reads it."""
    actor, library = "actor_rollout_ref.actor", f"actor_rollout_ref.model.external_lib={FROZEN_VISION}"
    strategy = str(OmegaConf.select(config, f"{actor}.strategy"))
    given = OmegaConf.select(config, "actor_rollout_ref.model.external_lib")
    is_named = FROZEN_VISION in ([given] if isinstance(given, str) else list(given or []))
    if is_named and not strategy.startswith("fsdp"):
        yield (
            f"{library}: freezes only FSDP models, but {actor}.strategy is {strategy}, so the vision tower would be "
            f"trained; leave it (--freeze-vision) out, or set {actor}.strategy=fsdp2"
        )
    elif not is_named and OmegaConf.select(config, f"{actor}.freeze_vision_tower"):
        yield (
            f"{actor}.freeze_vision_tower=true: verl's engines do not read it, the tower would be trained; set "
            f"{library} too (FSDP only), or leave it out"
        )
