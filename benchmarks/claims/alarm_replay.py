"""Replays the current alarms on the study's training curves: they must fire on gamed runs and on no healthy one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl_visionr1.alarms import AlarmRules, AlarmState, Batch, advance, changes

OLD_NAMES = {"dead_groups": "frac_reward_zero_std", "cut_off": "clipped"}
"""Old -> new names of metrics in recorded runs."""
WINDOW, LOSS = 5, 0.1
"""F1 counts as damaged if its mean over `WINDOW` steps is this share below its best such mean."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The alarms of a run.

    Attributes:
        first: alarm -> the first step at which it was on.
        damaged_at: the first step at which F1 of the training rollouts was damaged; None: never.
    """

    first: Mapping[str, int]
    damaged_at: int | None

    def __str__(self) -> str:
        return ", ".join([f"{name} at step {step}" for name, step in self.first.items()]) or "silent"


def batches(curve: Sequence[Mapping[str, Any]]) -> Iterator[Batch]:
    """Yield each recorded step as a batch for the alarms."""
    for step in curve:
        numbers = {_current_key(key): value for key, value in step.items()}
        mean = {key[len("visionr1/") : -len("/mean")]: value for key, value in numbers.items() if key.endswith("/mean")}
        if "n_predicted" not in mean:
            continue  # the validation before training
        yield Batch(
            int(step["step"]),
            int(numbers.get("visionr1/stage", 0)),
            reward=mean["value"],
            f1=mean["f1_50"],
            boxes=mean["n_predicted"],
            boxes_per_object=mean["n_predicted"] / mean["n_target"],
            distinct_share=mean["distinct_share"],
            n_tokens=mean["n_tokens"],
            empty=mean["empty"],
            clipped=mean["clipped"],
            frac_reward_zero_std=mean["frac_reward_zero_std"],
            unscored=mean["unscored"],
        )


def _current_key(key: str) -> str:
    return "/".join([OLD_NAMES.get(part, part) for part in key.split("/")])


def replay(curve: Sequence[Mapping[str, Any]], rules: AlarmRules | None = None) -> Replay:
    """Run the alarms on the recorded steps."""
    rules, state, first = rules or AlarmRules(), AlarmState(), dict[str, int]()
    f1: list[tuple[int, float]] = []
    for batch in batches(curve):
        after = advance(rules, state, batch)
        for name, is_on in changes(state, after).items():
            if is_on:
                first.setdefault(name, batch.step)
        state = after
        f1.append((batch.step, batch.f1 or 0.0))
    return Replay(first, _damaged_at(f1))


def _damaged_at(f1: Sequence[tuple[int, float]]) -> int | None:
    best = 0.0
    for end in range(WINDOW, len(f1) + 1):
        mean = sum(value for _, value in f1[end - WINDOW : end]) / WINDOW
        best = max(best, mean)
        if mean <= (1.0 - LOSS) * best:
            return f1[end - 1][0]
    return None
