"""How far training is and what counts there: the state behind the progress callback."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from omegaconf import DictConfig

from verl_visionr1.alarms import AlarmState, Batch, advance, changes
from verl_visionr1.gate import Gates
from verl_visionr1.plugin.config import settings_of
from verl_visionr1.plugin.context import Context, Rule, context_at
from verl_visionr1.plugin.reward_manager import total_steps_of
from verl_visionr1.plugin.scoring_guard import ScoringGuard
from verl_visionr1.plugin.step_rows import StepCollector, parts_a_step
from verl_visionr1.rewards import COMMON_METRICS
from verl_visionr1.rewards.judge import BOX_TASKS

logger = logging.getLogger(__name__)


class Progress:
    """How far training is, and what counts there: the one place that has state.

    The total is pinned by the first run: a checkpoint brings it along, so that a run that is extended later does not
    fall back to an easier stage. `reward.reward_kwargs.visionr1.total_steps` overrules it. Gates and alarms
    move here, on what the sampled batches scored.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.settings = settings_of(config)
        self.routes = self.settings.routing
        self.schedule = self.settings.reward.schedule
        gate = self.settings.gate
        self.gates = None if gate is None else Gates(gate, len(self.schedule.points))
        self.alarm_rules = self.settings.alarm_rules
        self.alarms = AlarmState()
        self.pinned_total: int | None = None
        self.last_stages: dict[str, int] = {}
        self.steps = StepCollector(parts_a_step(config))
        self.guard = ScoringGuard("training")

    @property
    def total_steps(self) -> int | None:
        """Steps that count as the whole of training; None with the rule off."""
        if self.pinned_total is None:
            self.pinned_total = total_steps_of(self.config, self.settings)
        return self.pinned_total

    def context(self, step: int, *, is_validation: bool = False) -> Context:
        """How prompts dispatched at `step` are judged."""
        stages = None if self.gates is None else {source: self.gates.stage(source) for source in self.gates.states}
        return context_at(step, self.total_steps, is_validation=is_validation, gates=stages)

    def rule(self, step: int, data_source: str = "") -> Rule:
        """What counts at `step` for rows that the run's own preset judges."""
        return self.context(step).rule(self.schedule, self.settings.validation, data_source)

    def observe(self, step: int, sources: Sequence[str], infos: Sequence[Mapping[str, float]]) -> None:
        """Move the gates on what a batch scored: each row counts at the stage it was judged at."""
        if self.gates is None:
            return
        metric = self.gates.gate.metric
        scored: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for source, info in zip(sources, infos, strict=True):
            if not info.get("unscored") and self._tells(info):
                scored[int(info["stage"])][source].append(float(info[metric]))
        for stage, values in sorted(scored.items()):
            means = {source: (float(np.mean(each)), len(each)) for source, each in values.items()}
            self.gates = self.gates.advance(step, stage, means)

    def _tells(self, info: Mapping[str, float]) -> bool:
        """Whether a row has the gate's metric: what its preset or its task does not have is reported as 0."""
        assert self.gates is not None
        metric, presets = self.gates.gate.metric, self.routes.presets
        if metric not in info or "stage" not in info:
            return False
        route = int(info.get("route", 0.0))
        if route < -1:  # verl has judged the row
            return False
        if metric in ("iou_mean", "f1_50"):
            tasks = presets[route].tasks if route >= 0 else set(BOX_TASKS) - set(self.routes.default.tasks)
            return not set(BOX_TASKS).isdisjoint(tasks)
        return metric in COMMON_METRICS or (route >= 0 and metric in presets[route].weights)

    def sound(self, batch: Batch) -> dict[str, bool]:
        """Move the alarms on what a batch scored; those that have started (True) or ended (False)."""
        if self.alarm_rules is None:
            return {}
        before, self.alarms = self.alarms, advance(self.alarm_rules, self.alarms, batch)
        return changes(before, self.alarms)

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps."""
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
        """Take up the state of a checkpoint; one of before there were alarms has none of theirs."""
        self._restore_alarms(state.get("alarms"))
        saved = state["total_steps"]
        if saved is None or self.settings.is_off:
            return
        if self.gates is not None and state.get("gates") is not None:
            self.gates = self.gates.with_state(state["gates"])
        own = total_steps_of(self.config, self.settings)
        if self.settings.total_steps is None and own != saved:
            logger.warning("visionr1: this run takes %s steps, the checkpoint's took %s: progress is kept", own, saved)
        self.pinned_total = own if self.settings.total_steps is not None else saved
        was, now = state["thresholds"], asdict(self.rule(state["step"]).thresholds)
        if was != now and isinstance(was, Mapping):
            logger.warning("visionr1: thresholds at step %s were %s and are now %s", state["step"], was, now)

    def _restore_alarms(self, state: Any) -> None:
        try:
            self.alarms = AlarmState() if state is None else AlarmState.from_state(state)
        except ValueError as error:  # a warning less is not worth a run
            logger.warning("visionr1: alarms start anew: %s", error)

    def describe(self, step: int) -> str:
        """One line for the log."""
        rule = self.rule(max(step, 1))
        kind = "gated on " + self.gates.gate.metric if self.gates is not None else "schedule"
        points = " ".join(f"{at:g}:{_short(thresholds)}" for at, thresholds in self.schedule.points)
        presets = ", ".join(preset.name for preset in self.routes.presets)
        return (
            f"visionr1: preset {presets}, {self.total_steps} steps, {kind} ({points}), "
            f"at step {step}: stage {rule.stage} {_short(rule.thresholds)}"
        )


def _short(thresholds: Any) -> str:
    return f"{thresholds.match_iou:g}/{thresholds.iou_floor:g}/{thresholds.iou_full:g}"
