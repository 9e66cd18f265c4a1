"""The criteria of a vision reward: each a pure function into [0, 1] that names what it looks at.

A criterion's positional parameters are fields of `rewards.base.CriterionInput`: `completion`, `answer`, `target`,
`matching`, `class_aware`, `thresholds`, `accuracy`, `n_tokens`, `max_tokens`, `grid_wh`; it is handed those it names,
and nothing else. Its keyword-only parameters are options, with defaults, that a preset may set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from verl_visionr1.criteria import average_precision, counting, dense, detection, grounding, pointing, structure, text
from verl_visionr1.criteria.detection import f1_50, iou_mean, precision, recall, well_formed
from verl_visionr1.criteria.thresholds import ADVANCED, BEGINNER, EPSILON, OFF, Thresholds, differentiate

__all__ = [
    "CRITERIA",
    "ADVANCED",
    "BEGINNER",
    "EPSILON",
    "OFF",
    "Thresholds",
    "differentiate",
    "f1_50",
    "iou_mean",
    "precision",
    "recall",
    "well_formed",
]

CRITERIA: Mapping[str, Callable[..., float]] = MappingProxyType(
    {
        criterion.__name__: criterion
        for room in (detection, dense, average_precision, grounding, counting, pointing, text, structure)
        for criterion in room.CRITERIA
    }
)
"""Every criterion that a preset may name, by its function's name."""
