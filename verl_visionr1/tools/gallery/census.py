"""All rollouts judged once: what each group and each step comes to. A few numbers are kept of a rollout."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from verl_visionr1.rewards import Score
from verl_visionr1.rewards.completion import BOX_METRICS, BOX_TASKS
from verl_visionr1.rollouts.records import N_EXAMPLES, Counts, Rollout, data_sources_of, read_rollouts
from verl_visionr1.rollouts.saved_rewards import SavedScores
from verl_visionr1.tools.gallery.dumps import Dump
from verl_visionr1.tools.gallery.groups import GroupNumbers, numbers_of
from verl_visionr1.tools.gallery.settings import Settings

LENGTH, TOKENS, SPREAD, FLAT = "characters", "tokens", "group spread", "zero-variance share"
"""Numbers of a step besides the reward and its metrics."""
REWARD, SAVED = "reward", "saved reward"


@dataclass(slots=True)
class Group:
    """One prompt's rollouts at one step of one dump, in the order of the file."""

    dump: int
    step: int | None
    source: str
    task: str
    saved: list[float | None] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    qualities: list[float] = field(default_factory=list)

    def numbers(self) -> GroupNumbers:
        """See `numbers_of`."""
        return numbers_of(self.saved, self.values, self.qualities)


@dataclass(slots=True)
class Sums:
    """Sums over the rollouts of one step, dump and data source; each number over those that have it."""

    totals: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Take one number."""
        self.totals[name] = self.totals.get(name, 0.0) + value
        self.counts[name] = self.counts.get(name, 0) + 1

    def mean(self, name: str) -> float | None:
        """None where no rollout has it."""
        return self.totals[name] / self.counts[name] if name in self.counts else None


Place = tuple[int, str, int | None]
"""Dump, data source and step."""


@dataclass(slots=True)
class Census:
    """What all rollouts come to.

    Attributes:
        groups: by the key of their dump and rollouts, in the order of the files.
        places: sums of each step.
        saved: how far saved rewards are the recomputed ones.
        n: rollouts.
    """

    groups: dict[Hashable, Group] = field(default_factory=dict)
    places: dict[Place, Sums] = field(default_factory=dict)
    saved: SavedScores = field(default_factory=SavedScores)
    n: int = 0

    def add(self, dump: int, rollout: Rollout, score: Score) -> None:
        """Take one judged rollout."""
        self.n += 1
        key = (dump, rollout.group)
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(dump, rollout.step, rollout.source, rollout.target.task)
        group.saved.append(rollout.saved)
        group.values.append(score.value)
        group.qualities.append(quality_of(rollout.target.task, score))
        if rollout.saved is not None:
            self.saved.add(rollout, score.value)
        self._add_sums(self.places.setdefault((dump, rollout.source, rollout.step), Sums()), rollout, score)

    def _add_sums(self, sums: Sums, rollout: Rollout, score: Score) -> None:
        has_boxes = rollout.target.task in BOX_TASKS
        sums.add(REWARD, score.value)
        if rollout.saved is not None:
            sums.add(SAVED, rollout.saved)
        for name, number in score.metrics.items():
            if has_boxes or name not in BOX_METRICS:
                sums.add(name, number)
        sums.add(LENGTH, float(len(rollout.completion)))
        if rollout.n_tokens is not None:
            sums.add(TOKENS, float(rollout.n_tokens))

    def close(self) -> None:
        """Take the spreads of the groups, once all rollouts are there."""
        for group in self.groups.values():
            if len(group.values) > 1:
                numbers = group.numbers()
                sums = self.places[group.dump, group.source, group.step]
                sums.add(SPREAD, numbers.std)
                sums.add(FLAT, float(numbers.is_flat))


def quality_of(task: str, score: Score) -> float:
    """What no threshold moves: F1@.5 of boxes, else what the task is measured by."""
    return score.metrics["f1_50" if task in BOX_TASKS else "accuracy"]


class Reader:
    """Reads dumps as the settings say.

    Attributes:
        judgings: how the rollouts of each dump are judged.
        counts: what became of the rows, of the first time that they were read.
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
            for rollout in read_rollouts(dump.files, sources=self._sources, **options):
                yield number, rollout


def take_census(reader: Reader) -> Census:
    """Judge all rollouts.

    Raises:
        RowsError, RowError: a file, or with `on_error="fail"` a row, that cannot be read.
        ValueError: with `on_error="fail"`, a row that cannot be judged.
    """
    census = Census()
    counts = reader.counts
    for dump, rollout in reader.rollouts(counts):
        judging = reader.judgings[dump]
        try:
            score = judging.score(rollout, judging.preset_for(rollout))
        except ValueError as error:  # FrameError, SizeError, RewardError
            if reader.settings.on_error == "fail":
                raise
            counts.n_skipped += 1
            if len(counts.examples) < N_EXAMPLES:
                counts.examples.append(f"{rollout.where}: {error}")
            continue
        census.add(dump, rollout, score)
    census.close()
    return census
