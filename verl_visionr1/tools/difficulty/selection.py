"""Rows chosen by their pass rate. What is left out is drawn by a seed, evenly over counts, pass rates and sources."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from verl_visionr1.rollouts.training_rows import NOTHING, Numbers
from verl_visionr1.tools.difficulty.rules import Rules

EXCLUDE = 10
"""Two rules that together leave less than this part of what each leaves alone exclude each other."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen rows.

    Attributes:
        rows: their numbers, in the order in which they are written.
        buckets: per row of the data, the number of its quota; len(quotas) for rows of none.
        notes: what could not be kept to, or cost much.
    """

    rows: Numbers
    buckets: Numbers
    notes: tuple[str, ...]


def select(rates: NDArray[np.float64], sources: Numbers, counts: Numbers, rules: Rules) -> Selection:
    """Choose rows. The same input gives the same rows.

    Args:
        rates: pass rates of n rows, nan where it is not known.
        sources: n numbers of data sources.
        counts: n right answers of rows that ask how many; `NOTHING` for others.
        rules: how.
    """
    chooser = _Chooser(rates, sources, counts, rules)
    rows, notes = chooser.chosen()
    return Selection(chooser.in_order(rows), chooser.buckets, tuple(notes))


class _Chooser:
    """Each rule takes row numbers and gives back some of them; `self.draws` decides which."""

    def __init__(self, rates: NDArray[np.float64], sources: Numbers, counts: Numbers, rules: Rules) -> None:
        self.rates, self.sources, self.counts, self.rules = rates, sources, counts, rules
        generator = random.Random(rules.seed)  # numpy's may change with its version
        self.offset = generator.random()
        self.draws = np.array([generator.random() for _ in range(len(rates))])
        self.buckets = np.full(len(rates), len(rules.quotas), dtype=np.int64)
        for i, quota in enumerate(rules.quotas):
            self.buckets[quota.holds(rates)] = i

    def chosen(self) -> tuple[Numbers, list[str]]:
        """The rows by all rules, in the order of the data, and what is to be said."""
        rules = self.rules
        is_known = ~np.isnan(self.rates)
        is_inside = (self.rates >= rules.min_rate) & (self.rates <= rules.max_rate)
        rows = np.flatnonzero(is_inside | (~is_known & (rules.unseen == "keep")))
        if rules.max_per_source is not None:
            rows = self._capped(rows, self.sources, rules.max_per_source)
        both = self._settled(rows, by_count=True, by_quota=True)
        if rules.quotas and rules.max_share_per_count is not None:
            by_quota = self._settled(rows, by_count=False, by_quota=True)
            by_count = self._settled(rows, by_count=True, by_quota=False)
            if EXCLUDE * len(both) < min(len(by_quota), len(by_count)):
                note = f"--quota and --max-share-per-count together would leave {len(both)} rows: the quotas are kept"
                return by_quota, [note, *self._notes(rows, by_quota)]
        return both, self._notes(rows, both)

    def in_order(self, rows: Numbers) -> Numbers:
        """Rows as they shall be written."""
        if self.rules.order == "keep":
            return rows
        sign = -1.0 if self.rules.order == "easy-first" else 1.0
        return rows[np.lexsort((self.draws[rows], sign * self.rates[rows]))]  # nan comes last

    def _settled(self, rows: Numbers, *, by_count: bool, by_quota: bool) -> Numbers:
        """Rows to which the rules have nothing left to say: one may undo what another did."""
        while True:
            n = len(rows)
            if by_count and self.rules.max_share_per_count is not None:
                rows = self._balanced(rows, self.rules.max_share_per_count)
            if by_quota and self.rules.quotas:
                rows = self._in_quotas(rows)
            elif self.rules.limit is not None:
                rows = self._thinned(rows, self.rules.limit)
            if len(rows) == n:
                return rows

    def _thinned(self, rows: Numbers, n: int) -> Numbers:
        """n of some rows: every so manieth of them, sorted so that each count and pass rate keeps its share."""
        if n >= len(rows):
            return rows
        order = np.lexsort((self.draws[rows], self.sources[rows], self.rates[rows], self.counts[rows]))
        places = (np.arange(n) * len(rows) + int(self.offset * len(rows))) // max(n, 1)
        return np.sort(rows[order[places]])

    def _capped(self, rows: Numbers, keys: Numbers, cap: int) -> Numbers:
        """At most so many rows of each key."""
        return _joined([self._thinned(rows[keys[rows] == key], cap) for key in np.unique(keys[rows])])

    def _balanced(self, rows: Numbers, share: float) -> Numbers:
        """The most rows in which no count has more than a share, up to one row; all where counts are too few for it."""
        is_counting = self.counts[rows] != NOTHING
        counting = rows[is_counting]
        sizes = np.unique(self.counts[counting], return_counts=True)[1].tolist()
        cap = largest_cap(sizes, share)
        if cap == 0 or max(sizes) < share * len(counting) + 1:
            return rows
        return _joined([rows[~is_counting], self._capped(counting, self.counts, cap)])

    def _in_quotas(self, rows: Numbers) -> Numbers:
        """The most rows whose buckets have their shares, up to one row each; a bucket without rows is left out."""
        shares = [*(quota.share for quota in self.rules.quotas), self.rules.left_share]
        sizes = np.bincount(self.buckets[rows], minlength=len(shares)).tolist()
        wanted = apportioned(shares, sizes, self.rules.limit)
        return _joined([self._thinned(rows[self.buckets[rows] == i], n) for i, n in enumerate(wanted)])

    def _notes(self, before: Numbers, rows: Numbers) -> list[str]:
        notes: list[str] = []
        share = self.rules.max_share_per_count
        counting = self.counts[rows][self.counts[rows] != NOTHING]
        if share is not None and len(counting):
            values, sizes = np.unique(counting, return_counts=True)
            largest = int(sizes.argmax())
            if sizes[largest] >= share * len(counting) + 1:
                found = f"count {values[largest]} has {sizes[largest] / len(counting):.1%} of the counting rows"
                notes.append(f"--max-share-per-count {share:g} is not met: {found}, of {len(values)} counts")
            elif EXCLUDE * len(counting) < (n := int((self.counts[before] != NOTHING).sum())) and not self.rules.limit:
                left = f"leaves {len(counting)} of {n} counting rows"
                notes.append(f"--max-share-per-count {share:g} {left}: the others are too rare for more")
        for i, quota in enumerate(self.rules.quotas):
            n, n_before = int((self.buckets[rows] == i).sum()), int((self.buckets[before] == i).sum())
            if abs(n - quota.share * len(rows)) >= 1:
                found = f"{n} of {len(rows)} rows" if n else "no row"
                notes.append(f"--quota {quota}={float(quota.share):g} is not met: {found}")
            elif quota.share and n == n_before and len(rows) < len(before) and len(rows) != self.rules.limit:
                notes.append(
                    f"--quota {quota}={float(quota.share):g}: its {n} rows are all there are; they set the size"
                )
        unseen = int(np.isnan(self.rates[rows]).sum())
        if 2 * unseen > len(rows):
            notes.append(f"{unseen} of the {len(rows)} rows chosen have no rate: --unseen drop leaves them out")
        return notes


def largest_cap(sizes: Sequence[int], share: float) -> int:
    """The largest number of rows of one kind for which none has more than a share of all; 0 where they are too few.

    >>> largest_cap([68, 20, 12], 0.4), largest_cap([90, 10], 0.3)
    (21, 0)
    """
    low, high = 0, max(sizes, default=0)
    while low < high:  # what is kept grows ever slower with the cap, so that the share of the largest only grows
        cap = (low + high + 1) // 2
        low, high = (cap, high) if cap <= share * sum(min(size, cap) for size in sizes) + 1e-9 else (low, cap - 1)
    return low


def apportioned(shares: Sequence[Fraction], sizes: Sequence[int], limit: int | None = None) -> list[int]:
    """How many of each bucket make the largest whole in which each has its share, up to one row.

    The shares of buckets without rows go to the others in proportion. Buckets that have their shares stay as they are.

    Args:
        shares: of 1.
        sizes: rows that there are.
        limit: rows in all.

    >>> apportioned([Fraction(1, 4), Fraction(3, 4)], [10, 60]), apportioned([Fraction(1, 2)] * 2, [10, 0])
    ([10, 30], [10, 0])
    """
    filled = [share if size else Fraction() for share, size in zip(shares, sizes, strict=True)]
    whole = sum(filled, Fraction())
    if not whole:
        return [0] * len(sizes)
    parts = [share / whole for share in filled]
    n = sum(sizes)
    is_met = all(size == 0 if not part else abs(size - part * n) < 1 for part, size in zip(parts, sizes, strict=True))
    if is_met and (limit is None or n <= limit):
        return list(sizes)
    total = min(size * part.denominator // part.numerator for part, size in zip(parts, sizes, strict=True) if part)
    total = total if limit is None else min(total, limit)
    exact = [part * total for part in parts]
    numbers = [int(number) for number in exact]
    for i in sorted(range(len(exact)), key=lambda i: numbers[i] - exact[i])[: total - sum(numbers)]:
        numbers[i] += 1
    return numbers


def _joined(parts: Sequence[Numbers]) -> Numbers:
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
