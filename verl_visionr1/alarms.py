"""Alarms during training: reward without found objects, and degenerate answers.

A pure state machine like `gate`: the caller passes the scores of each sampled batch and keeps the state in the
checkpoint; the same batches lead to the same alarms. An alarm never changes a reward. It fires beyond its limit and a
number of standard errors: the mean of the last `window` batches is compared with the mean of the first ones. The noise
is the median difference of batches a few steps apart, so a steady drift hardly counts as noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from statistics import median
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec

OFF = "off"
Share: TypeAlias = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] | Literal["off"]
Multiple: TypeAlias = Annotated[float, msgspec.Meta(gt=1.0)] | Literal["off"]
APART = 2  # distance in batches of two values whose difference estimates the noise: neighbours may share noise
MEMORY = 50  # number of differences in the estimate of the noise
TO_SIGMA = 0.6745 * math.sqrt(2.0)  # median absolute difference of two normal values over their standard deviation


class Alarm(NamedTuple):
    """The number that an alarm tracks, and its bound.

    Attributes:
        number: field of a `Batch`.
        label: the number in words.
        bound: (mean at the start, limit, boxes per answer over those at the start) -> the value that the mean must
            reach by more than noise; None: the mean must reach the limit, whatever its start.
        falls: whether the mean must fall to the bound; else it must rise.
    """

    number: str
    label: str
    bound: Callable[[float, float, float], float] | None = None
    falls: bool = False


TOKENS = "n_tokens", "tokens per answer"
ALARMS: Mapping[str, Alarm] = MappingProxyType(
    {
        "reward_without_f1": Alarm("f1", "F1@.5"),  # compared with its best window: `_has_lost_f1`
        "box_flood": Alarm("boxes_per_object", "boxes per object", lambda start, limit, _: limit * max(1.0, start)),
        "repetition": Alarm("distinct_share", "share of distinct boxes", lambda start, limit, _: start - limit, True),
        "length_growth": Alarm(*TOKENS, lambda start, limit, boxes: limit * start * max(1.0, boxes)),
        "length_collapse": Alarm(*TOKENS, lambda start, limit, boxes: limit * start * min(1.0, boxes), True),
        "empty_answers": Alarm("empty", "share of empty answers", lambda start, limit, _: start + limit),
        "frac_reward_zero_std": Alarm("frac_reward_zero_std", "share of prompts without gradient"),
        "truncation": Alarm("clipped", "share of clipped answers"),
        "unscored": Alarm("unscored", "share of rows without a score"),
    }
)


class AlarmRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the alarms. "off" instead of a limit switches an alarm off. `settings.decoded` checks the values.

    Attributes:
        window: batches in a mean, both the current one and the one at the start.
        patience: consecutive batches for which a rule must hold before its alarm starts; the alarm ends when the rule
            has not held for `window` batches.
        sigmas: standard errors that a change must exceed.
        reward_without_f1: F1 at IoU .5 has fallen by this share from its best window, but the reward has not fallen
            within the current stage.
        box_flood: boxes per object have risen to this multiple of the start, and of 1.
        repetition: the share of distinct boxes has fallen by this much.
        length_growth: answers are this many times as long as at the start, beyond the growth from more boxes.
        length_collapse: answers have shrunk to this share, beyond the effect of fewer boxes (VLM-R1 issue 280).
        empty_answers: the share of empty answers to targets with objects has risen by this much.
        frac_reward_zero_std: this share of the prompts has rollouts with equal rewards, which give no gradient.
        truncation: this share of the answers fills the whole response budget.
        unscored: this share of the rows cannot be scored (unreadable ground truth, or a failing criterion).
    """

    window: Annotated[int, msgspec.Meta(ge=3)] = 7
    patience: Annotated[int, msgspec.Meta(ge=1)] = 2
    sigmas: Annotated[float, msgspec.Meta(ge=0.0)] = 7.0
    reward_without_f1: Share = 0.1
    box_flood: Multiple = 1.3
    repetition: Share = 0.15
    length_growth: Multiple = 2.0
    length_collapse: Share = 0.5
    empty_answers: Share = 0.15
    frac_reward_zero_std: Share = 0.9
    truncation: Share = 0.25
    unscored: Share = 0.05

    @property
    def names(self) -> tuple[str, ...]:
        """The alarms that are on."""
        return tuple([name for name in ALARMS if getattr(self, name) != OFF])


@dataclass(frozen=True, slots=True)
class Batch:
    """Scores of one sampled batch of training. None and non-finite values count as missing.

    Attributes:
        stage: a number that changes with the thresholds: rewards of two stages are not compared.
        reward, f1: mean reward, and mean F1 at IoU .5, of the rows with boxes as answer.
        boxes, boxes_per_object: boxes per answer, and per object, of these rows.
        distinct_share: mean share of an answer's distinct boxes (or points).
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
        """Name -> value of all finite numbers."""
        values = {name: getattr(self, name) for name in TRACKED}
        return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


TRACKED = tuple([each.name for each in fields(Batch) if each.name not in ("step", "stage")])


class Comparison(NamedTuple):
    """The first, highest and last mean of a window, and the standard error of a difference of two means."""

    first: float
    best: float
    now: float
    error: float


@dataclass(frozen=True, slots=True)
class Track:
    """A number over the batches so far.

    Attributes:
        recent: the last values, at most a window of them.
        start: mean of the first window; None before it is full.
        best: the highest mean of a window.
        differences: the last `MEMORY` absolute differences of values `APART` batches apart.
    """

    recent: tuple[float, ...] = ()
    start: float | None = None
    best: float | None = None
    differences: tuple[float, ...] = ()

    def add(self, value: float, window: int) -> Track:
        """Return the track with one more value."""
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
        """Compare its windows; None before the first one is full."""
        if self.start is None or len(self.recent) < window:
            return None
        error = (median(self.differences) / TO_SIGMA if self.differences else 0.0) / math.sqrt(window)
        best = self.start if self.best is None else self.best
        return Comparison(self.start, best, math.fsum(self.recent) / len(self.recent), math.hypot(error, error))


@dataclass(frozen=True, slots=True)
class Status:
    """One alarm: whether it is on, for how many batches its rule disagreed, and the step of its last change."""

    is_on: bool = False
    n_against: int = 0
    since: int = 0

    def update(self, holds: bool | None, step: int, rules: AlarmRules) -> Status:
        """Return the status after one more batch; None: the rule is undecided."""
        if holds is None or holds == self.is_on:
            return self if holds is None else Status(self.is_on, 0, self.since)
        n_against = self.n_against + 1
        if n_against < (rules.window if self.is_on else rules.patience):
            return Status(self.is_on, n_against, self.since)
        return Status(not self.is_on, 0, step)


@dataclass(frozen=True, slots=True)
class AlarmState:
    """State of all alarms.

    Attributes:
        tracks: name in `TRACKED` -> its track, if it has values; the reward's covers only the current stage.
        stage: the current stage.
        statuses: alarm -> its status.
    """

    tracks: dict[str, Track] = field(default_factory=dict[str, Track])
    stage: int = 0
    statuses: dict[str, Status] = field(default_factory=dict[str, Status])

    def compare(self, number: str, rules: AlarmRules) -> Comparison | None:
        """Compare the windows of a number; None before the first one is full."""
        return self.tracks.get(number, Track()).compare(rules.window)

    def is_on(self, name: str) -> bool:
        """Whether an alarm is on."""
        return self.statuses.get(name, Status()).is_on

    def state(self) -> dict[str, Any]:
        """Convert to JSON-able values; `from_state` is its inverse."""
        return msgspec.to_builtins(self)

    @classmethod
    def from_state(cls, state: Any) -> AlarmState:
        """Read the values of `state`; ValueError for others."""
        if not isinstance(state, dict) or state.keys() != AlarmState.__dataclass_fields__.keys():
            raise ValueError(f"alarm state: {str(state)[:80]}: needs tracks, stage and statuses")
        try:
            return msgspec.convert(state, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"alarm state: {error}") from None


def advance(rules: AlarmRules, state: AlarmState, batch: Batch) -> AlarmState:
    """Return the state after one more batch. After a restart with a shorter window, stored values remain in use."""
    tracks = dict(state.tracks)
    if batch.stage != state.stage:
        tracks.pop("reward", None)
    for name, value in batch.numbers.items():
        tracks[name] = tracks.get(name, Track()).add(value, rules.window)
    state = replace(state, tracks=tracks, stage=batch.stage)
    before = state.statuses
    statuses = {
        name: before.get(name, Status()).update(_holds(name, rules, state), batch.step, rules) for name in rules.names
    }
    return replace(state, statuses=statuses)


def _holds(name: str, rules: AlarmRules, state: AlarmState) -> bool | None:
    """Whether an alarm's rule holds; None if undecided."""
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
    if reward is None:  # thresholds have just moved: the reward has no window yet
        return has_fallen
    # F1's fall is significant; for a fall of the reward with it, half as many standard errors suffice.
    return has_fallen and not reward.first - reward.now > rules.sigmas / 2.0 * reward.error


def changes(before: AlarmState, after: AlarmState) -> dict[str, bool]:
    """Return the alarms that started (True) or ended (False) between two states."""
    names = dict.fromkeys((*before.statuses, *after.statuses))
    return {name: after.is_on(name) for name in names if before.is_on(name) != after.is_on(name)}


def reading(name: str, rules: AlarmRules, state: AlarmState) -> str:
    """Return the numbers of an alarm in words; "" before the first window is full."""
    alarm = ALARMS[name]
    seen = state.compare(alarm.number, rules)
    if seen is None:
        return ""
    if name != "reward_without_f1":
        return f"{alarm.label} {seen.now:.3g}, at the start {seen.first:.3g}"
    reward = state.compare("reward", rules)
    of_reward = "thresholds have moved" if reward is None else f"{reward.first:.3g} -> {reward.now:.3g}"
    return f"{alarm.label} {seen.best:.3g} -> {seen.now:.3g}, reward {of_reward}"
