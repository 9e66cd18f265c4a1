"""Where the trainers of other frameworks say how far training is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def step_of_weights(fields: Mapping[str, Any], *, is_validation: bool) -> int | None:
    """The trainer step of a row, from the version of the weights that wrote its response; None where it is not told.

    verl 0.7.1 and newer say which weights wrote a response: those of the step before; after step N, validation is
    answered by the weights of step N.

    Args:
        fields: verl's `tool_extra_fields`, which its naive manager merges into `extra_info`.

    >>> step_of_weights({"max_global_steps": 4, "global_steps": 3}, is_validation=False)
    5
    """
    for key in ("max_global_steps", "global_steps"):
        if fields.get(key) is not None:
            return int(fields[key]) + (0 if is_validation else 1)
    return None


def step_of_state(trainer_state: Any) -> tuple[int | None, int | None]:
    """Trainer step from 1, and the run's steps, from Hugging Face's `TrainerState` (TRL, ms-swift).

    Its `global_step` counts optimizer steps that are done, so a response that is sampled now belongs to the next.

    >>> from types import SimpleNamespace
    >>> step_of_state(SimpleNamespace(global_step=0, max_steps=40)), step_of_state(None)
    ((1, 40), (None, None))
    """
    if trainer_state is None:
        return None, None
    total = int(trainer_state.max_steps)
    return int(trainer_state.global_step) + 1, total if total > 0 else None
