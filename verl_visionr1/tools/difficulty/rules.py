"""What a selection goes by: bounds, quotas, caps, order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from verl_visionr1.files import RowsError

Unseen = Literal["keep", "drop"]
Order = Literal["keep", "easy-first", "hard-first"]
MIN_SAMPLES = 2
"""Rollouts that make a pass rate, unless a number is given: one alone says little."""
_QUOTA = re.compile(r"(?:(?P<low>[\d.]+)\.\.(?P<high>[\d.]+)|unseen)=(?P<share>[\d.]+)")


@dataclass(frozen=True, slots=True)
class Quota:
    """The share of a selection that rows of some pass rates shall have.

    Attributes:
        low, high: pass rates: from `low` on, below `high` (1 and a single rate, `low == high`, are in it); both None
            for rows whose rate is not known.
        share: in [0, 1].

    >>> quota = Quota.parse("0.25..0.75=0.6")
    >>> quota.holds(np.array([0.25, 0.75, np.nan])).tolist()
    [True, False, False]
    """

    low: float | None
    high: float | None
    share: Fraction

    @classmethod
    def parse(cls, text: str) -> Quota:
        """What an option says.

        Raises:
            RowsError: not FROM..TO=SHARE or unseen=SHARE, or numbers that cannot be.
        """
        found = _QUOTA.fullmatch(text)
        try:
            numbers = [Fraction(number) for number in (found.groups() if found else ()) if number is not None]
        except ValueError:
            numbers = []
        if not numbers:
            raise RowsError(f"--quota {text}: needs FROM..TO=SHARE, as 0.25..0.75=0.6, or unseen=SHARE")
        *edges, share = numbers
        if sorted(edges) != edges or max(numbers) > 1:
            raise RowsError(f"--quota {text}: needs pass rates FROM <= TO and a share, none above 1")
        low, high = map(float, edges) if edges else (None, None)
        return cls(low, high, share)

    def holds(self, rates: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of some pass rates it is for."""
        if self.low is None or self.high is None:
            return np.isnan(rates)
        is_below = rates <= self.high if self.high in (1.0, self.low) else rates < self.high
        return (rates >= self.low) & is_below

    def __str__(self) -> str:
        return "unseen" if self.low is None else f"{self.low:g}..{self.high:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All that decides a selection, besides the rows.

    Attributes:
        min_rate, max_rate: pass rates outside are left out.
        unseen: what to do with rows whose rate is not known.
        quotas: shares of the selection; they do not overlap, and rows of no quota share what is left of 1.
        max_per_source: rows of one data source.
        max_share_per_count: largest share of one right answer among the rows that ask how many.
        limit: rows in all.
        order: as the rows stand, or by pass rate (rows of one rate as the seed draws them, unseen rows last).
        seed: draws what is left out.

    Raises:
        RowsError: a value that cannot be, quotas that overlap or come to more than 1.
    """

    min_rate: float = 0.0
    max_rate: float = 1.0
    unseen: Unseen = "keep"
    quotas: Sequence[Quota] = ()
    max_per_source: int | None = None
    max_share_per_count: float | None = None
    limit: int | None = None
    order: Order = "keep"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_rate <= self.max_rate <= 1.0:
            bounds = f"--min-rate {self.min_rate:g} --max-rate {self.max_rate:g}"
            raise RowsError(f"{bounds}: needs pass rates in [0, 1], the first not above the second")
        for option, value, known in (("unseen", self.unseen, get_args(Unseen)), ("order", self.order, get_args(Order))):
            if value not in known:
                raise RowsError(f"--{option} {value}: needs one of {', '.join(known)}")
        for option, number in (("max-per-source", self.max_per_source), ("limit", self.limit)):
            if number is not None and number < 1:
                raise RowsError(f"--{option} {number}: needs at least 1")
        share = self.max_share_per_count
        if share is not None and not 0.0 < share <= 1.0:
            raise RowsError(f"--max-share-per-count {share:g}: needs a share above 0 and not above 1")
        self._check_quotas()

    def _check_quotas(self) -> None:
        tried = np.array([np.nan if quota.low is None else quota.low for quota in self.quotas])
        for i, quota in enumerate(self.quotas):
            for other in self.quotas[:i]:
                if (quota.holds(tried) & other.holds(tried)).any():
                    raise RowsError(f"--quota {other} and --quota {quota}: overlap; a row needs one of them")
        total = sum((quota.share for quota in self.quotas), Fraction())
        if total > 1:
            raise RowsError(f"--quota: the shares come to {float(total):g}, needs at most 1")

    @property
    def left_share(self) -> Fraction:
        """What the quotas leave to rows of none of them."""
        return 1 - sum((quota.share for quota in self.quotas), Fraction())
