"""Confidence intervals by resampling images (Efron's percentile bootstrap).

An image brings all its rows, answers and boxes. Two models that answered the same images get the same resamples, so
their differences are paired. Legend: B resamples, U images (units), `weights_bu[b, u]` how often image u is in
resample b.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from verl_visionr1.boxes import Array

Indices = NDArray[np.intp]
Weights = NDArray[Any]
"""How often each unit counts, shape (B, U): whole numbers as float32 or float64, exact up to 2 ** 24."""
LEVEL = 0.95  # of the confidence intervals
BIASED = ("AP", "NMS-AP")  # prefixes of metrics whose resampled values are biased upwards
LEAST_SHARE = 0.9  # least share of resamples with a defined value: fewer have one if only one or two images contribute
MAX_CELLS = 4_000_000  # most cells of a table of weights in memory


class Estimate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A number with its confidence interval.

    Attributes:
        value: None if undefined (for example, no object of that size).
        low, high: ends of the confidence interval; None without resamples, or if one or two images contribute.
        n: number of rows; for average precision, of images.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0


class Measured(Protocol):
    """Metrics that are computed together, for the images and for resamples of them."""

    @property
    def values(self) -> Mapping[str, tuple[float | None, int]]:
        """Metric -> (value, number of rows or images)."""
        ...

    def resampled(self, weights_bu: Weights) -> Mapping[str, Array]:
        """Metric -> B values, NaN where undefined in a resample."""
        ...


@dataclass(frozen=True, slots=True)
class Ratios:
    """Metrics that are ratios of two sums over rows: means, shares, cumulative IoU.

    Attributes:
        units: N image indices, one per row.
        parts: metric -> N numerators and N denominators; a row of denominator 0 and numerator 0 does not count.
        roots: metrics that are the square root of their ratio (RMSE).
    """

    units: Indices
    parts: Mapping[str, tuple[Array, Array]]
    roots: frozenset[str] = frozenset()

    @property
    def values(self) -> Mapping[str, tuple[float | None, int]]:
        """Metric -> (value, number of rows with a denominator)."""
        found: dict[str, tuple[float | None, int]] = {}
        for name, (above, below) in self.parts.items():
            total = float(below.sum())
            value = float(above.sum()) / total if total else None
            if value is not None and name in self.roots:
                value = float(np.sqrt(value))
            found[name] = (value, int(np.count_nonzero(below)))
        return found

    def resampled(self, weights_bu: Weights) -> Mapping[str, Array]:
        """Metric -> B values."""
        n_units = weights_bu.shape[1]
        found: dict[str, Array] = {}
        for name, (above, below) in self.parts.items():
            sums = np.stack([np.bincount(self.units, part, n_units) for part in (above, below)], axis=1)
            totals = weights_bu.astype(np.float64) @ sums
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = np.where(totals[:, 1] != 0.0, totals[:, 0] / totals[:, 1], np.nan)
            found[name] = np.sqrt(ratio) if name in self.roots else ratio
        return found


def resamples(n_units: int, n_resamples: int, seed: int) -> Iterator[Weights]:
    """Yield weights of resamples in blocks of shape (part of B, U); deterministic in the three arguments.

    >>> [block.sum(axis=1).tolist() for block in resamples(3, 2, seed=0)]
    [[3.0, 3.0]]
    """
    rng = np.random.default_rng(seed)
    step = max(MAX_CELLS // max(n_units, 1), 1)
    for begin in range(0, n_resamples if n_units else 0, step):
        n = min(step, n_resamples - begin)
        drawn = rng.integers(0, n_units, size=(n, n_units))
        drawn += np.arange(n)[:, None] * n_units
        yield np.bincount(drawn.ravel(), minlength=n * n_units).reshape(n, n_units).astype(np.float32)


def estimates_of(
    measured: Sequence[Measured], n_units: int, *, n_resamples: int, seed: int, level: float = LEVEL
) -> tuple[dict[str, Estimate], dict[str, Array]]:
    """Estimate every metric with its interval and its B resampled values.

    >>> ones = np.ones(4)
    >>> found, _ = estimates_of([Ratios(np.arange(4), {"mean": (ones, ones)})], 4, n_resamples=10, seed=0, level=0.9)
    >>> found["mean"]
    Estimate(value=1.0, low=1.0, high=1.0, n=4)
    """
    blocks: dict[str, list[Array]] = {name: [] for one in measured for name in one.values}
    for weights_bu in resamples(n_units, n_resamples, seed):
        for one in measured:
            for name, values in one.resampled(weights_bu).items():
                blocks[name].append(values)
    draws = {name: np.concatenate(some) for name, some in blocks.items() if some}
    found: dict[str, Estimate] = {}
    for one in measured:
        for name, (value, n) in one.values.items():
            low, high = interval(draws.get(name), value, metric=name, level=level)
            if low is not None and high is not None and name.startswith(BIASED):  # its shift may leave the range
                low, high = max(low, 0.0), min(high, 1.0)
            found[name] = Estimate(value=value, low=low, high=high, n=n)
    return found, draws


def interval(
    draws: Array | None, value: float | None, *, metric: str = "", level: float = LEVEL
) -> tuple[float | None, float | None]:
    """Percentile interval of resampled values; for average precision it is shifted by the bias, value - mean.

    Average precision takes maxima (interpolated precision), which are biased upwards in resamples, by more
    than their spread if many boxes tie. Means and shares have no such bias. NaN (undefined resamples) are left out;
    None if more than one in ten are NaN (`LEAST_SHARE`).

    >>> [interval(np.arange(101.0), 40.0, metric=metric, level=0.5) for metric in ("mean", "AP50")]
    [(25.0, 75.0), (15.0, 65.0)]
    """
    if draws is None or value is None:
        return None, None
    kept = draws[np.isfinite(draws)]
    if not kept.size or kept.size < LEAST_SHARE * draws.size:
        return None, None
    low, high = np.quantile(kept, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    shift = value - kept.mean() if metric.startswith(BIASED) else 0.0
    return float(low + shift), float(high + shift)


def digest_of(units: Sequence[str]) -> str:
    """Short digest of a list of images."""
    return hashlib.sha256("\n".join(units).encode("utf-8", "surrogatepass")).hexdigest()[:16]
