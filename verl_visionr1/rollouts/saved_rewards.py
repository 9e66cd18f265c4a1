"""Saved rewards next to re-scored ones: where they differ, the reward was not computed as it is now, and why."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import msgspec

from verl_visionr1.frames import FRAMES, FrameError
from verl_visionr1.rewards import PRESETS
from verl_visionr1.rollouts.judging import Judging, Moment
from verl_visionr1.rollouts.records import Rollout

EQUAL = 1e-5
"""Rewards that differ by no more are the same: verl keeps them as float32."""
FINE = 0.99
"""From this share of equal rewards on, nothing is said."""
N_KEPT = 64
"""Rollouts that other ways to judge are tried on."""
BETTER = 0.2
"""A way to judge is named where it explains this much more of the saved rewards."""


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """How far saved rewards differ from re-scored ones.

    Attributes:
        n: rows with a saved reward.
        mean: mean saved reward.
        equal: share of the rows where both are the same, up to `EQUAL`.
        mean_difference, max_difference: of the absolute differences.
    """

    n: int
    mean: float
    equal: float
    mean_difference: float
    max_difference: float


class _Differences:
    __slots__ = ("largest", "n", "n_equal", "saved", "total")

    def __init__(self) -> None:
        self.n = self.n_equal = 0
        self.saved = self.total = self.largest = 0.0

    def add(self, saved: float, difference: float) -> None:
        self.n += 1
        self.n_equal += difference <= EQUAL
        self.saved += saved
        self.total += difference
        self.largest = max(self.largest, difference)

    def found(self) -> Saved:
        return Saved(
            n=self.n,
            mean=self.saved / self.n,
            equal=self.n_equal / self.n,
            mean_difference=self.total / self.n,
            max_difference=self.largest,
        )


class SavedScores:
    """Takes rollouts with a saved reward one by one, and keeps a random few of them."""

    def __init__(self) -> None:
        self._overall = _Differences()
        self._by_source: dict[str, _Differences] = {}
        self._kept: list[Rollout] = []
        self._random = random.Random(0)

    def add(self, rollout: Rollout, value: float) -> None:
        """Take a rollout and the reward it gets now."""
        saved = rollout.saved
        assert saved is not None
        difference = abs(saved - value)
        self._overall.add(saved, difference)
        self._by_source.setdefault(rollout.source, _Differences()).add(saved, difference)
        if len(self._kept) < N_KEPT:
            self._kept.append(rollout)
        elif (place := self._random.randrange(self._overall.n)) < N_KEPT:
            self._kept[place] = rollout

    def found(self) -> tuple[Saved | None, dict[str, Saved]]:
        """Over all rows, and by data source."""
        overall = self._overall.found() if self._overall.n else None
        return overall, {source: differences.found() for source, differences in self._by_source.items()}

    def hints(self, judging: Judging) -> list[str]:
        """What explains the saved rewards better than `judging` does: another frame, stage or preset."""
        if not self._overall.n or self._overall.n_equal >= FINE * self._overall.n:
            return []
        now = self._explained(judging)
        tried = [(self._explained(other), options) for options, other in _alternatives(judging)]
        share = max(explained for explained, _ in tried)
        differ = (
            f"{1 - self._overall.n_equal / self._overall.n:.0%} of the saved rewards differ from the re-scored ones"
        )
        if share >= now + BETTER:
            best = [options for explained, options in tried if explained == share]
            simple = [options for options in best if "--preset" not in options]
            named = " or ".join((simple or best)[:3])
            return [f"{differ}: with {named} {share:.0%} of a sample are equal (now {now:.0%})"]
        return [f"{differ}: other weights, thresholds or another model's frame; --frame, --total-steps, --preset"]

    def _explained(self, judging: Judging) -> float:
        """Share of the kept rollouts whose saved reward comes out."""
        return sum(_is_explained(rollout, judging) for rollout in self._kept) / len(self._kept)


def _is_explained(rollout: Rollout, judging: Judging) -> bool:
    assert rollout.saved is not None
    try:
        return abs(judging.score(rollout, judging.preset_for(rollout)).value - rollout.saved) <= EQUAL
    except (FrameError, ValueError):
        return False  # a frame whose processed size is not known, a stage that this preset does not have


def _alternatives(judging: Judging) -> Iterator[tuple[str, Judging]]:
    """(options of the command, the judging they make): every frame at every stage, then every preset."""

    def variants(options: str, **changes: Any) -> Iterator[tuple[str, Judging]]:
        changed = replace(judging, **changes)
        yield options, changed
        for stage, _ in enumerate(changed.preset.schedule.points[:4]):
            yield f"{options} --stage {stage}".strip(), replace(changed, moment=Moment(stage=stage))
        if judging.moment != Moment():
            yield f"{options} --progress off".strip(), replace(changed, moment=Moment())

    yield from islice(variants("", frame=judging.frame), 1, None)
    for name, frame in FRAMES.items():
        if name != judging.frame.name:
            yield from variants(f"--frame {name}", frame=frame)
    for name, preset in PRESETS.items():
        if name != judging.preset.name:
            yield from variants(f"--preset {name}", preset=preset)
