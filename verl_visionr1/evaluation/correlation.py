"""Correlate reward and metric of the same answers: Pearson's r and Spearman's rho (mean ranks for ties) over rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np

from verl_visionr1.boxes import Array
from verl_visionr1.rollouts.bootstrap import Estimate, Indices, Weights

N_BINS = 10


class Correlation(msgspec.Struct, frozen=True, kw_only=True):
    """Correlation of the reward with one metric; values are None if either is constant."""

    metric: str
    pearson: Estimate
    spearman: Estimate
    words: str


@dataclass(frozen=True, slots=True)
class Correlated:
    """Correlations of the rewards of N rows with several metrics, as `bootstrap.Measured`; units: N image indices."""

    units: Indices
    reward: Array
    metrics: Mapping[str, Array]

    @property
    def values(self) -> Mapping[str, tuple[float | None, int]]:
        """ "pearson/<metric>" and "spearman/<metric>" -> value, rows."""
        ones = np.ones((1, int(self.units.max(initial=-1)) + 1))
        return {
            name: (None if np.isnan(drawn[0]) else float(drawn[0]), len(self.reward))
            for name, drawn in self.resampled(ones).items()
        }

    def resampled(self, weights_bu: Weights) -> Mapping[str, Array]:
        """The same for resamples: B values."""
        kinds = ("pearson", "spearman")
        found = {f"{kind}/{name}": np.full(len(weights_bu), np.nan) for kind in kinds for name in self.metrics}
        ranked = {name: _Ties(values) for name, values in self.metrics.items()}
        own = _Ties(self.reward)
        for b, weights_u in enumerate(weights_bu):
            weights = weights_u[self.units].astype(np.float64)
            ranks = own.ranks(weights)
            for name, values in self.metrics.items():
                found[f"pearson/{name}"][b] = weighted_pearson(self.reward, values, weights)
                found[f"spearman/{name}"][b] = weighted_pearson(ranks, ranked[name].ranks(weights), weights)
        return found


class _Ties:
    """Mean ranks of values under weights."""

    def __init__(self, values: Array) -> None:
        _, self.place = np.unique(np.round(values, 9), return_inverse=True)
        self.n = int(self.place.max(initial=-1)) + 1

    def ranks(self, weights: Array) -> Array:
        counts = np.bincount(self.place, weights, self.n)
        return (np.cumsum(counts) - (counts - 1.0) / 2.0)[self.place]


def weighted_pearson(a: Array, b: Array, weights: Array) -> float:
    """Weighted Pearson's r; NaN if one side is constant.

    >>> a = np.array([1.0, 2.0, 3.0])
    >>> round(weighted_pearson(a, -a, np.ones(3)), 9)
    -1.0
    """
    total = weights.sum()
    if total <= 0.0:
        return float("nan")
    a, b = a - (a @ weights) / total, b - (b @ weights) / total
    spread = float((weights * a) @ a) * float((weights * b) @ b)
    return float((weights * a) @ b) / float(np.sqrt(spread)) if spread > 1e-18 * total * total else float("nan")


def in_words(metric: str, rho: Estimate) -> str:
    """Describe a rank correlation.

    >>> in_words("F1", Estimate(value=0.83, low=0.8, high=0.86, n=100))
    'higher reward goes with higher F1 here: Spearman 0.83 [0.80, 0.86]'
    """
    if rho.value is None:
        return f"reward or {metric} is constant: nothing to compare"
    low, high = rho.low, rho.high
    if low is None or high is None:
        return f"reward and {metric}: Spearman {rho.value:.2f}, without an interval, may be chance"
    shown = f"Spearman {rho.value:.2f} [{low:.2f}, {high:.2f}]"
    if low > 0.0:
        return f"higher reward goes with higher {metric} here: {shown}"
    if high < 0.0:
        return f"higher reward goes with LOWER {metric} here: {shown}; look at the rows with `visionr1 explain`"
    return f"no clear relation of reward and {metric} here: {shown}"


def reward_bins(reward: Array, n_bins: int = N_BINS) -> list[Indices]:
    """Indices in order of reward, in bins as equal as ties allow: equal rewards share a bin.

    >>> [len(rows) for rows in reward_bins(np.array([0.0, 0.0, 0.0, 1.0]), 2)]
    [3, 1]
    """
    rounded = np.round(reward, 9)
    order = np.argsort(rounded, kind="stable")
    edges = np.unique(rounded, return_counts=True)[1].cumsum()
    n = len(reward)
    starts = {0, n} | {int(edges[np.argmin(np.abs(edges - i * n / n_bins))]) for i in range(1, n_bins) if n}
    return [order[a:b] for a, b in pairwise(sorted(starts))]
