"""Progress of training -> thresholds: pure functions of a number in [0, 1], as data.

A schedule has no counter and no clock. The caller passes the progress, so a resumed run, an asynchronous run and a
re-scored rollout file get the same thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from verl_visionr1.criteria import ADVANCED, BEGINNER, OFF, Thresholds


@dataclass(frozen=True, slots=True)
class Schedule:
    """Thresholds over training.

    Attributes:
        points: (progress at its start, thresholds), progress strictly increasing, the first at 0.0.
        interpolation: between two points "step" keeps the earlier one, "linear" and "cosine" move to the later one.
        off: thresholds when the progressive rule is off (`progress=None`).
        follows_model: whether its switch is the default, which depends on the model's family: see `follow_model`.

    Raises:
        ValueError: no point at 0, progress out of order or outside [0, 1], unknown interpolation.

    >>> rule = staged(BEGINNER, ADVANCED, at=0.5)
    >>> [rule(p).match_iou for p in (0.0, 0.49, 0.5, 1.0)]
    [0.5, 0.5, 0.75, 0.75]
    """

    points: tuple[tuple[float, Thresholds], ...]
    interpolation: str = "step"
    off: Thresholds = OFF
    follows_model: bool = field(default=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        starts = [at for at, _ in self.points]
        if not starts or starts[0] != 0.0:
            raise ValueError(f"schedule starts at {starts[:1]}: the first point must be at progress 0")
        if not (all(a < b for a, b in pairwise(starts)) and starts[-1] <= 1.0):  # so that nan fails
            raise ValueError(f"schedule points at {starts}: need increasing progress within [0, 1]")
        if self.interpolation not in ("step", "linear", "cosine"):
            raise ValueError(f"interpolation = {self.interpolation!r}: needs one of step, linear, cosine")
        # Only numbers: the hash of a text differs between processes, and schedules are sent between them.
        object.__setattr__(self, "_hash", hash((self.points, self.off)))

    def __hash__(self) -> int:
        return self._hash

    def __call__(self, progress: float | None) -> Thresholds:
        """Return the thresholds at that fraction of training; None gives `off`, a number outside [0, 1] ValueError."""
        if progress is None:
            return self.off
        i = self.stage(progress)
        start, thresholds = self.points[i]
        if self.interpolation == "step" or i + 1 == len(self.points):
            return thresholds
        end, following = self.points[i + 1]
        fraction = (progress - start) / (end - start)
        if self.interpolation == "cosine":
            fraction = (1.0 - math.cos(math.pi * fraction)) / 2.0
        return thresholds.towards(following, fraction)

    def stage(self, progress: float | None) -> int:
        """Return the index of the last point passed; -1 when the rule is off."""
        if progress is None:
            return -1
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress = {progress!r}: needs a fraction of training in [0, 1], or None for off")
        stage = self.final_stage
        while self.points[stage][0] > progress:
            stage -= 1
        return stage

    @property
    def final_stage(self) -> int:
        """The last stage that a training reaches; a stage that starts at progress 1 is never reached."""
        last = len(self.points) - 1
        return last - 1 if last and self.interpolation == "step" and self.points[last][0] == 1.0 else last

    @property
    def is_moving(self) -> bool:
        """Whether the thresholds depend on progress; False if training never leaves the first stage."""
        return self.final_stage > 0 or (self.interpolation != "step" and len(self.points) > 1)

    def last_stage(self, last_progress: float) -> int:
        """Return the last stage of a training whose last step is at `last_progress`.

        Between two points of "linear" and "cosine" it is the later one.
        """
        stage = self.stage(last_progress)
        is_moving = self.interpolation != "step" and self.points[stage][0] < last_progress
        return min(stage + is_moving, self.final_stage)

    def final_progress(self, last_progress: float) -> float:
        """Return a progress at which the thresholds are those of `last_stage`, for tools that take a progress.

        >>> staged(at=0.9).final_progress(0.8), linear(BEGINNER, ADVANCED).final_progress(0.8)
        (0.8, 1.0)
        """
        return 1.0 if self.last_stage(last_progress) == self.final_stage else last_progress


def progress_at(step: int, total_steps: int) -> float:
    """Return the fraction of training done when `step` (counted from 1) begins; 0 for step 0, before training.

    So a switch at .5 of 40 steps is at step 21, and a run longer than `total_steps` stays at 1.

    >>> [progress_at(step, 40) for step in (0, 1, 20, 21, 40, 99)]
    [0.0, 0.0, 0.475, 0.5, 0.975, 1.0]
    """
    return min(max(step - 1, 0) / total_steps, 1.0)


def first_step(progress: float, total_steps: int) -> int | None:
    """Return the first of `total_steps` steps at which training has reached `progress`; None if there is none.

    >>> first_step(0.5, 40), first_step(0.0, 40), first_step(1.0, 40)
    (21, 1, None)
    """
    step = max(math.ceil(progress * total_steps), 1)  # or the next one, depending on rounding
    while step <= total_steps and progress_at(step, total_steps) < progress:
        step += 1
    return step if step <= total_steps else None


def last_progress(total_steps: int, n_steps: int | None = None) -> float:
    """Return the progress at the last of `n_steps` steps, of which `total_steps` count as the whole of training."""
    return progress_at(max(total_steps, n_steps or 0), total_steps)


def constant(thresholds: Thresholds) -> Schedule:
    """Return a schedule with the same thresholds for the whole training."""
    return Schedule(((0.0, thresholds),))


def staged(first: Thresholds = BEGINNER, second: Thresholds = ADVANCED, *, at: float = 0.5) -> Schedule:
    """Vision-R1's staged progression (arXiv 2503.18013, section 3.3): switch once, at a fraction of training.

    `at=1.0` never switches during training: the paper's setting for Qwen2.5-VL-7B.
    """
    if not 0.0 < at <= 1.0:
        raise ValueError(f"at = {at!r}: needs a fraction of training in (0, 1]")
    return Schedule(((0.0, first), (at, second)))


def linear(first: Thresholds, last: Thresholds, *, begin: float = 0.0, end: float = 1.0) -> Schedule:
    """Move linearly from `first` to `last` between `begin` and `end`; constant outside."""
    return _ramp(first, last, begin, end, "linear")


def cosine(first: Thresholds, last: Thresholds, *, begin: float = 0.0, end: float = 1.0) -> Schedule:
    """Like `linear`, but slow at both ends (half a cosine wave)."""
    return _ramp(first, last, begin, end, "cosine")


def _ramp(first: Thresholds, last: Thresholds, begin: float, end: float, interpolation: str) -> Schedule:
    if not 0.0 <= begin < end <= 1.0:
        raise ValueError(f"begin = {begin!r}, end = {end!r}: needs 0 <= begin < end <= 1")
    points = ((begin, first), (end, last))
    return Schedule(points if begin == 0.0 else ((0.0, first), *points), interpolation)


def piecewise(points: Sequence[tuple[float, Thresholds]], *, interpolation: str = "step") -> Schedule:
    """Build a schedule of any number of stages.

    >>> piecewise([(0, BEGINNER), (0.3, ADVANCED)]).stage(0.4)
    1
    """
    return Schedule(tuple((float(at), thresholds) for at, thresholds in points), interpolation)


VISIONR1 = replace(staged(), follows_model=True)
"""The default: from beginner to advanced thresholds at half of training; for some models never, see `follow_model`."""


class ModelSwitch(NamedTuple):
    """The fraction of training at which Vision-R1's thresholds tighten (1.0: never), and the numbers behind it."""

    at: float
    reason: str


_TABLE_5 = (
    "arXiv 2503.18013, Table 5, Griffon-G-7B on COCO: mAP 42.1 with the switch at 1/2, 39.9 without; no other model"
)
_TABLE_10 = "arXiv 2503.18013, Table 10, Qwen2.5-VL-7B on COCO: mAP 26.6 without the switch, 23.3 with it at 1/2"


def switch_of(family: str) -> ModelSwitch:
    """Return the best switch in the paper for models of a family (a name in `frames.FRAMES`)."""
    return ModelSwitch(1.0, _TABLE_10) if family == "qwen2.5-vl" else ModelSwitch(0.5, _TABLE_5)


def follow_model(schedule: Schedule, family: str) -> Schedule:
    """Apply a model family's default switch; a schedule that was set explicitly is unchanged."""
    return _switched(schedule, family) if schedule.follows_model else schedule


@cache
def _switched(schedule: Schedule, family: str) -> Schedule:
    (begin, first), (_, second) = schedule.points
    return replace(schedule, points=((begin, first), (switch_of(family).at, second)))
