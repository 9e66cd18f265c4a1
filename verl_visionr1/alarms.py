"""Alarms while training runs: reward that is earned without finding objects, and answers that go to pieces.

A pure state machine like `gate`: frozen records in, frozen records out, no clock. Whoever trains hands over what each
sampled batch scored, keeps the state, and writes it into the checkpoint; from there the same batches lead to the same
alarms. An alarm never changes a reward. It only says where to look.

A number has to leave its place by more than its noise: the mean over the last `window` batches is compared with the
mean over the first ones, by how far it moved and by how many standard errors. The noise is taken from differences of
batches a few steps apart, over the whole run: a steady drift, which a spread within the window would count as noise,
hardly enters it. So a healthy noisy run is quiet, and a small batch needs a larger move than a big one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from statistics import median
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import msgspec

OFF = "off"
Limit: TypeAlias = float | Literal["off"]


@dataclass(frozen=True, slots=True)
class AlarmRules:
    """When each alarm goes off. "off" in place of a limit switches its alarm off.

    Attributes:
        window: batches in a mean, and in what it is compared with.
        patience: consecutive batches at which a rule must hold before its alarm starts; it ends when the rule has not
            held for `window` batches.
        sigmas: standard errors of the difference that a move must exceed.
        reward_without_f1: F1 at IoU .5 has fallen by this share from its best window, and the reward, within the
            present stage, has not fallen with it.
        box_flood: boxes per object have risen to this multiple of the start, and of 1.
        repetition: the share of distinct boxes has fallen by this much.
        length_growth: answers have become so many times as long, and longer than more boxes explain.
        length_collapse: answers have shrunk to this share, and by more than fewer boxes explain (VLM-R1 issue 280).
        empty_answers: the share of answers that say nothing, where there is something, has risen by this much.
        frac_reward_zero_std: this share of the prompts has rollouts whose rewards are all equal, which teach nothing.
        truncation: this share of the answers fills the whole response budget.
        unscored: this share of the rows cannot be scored: ground truth that cannot be read, a criterion that fails.

    Raises:
        ValueError: a setting that cannot be; the message names it and its value.

    >>> AlarmRules(box_flood=0.5)
    Traceback (most recent call last):
    ...
    ValueError: box_flood = 0.5: needs a number above 1, or off
    """

    window: int = 7
    patience: int = 2
    sigmas: float = 7.0
    reward_without_f1: Limit = 0.1
    box_flood: Limit = 1.5
    repetition: Limit = 0.15
    length_growth: Limit = 2.0
    length_collapse: Limit = 0.5
    empty_answers: Limit = 0.15
    frac_reward_zero_std: Limit = 0.9
    truncation: Limit = 0.25
    unscored: Limit = 0.05

    def __post_init__(self) -> None:
        # Settings may hold anything, whatever the annotation says.
        for name, least in (("window", 3), ("patience", 1)):
            value: Any = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} = {value!r}: needs a whole number of at least {least}")
        if not _is_number(self.sigmas) or self.sigmas < 0.0:
            raise ValueError(f"sigmas = {self.sigmas!r}: needs a number of at least 0")
        for name in ALARMS:
            limit: Any = getattr(self, name)
            if limit is False:  # YAML reads a bare off so
                object.__setattr__(self, name, OFF)
            elif limit != OFF:
                is_above = name in ("box_flood", "length_growth")
                if not _is_number(limit) or not (limit > 1.0 if is_above else 0.0 < limit <= 1.0):
                    raise ValueError(
                        f"{name} = {limit!r}: needs a number {'above 1' if is_above else 'in (0, 1]'}, or off"
                    )

    @property
    def names(self) -> tuple[str, ...]:
        """The alarms that are on."""
        return tuple([name for name in ALARMS if getattr(self, name) != OFF])


ALARMS = tuple([each.name for each in fields(AlarmRules) if each.name not in ("window", "patience", "sigmas")])
"""Names of the alarms."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one sampled batch of training scored. None, and what is not finite: it has no such number.

    Attributes:
        step: the training step.
        stage: anything that differs when thresholds have moved: rewards of two stages are not compared.
        reward, f1: mean reward, and mean F1 at IoU .5, of the rows whose answer is boxes.
        boxes, boxes_per_object: boxes an answer, and an object, of these rows.
        distinct_share: mean share of an answer's boxes (or points) that are not written twice.
        n_tokens: mean length of an answer.
        empty: share of answers that say nothing where there is something.
        clipped: share of answers that fill the response budget.
        frac_reward_zero_std: share of prompts whose rollouts all have the same reward.
        unscored: share of rows that could not be scored.
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

    def number(self, name: str) -> float | None:
        """A number by its name; None where there is none that is finite."""
        value = getattr(self, name)
        return float(value) if value is not None and math.isfinite(value) else None


TRACKED = (
    "f1",
    "reward",
    "boxes",
    "boxes_per_object",
    "distinct_share",
    "n_tokens",
    "empty",
    "clipped",
    "frac_reward_zero_std",
    "unscored",
)
"""Numbers of a `Batch` that are compared with their own earlier ones."""


APART = 2
"""Batches between two values whose difference tells the noise: neighbours may share some of theirs."""
MEMORY = 50
"""Differences that the estimate of the noise remembers."""
TO_SIGMA = 0.6745 * math.sqrt(2.0)
"""Median absolute difference of two normal values over their standard deviation."""


@dataclass(frozen=True, slots=True)
class Level:
    """The mean of a number over some batches, and its standard error."""

    mean: float
    error: float

    def is_above(self, other: Level, sigmas: float) -> bool:
        """Whether this lies above another by more than their noise."""
        return self.mean - other.mean > sigmas * math.hypot(self.error, other.error)


@dataclass(frozen=True, slots=True)
class Track:
    """A number over the batches seen.

    Attributes:
        recent: the last values, at most a window of them.
        start: mean of the first window; None before it is full.
        best: the highest mean of a window.
        differences: absolute ones of values `APART` batches apart, the last `MEMORY`. Their median tells the noise: a
            jump is in few of them, and a drift moves them little.
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

    def level(self, mean: float | None, window: int) -> Level:
        """A mean over a window with its standard error; without a mean, that of the last window."""
        noise = median(self.differences) / TO_SIGMA if self.differences else 0.0
        return Level(math.fsum(self.recent) / len(self.recent) if mean is None else mean, noise / math.sqrt(window))

    def is_full(self, window: int) -> bool:
        """Whether a window has been seen."""
        return self.start is not None and len(self.recent) >= window


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
        tracks: name in `TRACKED` -> its number; what was never seen is not in it. The reward is that of the present
            stage alone, since rewards under other thresholds cannot be compared.
        stage: the present stage.
        statuses: alarm -> its status; one that never began to hold may not be in it.
    """

    tracks: Mapping[str, Track] = field(default_factory=dict[str, Track])
    stage: int = 0
    statuses: Mapping[str, Status] = field(default_factory=dict[str, Status])

    def __post_init__(self) -> None:
        object.__setattr__(self, "tracks", MappingProxyType(dict(self.tracks)))
        object.__setattr__(self, "statuses", MappingProxyType(dict(self.statuses)))

    def is_on(self, name: str) -> bool:
        """Whether an alarm is on."""
        return self.statuses.get(name, Status()).is_on

    def state(self) -> dict[str, Any]:
        """As JSON can hold it; `from_state` is its inverse."""
        return {
            "tracks": {name: msgspec.to_builtins(track) for name, track in self.tracks.items()},
            "stage": self.stage,
            "statuses": {name: msgspec.to_builtins(status) for name, status in self.statuses.items()},
        }

    @classmethod
    def from_state(cls, state: Any) -> AlarmState:
        """Read what `state` gave.

        Raises:
            ValueError: something else.
        """
        try:
            read = msgspec.convert(state, _State)
        except msgspec.ValidationError as error:
            raise ValueError(f"alarm state: {error}") from None
        return cls(read.tracks, read.stage, read.statuses)


class _State(msgspec.Struct, forbid_unknown_fields=True):
    tracks: dict[str, Track]
    stage: int
    statuses: dict[str, Status]


def advance(rules: AlarmRules, state: AlarmState, batch: Batch) -> AlarmState:
    """The state after one more batch. A window that was longer before a restart counts as far as it reaches.

    >>> rules, state = AlarmRules(window=3, patience=1), AlarmState()
    >>> for step, boxes in enumerate([1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 2.0, 3.0, 3.1]):
    ...     state = advance(rules, state, Batch(step, boxes_per_object=boxes))
    >>> state.statuses["box_flood"]
    Status(is_on=True, n_against=0, since=7)
    """
    tracks = dict(state.tracks)
    if batch.stage != state.stage:
        tracks.pop("reward", None)
    for name in TRACKED:
        value = batch.number(name)
        if value is not None:
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
    if name == "reward_without_f1":
        return _has_lost_f1(limit, rules, state)
    levels = _start_and_now(state, NUMBER_OF[name], rules.window)
    if levels is None:
        return None
    start, now = levels
    if name in _LEVELS:
        return now.mean >= limit
    boxes = _start_and_now(state, "boxes", rules.window)
    bound = _BOUNDS[name](start.mean, limit, boxes[1].mean / boxes[0].mean if boxes and boxes[0].mean > 0 else 1.0)
    if name in _FALLS:
        return now.mean <= bound and start.is_above(now, rules.sigmas)
    return now.mean >= bound and now.is_above(start, rules.sigmas)


NUMBER_OF: Mapping[str, str] = MappingProxyType(
    {
        "reward_without_f1": "f1",
        "box_flood": "boxes_per_object",
        "repetition": "distinct_share",
        "length_growth": "n_tokens",
        "length_collapse": "n_tokens",
        "empty_answers": "empty",
        "frac_reward_zero_std": "frac_reward_zero_std",
        "truncation": "clipped",
        "unscored": "unscored",
    }
)
"""Alarm -> the number of a `Batch` that it looks at."""
_LEVELS = ("frac_reward_zero_std", "truncation", "unscored")
"""Bad wherever they started."""
_FALLS = ("repetition", "length_collapse")
_BOUNDS: Mapping[str, Callable[[float, float, float], float]] = MappingProxyType(
    {
        "box_flood": lambda start, limit, _: limit * max(1.0, start),
        "repetition": lambda start, limit, _: start - limit,
        "length_growth": lambda start, limit, more_boxes: limit * start * max(1.0, more_boxes),
        "length_collapse": lambda start, limit, more_boxes: limit * start * min(1.0, more_boxes),
        "empty_answers": lambda start, limit, _: start + limit,
    }
)
"""Alarm -> (level at the start, limit, boxes an answer over those at the start) -> what the level must reach."""


def _has_lost_f1(limit: float, rules: AlarmRules, state: AlarmState) -> bool | None:
    f1, reward = _best_and_now(state, "f1", rules.window), _start_and_now(state, "reward", rules.window)
    if f1 is None:
        return None
    best, now = f1
    has_fallen = now.mean <= (1.0 - limit) * best.mean and best.is_above(now, rules.sigmas)
    if reward is None:  # thresholds have just moved: nothing speaks for the reward
        return has_fallen
    # F1's fall is beyond all doubt; a reward that fell in proportion shows at half as many standard errors.
    return has_fallen and not reward[0].is_above(reward[1], rules.sigmas / 2.0)


def _start_and_now(state: AlarmState, number: str, window: int) -> tuple[Level, Level] | None:
    track = state.tracks.get(number, Track())
    return (track.level(track.start, window), track.level(None, window)) if track.is_full(window) else None


def _best_and_now(state: AlarmState, number: str, window: int) -> tuple[Level, Level] | None:
    track = state.tracks.get(number, Track())
    return (track.level(track.best, window), track.level(None, window)) if track.is_full(window) else None


def changes(before: AlarmState, after: AlarmState) -> dict[str, bool]:
    """Alarms that have started (True) or ended (False) between two states."""
    names = dict.fromkeys((*before.statuses, *after.statuses))
    return {name: after.is_on(name) for name in names if before.is_on(name) != after.is_on(name)}


def reading(name: str, rules: AlarmRules, state: AlarmState) -> str:
    """The numbers that an alarm looks at, in words; "" where there are none.

    >>> state = AlarmState(tracks={"empty": Track((0.3, 0.4, 0.5), start=0.01)})
    >>> reading("empty_answers", AlarmRules(window=3), state)
    'share of empty answers 0.4, at the start 0.01'
    """
    if name == "reward_without_f1":
        f1, reward = _best_and_now(state, "f1", rules.window), _start_and_now(state, "reward", rules.window)
        if f1 is None:
            return ""
        of_reward = "thresholds have moved" if reward is None else f"{reward[0].mean:.3g} -> {reward[1].mean:.3g}"
        return f"F1@.5 {f1[0].mean:.3g} -> {f1[1].mean:.3g}, reward {of_reward}"
    levels = _start_and_now(state, NUMBER_OF[name], rules.window)
    if levels is None:
        return ""
    return f"{_SAID[NUMBER_OF[name]]} {levels[1].mean:.3g}, at the start {levels[0].mean:.3g}"


_SAID = {
    "boxes_per_object": "boxes per object",
    "distinct_share": "share of distinct boxes",
    "n_tokens": "tokens an answer",
    "empty": "share of empty answers",
    "clipped": "share of answers cut off",
    "frac_reward_zero_std": "share of prompts without gradient",
    "unscored": "share of rows without a score",
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
