"""Alarms while training runs: reward that is earned without finding objects, and answers that degenerate.

A pure state machine like `gate`: frozen records in, frozen records out, no clock. The caller hands over what each
sampled batch scored and keeps the state in the checkpoint; the same batches lead to the same alarms. An alarm never
changes a reward.

A number must leave its place by more than its noise: the mean of the last `window` batches is compared with the mean of
the first ones, by how far it moved and by how many standard errors. The noise is the median difference of batches a few
steps apart over the whole run, so a steady drift hardly counts as noise, and a small batch needs a larger move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from statistics import median
from typing import Any, NamedTuple

import msgspec

from verl_visionr1.alarm_rules import ALARMS, AlarmRules


@dataclass(frozen=True, slots=True)
class Batch:
    """What one sampled batch of training scored. None, and what is not finite: it has no such number.

    Attributes:
        stage: anything that differs when thresholds have moved: rewards of two stages are not compared.
        reward, f1: mean reward, and mean F1 at IoU .5, of the rows whose answer is boxes.
        boxes, boxes_per_object: boxes per answer, and per object, of these rows.
        distinct_share: mean share of an answer's boxes (or points) that are not written twice.
        n_tokens: mean length of an answer.
        empty, clipped, frac_reward_zero_std, unscored: shares, as in `AlarmRules`.
    """

    step: int
    stage: int = 0
    reward: float | None = None
    f1: float | None = None
    boxes: float | None = None
    boxes_per_object: float | None = None
    distinct_share: float | None = None
    n_tokens: float | None = None
    empty: float | None = None
    clipped: float | None = None
    frac_reward_zero_std: float | None = None
    unscored: float | None = None

    @property
    def numbers(self) -> dict[str, float]:
        """Name -> number, of those that are finite."""
        values = {name: getattr(self, name) for name in TRACKED}
        return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


TRACKED = tuple([each.name for each in fields(Batch) if each.name not in ("step", "stage")])
"""Numbers of a `Batch` that are compared with their own earlier ones."""
APART = 2
"""Batches between two values whose difference tells the noise: neighbours may share some of theirs."""
MEMORY = 50
"""Differences that the estimate of the noise remembers."""
TO_SIGMA = 0.6745 * math.sqrt(2.0)
"""Median absolute difference of two normal values over their standard deviation."""


class Comparison(NamedTuple):
    """Means of a window: the first, the highest and the last one; and the standard error of a difference of two."""

    first: float
    best: float
    now: float
    error: float


@dataclass(frozen=True, slots=True)
class Track:
    """A number over the batches seen.

    Attributes:
        recent: the last values, at most a window of them.
        start: mean of the first window; None before it is full.
        best: the highest mean of a window.
        differences: absolute ones of values `APART` batches apart, the last `MEMORY`; their median tells the noise.
    """

    recent: tuple[float, ...] = ()
    start: float | None = None
    best: float | None = None
    differences: tuple[float, ...] = ()

    def add(self, value: float, window: int) -> Track:
        """With one more value."""
        differences = self.differences
        if len(self.recent) >= APART:
            differences = (*differences, abs(value - self.recent[-APART]))[-MEMORY:]
        recent = (*self.recent, value)[-window:]
        if len(recent) < window:
            return Track(recent, self.start, self.best, differences)
        mean = math.fsum(recent) / window
        start = mean if self.start is None else self.start
        return Track(recent, start, max(mean, start if self.best is None else self.best), differences)

    def compare(self, window: int) -> Comparison | None:
        """Its windows; None before one has been seen."""
        if self.start is None or len(self.recent) < window:
            return None
        error = (median(self.differences) / TO_SIGMA if self.differences else 0.0) / math.sqrt(window)
        best = self.start if self.best is None else self.best
        return Comparison(self.start, best, math.fsum(self.recent) / len(self.recent), math.hypot(error, error))


@dataclass(frozen=True, slots=True)
class Status:
    """One alarm: whether it is on, for how many batches its rule has said otherwise, and the step it last changed."""

    is_on: bool = False
    n_against: int = 0
    since: int = 0

    def followed(self, holds: bool | None, step: int, rules: AlarmRules) -> Status:
        """After one more batch; None: the rule cannot tell."""
        if holds is None or holds == self.is_on:
            return self if holds is None else Status(self.is_on, 0, self.since)
        n_against = self.n_against + 1
        if n_against < (rules.window if self.is_on else rules.patience):
            return Status(self.is_on, n_against, self.since)
        return Status(not self.is_on, 0, step)


@dataclass(frozen=True, slots=True)
class AlarmState:
    """What is known so far.

    Attributes:
        tracks: name in `TRACKED` -> its number, where it was seen; the reward is that of the present stage alone.
        stage: the present stage.
        statuses: alarm -> its status.
    """

    tracks: dict[str, Track] = field(default_factory=dict[str, Track])
    stage: int = 0
    statuses: dict[str, Status] = field(default_factory=dict[str, Status])

    def compare(self, number: str, rules: AlarmRules) -> Comparison | None:
        """The windows of a number; None before one has been seen."""
        return self.tracks.get(number, Track()).compare(rules.window)

    def is_on(self, name: str) -> bool:
        """Whether an alarm is on."""
        return self.statuses.get(name, Status()).is_on

    def state(self) -> dict[str, Any]:
        """As JSON can hold it; `from_state` is its inverse."""
        return msgspec.to_builtins(self)

    @classmethod
    def from_state(cls, state: Any) -> AlarmState:
        """Read what `state` gave.

        Raises:
            ValueError: something else.
        """
        if not isinstance(state, dict) or state.keys() != AlarmState.__dataclass_fields__.keys():
            raise ValueError(f"alarm state: {str(state)[:80]}: needs tracks, stage and statuses")
        try:
            return msgspec.convert(state, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"alarm state: {error}") from None


def advance(rules: AlarmRules, state: AlarmState, batch: Batch) -> AlarmState:
    """The state after one more batch. A window that was longer before a restart counts as far as it reaches."""
    tracks = dict(state.tracks)
    if batch.stage != state.stage:
        tracks.pop("reward", None)
    for name, value in batch.numbers.items():
        tracks[name] = tracks.get(name, Track()).add(value, rules.window)
    state = replace(state, tracks=tracks, stage=batch.stage)
    before = state.statuses
    statuses = {
        name: before.get(name, Status()).followed(_holds(name, rules, state), batch.step, rules) for name in rules.names
    }
    return replace(state, statuses=statuses)


def _holds(name: str, rules: AlarmRules, state: AlarmState) -> bool | None:
    """Whether an alarm's rule holds; None where it cannot be told."""
    limit: Any = getattr(rules, name)
    alarm = ALARMS[name]
    seen = state.compare(alarm.number, rules)
    if seen is None:
        return None
    if name == "reward_without_f1":
        return _has_lost_f1(limit, seen, rules, state)
    if alarm.bound is None:
        return seen.now >= limit
    boxes = state.compare("boxes", rules)
    bound = alarm.bound(seen.first, limit, boxes.now / boxes.first if boxes and boxes.first > 0 else 1.0)
    noise = rules.sigmas * seen.error
    if alarm.falls:
        return seen.now <= bound and seen.first - seen.now > noise
    return seen.now >= bound and seen.now - seen.first > noise


def _has_lost_f1(limit: float, f1: Comparison, rules: AlarmRules, state: AlarmState) -> bool:
    has_fallen = f1.now <= (1.0 - limit) * f1.best and f1.best - f1.now > rules.sigmas * f1.error
    reward = state.compare("reward", rules)
    if reward is None:  # thresholds have just moved: nothing speaks for the reward
        return has_fallen
    # F1's fall is beyond all doubt; a reward that fell in proportion shows at half as many standard errors.
    return has_fallen and not reward.first - reward.now > rules.sigmas / 2.0 * reward.error


def changes(before: AlarmState, after: AlarmState) -> dict[str, bool]:
    """Alarms that have started (True) or ended (False) between two states."""
    names = dict.fromkeys((*before.statuses, *after.statuses))
    return {name: after.is_on(name) for name in names if before.is_on(name) != after.is_on(name)}


def reading(name: str, rules: AlarmRules, state: AlarmState) -> str:
    """The numbers that an alarm looks at, in words; "" where there are none."""
    alarm = ALARMS[name]
    seen = state.compare(alarm.number, rules)
    if seen is None:
        return ""
    if name != "reward_without_f1":
        return f"{alarm.label} {seen.now:.3g}, at the start {seen.first:.3g}"
    reward = state.compare("reward", rules)
    of_reward = "thresholds have moved" if reward is None else f"{reward.first:.3g} -> {reward.now:.3g}"
    return f"{alarm.label} {seen.best:.3g} -> {seen.now:.3g}, reward {of_reward}"
