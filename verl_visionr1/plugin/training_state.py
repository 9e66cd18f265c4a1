"""Progress of training and its thresholds: the state of the progress callback."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig

from verl_visionr1.alarms import AlarmState, Batch, advance, changes
from verl_visionr1.gate import Gates
from verl_visionr1.plugin.config import settings_of
from verl_visionr1.plugin.extensions import load_extensions
from verl_visionr1.plugin.run_facts import family_of, parts_a_step, run_steps_of, total_steps_of
from verl_visionr1.plugin.scoring_guard import ScoringGuard
from verl_visionr1.plugin.stages import short_thresholds, stage_warnings, switch_words, total_steps_warning
from verl_visionr1.rewards.context import Context, Rule, context_at
from verl_visionr1.schedule import follow_model

logger = logging.getLogger(__name__)


class Progress:
    """Progress of training and its thresholds; the only object with state.

    The first run fixes the total: checkpoints keep it, so that an extended run does not return to an easier stage.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.settings = settings_of(config)
        self.extensions = load_extensions(config, self.settings)
        self.routes = self.settings.routing
        own = self.settings.reward.schedule
        self.family = family_of(config, self.settings) if own.follows_model else ""
        self.schedule = follow_model(own, self.family)
        gate = self.settings.gate
        self.gates = None if gate is None else Gates(gate, len(self.schedule.points))
        self.alarm_rules = self.settings.alarm_rules
        self.alarms = AlarmState()
        self.pinned_total: int | None = None
        self.last_stages: dict[str, int] = {}
        self.steps = StepCollector(parts_a_step(config))
        self.guard = ScoringGuard("training")
        self.warnings: list[str] = []

    @property
    def total_steps(self) -> int | None:
        """Steps that count as the whole of training; None without a schedule."""
        if self.pinned_total is None:
            self.pinned_total = total_steps_of(self.config, self.settings)
        return self.pinned_total

    def context(self, step: int, *, is_validation: bool = False) -> Context:
        """Context for scoring prompts dispatched at `step`."""
        stages = None if self.gates is None else {source: self.gates.stage(source) for source in self.gates.states}
        n_steps = run_steps_of(self.config)
        return context_at(step, self.total_steps, n_steps=n_steps, is_validation=is_validation, gates=stages)

    def rule(self, step: int, data_source: str = "") -> Rule:
        """Thresholds at `step` for rows of the run's default preset."""
        return self.context(step).rule(self.schedule, self.settings.validation, data_source)

    def observe(self, step: int, sources: Sequence[str], infos: Sequence[Mapping[str, float]]) -> None:
        """Update the gates with a batch's scores; each row counts at the stage at which it was scored."""
        if self.gates is None:
            return
        metric = self.gates.gate.metric
        scored: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for source, info in zip(sources, infos, strict=True):
            is_own = info.get("route", 0.0) == 0.0 and metric in info and "stage" in info  # of the run's own preset
            if is_own and not info.get("unscored"):
                scored[int(info["stage"])][source].append(float(info[metric]))
        for stage, values in sorted(scored.items()):
            means = {source: (float(np.mean(each)), len(each)) for source, each in values.items()}
            self.gates = self.gates.advance(step, stage, means)

    def update_alarms(self, batch: Batch) -> dict[str, bool]:
        """Update the alarms with a batch; returns those that started (True) or ended (False)."""
        if self.alarm_rules is None:
            return {}
        before, self.alarms = self.alarms, advance(self.alarm_rules, self.alarms, batch)
        return changes(before, self.alarms)

    def state(self, step: int) -> dict[str, Any]:
        """State for a checkpoint."""
        rule = self.rule(step)
        return {
            "version": 3,
            "step": step,
            "total_steps": self.total_steps,
            "stage": rule.stage,
            "thresholds": asdict(rule.thresholds),
            "gates": None if self.gates is None else self.gates.state(),
            "alarms": None if self.alarm_rules is None else self.alarms.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint; old checkpoints have no alarms."""
        try:
            self.alarms = AlarmState.from_state(state["alarms"]) if state.get("alarms") is not None else AlarmState()
        except ValueError as error:  # lost alarms must not end the run
            logger.warning("visionr1: alarms start again from zero: %s", error)
            self.alarms = AlarmState()
        saved = state["total_steps"]
        if saved is None or self.settings.is_off:
            return
        if self.gates is not None and state.get("gates") is not None:
            self.gates = self.gates.with_state(state["gates"])
        own = total_steps_of(self.config, self.settings)
        if self.settings.total_steps is None and own != saved:
            self.warnings.append(total_steps_warning(own or 0, saved))
        self.pinned_total = own if self.settings.total_steps is not None else saved
        was, now = state["thresholds"], asdict(self.rule(state["step"]).thresholds)
        if was != now and isinstance(was, Mapping):
            logger.warning("visionr1: thresholds at step %s were %s and are now %s", state["step"], was, now)

    def warn(self) -> list[str]:
        """Warnings for the start of training, one line each; call it after `restore`."""
        n_steps = run_steps_of(self.config)
        if self.total_steps is None or n_steps is None or self.gates is not None:
            return list(self.warnings)
        return [*self.warnings, *stage_warnings(self.schedule, self.total_steps, n_steps)]

    @property
    def reason(self) -> str | None:
        """Why the thresholds change when they do, if the model's family decides; None if a setting does."""
        is_default = self.settings.reward.schedule.follows_model and self.total_steps is not None
        return switch_words(self.family) if is_default else None

    def describe(self, step: int) -> str:
        """One line for the log."""
        rule = self.rule(max(step, 1))
        kind = "gated on " + self.gates.gate.metric if self.gates is not None else "schedule"
        points = " ".join(f"{at:g}:{short_thresholds(thresholds)}" for at, thresholds in self.schedule.points)
        presets = ", ".join(preset.name for preset in self.routes.presets)
        return (
            f"visionr1: preset {presets}, {self.total_steps} steps, {kind} ({points}), "
            f"at step {step}: stage {rule.stage} {short_thresholds(rule.thresholds)}"
        )


@dataclass(frozen=True, slots=True)
class StepRows:
    """Scores of some trajectories.

    Attributes:
        keys: verl's trajectory keys, `{uid}_{session}_{index}`.
        sources: data source of each trajectory.
        infos: `reward_extra_info` of each trajectory.
    """

    keys: Sequence[str]
    sources: Sequence[str]
    infos: Sequence[Mapping[str, float]]

    def __add__(self, other: StepRows) -> StepRows:
        return StepRows([*self.keys, *other.keys], [*self.sources, *other.sources], [*self.infos, *other.infos])


class StepCollector:
    """Collects the parts of a step, so that each number is reported once per step, over all its rows.

    With `parameter_sync_step` above 1 verl samples a step in parts, and combines the parts' metrics by words in their
    names: "sum" adds, "max" takes the largest, others average. Windows of alarms and gates count steps.

    >>> part = StepRows(["a_0_0"], ["coco"], [{"value": 1.0}])
    >>> collector = StepCollector(2)
    >>> collector.add(1, part) is None, len(collector.add(1, part).keys)
    (True, 2)
    """

    def __init__(self, n_parts: int) -> None:
        self.n_parts = n_parts
        self.step: int | None = None
        self.parts: list[StepRows] = []

    def add(self, step: int, part: StepRows) -> StepRows | None:
        """The whole step once its last part has arrived, else None. Parts of an aborted step are dropped."""
        if step != self.step:
            self.step, self.parts = step, []
        self.parts.append(part)
        if len(self.parts) < self.n_parts:
            return None
        whole = sum(self.parts[1:], self.parts[0])
        self.step, self.parts = None, []
        return whole
