"""Read a run's numbers from the JSON lines of verl's `file` logger.

A run directory holds `metrics/*.jsonl`, one file per start (verl overwrites its file when a run is resumed). For the
same step, later files and later lines win.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from verl_visionr1.rollouts.places import METRICS_DIR

TRAINING_PREFIX = "visionr1/"
_VALIDATION = re.compile(r"val-(?:core|aux)/(?P<source>.+)/(?P<name>[^/]+)/mean@\d+")


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a run.

    Attributes:
        name: for display.
        key: name in validation metrics and dumps.
        training_key: name in training metrics (`visionr1/<training_key>/mean`).
        ideal: the best value; None: more is better.
    """

    name: str
    key: str
    training_key: str = ""
    ideal: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "training_key", self.training_key or self.key)


REWARD = Metric("reward", "reward", training_key="value")
F1 = Metric("F1@.5", "f1_50")
MEAN_IOU = Metric("mean IoU", "iou_mean")
BOXES_PER_OBJECT = Metric("boxes/object", "boxes_per_target", ideal=1.0)
ACCURACY = Metric("accuracy", "accuracy")
VISION_R1 = (Metric("recall", "recall"), Metric("precision", "precision"), Metric("format", "format"))
"""Criteria with a fixed place in the order."""
ORDERED = (REWARD, F1, MEAN_IOU, *VISION_R1, BOXES_PER_OBJECT, ACCURACY)
"""Metrics of every run with boxes, and accuracy; the run's own criteria follow."""
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
"""Numbers of a run that are not criteria of its presets."""


def list_metrics(keys: Collection[str], *, has_boxes: bool) -> list[Metric]:
    """List the metrics to show, in order: reward, metric of the task, criteria.

    Args:
        keys: names of the reported numbers.
        has_boxes: whether boxes are compared with boxes, so that F1 and IoU are meaningful.

    >>> [metric.name for metric in list_metrics(["format", "reward", "own", "f1_50"], has_boxes=True)]
    ['reward', 'F1@.5', 'format', 'own']
    """
    known = {metric.key for metric in VISION_R1}
    own = tuple(Metric(key, key) for key in keys if key not in known | NOT_CRITERIA)
    wanted = (F1, MEAN_IOU, *VISION_R1, BOXES_PER_OBJECT, *own) if has_boxes else (ACCURACY, *VISION_R1, *own)
    return [metric for metric in (REWARD, *wanted) if metric.key in keys or metric is REWARD]


def has_box_numbers(numbers: Mapping[str, float]) -> bool:
    """Whether a validation's numbers are about boxes: other tasks report 0 for both."""
    return bool(numbers.get(F1.key) or numbers.get(MEAN_IOU.key))


class RunError(ValueError):
    """A run directory cannot be read; one line with the reason and what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """Everything verl logged at one step.

    Attributes:
        number: trainer step, from 1; 0 is the validation before training.
        numbers: verl's name of a metric -> value.
    """

    number: int
    numbers: Mapping[str, float]

    def training(self, name: str) -> float | None:
        """A number of the progress callback, by its short name ("recall", "threshold/match_iou"); None if missing."""
        key = f"{TRAINING_PREFIX}{name}"
        return self.numbers.get(f"{key}/mean", self.numbers.get(key))

    @property
    def alarms(self) -> list[str]:
        """The alarms that were on."""
        prefix = f"{TRAINING_PREFIX}alarm/"
        return [key[len(prefix) :] for key, value in self.numbers.items() if key.startswith(prefix) and value > 0]

    @property
    def has_alarm_metrics(self) -> bool:
        """Whether the step logs alarms: a training step of a run with alarms."""
        return any(key.startswith(f"{TRAINING_PREFIX}alarm/") for key in self.numbers)

    @property
    def thresholds(self) -> tuple[float, float, float] | None:
        """(xi0, xi1, xi2) of the training batch; None if not logged."""
        found = [self.training(f"threshold/{name}") for name in ("match_iou", "iou_floor", "iou_full")]
        known = [value for value in found if value is not None]
        return (known[0], known[1], known[2]) if len(known) == len(found) else None

    @property
    def has_boxes(self) -> bool:
        """Whether rows of the training batch compare boxes with boxes."""
        return self.training(F1.key) is not None or self.training(MEAN_IOU.key) is not None

    @property
    def has_thresholds(self) -> bool:
        """Whether its line shows thresholds."""
        return self.has_boxes and self.thresholds is not None

    def training_metrics(self) -> list[tuple[Metric, float]]:
        """The metrics of the training batch with their values, in the order of tables; accuracy if it is not F1."""
        keys = [*self.criteria, *(metric.key for metric in (F1, MEAN_IOU, BOXES_PER_OBJECT, ACCURACY))]
        metrics = list_metrics(keys, has_boxes=self.has_boxes)
        if self.has_boxes and self.training(ACCURACY.key) != self.training(F1.key) is not None:
            metrics.append(ACCURACY)
        values = [(metric, self.training(metric.training_key)) for metric in metrics]
        return [(metric, value) for metric, value in values if value is not None]

    @property
    def criteria(self) -> list[str]:
        """The criteria of the step's training batch."""
        keys = [key for key in self.numbers if key.startswith(TRAINING_PREFIX) and key.endswith("/mean")]
        names = [key.removeprefix(TRAINING_PREFIX).removesuffix("/mean") for key in keys]
        return [name for name in names if name not in NOT_CRITERIA]

    def validation(self) -> dict[str, dict[str, float]]:
        """Data source -> name -> mean over the validation set; empty without a validation.

        >>> Step(0, {"val-aux/visionr1/scenes/recall/mean@1": 0.5}).validation()
        {'visionr1/scenes': {'recall': 0.5}}
        """
        found: dict[str, dict[str, float]] = {}
        for key, value in self.numbers.items():
            match = _VALIDATION.fullmatch(key)
            if match:
                found.setdefault(match["source"], {})[match["name"]] = value
        return found


def read_steps(run_dir: str | Path) -> list[Step]:
    """Read all steps of a run in order; a line still being written is left out.

    Raises:
        RunError: no such directory, nothing logged there yet, or a file that cannot be read.
    """
    folder = Path(run_dir) / METRICS_DIR
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise RunError(f"{folder}: no metrics; is this a run directory, and has its first step ended?")
    merged: dict[int, dict[str, float]] = {}
    for file in files:
        for number, numbers in _read_lines(file):
            merged.setdefault(number, {}).update(numbers)
    return [Step(number, merged[number]) for number in sorted(merged)]


def _read_lines(file: Path) -> list[tuple[int, dict[str, float]]]:
    found: list[tuple[int, dict[str, float]]] = []
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror or error})") from None
    for line in lines:
        with suppress(msgspec.DecodeError):
            logged = msgspec.json.decode(line, type=_Line)
            known = {key: n for key, n in logged.data.items() if isinstance(n, int | float)}
            numbers = {key: float(n) for key, n in known.items() if isinstance(n, float) or abs(n) < 10**300}
            found.append((logged.step, numbers))
    return found


class _Line(msgspec.Struct):
    step: int
    data: dict[str, object]
