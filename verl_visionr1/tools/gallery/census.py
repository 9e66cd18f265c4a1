"""Score all rollouts once; one table, and the numbers of each step and each group."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from verl_visionr1.files import RowsError
from verl_visionr1.rollouts.inference import Sample
from verl_visionr1.rollouts.judged import Floats, Ints, Judged, TableBuilder, groups_of
from verl_visionr1.rollouts.judging import EQUAL, Judging, Moment
from verl_visionr1.rollouts.places import Dump
from verl_visionr1.rollouts.records import Columns, Counts, OnError, Rollout, data_sources_of, read_rollouts
from verl_visionr1.schedule import follow_model, last_progress

EPSILON = 1e-6
"""Added to the standard deviation, as verl's `compute_grpo_outcome_advantage` does."""
LEAST_LOSS = 0.05
"""Smallest loss of quality under a higher reward that is reported."""
LENGTH, TOKENS, SPREAD, FLAT = "characters", "tokens", "group_std", "frac_reward_zero_std"
REWARD, SAVED = "reward", "saved reward"
_NAMES = {"value": REWARD, "saved": SAVED, "n_characters": LENGTH, "n_tokens": TOKENS}
_BY = ("dump", "source", "step")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a gallery.

    Attributes:
        data: parquet files of the training data, for images and data sources.
        data_name: how notes name them.
        title: of the page; "": the names of its inputs.
        limit: most rollouts that are shown, in whole prompt groups; curves use all rollouts.
        side: longer side of a picture in pixels.
        has_causes: whether to compute the first line of `visionr1 explain` for each shown rollout: 2 to 30 ms each.
        validation_names: folders of the run's validation dumps.
        options: of `visionr1 explain`, for the commands in the page; the progress of each row is added.
        on_error: what to do with a row that cannot be read or scored: "fail", or "skip", which counts it.

    Raises:
        RowsError: a number out of its range.
    """

    judging: Judging
    data: tuple[Path, ...] = ()
    data_name: str = "--data"
    title: str = ""
    limit: int = 4000
    side: int = 320
    has_causes: bool = True
    columns: Columns = field(default_factory=Columns)
    on_error: OnError = "skip"
    validation_names: tuple[str, ...] = ()
    options: str = ""

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise RowsError(f"--limit {self.limit}: needs at least 1")
        if not 32 <= self.side <= 2048:
            raise RowsError(f"--side {self.side}: needs 32 to 2048")

    def judging_of(self, dump: Dump) -> Judging:
        """How the rollouts of a dump are scored: training at each step's thresholds, validation at the final ones."""
        judging = self.judging
        if not dump.is_validation or judging.moment.total_steps is None:
            return judging
        schedule = follow_model(judging.preset.schedule, judging.frame.name)
        at = schedule.final_progress(last_progress(judging.moment.total_steps))
        return replace(judging, moment=Moment(progress=at))


@dataclass(frozen=True, slots=True)
class GroupNumbers:
    """Statistics of the rewards of one prompt's rollouts.

    Attributes:
        saved, values, qualities: see `numbers_of`.
        rewards: the run's, if it gave one to each rollout; else the recomputed ones.
        std: their standard deviation, divided by n - 1 as in verl's GRPO; 0.0 for one rollout.
        advantages: (reward - mean) / (std + `EPSILON`), one per rollout; empty for a single rollout.
        is_flat: whether several rollouts all have one reward, so that nothing is learned.
        against: largest fall of quality from one rollout to another with a higher reward; 0.0 below `LEAST_LOSS`.
        misled: numbers of the rollouts with a higher reward than a better one.
    """

    saved: Sequence[float | None]
    values: Sequence[float]
    qualities: Sequence[float]
    rewards: tuple[float, ...]
    is_saved: bool
    mean: float
    std: float
    advantages: tuple[float, ...]
    is_flat: bool
    against: float
    misled: tuple[int, ...]


def numbers_of(saved: Sequence[float | None], values: Sequence[float], qualities: Sequence[float]) -> GroupNumbers:
    """Compute the statistics of one group.

    Args:
        saved: n >= 1 rewards given by the run.
        values: n recomputed rewards.
        qualities: n numbers in [0, 1] that do not depend on thresholds: F1@.5 of boxes, else the task's accuracy.

    >>> group = numbers_of([None, None, None], [0.0, 0.5, 1.0], [0.9, 0.5, 0.2])
    >>> group.std, [round(advantage, 3) for advantage in group.advantages]
    (0.5, [-1.0, 0.0, 1.0])
    >>> round(group.against, 3), group.misled
    (0.7, (1, 2))
    """
    given = [reward for reward in saved if reward is not None]
    is_saved = len(given) == len(saved)
    rewards = tuple(given if is_saved else values)
    n = len(rewards)
    group = groups_of([0] * n, rewards)
    mean, std, is_flat = float(group.mean[0]), float(group.std[0]), bool(group.is_dead[0])
    advantages = tuple(0.0 if is_flat else (reward - mean) / (std + EPSILON) for reward in rewards) * (n > 1)
    against, misled = _against(np.array(rewards), np.array(qualities))
    return GroupNumbers(
        saved, values, qualities, rewards, is_saved, mean, std, advantages, is_flat, against, tuple(misled)
    )


def _against(rewards: Floats, qualities: Floats) -> tuple[float, list[int]]:
    """Largest fall of quality under a rise of reward, and the rollouts that gain by one."""
    order = np.argsort(rewards, kind="stable")
    n_lower = np.searchsorted(rewards[order], rewards - EQUAL)
    best = np.concatenate([[-np.inf], np.maximum.accumulate(qualities[order])])
    loss = best[n_lower] - qualities
    misled = np.flatnonzero(loss >= LEAST_LOSS)
    return float(loss[misled].max(initial=0.0)), misled.tolist()


class Census:
    """Statistics of all rollouts."""

    def __init__(self, table: Judged, keys: dict[Hashable, int], sample: Sequence[Rollout]) -> None:
        self.table, self.keys, self.sample = table, keys, list(sample)
        self._order = np.argsort(table.group, kind="stable")
        self._starts = np.searchsorted(table.group[self._order], np.arange(len(keys) + 1))
        self._qualities = table.quality()

    @property
    def sizes(self) -> Ints:
        """Rollouts of each group, in the order of the files."""
        return np.diff(self._starts)

    def group(self, key: Hashable) -> GroupNumbers:
        """The numbers of one group, its rollouts in the order of the file."""
        table, number = self.table, self.keys[key]
        rows = self._order[self._starts[number] : self._starts[number + 1]]
        saved = [None if np.isnan(saved) else saved for saved in table.saved[rows].tolist()]
        return numbers_of(saved, table.value[rows].tolist(), self._qualities[rows].tolist())

    @cached_property
    def places(self) -> dict[tuple[int, ...], dict[str, float]]:
        """(dump, source, step) -> name -> mean over the rollouts that have it; standard deviations over groups."""
        table = self.table
        found = {
            place: {_NAMES.get(name, name): mean for name, mean in means.items()}
            for place, means in table.means(by=_BY).items()
        }
        groups = table.groups(self._rewards)
        rows = groups.first[groups.several]
        places = np.stack([getattr(table, name)[rows] for name in _BY], axis=1)
        for place in np.unique(places, axis=0):
            here = (places == place).all(axis=1)
            for name, column in ((SPREAD, groups.std), (FLAT, groups.is_dead)):
                found[tuple(place.tolist())][name] = float(column[groups.several][here].mean())
        return found

    @property
    def _rewards(self) -> Floats:
        """Rewards for advantages: the run's, if it gave one to each rollout of the group; else the recomputed ones."""
        table = self.table
        n_saved = np.bincount(table.group, table.has_saved, minlength=len(self.keys))
        return np.where((n_saved == self.sizes)[table.group], table.saved, table.value)


class Reader:
    """Reads dumps according to the settings."""

    def __init__(self, dumps: Sequence[Dump], settings: Settings) -> None:
        self.dumps, self.settings = dumps, settings
        self.judgings = [settings.judging_of(dump) for dump in dumps]
        self.counts = Counts()
        self._sources = data_sources_of(settings.data) if settings.data else None

    def rollouts(self, counts: Counts | None = None) -> Iterator[tuple[int, Rollout]]:
        """(number of the dump, rollout), in the order of the files."""
        settings = self.settings
        for number, dump in enumerate(self.dumps):
            for rollout in read_rollouts(
                dump.files,
                sources=self._sources,
                columns=settings.columns,
                on_error=settings.on_error,
                counts=counts,
                validation_names=settings.validation_names,
            ):
                yield number, rollout


def take_census(reader: Reader) -> Census:
    """Score all rollouts."""
    builder, sample = TableBuilder(), Sample()
    for dump, rollout in reader.rollouts(reader.counts):
        judging = reader.judgings[dump]
        try:
            preset = judging.preset_for(rollout)
            score = judging.score(rollout, preset)
        except ValueError as error:  # FrameError, SizeError, RewardError
            if reader.settings.on_error == "fail":
                raise
            where = f"{rollout.where}: "
            reader.counts.skip(where + str(error).removeprefix(where))
            continue
        builder.add(rollout, preset, score, dump=dump)
        if rollout.saved is not None:
            sample.add(rollout)
    return Census(builder.table(), dict(builder.names["group"]), sample.rollouts)


def choose_groups(sizes: Ints, limit: int) -> list[int]:
    """Choose whole groups at even distances, with at most `limit` rollouts but at least one group; in their order."""
    if sizes.sum() <= limit:
        return list(range(len(sizes)))
    kept: list[int] = []
    left = limit
    for number in _spread(len(sizes)):
        size = int(sizes[number])
        if size <= left or not kept:
            kept.append(number)
            left -= size
        if left <= 0:
            break
    return sorted(kept)


def _spread(n: int) -> list[int]:
    """Order 0..n-1 so that every prefix is evenly spread (van der Corput sequence)."""
    bits = max(n - 1, 1).bit_length()
    order = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits))
    return [place for place in order if place < n]
