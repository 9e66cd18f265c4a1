"""Where training is when a prompt is judged, and what counts there.

The context is made once, when a batch is dispatched, and travels with it, so that all rollouts of a prompt are judged
alike, on whatever worker and however late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from verl_visionr1.criteria import Thresholds
from verl_visionr1.schedule import Schedule, last_progress, progress_at

ValidationStage = Literal["final", "current", "off"]
"""Thresholds that validation is judged by: the strictest, those of training at that step, or none."""
STATE_FILE = "visionr1_progress.json"
"""What the progress callback keeps, in each folder `global_step_N` of the checkpoints."""
WIRE_KEY = "visionr1_context"
"""Key of the dispatched batch that carries `Context.to_wire()`."""


@dataclass(frozen=True, slots=True)
class Context:
    """Where training was when a prompt was dispatched.

    Attributes:
        progress: fraction of training done, in [0, 1]; None with the progressive rule off.
        is_validation: whether the prompt belongs to validation.
        gates: with a gated rule, data source -> stage (a source that is not there is at stage 0); else None.
        last_progress: fraction of training done when its last step begins: the final stage is the one that holds then.
    """

    progress: float | None
    is_validation: bool = False
    gates: Mapping[str, int] | None = None
    last_progress: float = 1.0

    def to_wire(self) -> dict[str, Any]:
        """Plain values, for verl's batches. `from_wire` is the inverse.

        >>> Context.from_wire(Context(0.5, gates={"coco": 1}).to_wire()).gates
        {'coco': 1}
        """
        gates = None if self.gates is None else dict(self.gates)
        plain: dict[str, Any] = {"progress": self.progress, "is_validation": self.is_validation, "gates": gates}
        return plain | {"last_progress": self.last_progress}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Context:
        """What `to_wire` wrote."""
        return cls(wire["progress"], wire["is_validation"], wire["gates"], wire["last_progress"])

    def rule(
        self, schedule: Schedule, validation: ValidationStage, data_source: str = "", *, is_gated: bool = True
    ) -> Rule:
        """What counts here under a schedule.

        Args:
            schedule: that of the preset which judges the row.
            validation: what validation is judged by.
            data_source: that of the row; gates are kept for each.
            is_gated: whether it is the run's own schedule, whose stages the gates count; another follows progress.
        """
        if self.progress is None:
            return Rule(schedule.off, -1)
        gates = self.gates if is_gated else None
        if self.is_validation and validation == "final":
            # A gate may reach any stage, however short the training is.
            stage = schedule.last_stage(self.last_progress) if gates is None else schedule.final_stage
            return Rule(schedule.points[stage][1], stage)
        if self.is_validation and validation == "off":
            return Rule(schedule.off, -1)
        if gates is not None:
            stage = min(gates.get(data_source, 0), len(schedule.points) - 1)
            return Rule(schedule.points[stage][1], stage)
        return Rule(schedule(self.progress), schedule.stage(self.progress))


def context_at(
    step: int,
    total_steps: int | None,
    *,
    n_steps: int | None = None,
    is_validation: bool = False,
    gates: Mapping[str, int] | None = None,
) -> Context:
    """The context of a prompt.

    Args:
        step: when it was dispatched, from 1; 0 is before training.
        total_steps: steps that count as the whole of training; None: the rule is off.
        n_steps: steps that the run takes, where they are known.
        is_validation, gates: see `Context`.
    """
    if total_steps is None:
        return Context(None, is_validation, gates)
    return Context(progress_at(step, total_steps), is_validation, gates, last_progress(total_steps, n_steps))


@dataclass(frozen=True, slots=True)
class Rule:
    """What counts.

    Attributes:
        thresholds: what a match, a recall and an IoU must reach.
        stage: index of the schedule's stage; -1 with the progressive rule off.
    """

    thresholds: Thresholds
    stage: int
