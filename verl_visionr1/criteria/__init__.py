"""The criteria of a vision reward: pure functions into [0, 1] that receive the inputs they name.

A criterion's positional parameters are fields of `rewards.base.CriterionInput`: `completion`, `answer`, `target`,
`matching`, `class_aware`, `thresholds`, `accuracy`, `n_tokens`, `max_tokens`, `grid_wh`. Its keyword-only parameters
are options with defaults, which a preset may set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from verl_visionr1.criteria import average_precision, counting, dense, detection, pointing, structure, text
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
        for module in (detection, dense, average_precision, counting, pointing, text, structure)
        for criterion in module.CRITERIA
    }
)
"""Function name -> criterion, for all criteria that a preset can use."""
