"""verl's config -> `Settings`: what a user may set under `reward.reward_kwargs.visionr1`, checked at start-up.

Every error names the key as it is written on the command line, the value, and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, TypeVar

import msgspec
from omegaconf import DictConfig, OmegaConf

from verl_visionr1 import frames
from verl_visionr1.alarms import AlarmRules
from verl_visionr1.answers.transcript import Reasoning
from verl_visionr1.gate import Gate, Gates
from verl_visionr1.plugin.context import ValidationStage
from verl_visionr1.plugin.contract import REWARD_HOOKS, missing_hooks
from verl_visionr1.rewards import PRESETS, Preset, RewardError, Routes, find_preset, renamed
from verl_visionr1.rewards.base import require_one_of
from verl_visionr1.rewards.completion import BOX_METRICS, BOX_TASKS, DEGENERATION_METRICS
from verl_visionr1.rewards.composition import CriterionSettings, PresetSettings, ScheduleSettings
from verl_visionr1.rewards.presets import built
from verl_visionr1.rewards.renamed import current_name
from verl_visionr1.rewards.routing import RouteSettings, routes_of
from verl_visionr1.settings import SettingsError, decoded, refuse_unknown

PREFIX = "reward.reward_kwargs.visionr1"
OLDEST_VERL = (0, 9)
"""Older verl hands the reward manager other things; newer ones are tried by what the plug-in takes from them."""
TESTED_VERL = ("0.9.",)
"""Version prefixes of verl that the plug-in has been run with."""
_BY_VERL = ("reward", "score", "input", "output", "gts", "step", "uid")
_BY_MANAGER = (
    *("value", "acc", "progress", "stage", "match_iou", "n_tokens", "clipped", "route", "unscored"),
    *DEGENERATION_METRICS,
)
TAKEN = frozenset((*_BY_VERL, *_BY_MANAGER, "processed_w", "processed_h"))
"""What a row, or a dump of verl's, says beside the criteria: no criterion may have such a name."""
TurnRule = Literal["auto", "template", "mask", "whole"]
"""How the model's last turn is found in a response: see `Settings.turns`."""
T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot be; one line that names the key, the value and what to do."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """`reward.reward_kwargs.visionr1.*`.

    Attributes:
        preset: a name in `verl_visionr1.PRESETS` or in `presets`, or a YAML file.
        weights: criterion -> weight, over the preset's; null keeps the preset's.
        criteria: criteria changed, added (`fn`) or left out (null), over the preset's.
        schedule: over the preset's; None keeps it.
        answer_format, matching: over the preset's; None keeps them.
        presets: presets of the run's own by name, each over a base, for `preset` and `routes`.
        routes: presets for some of the rows.
        delegate: globs over data sources whose rows verl's own `compute_score` judges (or
            `reward.custom_reward_function`): maths beside grounding.
        frame: the coordinates the model speaks in, a name in `verl_visionr1.FRAMES`; "auto" reads the model's type.
        reasoning: whether prompts end inside `<think>`, so that text which never closes it is no answer: "auto" reads
            each prompt, "opened", "closed".
        turns: how the model's last turn is found in a response of several: "auto" (verl's own agent loops), "template"
            (each turn begins as the chat template has it), "mask" (the loop puts `response_mask` into its
            `extra_fields`), "whole" (the response is the model's own words alone).
        validation: thresholds of validation: "final" (the strictest stage, so that curves compare), "current", "off".
        total_steps: trainer steps that count as the whole of training; None takes the run's own. Set it when a run
            will be extended, so that the bar is not lowered.
        alarms: fields of `alarms.AlarmRules`, over the defaults; "off": none.
        extensions: name -> `class` (its full name) and settings of an `extensions.Extension` around the run; null
            leaves one out that a config group names.
    """

    preset: str = "visionr1"
    weights: dict[str, float | None] = {}
    criteria: dict[str, CriterionSettings | None] = {}
    schedule: ScheduleSettings | None = None
    answer_format: str | None = None
    matching: str | None = None
    presets: dict[str, PresetSettings] = {}
    routes: RouteSettings = RouteSettings()
    delegate: list[str] = []
    frame: str = "auto"
    reasoning: Reasoning = "auto"
    turns: TurnRule = "auto"
    validation: ValidationStage = "final"
    total_steps: int | None = None
    alarms: dict[str, Any] | Literal["off"] = {}
    extensions: dict[str, dict[str, Any] | None] = {}

    def require_buildable(self) -> None:
        """Build what the settings describe, so that what cannot be is found at start-up.

        Raises:
            ConfigError: see `routing` and `gate`; a criterion whose name is taken.
        """
        for name in self.routing.metrics:
            if name in TAKEN:
                raise ConfigError(
                    f"{PREFIX}.criteria.{name}: every row reports something else by that name; take another"
                )
        for preset in self.routing.presets:
            _named(preset.require_installed)
        _ = self.gate, self.alarm_rules

    @property
    def is_off(self) -> bool:
        """Whether the progressive rule is switched off."""
        return self.schedule is not None and self.schedule.kind == "off"

    @cached_property
    def reward(self) -> Preset:
        """The preset with everything that is set here applied.

        Raises:
            ConfigError: an unknown preset, criterion, format, or thresholds that cannot be.
        """
        base = _named(lambda: find_preset(self.preset, self._known))
        changes = PresetSettings(
            weights=self.weights,
            criteria=self.criteria,
            schedule=self.schedule,
            answer_format=self.answer_format,
            matching=self.matching,
        )
        changed = _named(lambda: changes.build(base))
        follows = changed.schedule.follows_model == base.schedule.follows_model
        return base if changed == base and follows else changed

    @cached_property
    def routing(self) -> Routes:
        """The presets of all rows.

        Raises:
            ConfigError: an unknown preset or task.
        """
        return _named(lambda: routes_of(self.routes, self.reward, self._known))

    @cached_property
    def gate(self) -> Gate | None:
        """The gate of `schedule.kind=gated`, else None.

        Raises:
            ConfigError: bars that do not fit the stages, a metric that the run's own preset does not report.
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
        """The rules of the alarms that are on; None: no alarm is.

        Raises:
            ConfigError: an unknown alarm, or a limit that cannot be.
        """
        if self.alarms == "off":
            return None
        set_ = {name: value for name, value in self.alarms.items() if value is not None}
        given = {current_name("alarms", name, renamed.ALARMS): value for name, value in set_.items()}
        _named(lambda: refuse_unknown(given, AlarmRules.__dataclass_fields__, "alarms"))
        rules = _named(lambda: AlarmRules(**given), "alarms.")
        return rules if rules.names else None

    @cached_property
    def _known(self) -> dict[str, Preset]:
        known = dict(PRESETS)
        for name in self.presets:
            self._build(name, known)
        return known

    def _build(self, name: str, known: dict[str, Preset], above: tuple[str, ...] = ()) -> None:
        """Add a preset of the run's own to `known`, after that it stands on, whichever is named first."""
        if name in PRESETS:
            raise ConfigError(
                f"{PREFIX}.presets.{name}: there is a preset of that name; take another, with base: {name}"
            )
        if name in above:
            raise ConfigError(f"{PREFIX}.presets.{name}.base: a circle: {' -> '.join((*above, name))}")
        if name in known:
            return
        settings = msgspec.structs.replace(self.presets[name], name=name)
        if settings.base in self.presets:
            self._build(settings.base, known, (*above, name))
        known[name] = _named(lambda: built(settings, known), f"presets.{name}.")


def gate_metrics(preset: Preset) -> list[str]:
    """Metrics that every row of a preset has: what a row's task does not have is reported as 0, and holds a gate shut.

    >>> from verl_visionr1.rewards import PRESETS
    >>> "iou_mean" in gate_metrics(PRESETS["visionr1"]), "iou_mean" in gate_metrics(PRESETS["counting"])
    (True, False)
    """
    has_boxes = set(preset.tasks) <= set(BOX_TASKS)
    absent = set[str](() if has_boxes else BOX_METRICS)
    if not has_boxes and preset.measure is None:
        absent.add("accuracy")
    return [name for name in preset.metrics if name not in absent]


def filtered_gate_problem(config: DictConfig, settings: Settings) -> str | None:
    """Why a gate cannot move with a filter of groups; None where it can.

    verl takes groups whose answers are all alike out of a batch before anybody sees it, the perfect ones first: what is
    left is worse than the model is, and the gate might never open.
    """
    if settings.gate is None or not OmegaConf.select(config, "algorithm.filter_groups.enable"):
        return None
    return (
        f"{PREFIX}.schedule.kind=gated: algorithm.filter_groups.enable=true takes away the groups whose answers are "
        "all right before the gate looks, so that its mean is too low and it may never open; leave the filter out, or "
        "take another kind of schedule"
    )


def settings_of(config: DictConfig) -> Settings:
    """The settings in verl's full config; defaults where nothing is set.

    Raises:
        ConfigError: unknown key, wrong type, or a value that cannot be.

    >>> settings_of(OmegaConf.create({"reward": {"reward_kwargs": {"visionr1": {"validation": "current"}}}})).validation
    'current'
    """
    given = OmegaConf.select(config, PREFIX)
    plain = OmegaConf.to_container(given, resolve=True) if isinstance(given, DictConfig) else given
    return checked(plain if plain is not None else {})


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
    """`make()`, with the key's path put before what it raises."""
    try:
        return make()
    except ConfigError:  # has its path
        raise
    except (SettingsError, RewardError, ValueError) as error:
        raise ConfigError(f"{PREFIX}.{key}{error}") from None


def require_supported_verl() -> None:
    """Stop on a verl that lacks what the reward manager takes from it.

    Raises:
        ConfigError: naming the version found, and what is missing.
    """
    import verl

    found = re.match(r"(\d+)\.(\d+)", verl.__version__)
    if found and (int(found[1]), int(found[2])) < OLDEST_VERL:
        raise ConfigError(
            f"verl {verl.__version__} is installed: verl-visionr1 supports 0.9.x and newer; "
            "run `pip install 'verl>=0.9,<0.10'`"
        )
    for hook, mismatch in missing_hooks(REWARD_HOOKS):
        raise ConfigError(
            f"verl {verl.__version__}: {hook.module}.{hook.name} {mismatch}; verl-visionr1 was tested with "
            f"{', '.join(f'{prefix}x' for prefix in TESTED_VERL)}; run `pip install 'verl>=0.9,<0.10'`"
        )
