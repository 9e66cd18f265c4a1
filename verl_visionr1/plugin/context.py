"""Where training is when a prompt is judged: a pure function of step, total steps and settings.

The context is made once, when a batch is dispatched, and travels with it, so that all rollouts of a prompt are judged
alike, on whatever worker and however late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from verl_visionr1.criteria import Thresholds
from verl_visionr1.schedule import Schedule

ValidationStage = Literal["final", "current", "off"]
"""Thresholds that validation is judged by: the strictest, those of training at that step, or none."""
WIRE_KEY = "visionr1_context"
"""Key of the dispatched batch that carries `Context.to_wire()`."""


@dataclass(frozen=True, slots=True)
class Context:
    """How a completion is judged.

    Attributes:
        thresholds: what counts.
        stage: index of the schedule's stage; -1 with the progressive rule off.
        progress: fraction of training done, in [0, 1]; None with the rule off.
        is_validation: whether the prompt belongs to validation.
    """

    thresholds: Thresholds
    stage: int
    progress: float | None
    is_validation: bool

    def to_wire(self) -> dict[str, Any]:
        """Plain values, for verl's batches. `from_wire` is the inverse.

        >>> from verl_visionr1.schedule import staged
        >>> context = context_at(3, 10, staged(), "final")
        >>> Context.from_wire(context.to_wire()) == context
        True
        """
        thresholds = self.thresholds
        return {
            "thresholds": [
                thresholds.match_iou,
                thresholds.recall_floor,
                thresholds.recall_full,
                thresholds.iou_floor,
                thresholds.iou_full,
            ],
            "stage": self.stage,
            "progress": self.progress,
            "is_validation": self.is_validation,
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Context:
        """What `to_wire` wrote."""
        return cls(Thresholds(*wire["thresholds"]), wire["stage"], wire["progress"], wire["is_validation"])


def progress_at(step: int, total_steps: int) -> float:
    """Fraction of training done when `step` (counted from 1) begins; step 0, before training, is 0.

    So a switch at .5 of 40 steps comes with step 21, and a run that is longer than `total_steps` stays at 1.

    >>> [progress_at(step, 40) for step in (0, 1, 20, 21, 40, 99)]
    [0.0, 0.0, 0.475, 0.5, 0.975, 1.0]
    """
    return min(max(step - 1, 0) / total_steps, 1.0)


def context_at(
    step: int,
    total_steps: int | None,
    schedule: Schedule,
    validation: ValidationStage,
    *,
    is_validation: bool = False,
) -> Context:
    """The context of a prompt dispatched at `step`.

    Args:
        step: trainer step, from 1; 0 before training.
        total_steps: steps that count as the whole of training; None: the progressive rule is off.
        schedule: progress -> thresholds.
        validation: thresholds that validation is judged by.
        is_validation: whether this prompt is one of validation.
    """
    progress = None if total_steps is None else progress_at(step, total_steps)
    thresholds, stage = schedule(progress), schedule.stage(progress)
    if is_validation and validation == "final" and total_steps is not None:
        thresholds, stage = schedule.final, schedule.final_stage
    elif is_validation and validation == "off":
        thresholds, stage = schedule.off, -1
    return Context(thresholds, stage, progress, is_validation)
