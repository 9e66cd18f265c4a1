"""Do two rewards rank completions alike? Overall, and within prompt groups, whose ranking training learns from."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

DECIMALS = 9
"""Rewards that are equal to so many decimals are ties."""


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Spearman's rank correlation of two rewards, in [-1, 1]; None where a reward is the same for all rows.

    Attributes:
        n: rows that both score.
        spearman: over all rows.
        n_groups: groups of two and more rows in which both rewards differ somewhere.
        spearman_within: mean over those groups of the correlation within each.
    """

    n: int
    spearman: float | None
    n_groups: int
    spearman_within: float | None


def agreement_of(some: ArrayLike, others: ArrayLike, groups: ArrayLike) -> Agreement:
    """How well two rewards agree.

    Args:
        some, others: n rewards each, of the same completions.
        groups: n whole numbers, equal for rows of one prompt.

    >>> agreement_of([0.1, 0.2, 0.3, 0.4], [1, 2, 4, 3], [0, 0, 1, 1]).spearman_within
    0.0
    """
    both = np.stack([np.asarray(some, dtype=np.float64), np.asarray(others, dtype=np.float64)])
    pairs = np.asarray(np.round(both, DECIMALS), dtype=np.float64)
    order = np.argsort(groups, kind="stable")
    starts = np.unique(np.asarray(groups)[order], return_index=True)[1]
    within = [rho for group in np.split(pairs[:, order], starts[1:], axis=1) if (rho := _spearman(group)) is not None]
    return Agreement(
        n=pairs.shape[1],
        spearman=_spearman(pairs),
        n_groups=len(within),
        spearman_within=float(np.mean(within)) if within else None,
    )


def _spearman(pairs: NDArray[np.float64]) -> float | None:
    """The correlation of the ranks in two rows of numbers; None where one row is constant."""
    from scipy.stats import rankdata

    if not np.ptp(pairs, axis=1).all():
        return None
    ranks: Any = rankdata(pairs, axis=1)
    return float(np.corrcoef(ranks)[0, 1])
