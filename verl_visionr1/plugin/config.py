"""Read `Settings` from verl's config, under `reward.reward_kwargs.visionr1`; checked at start-up.

Errors name the key as on the command line, the value, and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal, TypeVar

import msgspec
from omegaconf import DictConfig, OmegaConf

from verl_visionr1 import frames
from verl_visionr1.alarms import AlarmRules
from verl_visionr1.answers.transcript import Reasoning
from verl_visionr1.gate import Gate, Gates
from verl_visionr1.integrations.core import BY_VERL, REPORTED
from verl_visionr1.plugin.contract import REWARD_HOOKS, missing_hooks
from verl_visionr1.rewards import Preset, RewardError
from verl_visionr1.rewards.base import require_one_of
from verl_visionr1.rewards.completion import BOX_METRICS, BOX_TASKS
from verl_visionr1.rewards.run_settings import RewardSettings
from verl_visionr1.settings import SettingsError, decoded

PREFIX = "reward.reward_kwargs.visionr1"
TAKEN = frozenset((*BY_VERL, *REPORTED, "processed_w", "processed_h"))
"""Other keys of a row or of verl's dumps, reserved: no criterion may have such a name."""
TurnRule = Literal["auto", "template", "mask", "whole"]
"""Rules for finding the model's last turn in a response: see `Settings.turns`."""
T = TypeVar("T")


class ConfigError(ValueError):
    """An invalid setting; one line with key, value and what to do."""


class Settings(RewardSettings, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """`reward.reward_kwargs.visionr1.*`: `RewardSettings`, and settings only for verl.

    Attributes:
        delegate: globs over data sources whose rows are scored by verl's own `compute_score` (or
            `reward.custom_reward_function`), for example mathematics.
        frame: coordinates of the model's answers, a name in `verl_visionr1.FRAMES`; "auto": by the model's type.
        reasoning: whether prompts end inside `<think>`, so that unclosed reasoning is no answer: "auto" reads
            each prompt, "opened", "closed".
        turns: how the model's last turn is found in a response of several turns: "auto" (verl's own agent loops),
            "template" (each turn begins as in the chat template), "mask" (the loop puts `response_mask` into its
            `extra_fields`), "whole" (the response has only the model's text).
        alarms: fields of `alarms.AlarmRules` that override the defaults; "off": no alarms.
        extensions: name -> `class` (its full name) and settings of an `extensions.Extension` around the run; null
            removes one of a config group.
    """

    delegate: list[str] = msgspec.field(default_factory=list[str])
    frame: str = "auto"
    reasoning: Reasoning = "auto"
    turns: TurnRule = "auto"
    alarms: dict[str, Any] | Literal["off"] = msgspec.field(default_factory=dict[str, Any])
    extensions: dict[str, dict[str, Any] | None] = msgspec.field(default_factory=dict[str, dict[str, Any] | None])

    def require_buildable(self) -> None:
        """Build what the settings describe, so that errors are found at start-up.

        Raises:
            ConfigError: see `RewardSettings` and `gate`; a criterion whose name is taken.
        """
        _named(lambda: self.require_names(TAKEN))
        _ = self.gate, self.alarm_rules

    @cached_property
    def gate(self) -> Gate | None:
        """The gate of `schedule.kind=gated`, else None.

        Raises:
            ConfigError: bars that do not fit the stages, or a metric that the run's default preset does not report.
        """
        schedule = self.schedule
        gate = None if schedule is None else _named(schedule.build_gate, "schedule.")
        if gate is not None:
            _named(lambda: Gates(gate, len(self.reward.schedule.points)), "schedule.")
            _named(
                lambda: require_one_of("schedule.gate.metric", gate.metric, dict.fromkeys(gate_metrics(self.reward)))
            )
        return gate

    @cached_property
    def alarm_rules(self) -> AlarmRules | None:
        """The rules of the active alarms; None: no alarms.

        Raises:
            ConfigError: an unknown alarm, or an invalid limit.
        """
        if self.alarms == "off":
            return None
        rules = _named(lambda: decoded(self.alarms, AlarmRules, "alarms"))
        return rules if rules.names else None


def gate_metrics(preset: Preset) -> list[str]:
    """Metrics of every row of a preset: a metric that a row's task lacks is reported as 0, and would block a gate.

    >>> from verl_visionr1.rewards import PRESETS
    >>> "iou_mean" in gate_metrics(PRESETS["visionr1"]), "iou_mean" in gate_metrics(PRESETS["counting"])
    (True, False)
    """
    has_boxes = set(preset.tasks) <= set(BOX_TASKS)
    absent = set[str](() if has_boxes else BOX_METRICS)
    if not has_boxes and preset.measure is None:
        absent.add("accuracy")
    return [name for name in preset.metrics if name not in absent]


def settings_of(config: DictConfig) -> Settings:
    """Read the settings from verl's full config; defaults if nothing is set.

    Raises:
        ConfigError: unknown key, wrong type, or invalid value.

    >>> settings_of(OmegaConf.create({"reward": {"reward_kwargs": {"visionr1": {"validation": "current"}}}})).validation
    'current'
    """
    given = OmegaConf.select(config, PREFIX)
    plain = OmegaConf.to_container(given, resolve=True) if isinstance(given, DictConfig) else given
    return checked(plain if plain is not None else {})


def valid_settings(config: DictConfig) -> Settings | None:
    """The settings; None if invalid, which the preflight reports."""
    try:
        return settings_of(config)
    except ConfigError:
        return None


def misplaced_problems(config: DictConfig) -> list[str]:
    """Settings for the plug-in where no code reads them, so that the defaults would be trained; one line each."""
    problems = ["visionr1: no code reads it; write +visionr1@_global_=progressive"] if "visionr1" in config else []
    has_own = OmegaConf.select(config, PREFIX) is not None
    for section in ("reward", "reward.reward_kwargs", "reward.reward_manager"):
        node = OmegaConf.select(config, section)
        for name in map(str, node if isinstance(node, DictConfig) else ()):
            key = f"{section}.{name}"
            if key != PREFIX and get_close_matches(name, ["visionr1"], 1, 0.85):
                problems.append(f"{key}: no code reads it; did you mean {PREFIX}?")
            elif has_own and section != "reward" and name in Settings.__struct_fields__:
                problems.append(f"{key}: no code reads it; did you mean {PREFIX}.{name}?")
    return problems


def checked(plain: object) -> Settings:
    """Settings from plain dicts, lists and scalars; see `settings_of`."""
    if not isinstance(plain, dict):
        raise ConfigError(f"{PREFIX}={plain!r}: needs keys below it, for example {PREFIX}.preset=visionr1")
    settings = _named(lambda: decoded(plain, Settings))
    if settings.frame != "auto":
        _named(lambda: frames.frame_named(settings.frame))
    if settings.total_steps is not None and settings.total_steps <= 0:
        raise ConfigError(f"{PREFIX}.total_steps={settings.total_steps}: needs a number of steps above 0, or null")
    settings.require_buildable()
    return settings


def _named(make: Callable[[], T], key: str = "") -> T:
    """Call `make()`; errors get the key's path as prefix."""
    try:
        return make()
    except ConfigError:  # already has its path
        raise
    except (SettingsError, RewardError, ValueError) as error:
        raise ConfigError(f"{PREFIX}.{key}{error}") from None


def require_supported_verl() -> None:
    """Raise for a verl without the hooks of the reward manager.

    Raises:
        ConfigError: names the installed version, what is missing, and what works instead.
    """
    for hook, mismatch in missing_hooks(REWARD_HOOKS):
        import verl

        raise ConfigError(
            f"verl {verl.__version__}: {hook.module}.{hook.name} {mismatch}; the reward manager needs verl 0.7.1 or "
            "newer. Use the reward function (verl_visionr1.integrations.verl_function), or install verl>=0.9,<0.10"
        )
