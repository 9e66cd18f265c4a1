"""The metrics of a run: names, order, and what counts as better; for step lines, tables and figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a run.

    Attributes:
        name: as it is shown.
        key: as validation reports it, in metrics and dumps.
        training_key: as the training metrics report it (`visionr1/<training_key>/mean`).
        ideal: the best value; None: more is better.
        bounds: the least and the largest possible value; None: no bound.
    """

    name: str
    key: str
    training_key: str = ""
    ideal: float | None = None
    bounds: tuple[float | None, float | None] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "training_key", self.training_key or self.key)


REWARD = Metric("reward", "reward", training_key="value", bounds=(None, None))
F1 = Metric("F1@.5", "f1_50")
MEAN_IOU = Metric("mean IoU", "iou_mean")
BOXES_PER_OBJECT = Metric("boxes/object", "boxes_per_target", ideal=1.0, bounds=(0.0, None))
ACCURACY = Metric("accuracy", "accuracy")
VISION_R1 = (Metric("recall", "recall"), Metric("precision", "precision"), Metric("format", "format"))
"""Criteria that keep their place in the order."""
ORDERED = (REWARD, F1, MEAN_IOU, *VISION_R1, BOXES_PER_OBJECT, ACCURACY)
"""Those that every run of boxes has, and accuracy; a run's own criteria follow."""
BY_STAGE = ("reward", "recall", "precision")
"""Names of the metrics that depend on the thresholds of the stage."""

NOT_CRITERIA = frozenset(
    {
        *("iou_mean", "f1_50", "accuracy", "n_predicted", "n_target", "boxes_per_target", "parsed"),  # every preset's
        *("value", "reward", "score", "acc", "acc_success_only", "unscored", "route", "n_tokens", "budget_used"),
        *("clipped", "distinct_share", "empty", "processed_w", "processed_h", "step"),
        *("progress", "stage", "match_iou", "group_std", "frac_reward_zero_std", "num_turns"),
    }
)
"""Numbers of a run that are no criterion of its presets."""


def list_metrics(keys: Collection[str], *, has_boxes: bool) -> list[Metric]:
    """The metrics to show, in order: the reward, what the task is measured by, then the criteria.

    Args:
        keys: the numbers that were reported.
        has_boxes: whether boxes are compared with boxes, so that F1 and IoU mean something.

    >>> [metric.name for metric in list_metrics(["format", "reward", "own", "f1_50"], has_boxes=True)]
    ['reward', 'F1@.5', 'format', 'own']
    """
    known = {metric.key for metric in VISION_R1}
    own = tuple(Metric(key, key, bounds=(None, None)) for key in keys if key not in known | NOT_CRITERIA)
    wanted = (F1, MEAN_IOU, *VISION_R1, BOXES_PER_OBJECT, *own) if has_boxes else (ACCURACY, *VISION_R1, *own)
    return [metric for metric in (REWARD, *wanted) if metric.key in keys or metric is REWARD]


def has_box_numbers(numbers: Mapping[str, float]) -> bool:
    """Whether a validation's numbers are of boxes: other tasks report 0 for both."""
    return bool(numbers.get(F1.key) or numbers.get(MEAN_IOU.key))
