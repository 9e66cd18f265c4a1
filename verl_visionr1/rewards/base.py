"""What every reward is made of: `Criterion`, `Preset` (the method as data) and `Score` (its result)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from verl_visionr1.answers import PARSERS
from verl_visionr1.criteria import Judge, precision, recall, well_formed
from verl_visionr1.matching import MATCHERS
from verl_visionr1.schedule import VISIONR1, Schedule

CRITERIA = ("format", "recall", "precision")
"""Names of what every preset judges, in this order."""
METRICS = (
    *CRITERIA,
    "iou_mean",
    "f1_50",
    "n_predicted",
    "n_target",
    "boxes_per_target",
    "parsed",
)
"""Keys of `Score.metrics`: the same for every input, preset and task, as verl demands."""


class Score(msgspec.Struct, frozen=True, gc=False):
    """The judgement of one completion.

    Attributes:
        value: the reward: weighted mean of the criteria in [0, 1] (`-released` presets: their sum, in [0, 3]).
        metrics: `METRICS` as floats. `CRITERIA` are judged by the preset, at its stage. The rest
            means the same under every preset: "iou_mean" (matched IoU over n_T), "f1_50" (F1 at IoU .5),
            "boxes_per_target" (n_P / n_T; n_P where n_T = 0), "parsed" (1.0 if an answer could be read).
    """

    value: float
    metrics: dict[str, float]


class RewardError(ValueError):
    """A preset, weight or option that does not exist or cannot be; the message names the key and the value."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """A named, weighted part of a reward. Weight 0: reported, not rewarded.

    Raises:
        RewardError: a weight that is not a finite number >= 0.
    """

    name: str
    judge: Judge
    weight: float = 1.0

    def __post_init__(self) -> None:
        # Settings may hold anything, whatever the annotation says.
        is_number = isinstance(self.weight, int | float)  # pyright: ignore[reportUnnecessaryIsInstance]
        is_number = is_number and not isinstance(self.weight, bool)
        if not (is_number and math.isfinite(self.weight) and self.weight >= 0):
            raise RewardError(f"weights.{self.name} = {self.weight!r}: needs a number >= 0")


@dataclass(frozen=True, slots=True)
class Preset:
    """A method, as data: change a field with `dataclasses.replace`, a weight with `with_weights`.

    Attributes:
        name: key in `PRESETS`.
        criteria: what is judged, and how much each counts.
        schedule: progress of training -> thresholds.
        answer_format: key in `answers.PARSERS`.
        matching: key in `matching.MATCHERS`.
        is_sum: the value is the weighted sum of the criteria instead of their weighted mean.

    Raises:
        RewardError: unknown answer format or matching, criteria other than `CRITERIA`, or weights that are all 0.
    """

    name: str
    criteria: tuple[Criterion, ...] = (
        Criterion("format", well_formed),
        Criterion("recall", recall),
        Criterion("precision", precision),
    )
    schedule: Schedule = VISIONR1
    answer_format: str = "qwen-json"
    matching: str = "labelled"
    is_sum: bool = False

    def __post_init__(self) -> None:
        require_one_of("answer_format", self.answer_format, PARSERS)
        require_one_of("matching", self.matching, MATCHERS)
        names = tuple(criterion.name for criterion in self.criteria)
        if names != CRITERIA:  # or the metrics would not have the same keys for every preset
            raise RewardError(f"criteria = {', '.join(names)}: needs {', '.join(CRITERIA)}")
        if not self.divisor > 0:
            raise RewardError(f"weights = {self.weights}: needs at least one above 0")

    @property
    def weights(self) -> dict[str, float]:
        """Criterion -> weight."""
        return {criterion.name: criterion.weight for criterion in self.criteria}

    @property
    def divisor(self) -> float:
        """What the weighted sum is divided by."""
        total = sum(criterion.weight for criterion in self.criteria)
        return 1.0 if self.is_sum and total > 0 else total

    def with_weights(self, weights: Mapping[str, float]) -> Preset:
        """The same preset with some weights changed.

        Raises:
            RewardError: a criterion that this preset does not have, or a weight that is not a number >= 0.
        """
        for name in weights:
            require_one_of("weights", name, self.weights)
        return replace(self, criteria=tuple(replace(c, weight=weights.get(c.name, c.weight)) for c in self.criteria))


def require_one_of(key: str, value: object, known: Mapping[str, object]) -> None:
    """Raise RewardError unless `value` is a key of `known`."""
    if not isinstance(value, str) or value not in known:
        raise RewardError(f"{key} = {value!r}: needs one of {', '.join(known)}")
