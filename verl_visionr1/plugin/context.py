"""Where training is when a prompt is judged, and what counts there.

The context is made once, when a batch is dispatched, and travels with it, so that all rollouts of a prompt are judged
alike, on whatever worker and however late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from verl_visionr1.criteria import Thresholds
from verl_visionr1.schedule import Schedule, progress_at

ValidationStage = Literal["final", "current", "off"]
"""Thresholds that validation is judged by: the strictest, those of training at that step, or none."""
WIRE_KEY = "visionr1_context"
"""Key of the dispatched batch that carries `Context.to_wire()`."""


@dataclass(frozen=True, slots=True)
class Context:
    """Where training was when a prompt was dispatched.

    Attributes:
        progress: fraction of training done, in [0, 1]; None with the progressive rule off.
        is_validation: whether the prompt belongs to validation.
        gates: with a gated rule, data source -> stage (a source that is not there is at stage 0); else None.
    """

    progress: float | None
    is_validation: bool = False
    gates: Mapping[str, int] | None = None

    def to_wire(self) -> dict[str, Any]:
        """Plain values, for verl's batches. `from_wire` is the inverse.

        >>> Context.from_wire(Context(0.5, gates={"coco": 1}).to_wire()).gates
        {'coco': 1}
        """
        gates = None if self.gates is None else dict(self.gates)
        return {"progress": self.progress, "is_validation": self.is_validation, "gates": gates}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Context:
        """What `to_wire` wrote."""
        return cls(wire["progress"], wire["is_validation"], wire["gates"])

    def rule(self, schedule: Schedule, validation: ValidationStage, data_source: str = "") -> Rule:
        """What counts here under a schedule.

        Args:
            schedule: that of the preset which judges the row.
            validation: what validation is judged by.
            data_source: that of the row; gates are kept for each.
        """
        if self.progress is None:
            return Rule(schedule.off, -1)
        if self.is_validation and validation == "final":
            return Rule(schedule.final, schedule.final_stage)
        if self.is_validation and validation == "off":
            return Rule(schedule.off, -1)
        if self.gates is not None:
            stage = min(self.gates.get(data_source, 0), len(schedule.points) - 1)
            return Rule(schedule.points[stage][1], stage)
        return Rule(schedule(self.progress), schedule.stage(self.progress))


def context_at(
    step: int, total_steps: int | None, *, is_validation: bool = False, gates: Mapping[str, int] | None = None
) -> Context:
    """The context of a prompt dispatched at `step` (from 1; 0 before training); no total: the rule is off."""
    return Context(None if total_steps is None else progress_at(step, total_steps), is_validation, gates)


@dataclass(frozen=True, slots=True)
class Rule:
    """What counts.

    Attributes:
        thresholds: what a match, a recall and an IoU must reach.
        stage: index of the schedule's stage; -1 with the progressive rule off.
    """

    thresholds: Thresholds
    stage: int
