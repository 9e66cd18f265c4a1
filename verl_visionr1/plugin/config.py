"""verl's config -> `Settings`: what a user may set under `reward.reward_kwargs.visionr1`, checked at start-up.

Every error names the key as it is written on the command line, the value, and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any, Literal, get_args

import msgspec
from omegaconf import DictConfig, OmegaConf

from verl_visionr1 import frames, rewards
from verl_visionr1.criteria import Thresholds
from verl_visionr1.plugin.context import ValidationStage
from verl_visionr1.rewards import Preset
from verl_visionr1.schedule import Schedule, constant, cosine, linear, piecewise, staged

PREFIX = "reward.reward_kwargs.visionr1"
SUPPORTED_VERL = ("0.9.",)
"""Version prefixes of verl that the plug-in was made for."""

ScheduleKind = Literal["off", "constant", "staged", "linear", "cosine", "piecewise"]
_CHOICES = {".validation": get_args(ValidationStage), ".schedule.kind": get_args(ScheduleKind)}
Triple = tuple[float, float, float]


class ConfigError(ValueError):
    """A setting that cannot be; one line that names the key, the value and what to do."""


class ScheduleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`schedule.*`: how the thresholds move.

    Attributes:
        kind: "off" (no progressive rule), "constant" (first of `stages`), "staged" (switch from the first to the
            second at `at`), "linear", "cosine" (from the first to the last between `begin` and `end`), "piecewise"
            (`stages[i]` from `starts[i]` on).
        stages: thresholds (xi0, xi1, xi2) of each stage; None keeps the preset's.
        at: fraction of training of the switch, for "staged".
        begin, end: fractions of training, for "linear" and "cosine".
        starts: fractions of training, the first 0, for "piecewise".
    """

    kind: ScheduleKind = "staged"
    stages: list[Triple] | None = None
    at: float = 0.5
    begin: float = 0.0
    end: float = 1.0
    starts: list[float] = msgspec.field(default_factory=lambda: [0.0, 0.5])

    def build(self, preset: Schedule) -> Schedule:
        """The schedule these settings describe, over that of a preset.

        Raises:
            ValueError: thresholds or fractions that cannot be, too few stages.
        """
        own = [thresholds for _, thresholds in preset.points]
        stages = own if self.stages is None else [Thresholds.of(*triple) for triple in self.stages]
        needed = {"constant": 1, "piecewise": len(self.starts), "off": 0}.get(self.kind, 2)
        if len(stages) < needed or (self.kind == "piecewise" and len(stages) != needed):
            raise ValueError(f"stages has {len(stages)} entries: kind={self.kind} needs {needed}")
        makers: dict[str, Callable[[], Schedule]] = {
            "off": lambda: constant(preset.off),
            "constant": lambda: constant(stages[0]),
            "staged": lambda: staged(stages[0], stages[1], at=self.at),
            "linear": lambda: linear(stages[0], stages[-1], begin=self.begin, end=self.end),
            "cosine": lambda: cosine(stages[0], stages[-1], begin=self.begin, end=self.end),
            "piecewise": lambda: piecewise(list(zip(self.starts, stages, strict=True))),
        }
        return dataclasses.replace(makers[self.kind](), off=preset.off)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`reward.reward_kwargs.visionr1.*`.

    Attributes:
        preset: a name in `verl_visionr1.PRESETS`.
        weights: criterion -> weight, over the preset's.
        schedule: over the preset's; None keeps it.
        frame: the coordinates the model speaks in, a name in `verl_visionr1.FRAMES`; "auto" reads the model's type.
        answer_format: over the preset's; None keeps it.
        validation: thresholds of validation: "final" (the strictest stage, so that curves compare), "current", "off".
        total_steps: trainer steps that count as the whole of training; None takes the run's own. Set it when a run
            will be extended, so that the bar is not lowered.
    """

    preset: str = "visionr1"
    weights: dict[str, float] = {}
    schedule: ScheduleSettings | None = None
    frame: str = "auto"
    answer_format: str | None = None
    validation: ValidationStage = "final"
    total_steps: int | None = None

    @property
    def is_off(self) -> bool:
        """Whether the progressive rule is switched off."""
        return self.schedule is not None and self.schedule.kind == "off"

    def reward(self) -> Preset:
        """The preset with everything that is set here applied.

        Raises:
            ConfigError: an unknown preset, criterion, format, or thresholds that cannot be.
        """
        preset = _named("preset", lambda: rewards.preset_named(self.preset))
        preset = _named("", lambda: preset.with_weights(self.weights))
        if self.answer_format is not None:
            answer_format = self.answer_format
            preset = _named("", lambda: dataclasses.replace(preset, answer_format=answer_format))
        if self.schedule is not None:
            build, own = self.schedule.build, preset.schedule
            preset = dataclasses.replace(preset, schedule=_named("schedule", lambda: build(own)))
        return preset


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
    _refuse_unknown(plain, Settings, PREFIX)
    if isinstance(plain.get("schedule"), dict):
        _refuse_unknown(plain["schedule"], ScheduleSettings, f"{PREFIX}.schedule")
    try:
        settings = msgspec.convert(plain, Settings)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$")
        key = where.rstrip("`").replace("[...]", "") if where else ""
        choices = _CHOICES.get(key)
        advice = f"needs one of {', '.join(choices)}" if choices else reason
        raise ConfigError(f"{PREFIX}{key}={_at(plain, key)!r}: {advice}") from None
    if settings.frame != "auto":
        _named("", lambda: frames.frame_named(settings.frame))
    if settings.total_steps is not None and settings.total_steps <= 0:
        raise ConfigError(f"{PREFIX}.total_steps={settings.total_steps}: needs a number of steps above 0, or null")
    settings.reward()
    return settings


def _refuse_unknown(plain: dict[Any, Any], struct: type[msgspec.Struct], prefix: str) -> None:
    for key in plain:
        if key not in struct.__struct_fields__:
            near = difflib.get_close_matches(str(key), struct.__struct_fields__, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(struct.__struct_fields__)}"
            raise ConfigError(f"{prefix}.{key}: unknown key; {hint}")


def _at(plain: Any, dotted: str) -> Any:
    for key in filter(None, dotted.split(".")):
        plain = plain.get(key) if isinstance(plain, dict) else plain
    return plain


def _named(key: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ValueError as error:
        dotted = f"{PREFIX}.{key}" if key else PREFIX
        message = str(error)
        names_key = message.startswith(tuple(Settings.__struct_fields__))
        raise ConfigError(f"{PREFIX}.{message}" if names_key else f"{dotted}: {message}") from None


def require_supported_verl() -> None:
    """Stop on a verl this plug-in was not made for.

    Raises:
        ConfigError: naming the version found and the versions supported.
    """
    import verl

    if not verl.__version__.startswith(SUPPORTED_VERL):
        raise ConfigError(
            f"verl {verl.__version__} is installed: verl-visionr1 supports "
            f"{', '.join(f'{prefix}x' for prefix in SUPPORTED_VERL)}; run `pip install 'verl>=0.9,<0.10'`"
        )
