"""Means and differences of arms, from the numbers of each held-out prompt in `results/`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from arms import ARMS
from scipy import stats
from study import AP_METRICS, RESULTS

RESAMPLES, SEED = 4000, 0
METHODS = {arm.name: arm.method for arm in ARMS}
Array = np.ndarray[Any, np.dtype[np.float64]]
Sets = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two arms.

    Attributes:
        value: the mean difference.
        low, high: its 95 % interval over prompts and seeds.
        seeds: the difference of each seed.
    """

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]

    def __str__(self) -> str:
        several = f"seeds {min(self.seeds):+.3f} to {max(self.seeds):+.3f}"
        spread = f"; {several if len(self.seeds) > 1 else 'one seed'}"
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]{spread}"


@cache
def seeds_of(arm: str) -> tuple[int, ...]:
    """Return the seeds of an arm that are in `RESULTS`."""
    return tuple(sorted(int(file.stem.rpartition("_")[2]) for file in RESULTS.glob(f"{arm}_[0-9]*.json")))


@cache
def record_of(arm: str, seed: int) -> dict[str, Any]:
    """Read the record of a run that `study.py` wrote."""
    return json.loads((RESULTS / f"{arm}_{seed}.json").read_text())


@cache
def numbers_of(arm: str, metric: str, sets: Sets) -> list[list[Array]]:
    """Read the numbers of each held-out prompt (for average precision: of each resample): seeds x sets x prompts."""
    found: list[list[Array]] = []
    for seed in seeds_of(arm):
        with np.load(RESULTS / f"{arm}_{seed}.npz") as arrays:
            found.append([arrays[f"{name}/{metric}"].astype(np.float64) for name in sets])
    return found


def is_evaluated(arm: str, sets: Sets) -> bool:
    """Whether the runs of an arm were evaluated on these sets; the oldest runs lack `in_domain`."""
    return all(name in record_of(arm, seed)["held_out"] for seed in seeds_of(arm) for name in sets)


def means_of(arm: str, metric: str, sets: Sets) -> list[float]:
    """Return the mean of each seed over the sets, with equal weights for the sets."""
    held_out = [record_of(arm, seed)["held_out"] for seed in seeds_of(arm)]
    return [float(np.mean([each[name][metric] for name in sets])) for each in held_out]


def mean_of(arm: str, metric: str, sets: Sets) -> float:
    """Return the mean over seeds and sets."""
    return float(np.mean(means_of(arm, metric, sets)))


def difference(arm: str, baseline: str, metric: str, sets: Sets) -> Difference:
    """Return an arm minus its baseline."""
    means, bases = means_of(arm, metric, sets), means_of(baseline, metric, sets)
    value = float(np.mean(means) - np.mean(bases))
    low, high = np.quantile(_over_prompts(arm, baseline, metric, sets), [0.025, 0.975])
    seeds = float(np.hypot(seed_error(arm, metric, sets), seed_error(baseline, metric, sets)))
    return Difference(
        value=value,
        low=value - float(np.hypot(value - low, seeds)),
        high=value + float(np.hypot(high - value, seeds)),
        seeds=_each_seed(means, bases, is_start=METHODS[baseline] == "none"),
    )


def _each_seed(means: Sequence[float], bases: Sequence[float], *, is_start: bool) -> tuple[float, ...]:
    """Return differences seed by seed; of unequal numbers, those of the fewer seeds to the mean of the others."""
    n = len(means) if is_start else min(len(means), len(bases))
    ours, theirs = (each if len(each) == n else [float(np.mean(each))] * n for each in (means, bases))
    return tuple(a - b for a, b in zip(ours, theirs, strict=True))


def seed_error(arm: str, metric: str, sets: Sets) -> float:
    """Return half the 95 % interval of an arm's mean over seeds (Student's t).

    The variance between seeds is pooled over all arms of the same method that have several: an arm with one seed has
    none of its own. 0 for a start, which nobody trained, and where no arm has several seeds.
    """
    squares, freedom = 0.0, 0
    for name, method in METHODS.items():
        if method == METHODS[arm] and len(seeds_of(name)) > 1 and is_evaluated(name, sets):
            means = np.array(means_of(name, metric, sets))
            squares, freedom = squares + float(np.square(means - means.mean()).sum()), freedom + len(means) - 1
    if not freedom:
        return 0.0
    return float(stats.t.ppf(0.975, freedom) * np.sqrt(squares / freedom / len(seeds_of(arm))))


def _over_prompts(arm: str, baseline: str, metric: str, sets: Sets) -> Array:
    """Return draws of the mean difference, with the held-out prompts resampled in pairs."""
    ours, theirs = numbers_of(arm, metric, sets), numbers_of(baseline, metric, sets)
    deltas = [
        np.mean([run[i] for run in ours], axis=0) - np.mean([run[i] for run in theirs], axis=0)
        for i in range(len(sets))
    ]
    if metric in AP_METRICS:  # the draws of both used the same resamples
        drawn = np.mean(deltas, axis=0)
        return drawn - drawn.mean() + mean_of(arm, metric, sets) - mean_of(baseline, metric, sets)
    return np.mean([_weights(i, len(delta)) @ delta for i, delta in enumerate(deltas)], axis=0)


@cache
def _weights(number: int, n: int) -> Array:
    """Return the weights of a set's n prompts in each resample, (RESAMPLES, n); the same for all pairs of arms."""
    rng = np.random.default_rng([SEED, number])
    return rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
