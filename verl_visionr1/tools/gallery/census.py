"""Score all rollouts once; one table, and the numbers of each step and each group."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from verl_visionr1.rollouts.inference import Sample
from verl_visionr1.rollouts.judged import NO_STEP, Floats, Ints, Judged, TableBuilder, groups_of
from verl_visionr1.rollouts.judging import EQUAL
from verl_visionr1.rollouts.places import Dump
from verl_visionr1.rollouts.records import Counts, Rollout, data_sources_of, read_rollouts
from verl_visionr1.tools.gallery.settings import Sampling, Settings

EPSILON = 1e-6
"""Added to the standard deviation, as verl's `compute_grpo_outcome_advantage` does."""

LEAST_LOSS = 0.05
"""Smallest loss of quality under a higher reward that is reported."""
LENGTH, TOKENS, SPREAD, FLAT = "characters", "tokens", "group_std", "frac_reward_zero_std"
"""Numbers of a step besides the reward and its metrics."""
REWARD, SAVED = "reward", "saved reward"
_NAMES = {"value": REWARD, "saved": SAVED, "n_characters": LENGTH, "n_tokens": TOKENS}
_BY = ("dump", "source", "step")
Place = tuple[int, ...]
"""Dump, data source (in `Judged.sources`) and step."""


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
    against, misled = _against(rewards, qualities)
    return GroupNumbers(
        saved=saved,
        values=values,
        qualities=qualities,
        rewards=rewards,
        is_saved=is_saved,
        mean=mean,
        std=std,
        advantages=tuple(0.0 if is_flat else (reward - mean) / (std + EPSILON) for reward in rewards) * (n > 1),
        is_flat=is_flat,
        against=against,
        misled=misled,
    )


def _against(rewards: Sequence[float], qualities: Sequence[float]) -> tuple[float, tuple[int, ...]]:
    """Largest fall of quality under a rise of reward, and the rollouts that gain by one; in n log n."""
    order = sorted(range(len(rewards)), key=rewards.__getitem__)
    largest, misled = 0.0, list[int]()
    best, start = -math.inf, 0
    while start < len(order):
        stop = start
        while stop < len(order) and rewards[order[stop]] - rewards[order[start]] <= EQUAL:
            stop += 1
        for i in order[start:stop]:
            if best - qualities[i] >= LEAST_LOSS:
                largest = max(largest, best - qualities[i])
                misled.append(i)
        best = max(best, *(qualities[i] for i in order[start:stop]))
        start = stop
    return largest, tuple(sorted(misled))


class Group(NamedTuple):
    """One prompt's rollouts at one step of one dump, in the order of the file."""

    dump: int
    step: int | None
    numbers: GroupNumbers


class Census:
    """Statistics of all rollouts.

    Args:
        keys: (number of the dump, group of the rollout) -> number in the table's column `group`.
        sample: a few rollouts with a saved reward.
    """

    def __init__(self, table: Judged, keys: dict[Hashable, int], sample: Sequence[Rollout]) -> None:
        self.table = table
        self.keys = keys
        self.sample = list(sample)

    @property
    def n(self) -> int:
        """Rollouts."""
        return len(self.table)

    @cached_property
    def _order(self) -> tuple[Ints, Ints]:
        """Rows ordered by group, and where each group starts."""
        order = np.argsort(self.table.group, kind="stable")
        return order, np.searchsorted(self.table.group[order], np.arange(len(self.keys) + 1))

    @property
    def sizes(self) -> Ints:
        """Rollouts of each group, in the order of the files."""
        return np.diff(self._order[1])

    @property
    def steps(self) -> Ints:
        """Step of each group, in the order of the files."""
        order, starts = self._order
        return self.table.step[order[starts[:-1]]]

    @cached_property
    def qualities(self) -> Floats:
        """See `Judged.quality`."""
        return self.table.quality()

    def group(self, key: Hashable) -> Group:
        """One group, in the order of the file."""
        table, (order, starts) = self.table, self._order
        number = self.keys[key]
        rows = order[starts[number] : starts[number + 1]]
        first, step = rows[0], int(table.step[rows[0]])
        saved = [None if np.isnan(saved) else saved for saved in table.saved[rows].tolist()]
        numbers = numbers_of(saved, table.value[rows].tolist(), self.qualities[rows].tolist())
        return Group(int(table.dump[first]), None if step == NO_STEP else step, numbers)

    @cached_property
    def places(self) -> dict[Place, dict[str, float]]:
        """(dump, source, step) -> name -> mean, each over the rollouts that have it; standard deviations over
        groups."""
        table = self.table
        found = {
            place: {_NAMES.get(name, name): mean for name, mean in means.items()}
            for place, means in table.means(by=_BY).items()
        }
        groups = table.groups(self.rewards)
        keys = np.stack([getattr(table, name)[groups.first] for name in _BY], axis=1)[groups.several]
        spreads: dict[Place, list[list[float]]] = {}
        pairs_g = np.stack([groups.std, groups.is_dead], axis=1)[groups.several]
        for key, pair in zip(keys.tolist(), pairs_g.tolist(), strict=True):
            spreads.setdefault(tuple(key), []).append(pair)
        for place, pairs in spreads.items():
            found[place][SPREAD], found[place][FLAT] = (float(mean) for mean in np.mean(pairs, axis=0))
        return found

    @property
    def rewards(self) -> Floats:
        """Rewards for advantages: the run's, if it gave one to each rollout of the group; else the recomputed ones."""
        table = self.table
        n_saved = np.bincount(table.group, table.has_saved, minlength=len(self.keys))
        is_whole = n_saved == np.bincount(table.group, minlength=len(self.keys))
        return np.where(is_whole[table.group], table.saved, table.value)


class Reader:
    """Reads dumps according to the settings.

    Attributes:
        counts: numbers of rows by outcome, from the first reading.
    """

    def __init__(self, dumps: Sequence[Dump], settings: Settings) -> None:
        self.dumps = dumps
        self.settings = settings
        self.judgings = [settings.judging_of(dump) for dump in dumps]
        self.counts = Counts()
        self._sources = data_sources_of(settings.data) if settings.data else None

    def rollouts(self, counts: Counts | None = None) -> Iterator[tuple[int, Rollout]]:
        """(number of the dump, rollout), in the order of the files.

        Raises:
            RowsError, RowError: a file, or with `on_error="fail"` a row, that cannot be read.
        """
        for number, dump in enumerate(self.dumps):
            options = {"columns": self.settings.columns, "on_error": self.settings.on_error, "counts": counts}
            options["validation_names"] = self.settings.validation_names
            for rollout in read_rollouts(dump.files, sources=self._sources, **options):
                yield number, rollout


def take_census(reader: Reader) -> Census:
    """Score all rollouts.

    Raises:
        RowsError, RowError: a file, or with `on_error="fail"` a row, that cannot be read.
        ValueError: with `on_error="fail"`, a row that cannot be scored.
    """
    builder, sample = TableBuilder(), Sample()
    counts = reader.counts
    for dump, rollout in reader.rollouts(counts):
        judging = reader.judgings[dump]
        try:
            preset = judging.preset_for(rollout)
            score = judging.score(rollout, preset)
        except ValueError as error:  # FrameError, SizeError, RewardError
            if reader.settings.on_error == "fail":
                raise
            where = f"{rollout.where}: "
            counts.skip(where + str(error).removeprefix(where))
            continue
        builder.add(rollout, preset, score, dump=dump)
        if rollout.saved is not None:
            sample.add(rollout)
    return Census(builder.table(), dict(builder.names["group"]), sample.rollouts)


def chosen(sizes: Ints, steps: Ints, limit: int, sample: Sampling) -> list[int]:
    """Choose whole groups with at most `limit` rollouts, but at least one group; in the order of the dumps.

    Args:
        sizes: rollouts of each group, in the order of the dumps and their steps.
        steps: step of each group.
        sample: "even" takes groups at even distances, "last" from the last step of each dump backwards.
    """
    if sizes.sum() <= limit:
        return list(range(len(sizes)))
    order = _spread(len(sizes)) if sample == "even" else np.argsort(-steps, kind="stable").tolist()
    kept: list[int] = []
    left = limit
    for number in order:
        size = int(sizes[number])
        if size <= left or not kept:
            kept.append(number)
            left -= size
        if left <= 0:
            break
    return sorted(kept)


def _spread(n: int) -> list[int]:
    """Order 0..n-1 so that every prefix is evenly spread (van der Corput sequence).

    >>> _spread(5)
    [0, 4, 2, 1, 3]
    """
    bits = max(n - 1, 1).bit_length()
    order = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits))
    return [place for place in order if place < n]
