"""The alarms: the number that each tracks, and the limit at which it starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

OFF = "off"
Limit: TypeAlias = float | Literal["off"]


@dataclass(frozen=True, slots=True)
class Alarm:
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


@dataclass(frozen=True, slots=True)
class AlarmRules:
    """Limits of the alarms. "off" instead of a limit switches an alarm off.

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

    Raises:
        ValueError: a setting out of its range; the message names it and its value.
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
        # Settings are not type-checked before this.
        for name, least in (("window", 3), ("patience", 1)):
            value: Any = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} = {value!r}: needs a whole number of at least {least}")
        if not _is_number(self.sigmas) or self.sigmas < 0.0:
            raise ValueError(f"sigmas = {self.sigmas!r}: needs a number of at least 0")
        for name in ALARMS:
            limit: Any = getattr(self, name)
            if limit is False:  # YAML reads a bare off as False
                object.__setattr__(self, name, OFF)
            elif limit != OFF:
                is_above = name in ("box_flood", "length_growth")
                if not _is_number(limit) or not (limit > 1.0 if is_above else 0.0 < limit <= 1.0):
                    range_ = "above 1" if is_above else "in (0, 1]"
                    raise ValueError(f"{name} = {limit!r}: needs a number {range_}, or off")

    @property
    def names(self) -> tuple[str, ...]:
        """The alarms that are on."""
        return tuple([name for name in ALARMS if getattr(self, name) != OFF])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
