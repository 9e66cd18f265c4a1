"""The progress of training when a prompt is scored, and the thresholds at that progress.

The context is made once, when a batch is dispatched, and travels with the batch: all rollouts of a prompt are scored
with the same thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from verl_visionr1.criteria import Thresholds
from verl_visionr1.schedule import Schedule, last_progress, progress_at

ValidationStage = Literal["final", "current", "off"]
"""Thresholds of validation: the strictest, those of training at that step, or none."""
STATE_FILE = "visionr1_progress.json"
"""State of the progress callback, in each folder `global_step_N` of the checkpoints."""
WIRE_KEY = "visionr1_context"
"""Key of `Context.to_wire()` in the dispatched batch."""


class Rule(NamedTuple):
    """Thresholds, and index of the schedule's stage: -1 with the progressive rule off."""

    thresholds: Thresholds
    stage: int


@dataclass(frozen=True, slots=True)
class Context:
    """The progress of training when a prompt was dispatched.

    Attributes:
        progress: fraction of training done, in [0, 1]; None with the progressive rule off.
        is_validation: whether the prompt belongs to validation.
        gates: with a gated rule, data source -> stage (a missing source is at stage 0); else None.
        last_progress: fraction of training done when its last step begins, which determines the final stage.
    """

    progress: float | None
    is_validation: bool = False
    gates: Mapping[str, int] | None = None
    last_progress: float = 1.0

    def to_wire(self) -> dict[str, Any]:
        """Convert to plain values for verl's batches. `from_wire` is the inverse."""
        gates = None if self.gates is None else dict(self.gates)
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"gates": gates}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Context:
        """Read the values of `to_wire`."""
        return cls(**wire)

    def rule(
        self, schedule: Schedule, validation: ValidationStage, data_source: str = "", *, is_gated: bool = True
    ) -> Rule:
        """Return the thresholds and stage of a schedule in this context.

        `data_source` has its own gate; `is_gated`: this is the run's own schedule, whose stages the gates count (others
        follow progress).
        """
        if self.progress is None:
            return Rule(schedule.off, -1)
        gates = self.gates if is_gated else None
        if self.is_validation and validation == "final":
            # A gate may reach any stage in a training of any length.
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
    """Build the context of a prompt dispatched at `step` (from 1; 0 is before training).

    `total_steps` count as the whole of training (None: the rule is off), `n_steps` are those that the run takes, if
    known.
    """
    if total_steps is None:
        return Context(None, is_validation, gates)
    return Context(progress_at(step, total_steps), is_validation, gates, last_progress(total_steps, n_steps))
