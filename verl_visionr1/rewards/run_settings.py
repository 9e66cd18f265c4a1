"""Settings of a run's reward in every framework: presets, routes, schedule, frame.

verl's plug-in adds its own (`plugin.config.Settings`), and so do the other frameworks
(`integrations.core.FunctionSettings`).
"""

from __future__ import annotations

from functools import cached_property

import msgspec

from verl_visionr1.rewards.base import Preset, RewardError
from verl_visionr1.rewards.composition import CriterionSettings, PresetSettings, ScheduleSettings
from verl_visionr1.rewards.context import ValidationStage
from verl_visionr1.rewards.presets import PRESETS, build_preset, find_preset
from verl_visionr1.rewards.routing import Routes, RouteSettings, routes_of


class RewardSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """The settings of every framework.

    Attributes:
        preset: a name in `verl_visionr1.PRESETS` or in `presets`, or a YAML file.
        weights: criterion -> weight, over the preset's; null keeps the preset's.
        criteria: criteria that are changed, added (`fn`) or removed (null), over the preset's.
        schedule: replaces the preset's; None keeps it.
        answer_format, matching: replace the preset's; None keeps them.
        presets: own presets of the run by name, each over a base, for `preset` and `routes`.
        routes: presets for some of the rows.
        validation: thresholds of validation: "final" (the strictest stage, so that curves are comparable), "current",
            "off".
        total_steps: trainer steps that count as the whole of training; None uses the run's own if the framework
            provides it. Set it if the run will be extended, so that the thresholds do not drop.
    """

    preset: str = "visionr1"
    weights: dict[str, float | None] = {}
    criteria: dict[str, CriterionSettings | None] = {}
    schedule: ScheduleSettings | None = None
    answer_format: str | None = None
    matching: str | None = None
    presets: dict[str, PresetSettings] = {}
    routes: RouteSettings = RouteSettings()
    validation: ValidationStage = "final"
    total_steps: int | None = None

    @property
    def is_off(self) -> bool:
        """Whether the progressive rule is switched off."""
        return self.schedule is not None and self.schedule.kind == "off"

    @cached_property
    def reward(self) -> Preset:
        """The preset with all settings applied; RewardError names a wrong setting."""
        base = find_preset(self.preset, self.known_presets, key="preset")
        changes = PresetSettings(
            weights=self.weights,
            criteria=self.criteria,
            schedule=self.schedule,
            answer_format=self.answer_format,
            matching=self.matching,
        )
        changed = changes.build(base)
        follows = changed.schedule.follows_model == base.schedule.follows_model
        return base if changed == base and follows else changed

    @cached_property
    def routing(self) -> Routes:
        """The presets of all rows."""
        return routes_of(self.routes, self.reward, self.known_presets)

    @cached_property
    def known_presets(self) -> dict[str, Preset]:
        """`PRESETS` and the run's own; RewardError: a name in use, circular bases, or a wrong preset."""
        known = dict(PRESETS)
        for name in self.presets:
            self._build(name, known)
        return known

    def require_names(self, taken: frozenset[str]) -> None:
        """Check that no criterion has a reserved name or needs a missing package; RewardError names it."""
        for name in self.routing.metrics:
            if name in taken:
                raise RewardError(f"criteria.{name}: this name is reserved for a built-in metric; choose another")
        for preset in self.routing.presets:
            preset.require_installed()

    def _build(self, name: str, known: dict[str, Preset], above: tuple[str, ...] = ()) -> None:
        """Add one of the run's own presets to `known`, after its base."""
        if name in PRESETS:
            raise RewardError(f"presets.{name}: a built-in preset has this name; choose another, with base: {name}")
        if name in above:
            raise RewardError(f"presets.{name}.base: circular: {' -> '.join((*above, name))}")
        if name in known:
            return
        settings = msgspec.structs.replace(self.presets[name], name=name)
        if settings.base in self.presets:
            self._build(settings.base, known, (*above, name))
        try:
            known[name] = build_preset(settings, known)
        except ValueError as error:
            raise RewardError(f"presets.{name}.{error}") from None
