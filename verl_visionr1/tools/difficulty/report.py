"""Report of the difficulty of a training file and of the selection from it."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from verl_visionr1.rollouts.training_rows import NOTHING, Numbers, TrainingRows
from verl_visionr1.tools.difficulty.rates import Rates

EDGES = np.arange(11) / 10


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Some rows of the data.

    Attributes:
        before, after: number of rows, and how many of them were chosen.
        rated: how many have a pass rate.
        rate: mean pass rate of those; None if there are none.
    """

    before: int
    after: int
    rated: int
    rate: float | None


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Rows with a pass rate in [low, high); with `low == high` rows of exactly 0 or 1, which no other bin has."""

    low: float
    high: float
    before: int
    after: int


class RolloutNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of rollouts by outcome.

    Attributes:
        found: belong to one row, or to identical rows.
        ambiguous: fit several rows.
        other_question: have the ground truth of a row, but another question, image or index.
        not_in_data: have a ground truth that is in no row.
        skipped, earlier_turns: see `rollouts.Counts`; rows of the data that cannot be read are skipped as well.
    """

    found: int
    ambiguous: int
    other_question: int
    not_in_data: int
    skipped: int
    earlier_turns: int


class RowNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of rows of the data by outcome; rows without a pass rate are unseen.

    Attributes:
        rated: have a pass rate.
        not_in_dump: have no rollout.
        few_samples: have some rollouts, but too few.
        ambiguous: have only rollouts that also fit other rows.
        chosen: are in the selection.
    """

    total: int
    rated: int
    not_in_dump: int
    few_samples: int
    ambiguous: int
    chosen: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Measurement and selection.

    Attributes:
        out: the file that was written; None if nothing was written.
        measured, bar: task -> metric, and its least value.
        histogram, sources, counts: rows before and after; counts are right answers of counting rows.
        notes: limits that could not be kept, suspicious facts, and what to do.
    """

    out: str | None
    preset: str
    frame: str
    measured: dict[str, str]
    bar: float
    rollouts: RolloutNumbers
    rows: RowNumbers
    overall: Part
    histogram: list[Bin]
    sources: dict[str, Part]
    counts: dict[int, Part]
    notes: list[str]


class Shares:
    """Counts rows before and after.

    Args:
        data: n rows.
        rates: n pass rates, nan if unknown.
        chosen: numbers of the chosen rows.
    """

    def __init__(self, data: TrainingRows, rates: NDArray[np.float64], chosen: Numbers) -> None:
        self.data, self.rates = data, rates
        self.is_chosen = np.zeros(len(rates), dtype=np.bool_)
        self.is_chosen[chosen] = True

    def part(self, rows: NDArray[np.bool_] | None = None) -> Part:
        """Some rows, or all."""
        rows = np.ones(len(self.rates), dtype=np.bool_) if rows is None else rows
        rates = self.rates[rows & ~np.isnan(self.rates)]
        return Part(
            before=int(rows.sum()),
            after=int((rows & self.is_chosen).sum()),
            rated=len(rates),
            rate=float(rates.mean()) if len(rates) else None,
        )

    def rows(self, rates: Rates) -> RowNumbers:
        """Numbers of rows by outcome."""
        samples, is_unclear = rates.samples[self.data.prompts], rates.is_unclear[self.data.prompts]
        is_rated = ~np.isnan(self.rates)
        return RowNumbers(
            total=len(self.rates),
            rated=int(is_rated.sum()),
            not_in_dump=int(((samples == 0) & ~is_unclear).sum()),
            few_samples=int((~is_rated & (samples > 0)).sum()),
            ambiguous=int(((samples == 0) & is_unclear).sum()),
            chosen=int(self.is_chosen.sum()),
        )

    def histogram(self) -> list[Bin]:
        """By pass rate."""
        rates, last = self.rates, len(EDGES)
        bins = np.where(rates == 0, 0, np.where(rates == 1, last, np.searchsorted(EDGES, rates, side="right")))
        bins = bins[~np.isnan(rates)]
        before = np.bincount(bins, minlength=last + 1).tolist()
        after = np.bincount(bins[self.is_chosen[~np.isnan(rates)]], minlength=last + 1).tolist()
        edges = [0.0, *EDGES.tolist(), 1.0]
        return [Bin(low=edges[i], high=edges[i + 1], before=before[i], after=after[i]) for i in range(last + 1)]

    def sources(self) -> dict[str, Part]:
        """By data source."""
        return {name: self.part(self.data.sources == i) for i, name in enumerate(self.data.source_names)}

    def counts(self) -> dict[int, Part]:
        """By right answer, for counting rows."""
        values = np.unique(self.data.counts[self.data.counts != NOTHING]).tolist()
        return {value: self.part(self.data.counts == value) for value in values}
