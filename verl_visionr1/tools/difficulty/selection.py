"""Choose rows by their pass rate. A limit removes rows at random, evenly over answers, rates and sources."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from verl_visionr1.files import RowsError

Match = Literal["prompt", "truth"]
Unseen = Literal["keep", "drop"]
Metric = Literal["accuracy", "f1_50", "iou_mean"]
"""The metrics that depend on no thresholds: see `rewards.Score`."""
MIN_SAMPLES = 2
"""Default for the least rollouts of a pass rate: a single one means little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When an answer passes, and which rows are chosen.

    Attributes:
        metric: for rows with boxes; other rows use their task's "accuracy".
        bar: least value of the metric with which an answer passes, in (0, 1].
        min_samples: rows with fewer rollouts are unseen: they have no pass rate.
        match: see `rollouts.finding`.
        min_rate, max_rate: pass rates outside are left out.
        unseen: what to do with rows without a pass rate.
        limit: most rows in the selection.

    Raises:
        RowsError: a value out of range.
    """

    metric: Metric = "accuracy"
    bar: float = 0.5
    min_samples: int = MIN_SAMPLES
    match: Match = "prompt"
    min_rate: float = 0.0
    max_rate: float = 1.0
    unseen: Unseen = "keep"
    limit: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.bar <= 1.0:
            raise RowsError(f"--bar {self.bar}: must be greater than 0 and at most 1")
        if not 0.0 <= self.min_rate <= self.max_rate <= 1.0:
            bounds = f"--min-rate {self.min_rate:g} --max-rate {self.max_rate:g}"
            raise RowsError(f"{bounds}: needs pass rates in [0, 1], the first not above the second")
        if self.limit is not None and self.limit < 1:
            raise RowsError(f"--limit {self.limit}: needs at least 1")


def select(
    rates: NDArray[np.float64], sources: NDArray[np.int64], counts: NDArray[np.int64], rules: Rules
) -> NDArray[np.int64]:
    """Choose rows. The same input gives the same rows.

    Args:
        rates: pass rates of n rows, nan if unknown.
        sources: n numbers of data sources.
        counts: n right answers of counting rows; `NOTHING` for others.

    Returns:
        Numbers of the chosen rows, ascending.
    """
    is_inside = (rates >= rules.min_rate) & (rates <= rules.max_rate)
    rows = np.flatnonzero(is_inside | (np.isnan(rates) & (rules.unseen == "keep")))
    n = rules.limit
    if n is None or n >= len(rows):
        return rows
    generator = random.Random(0)  # numpy's generator may change with its version
    offset = generator.random()
    draws = np.array([generator.random() for _ in range(len(rates))])
    # At even distances in this order, so that each right answer and pass rate keeps its share.
    order = np.lexsort((draws[rows], sources[rows], rates[rows], counts[rows]))
    places = (np.arange(n) * len(rows) + int(offset * len(rows))) // n
    return np.sort(rows[order[places]])
